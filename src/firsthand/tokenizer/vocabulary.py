"""A vocabulary from anywhere -> tables for the compiled code, or one clear line about what is wrong with it."""

from collections.abc import Iterable, Sequence
from itertools import count

import numpy as np

from firsthand.errors import TokenizerError
from firsthand.tokenizer.merge import NEVER, build_table
from firsthand.tokenizer.whole import Tables, build_slots

MOST_TOKENS = 1 << 22
LONGEST_TOKEN = 1024  # bytes
# Bytes that any text may hold. SmolLM2 lacks 21 of the others: control signs, and what UTF-8 hardly or never uses.
COMMON = {*b"\t\n\r", *range(0x20, 0x7F), *range(0x80, 0xC0), *range(0xC2, 0xF1)}
NO_ID = 0xFFFFFFFF  # in place of the id of a byte that has none
HALF = 32  # a score: priority in the upper 32 bits, id in the lower


def check_special(tokens: Sequence[bytes], special_tokens: dict[str, int]) -> None:
    """Refuse special tokens that have no id of their own, or whose entry among the tokens is not their name."""
    for name, token in special_tokens.items():
        if not name or not 0 <= token < len(tokens) or tokens[token] != name.encode():
            raise TokenizerError(
                f"special token {name[:60]!r} has id {token}, but that entry of the vocabulary of {len(tokens):,} "
                "is not its name in UTF-8; make tokens[id] its name"
            )
    if len(set(special_tokens.values())) < len(special_tokens):
        raise TokenizerError(f"two special tokens share an id: {str(special_tokens)[:120]}; give each its own")


def check_begin(begin: int | None, special_tokens: dict[str, int]) -> None:
    """Refuse a start of texts that is no special token."""
    if begin is not None and begin not in special_tokens.values():
        raise TokenizerError(f"begin is id {begin}, which is no special token; give the id of one, or None")


def fill(
    tokens: Sequence[bytes], special_tokens: dict[str, int], rows: int, name: str
) -> tuple[list[bytes], dict[str, int]]:
    """A token for every one of `rows` ids: new special ones, named by number, where there is none or an empty one."""
    if rows < len(tokens):
        raise TokenizerError(
            f"tokenizer has {len(tokens):,} tokens but the model has {rows:,} embedding rows; "
            "use the tokenizer the model was trained with",
            code=1,
        )
    if rows > MOST_TOKENS:
        raise TokenizerError(f"{rows:,} rows for a vocabulary of {len(tokens):,} tokens; at most {MOST_TOKENS:,}")
    filled, special, taken = [*tokens, *[b""] * (rows - len(tokens))], dict(special_tokens), {*tokens}
    free = (name.format(number) for number in count() if name.format(number).encode() not in taken)
    for at, token in enumerate(filled):
        if not token:
            reserved = next(free)
            filled[at], special[reserved] = reserved.encode(), at
    return filled, special


def all_cuts(ids: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Every way to make a token of two tokens, by the id it makes: what ranks mean, written as merges."""
    return [
        (token[:at], token[at:])
        for token, _ in sorted(ids.items(), key=lambda item: item[1])
        for at in range(1, len(token))
        if token[:at] in ids and token[at:] in ids
    ]


def numbered(tokens: Sequence[bytes], special: set[int]) -> dict[bytes, int]:
    """The id of every ordinary token, by its bytes; refuses duplicates and giants."""
    if len(tokens) > MOST_TOKENS:
        raise TokenizerError(
            f"a vocabulary of {len(tokens):,} tokens; at most {MOST_TOKENS:,}: is this a tokenizer file?"
        )
    ids: dict[bytes, int] = {}
    for token, name in enumerate(tokens):
        if token in special or not name:
            continue
        if len(name) > LONGEST_TOKEN:
            raise TokenizerError(
                f"token {token} has {len(name):,} bytes; at most {LONGEST_TOKEN}: is the file damaged?"
            )
        if ids.setdefault(name, token) != token:
            raise TokenizerError(f"tokens {ids[name]} and {token} are both {name[:40]!r}; each may come once")
    return ids


def index(tokens: Sequence[bytes], special_tokens: dict[str, int]) -> dict[bytes, int]:
    """The id of every ordinary token of byte-level BPE, by its bytes; refuses missing bytes too."""
    check_special(tokens, special_tokens)
    ids = numbered(tokens, set(special_tokens.values()))
    missing = [byte for byte in range(256) if bytes([byte]) not in ids]
    if common := [byte for byte in missing if byte in COMMON]:
        raise TokenizerError(
            f"{len(missing)} of the 256 single bytes have no token, the first is 0x{common[0]:02x}; "
            f"a byte-level vocabulary needs all but control signs, or most texts could not be encoded"
        )
    return ids


def pairs_of_merges(tokens: Sequence[bytes], ids: dict[bytes, int], merges: Iterable[tuple[int, int]]) -> np.ndarray:
    """What each merge joins, and its score, by its place in the list: P merges -> (P, 3) uint64."""
    rows = []
    for priority, (left, right) in enumerate(merges):
        known = 0 <= left < len(tokens) and 0 <= right < len(tokens)
        parts = (tokens[left], tokens[right]) if known else (b"", b"")
        if ids.get(parts[0]) != left or ids.get(parts[1]) != right:
            raise TokenizerError(
                f"merge {priority} joins ids {left} and {right}, but not both are ordinary tokens here"
            )
        if (whole := ids.get(parts[0] + parts[1])) is None:
            raise TokenizerError(
                f"merge {priority} joins {parts[0][:40]!r} and {parts[1][:40]!r}, "
                f"but what they make is no token; is the vocabulary file of another tokenizer?"
            )
        rows.append((left, right, priority << HALF | whole))
    return np.array(rows, np.uint64).reshape(-1, 3)


def pairs_of_ranks(ids: dict[bytes, int]) -> np.ndarray:
    """Every way to cut a token into two tokens, and its score, by the id of the whole: -> (P, 3) uint64."""
    rows = []
    for name, whole in ids.items():
        score = whole << HALF | whole
        for cut in range(1, len(name)):
            left = ids.get(name[:cut])
            if left is not None and (right := ids.get(name[cut:])) is not None:
                rows.append((left, right, score))
    return np.array(rows, np.uint64).reshape(-1, 3)


def byte_scores(pairs: np.ndarray, byte_ids: np.ndarray) -> np.ndarray:
    """The scores of all pairs of single bytes, where most searches begin: (P, 3), (256,) -> (65536,) uint64."""
    bytes_of = {token: byte for byte, token in enumerate(byte_ids.tolist()) if token != NO_ID}
    scores = np.full(1 << 16, NEVER, np.uint64)
    single = np.isin(pairs[:, 0], byte_ids) & np.isin(pairs[:, 1], byte_ids)
    for left, right, score in pairs[single][::-1].tolist():  # of a pair that comes twice the first counts
        scores[bytes_of[left] << 8 | bytes_of[right]] = score
    return scores


def build(
    tokens: Sequence[bytes], ids: dict[bytes, int], merges: Sequence[tuple[int, int]] | None, whole: bool
) -> Tables:
    """All tables of a vocabulary; merges None means ranks. `whole`: with the short cut for pieces that are tokens."""
    pairs = pairs_of_ranks(ids) if merges is None else pairs_of_merges(tokens, ids, merges)
    names = [name if ids.get(name) == token else b"" for token, name in enumerate(tokens)]
    starts = np.cumsum([0, *map(len, names)], dtype=np.int64)
    joined = np.frombuffer(b"".join(names), np.uint8)
    slots = build_slots(joined, starts) if whole else np.empty(0, np.int32)
    byte_ids = np.array([ids.get(bytes([byte]), NO_ID) for byte in range(256)], np.uint32)
    return Tables(byte_ids, byte_scores(pairs, byte_ids), build_table(pairs), joined, starts, slots)
