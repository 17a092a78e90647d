"""tokenizer.json, the file of Hugging Face's `tokenizers`: our own format too, since it says everything.

    model           BPE: vocab {token: id}, merges; or WordLevel, for our characters and words;
                    with byte_fallback it is Llama 2's (sentence.py)
    normalizer      none, or Unicode's form NFC (Qwen 2)
    pre_tokenizer   where the text is cut: one of our patterns by name; the file's own expression is never run
    post_processor  which special token stands before every text (Llama 3)
    added_tokens    special tokens; with "special": false those that others show when they decode

The tokens of byte-level BPE are bytes, and JSON is text. GPT-2's way out: each byte has a printable character, itself
if it is one, otherwise the next free one from U+0100; so a space is "Ġ" (U+0120).
What we cannot do exactly (other normalisers, prefixes, lower-casing) is refused with the name of the field.
"""

import json
from typing import Any

from firsthand.errors import TokenizerError
from firsthand.files import quoted
from firsthand.tokenizer import sentence_json
from firsthand.tokenizer.bpe import Tokenizer
from firsthand.tokenizer.sentence import SentenceTokenizer
from firsthand.tokenizer.simple import SIGNS, SPACES, UNKNOWN, CharTokenizer, WordTokenizer
from firsthand.tokenizer.split import PATTERNS, SPELLINGS
from firsthand.tokenizer.vocabulary import MOST_TOKENS, all_cuts

PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
OTHERS = [byte for byte in range(256) if byte not in PRINTABLE]
CHARACTERS = {byte: chr(byte) for byte in PRINTABLE} | {byte: chr(256 + at) for at, byte in enumerate(OTHERS)}
BYTES = {character: byte for byte, character in CHARACTERS.items()}

AnyTokenizer = Tokenizer | SentenceTokenizer | CharTokenizer | WordTokenizer


def visible(token: bytes) -> str:
    """A byte string as printable characters, one for each byte: b" the" -> "Ġthe"."""
    return "".join(CHARACTERS[byte] for byte in token)


def raw(text: str) -> bytes:
    """The byte string that `visible` shows."""
    try:
        return bytes([BYTES[character] for character in text])
    except KeyError as error:
        raise TokenizerError(
            f"token {quoted(text)} holds {error.args[0]!a}, which stands for no byte; "
            "only byte-level vocabularies can be read, and special tokens must be in added_tokens"
        ) from None


# ---------------------------------------------------------------- writing


def split_on(expression: str, behavior: str) -> dict[str, Any]:
    """A step of the pre-tokenizer."""
    return {"type": "Split", "pattern": {"Regex": expression}, "behavior": behavior, "invert": False}


def byte_level(use_regex: bool) -> dict[str, Any]:
    """Bytes to printable characters; with `use_regex` after cutting as GPT-2 does."""
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": use_regex}


CHARS = split_on(r"[\s\S]", "Isolated")
WORDS = {"type": "Sequence", "pretokenizers": [split_on(SIGNS, "Isolated"), split_on(f"[{SPACES}]+", "Removed")]}


DIGITS = {"type": "Digits", "individual_digits": True}
SMOLLM = {"type": "Sequence", "pretokenizers": [DIGITS, byte_level(use_regex=True)]}


def starting(name: str, token: int) -> dict[str, Any]:
    """The post-processor that puts a special token before every text."""
    first, text = {"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    second = [{"SpecialToken": {"id": name, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
    special = {name: {"id": name, "ids": [token], "tokens": [name]}}
    return {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, *second],
        "special_tokens": special,
    }


def document(tokenizer: AnyTokenizer) -> dict[str, Any]:
    """The whole file as a dictionary."""
    head = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": listing(tokenizer)}
    if isinstance(tokenizer, Tokenizer):
        return head | bpe_parts(tokenizer)
    if isinstance(tokenizer, SentenceTokenizer):
        return head | sentence_json.parts(tokenizer) | {"post_processor": putting_first(tokenizer)}
    vocab = {name: token for token, name in enumerate(tokenizer.entries)}
    model = {"type": "WordLevel", "vocab": vocab, "unk_token": UNKNOWN}
    chars = isinstance(tokenizer, CharTokenizer)
    parts = (
        {"pre_tokenizer": CHARS, "decoder": {"type": "Fuse"}} if chars else {"pre_tokenizer": WORDS, "decoder": None}
    )
    return head | {"normalizer": None} | parts | {"post_processor": None, "model": model}


def listing(tokenizer: AnyTokenizer) -> list[dict[str, Any]]:
    """The special tokens as the file lists them."""
    no = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return [
        {"id": token, "content": name} | no | {"special": name not in tokenizer.shown}
        for name, token in sorted(tokenizer.special_tokens.items(), key=lambda item: item[1])
    ]


def putting_first(tokenizer: Tokenizer | SentenceTokenizer) -> dict[str, Any] | None:
    """The post-processor of the token that stands before every text, if there is one."""
    names = {token: name for name, token in tokenizer.special_tokens.items()}
    return None if tokenizer.begin is None else starting(names[tokenizer.begin], tokenizer.begin)


def bpe_parts(tokenizer: Tokenizer) -> dict[str, Any]:
    """Normalizer, pre-tokenizer, post-processor, decoder and model of byte-level BPE."""
    special = {token: name for name, token in tokenizer.special_tokens.items()}
    vocab = {visible(token): at for at, token in enumerate(tokenizer.tokens) if token and at not in special}
    if sorted(special) != [*range(len(vocab), len(vocab) + len(special))]:  # the library gives others an id of its own
        vocab |= tokenizer.special_tokens
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None}
    model |= {"end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": tokenizer.whole}
    merges = [[visible(left), visible(right)] for left, right in tokenizer.merge_bytes()]
    after, start = byte_level(use_regex=False), putting_first(tokenizer)
    return {
        "normalizer": {"type": "NFC"} if tokenizer.nfc else None,
        "pre_tokenizer": cutting(tokenizer.pattern),
        "post_processor": {"type": "Sequence", "processors": [after, start]} if start else after,
        "decoder": byte_level(use_regex=True),
        "model": model | {"vocab": vocab, "merges": merges},
    }


def cutting(pattern: str) -> dict[str, Any]:
    """The pre-tokenizer that cuts like a pattern, as the models that have it write it."""
    if pattern in ("gpt2", "smollm"):
        return byte_level(use_regex=True) if pattern == "gpt2" else SMOLLM
    steps = [split_on(PATTERNS[pattern], "Isolated"), byte_level(use_regex=False)]
    return {"type": "Sequence", "pretokenizers": steps}


def write(tokenizer: AnyTokenizer) -> bytes:
    """The bytes of the file."""
    return json.dumps(document(tokenizer), ensure_ascii=False, indent=1).encode()


# ---------------------------------------------------------------- reading


def read(file: dict[str, Any]) -> AnyTokenizer:
    """The tokenizer of a parsed file; anything we could not do exactly is refused."""
    model, added = field(file, "model", dict), added_tokens(file)
    if model.get("type", "BPE") == "WordLevel":
        return read_listed(file, model, added)
    if model.get("type", "BPE") != "BPE":
        raise TokenizerError(f"model.type is {model['type']!r:.40}; only 'BPE' and our own 'WordLevel' can be read")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise TokenizerError(f"model.{name} is {model[name]!r:.40}; only BPE without it can be read")
    begin, whole = read_begin(file.get("post_processor"), added), bool(model.get("ignore_merges"))
    shown = [token["content"] for token in file.get("added_tokens") or [] if token.get("special") is False]
    if model.get("byte_fallback"):
        prefix, (pieces, merges) = sentence_json.prefixed(file), read_sentence(model, added)
        return SentenceTokenizer(pieces, merges, added, prefix, shown, begin)
    nfc, pattern = read_normalizer(file.get("normalizer")), read_pattern(file.get("pre_tokenizer"))
    tokens, merges = read_bpe(model, added)
    return Tokenizer(tokens, merges, pattern, added, whole, nfc, shown, begin)


def field(place: dict[str, Any], name: str, kind: type) -> Any:
    """A field that must be there, of its type."""
    if not isinstance(place.get(name), kind):
        raise TokenizerError(f"{name} is {type(place.get(name)).__name__}, must be {kind.__name__}")
    return place[name]


def checked_ids(vocab: dict[str, Any]) -> dict[str, int]:
    """A vocabulary whose ids are whole numbers, each used once, without a wide gap between them."""
    used: dict[int, str] = {}
    most = min(MOST_TOKENS, 2 * len(vocab) + 1024)
    for token, number in vocab.items():
        if type(number) is not int or not 0 <= number < most:
            raise TokenizerError(f"token {quoted(token)} has id {number!r:.40}; ids are numbers from 0 to {most - 1:,}")
        if number in used:
            raise TokenizerError(f"tokens {quoted(used[number])} and {quoted(token)} share the id {number}")
        used[number] = token
    return vocab


def added_tokens(file: dict[str, Any]) -> dict[str, int]:
    """The special tokens and their ids; those that would swallow the space around them are refused."""
    added: dict[str, Any] = {}
    listed = file.get("added_tokens") or []
    if not isinstance(listed, list):
        raise TokenizerError(f"added_tokens is {listed!r:.60}; it must be a list")
    for token in listed:
        if not isinstance(token, dict) or not isinstance(token.get("content"), str):
            raise TokenizerError(f"added_tokens holds {token!r:.60}; each needs an id and a content")
        for name in ("single_word", "lstrip", "rstrip"):
            if token.get(name):
                raise TokenizerError(f"added token {quoted(token['content'])} has {name}, which cannot be done here")
        if token["content"] in added:
            raise TokenizerError(f"added token {quoted(token['content'])} stands twice")
        added[token["content"]] = token.get("id")
    return added


def read_normalizer(normalizer: Any) -> bool:
    """Whether texts are brought into the form NFC; every other change to the text is refused."""
    if normalizer not in (None, {"type": "NFC"}):
        raise TokenizerError(f"normalizer {normalizer!r:.60} would change the text; only NFC or none can be read")
    return normalizer is not None


def read_begin(after: Any, added: dict[str, int]) -> int | None:
    """The id that the post-processor puts before every text; None if it adds nothing."""
    steps = after.get("processors") if isinstance(after, dict) and after.get("type") == "Sequence" else [after]
    found = None
    for step in steps if isinstance(steps, list) else [steps]:
        if step is None or (isinstance(step, dict) and step.get("type") == "ByteLevel"):
            continue
        single = step.get("single") if isinstance(step, dict) and step.get("type") == "TemplateProcessing" else None
        names = [
            part["SpecialToken"].get("id") for part in listed(single) if isinstance(part.get("SpecialToken"), dict)
        ]
        if found is not None or not names or names[0] not in added or single != starting(names[0], 0)["single"]:
            raise TokenizerError(
                f"post_processor {json.dumps(step):.70} is none we know; it may only put one special token first"
            )
        found = added[names[0]]
    return found


def listed(value: Any) -> list[dict[str, Any]]:
    """The dictionaries of a list, or none."""
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []


def read_pattern(pre_tokenizer: Any) -> str:
    """Our name for the way a file cuts text; the expression in the file is compared, never run."""
    steps = pre_tokenizer.get("pretokenizers") if isinstance(pre_tokenizer, dict) else None
    steps = steps if isinstance(steps, list) else [pre_tokenizer]
    *cuts, last = [step if isinstance(step, dict) else {} for step in steps] or [{}]
    if last.get("type") == "ByteLevel" and not last.get("add_prefix_space", True):
        if cuts in ([], [DIGITS]) and last.get("use_regex", True) is True:
            return "smollm" if cuts else "gpt2"
        if len(cuts) == 1 and last.get("use_regex", True) is False:
            expression = cuts[0].get("pattern", {})
            expression = expression.get("Regex") if isinstance(expression, dict) else None
            if isinstance(expression, str) and expression in SPELLINGS:
                wanted = split_on(expression, "Isolated")
                if {"invert": False} | cuts[0] == wanted or cuts[0] == wanted | {"behavior": "Removed", "invert": True}:
                    return SPELLINGS[expression]
    raise TokenizerError(
        f"pre_tokenizer {json.dumps(pre_tokenizer):.40} is none we know exactly; known are "
        f"{', '.join(PATTERNS)}, each before ByteLevel"
    )


def read_ids(model: dict[str, Any], added: dict[str, int]) -> dict[str, int]:
    """The ids of all tokens of BPE, the added ones included."""
    ids = checked_ids(field(model, "vocab", dict) | added)
    for name in added:
        if model["vocab"].get(name, added[name]) != added[name]:
            raise TokenizerError(
                f"added token {name[:40]!a} has the ids {added[name]} and {model['vocab'][name]!r:.20}"
            )
    return ids


def read_sentence(model: dict[str, Any], added: dict[str, int]) -> tuple[list[str], list[tuple[int, int]]]:
    """Pieces and merges of Llama 2's BPE."""
    ids = read_ids(model, added)
    pieces = [""] * (max(ids.values(), default=-1) + 1)
    for name, number in ids.items():
        pieces[number] = name
    ordinary = {name: number for name, number in ids.items() if name not in added}
    return pieces, read_merges(field(model, "merges", list), ordinary)


def read_bpe(model: dict[str, Any], added: dict[str, int]) -> tuple[list[bytes], list[tuple[int, int]] | None]:
    """Tokens and merges of byte-level BPE; merges that are all cuts of the tokens, as `all_cuts` has them, are None."""
    ids = read_ids(model, added)
    tokens = [b""] * (max(ids.values(), default=-1) + 1)
    for text, number in ids.items():
        tokens[number] = text.encode() if text in added else raw(text)
    ordinary = {text: number for text, number in ids.items() if text not in added}
    merges = read_merges(field(model, "merges", list), ordinary)
    if model.get("ignore_merges"):
        given = [(tokens[left], tokens[right]) for left, right in merges]
        if given == all_cuts({tokens[number]: number for number in ordinary.values()}):
            return tokens, None
    return tokens, merges


def read_merges(merges: list[Any], ids: dict[str, int]) -> list[tuple[int, int]]:
    """Merges as pairs of ids, from "a b" or ["a", "b"]; each must join two tokens, and stand once."""
    found: dict[tuple[int, int], int] = {}
    for at, merge in enumerate(merges):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
            raise TokenizerError(f"merge {at} is {merge!r:.60}; it must be two tokens")
        for part in parts:
            if part not in ids:
                raise TokenizerError(f"merge {at} joins {quoted(part)}, which is no ordinary token of the vocabulary")
        if found.setdefault((ids[parts[0]], ids[parts[1]]), at) != at:
            raise TokenizerError(f"merge {at} stands twice: {merge!r:.60}")
    return list(found)


def read_listed(file: dict[str, Any], model: dict[str, Any], added: dict[str, int]) -> AnyTokenizer:
    """Our character or word tokenizer; a WordLevel file that cuts otherwise is refused."""
    ids = checked_ids(field(model, "vocab", dict))
    entries = sorted(ids, key=lambda name: ids[name])
    ordinary = [name for name in entries if name not in added]
    special = sorted(added, key=lambda name: ids.get(name, -1))
    if {name: at for at, name in enumerate([*ordinary, *special])} != ids or any(added[n] != ids[n] for n in special):
        raise TokenizerError("the ids of this WordLevel vocabulary are not 0, 1, 2, ... with special tokens at the end")
    for kind, cut in ((CharTokenizer, CHARS), (WordTokenizer, WORDS)):
        if file.get("pre_tokenizer") == cut:
            return kind(ordinary, special)
    raise TokenizerError("pre_tokenizer of this WordLevel file is not ours; only our char and word tokenizers are read")
