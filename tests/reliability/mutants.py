"""Files that a stranger, a bad disk, or bad luck could have written: mutants of good ones."""

import json
import random

NUMBERS = [0, -1, 1, 2, 7, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 10**30, 0.5, -0.0, 1e308, True]
NUMBERS += [-(2**63), 2**31 - 1, 10**400]
WORDS = [None, "", "F32", "F64", "BOOL", "x" * 5000, "../../etc/passwd", "\0", "\ud800", [], {}, [[]], [1, 2]]
WORDS += ["/etc/passwd", "a/../../b", "C:\\b", "a\nb\x1b[2J\u202e", "\u00e9" * 300, {"a": {"b": [None]}}]
DEEP, LONG, NAN, TWICE = "\1deep", "\1long", "\1nan", "\1twice "  # of these json.dumps writes what no value is
RAW = {DEEP: "[" * 20_000 + "]" * 20_000, LONG: "9" * 5000, NAN: "NaN"}
TEXTS = [b"NaN", b"1e999", b"Infinity", b"[" * 3000, b"9" * 5000, b"null", b"\xff", b"\\u0000", b'"', b"{}", b"true"]


def bytes_of(data: bytes, chance: random.Random) -> bytes:
    """A copy with something done to its bytes: bits, cuts, insertions, repeats, swaps, other text."""
    data = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        at = chance.randrange(len(data)) if data else 0
        end = min(len(data), at + chance.choice((1, 2, 8, 64, 512)))
        match chance.randrange(8):
            case 0 if data:
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                del data[at:end]
            case 2:
                del data[at:]
            case 3:
                data[at:at] = data[at:end]
            case 4:
                data[at:at] = chance.choice(TEXTS)
            case 5:
                data[at:end] = chance.choice(TEXTS)
            case 6:
                data[at:end] = bytes(end - at)
            case 7:
                data[at:end] = chance.randbytes(end - at)
    return bytes(data)


def tree_of(value: object, chance: random.Random) -> object:
    """A copy of a JSON value with one or a few places changed: other values, lost, doubled, or moved entries."""
    value = copy_of(value)
    for _ in range(chance.choice((1, 1, 2, 3))):
        places = list(places_in(value))
        if not places:
            return value
        holder, key = chance.choice(places)
        match chance.randrange(5):
            case 0 if isinstance(holder, dict):
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[chance.choice(["extra", "", "__class__", "a" * 300, "..", key + "s"])] = holder[key]
            case 2 if isinstance(holder[key], int) and not isinstance(holder[key], bool):
                holder[key] += chance.choice((-1, 1, 8, -8, 4096, 2**40))
            case 3:
                other, place = chance.choice(places)
                holder[key], other[place] = copy_of(other[place]), copy_of(holder[key])  # one may lie in the other
            case _:
                holder[key] = copy_of(chance.choice([*NUMBERS, *WORDS]))
    return value


def json_of(value: object, chance: random.Random) -> bytes:
    """JSON of a changed copy of a value; or JSON as no program writes it: a key twice, endless numbers or nesting."""
    value = tree_of(value, chance)
    if chance.randrange(8) == 0 and (places := list(places_in(value))):
        holder, key = chance.choice(places)
        if isinstance(holder, dict) and chance.randrange(2):
            holder[TWICE + key] = copy_of(holder[key])
        else:
            holder[key] = chance.choice((DEEP, LONG, NAN))
    text = json.dumps(value)
    for name, raw in RAW.items():
        text = text.replace(json.dumps(name), raw)
    return text.replace(json.dumps(TWICE)[:-1], '"').encode()


def numbers_of(data: bytes, places: list[tuple[int, int]], chance: random.Random) -> bytes:
    """A copy with one or a few little-endian numbers changed, each given by its place and width in bytes."""
    data = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at, width = chance.choice(places)
        top, now = 1 << 8 * width, int.from_bytes(data[at : at + width], "little")
        near = now + chance.choice((-1, 1, 8, 1 << chance.randrange(8 * width)))
        far = chance.choice((0, 1, top // 2 - 1, top // 2, top - 1, len(data), chance.randrange(top)))
        data[at : at + width] = (chance.choice((near, far)) % top).to_bytes(width, "little")
    return bytes(data)


def copy_of(value):
    return json.loads(json.dumps(value))


def places_in(value):
    """Every (container, key) of a JSON value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in list(pairs):
        yield value, key
        yield from places_in(child)
