"""tokenizer.json, the file of Hugging Face's `tokenizers`: our own format too, since it says everything.

    model           BPE: vocab {token: id}, merges; or WordLevel, for our characters and words
    pre_tokenizer   where the text is cut: one of our patterns by name; the file's own expression is never run
    added_tokens    special tokens

The tokens of byte-level BPE are bytes, and JSON is text. GPT-2's way out: each byte has a printable character, itself
if it is one, otherwise the next free one from U+0100; so a space is "Ġ" (U+0120).
What we cannot do exactly (other normalisers, prefixes, lower-casing) is refused with the name of the field.
"""

import json
import warnings
from typing import Any

from firsthand.errors import TokenizerError
from firsthand.tokenizer.bpe import Tokenizer
from firsthand.tokenizer.simple import SIGNS, SPACES, UNKNOWN, CharTokenizer, WordTokenizer
from firsthand.tokenizer.split import PATTERNS, SPELLINGS
from firsthand.tokenizer.vocabulary import MOST_TOKENS

PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
OTHERS = [byte for byte in range(256) if byte not in PRINTABLE]
CHARACTERS = {byte: chr(byte) for byte in PRINTABLE} | {byte: chr(256 + at) for at, byte in enumerate(OTHERS)}
BYTES = {character: byte for byte, character in CHARACTERS.items()}

AnyTokenizer = Tokenizer | CharTokenizer | WordTokenizer


def visible(token: bytes) -> str:
    """A byte string as printable characters, one for each byte: b" the" -> "Ġthe"."""
    return "".join(CHARACTERS[byte] for byte in token)


def raw(text: str) -> bytes:
    """The byte string that `visible` shows."""
    try:
        return bytes([BYTES[character] for character in text])
    except KeyError as error:
        raise TokenizerError(
            f"token {text[:40]!a} holds {error.args[0]!a}, which stands for no byte; "
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


def document(tokenizer: AnyTokenizer) -> dict[str, Any]:
    """The whole file as a dictionary."""
    added = [
        {"id": token, "content": name} | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for name, token in sorted(tokenizer.special_tokens.items(), key=lambda item: item[1])
    ]
    head = {"version": "1.0", "truncation": None, "padding": None}
    head |= {"added_tokens": [token | {"special": True} for token in added], "normalizer": None}
    if isinstance(tokenizer, Tokenizer):
        return head | bpe_parts(tokenizer)
    vocab = {name: token for token, name in enumerate(tokenizer.entries)}
    model = {"type": "WordLevel", "vocab": vocab, "unk_token": UNKNOWN}
    if isinstance(tokenizer, CharTokenizer):
        return head | {"pre_tokenizer": CHARS, "post_processor": None, "decoder": {"type": "Fuse"}, "model": model}
    return head | {"pre_tokenizer": WORDS, "post_processor": None, "decoder": None, "model": model}


def bpe_parts(tokenizer: Tokenizer) -> dict[str, Any]:
    """Pre-tokenizer, decoder and model of byte-level BPE."""
    special = set(tokenizer.special_tokens.values())
    vocab = {visible(token): at for at, token in enumerate(tokenizer.tokens) if token and at not in special}
    merges = tokenizer.merges
    pairs = (
        all_cuts({token: at for at, token in enumerate(tokenizer.tokens) if token and at not in special})
        if merges is None
        else [(tokenizer.tokens[left], tokenizer.tokens[right]) for left, right in merges]
    )
    steps = [split_on(PATTERNS[tokenizer.pattern], "Isolated"), byte_level(use_regex=False)]
    gpt2 = tokenizer.pattern == "gpt2"
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None}
    model |= {"end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": merges is None}
    return {
        "pre_tokenizer": byte_level(use_regex=True) if gpt2 else {"type": "Sequence", "pretokenizers": steps},
        "post_processor": byte_level(use_regex=False),
        "decoder": byte_level(use_regex=True),
        "model": model | {"vocab": vocab, "merges": [[visible(left), visible(right)] for left, right in pairs]},
    }


def all_cuts(ids: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Every way to make a token of two tokens, by the id it makes: what ranks mean, written as merges."""
    return [
        (token[:at], token[at:])
        for token, _ in sorted(ids.items(), key=lambda item: item[1])
        for at in range(1, len(token))
        if token[:at] in ids and token[at:] in ids
    ]


def write(tokenizer: AnyTokenizer) -> bytes:
    """The bytes of the file."""
    return json.dumps(document(tokenizer), ensure_ascii=False, indent=1).encode()


# ---------------------------------------------------------------- reading


def read(file: dict[str, Any]) -> AnyTokenizer:
    """The tokenizer of a parsed file; anything we could not do exactly is refused."""
    model, added = field(file, "model", dict), added_tokens(file)
    if file.get("normalizer") is not None:
        refuse_normalizer(file["normalizer"])
    if model.get("type", "BPE") == "WordLevel":
        return read_listed(file, model, added)
    if model.get("type", "BPE") != "BPE":
        raise TokenizerError(f"model.type is {model['type']!r:.40}; only 'BPE' and our own 'WordLevel' can be read")
    for name in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(name):
            raise TokenizerError(f"model.{name} is {model[name]!r:.40}; only byte-level BPE without it can be read")
    return read_bpe(model, added, read_pattern(file.get("pre_tokenizer")))


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
            raise TokenizerError(f"token {token[:40]!a} has id {number!r:.40}; ids are numbers from 0 to {most - 1:,}")
        if number in used:
            raise TokenizerError(f"tokens {used[number][:40]!a} and {token[:40]!a} share the id {number}")
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
                raise TokenizerError(f"added token {token['content'][:40]!a} has {name}, which cannot be done here")
        if token["content"] in added:
            raise TokenizerError(f"added token {token['content'][:40]!a} stands twice")
        added[token["content"]] = token.get("id")
    return added


def refuse_normalizer(normalizer: Any) -> None:
    """NFC changes hardly any text, so it is left out with a warning (Qwen 2 has it); every other one is refused."""
    if normalizer != {"type": "NFC"}:
        raise TokenizerError(f"normalizer {normalizer!r:.60} would change the text; only files without one can be read")
    warnings.warn(
        "this tokenizer asks for Unicode's form NFC, which is not applied here: texts in another form get other ids",
        stacklevel=2,
    )


def read_pattern(pre_tokenizer: Any) -> str:
    """Our name for the way a file cuts text; the expression in the file is compared, never run."""
    steps = pre_tokenizer.get("pretokenizers") if isinstance(pre_tokenizer, dict) else None
    steps = steps if isinstance(steps, list) else [pre_tokenizer]
    *cuts, last = [step if isinstance(step, dict) else {} for step in steps] or [{}]
    if last.get("type") == "ByteLevel" and not last.get("add_prefix_space", True):
        if not cuts and last.get("use_regex", True) is True:
            return "gpt2"
        if len(cuts) == 1 and last.get("use_regex", True) is False:
            expression = cuts[0].get("pattern", {})
            expression = expression.get("Regex") if isinstance(expression, dict) else None
            if isinstance(expression, str) and expression in SPELLINGS:
                wanted = split_on(expression, "Isolated")
                if {"invert": False} | cuts[0] == wanted or cuts[0] == wanted | {"behavior": "Removed", "invert": True}:
                    return SPELLINGS[expression]
    raise TokenizerError(
        f"pre_tokenizer {json.dumps(pre_tokenizer):.70} is none we know exactly; the known ones cut like "
        f"{', '.join(PATTERNS)} and then take bytes (ByteLevel without add_prefix_space)"
    )


def read_bpe(model: dict[str, Any], added: dict[str, int], pattern: str) -> Tokenizer:
    """Byte-level BPE from its vocabulary and merges."""
    ids = checked_ids(field(model, "vocab", dict) | added)
    for name in added:
        if model["vocab"].get(name, added[name]) != added[name]:
            raise TokenizerError(
                f"added token {name[:40]!a} has the ids {added[name]} and {model['vocab'][name]!r:.20}"
            )
    tokens = [b""] * (max(ids.values(), default=-1) + 1)
    for text, number in ids.items():
        tokens[number] = text.encode() if text in added else raw(text)
    ordinary = {text: number for text, number in ids.items() if text not in added}
    merges = read_merges(field(model, "merges", list), ordinary)
    if not model.get("ignore_merges"):
        return Tokenizer(tokens, merges, pattern, added)
    tokenizer = Tokenizer(tokens, None, pattern, added)
    wanted = all_cuts({tokens[number]: number for number in ordinary.values()})
    given = [(tokens[left], tokens[right]) for left, right in merges]
    made = [left + right for left, right in given]
    if set(given) != set(wanted) or made != [left + right for left, right in wanted]:
        raise TokenizerError(
            "model.ignore_merges is set, but the merges are not all cuts of the tokens in the order of their ids; "
            "only that form (tiktoken's ranks, as in Llama 3) can be read"
        )
    return tokenizer


def read_merges(merges: list[Any], ids: dict[str, int]) -> list[tuple[int, int]]:
    """Merges as pairs of ids, from "a b" or ["a", "b"]; each must join two tokens, and stand once."""
    found: dict[tuple[int, int], int] = {}
    for at, merge in enumerate(merges):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
            raise TokenizerError(f"merge {at} is {merge!r:.60}; it must be two tokens")
        for part in parts:
            if part not in ids:
                raise TokenizerError(f"merge {at} joins {part[:40]!a}, which is no ordinary token of the vocabulary")
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
