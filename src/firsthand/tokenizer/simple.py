"""The two tokenizers that come before byte pair encoding: one id for each character, or one for each word.

Characters never run out of words but make long rows; words make short rows but most words of the world are unknown,
and all of them become <|unk|>. Byte pair encoding (`bpe.py`) is the way between.

V ids: what was met in the text, in sorted order, then the special tokens.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from firsthand.errors import TokenizerError

UNKNOWN, END_OF_TEXT = "<|unk|>", "<|endoftext|>"
NO_ID = np.uint32(0xFFFFFFFF)

# White space is what Unicode calls so, spelled out: the engines of regular expressions differ in a few control signs.
SPACES = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
SIGNS = r"--|[,.:;?_!\"()']"
WORD = re.compile(rf"{SIGNS}|(?:(?!--)[^{SPACES},.:;?_!\"()'])+")
NO_SPACE_BEFORE, NO_SPACE_AFTER = set(",.:;?!)'\""), set("('")


def listed(kind: str, tokens: Sequence[str], special_tokens: Sequence[str]) -> list[str]:
    """All entries of a vocabulary in the order of their ids; refuses what stands twice or is empty."""
    entries = [*tokens, *special_tokens]
    twice = [entry for entry, times in Counter(entries).items() if times > 1 or not entry]
    if isinstance(special_tokens, str) or twice:
        raise TokenizerError(
            f"the {kind} vocabulary holds {twice[:1] or special_tokens!r:.60} twice, or empty; entries and special "
            "tokens must be different and not empty, special_tokens a list of names"
        )
    if half := [entry for entry in entries if not entry.isascii() and re.search("[\ud800-\udfff]", entry)]:
        raise TokenizerError(f"the {kind} vocabulary holds {half[0][:3]!a}, half of a surrogate pair; it has no UTF-8")
    return entries


def digest(kind: str, entries: list[str], special_tokens: dict[str, int]) -> str:
    """SHA-256 of all that decides the ids."""
    return hashlib.sha256(json.dumps([kind, entries, sorted(special_tokens.items())]).encode()).hexdigest()


def entry(entries: list[str], token: int) -> str:
    """The text of one id."""
    if not 0 <= token < len(entries):
        raise TokenizerError(f"id {token} is no token; this vocabulary has the ids 0 to {len(entries) - 1}")
    return entries[token]


def all_texts(texts: str | Iterable[str]) -> Iterable[str]:
    """One text or many, as many."""
    return [texts] if isinstance(texts, str) else texts


def in_parts(text: str, special_tokens: dict[str, int], allow_special: bool) -> list[str]:
    """The text between names of special tokens and the names themselves, in turns; only text if not allowed."""
    if not allow_special or not special_tokens:
        return [text]
    names = sorted(special_tokens, key=len, reverse=True)
    return re.split("(" + "|".join(map(re.escape, names)) + ")", text)


class CharTokenizer:
    """One id for each character: "hello" with the characters e h l o -> 1 0 2 2 3."""

    kind, begin, shown = "char", None, frozenset[str]()

    def __init__(self, tokens: Sequence[str], special_tokens: Sequence[str] = ()):
        self.entries = listed("char", tokens, special_tokens)
        if any(len(character) != 1 for character in tokens):
            raise TokenizerError("an entry of the char vocabulary is no single character; is it a word vocabulary?")
        self.special_tokens = {name: len(tokens) + at for at, name in enumerate(special_tokens)}
        self.vocab_size = len(self.entries)
        self.end_of_text = self.special_tokens.get(END_OF_TEXT)
        self._ids = np.full(max(map(ord, tokens), default=0) + 1, NO_ID, np.uint32)
        self._ids[[ord(character) for character in tokens]] = np.arange(len(tokens))

    @staticmethod
    def train(texts: str | Iterable[str], special_tokens: Sequence[str] = ()) -> "CharTokenizer":
        """Every character that occurs in the texts, in the order of Unicode."""
        met: set[str] = set()
        for text in all_texts(texts):
            met.update(text)
        return CharTokenizer(sorted(met), special_tokens)

    def encode(self, text: str, allow_special: bool = False) -> np.ndarray:
        """The ids of a text: str -> (N,) uint32. A character that was never met is an error that names it."""
        parts = in_parts(text, self.special_tokens, allow_special)
        return np.concatenate(
            [
                np.array([self.special_tokens[part]], np.uint32) if at % 2 else self._encode(part)
                for at, part in enumerate(parts)
            ]
        )

    def _encode(self, text: str) -> np.ndarray:
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        ids = np.where(codes < len(self._ids), self._ids[np.minimum(codes, len(self._ids) - 1)], NO_ID)
        if len(unknown := np.flatnonzero(ids == NO_ID)):
            raise TokenizerError(
                f"character {text[unknown[0]]!a} (place {unknown[0]:,}) is not among the {self.vocab_size} characters "
                "this tokenizer has met. Train it on text that holds it, or use a bpe tokenizer"
            )
        return ids.astype(np.uint32)

    def encode_bytes(self, data: bytes) -> np.ndarray:
        """The ids of a text in UTF-8."""
        return self.encode(data.decode())

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids."""
        return "".join(entry(self.entries, int(token)) for token in ids)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The text of ids, in UTF-8."""
        return self.decode(ids).encode()

    def token_bytes(self, token: int) -> bytes:
        """The text of one id, in UTF-8."""
        return entry(self.entries, token).encode()

    def stream(self) -> "Joiner":
        """A decoder for ids that come one at a time."""
        return Joiner(self.entries, spaced=False)

    def save(self, path: str | Path) -> None:
        """Write tokenizer.json, which the `tokenizers` library opens too."""
        from firsthand.tokenizer import formats

        formats.save(self, path)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides the ids."""
        return digest(self.kind, self.entries, self.special_tokens)


class WordTokenizer:
    """One id for each word and each sign: "Hello, world." -> Hello | , | world | . ; unknown words become <|unk|>."""

    kind, begin, shown = "word", None, frozenset[str]()

    def __init__(self, tokens: Sequence[str], special_tokens: Sequence[str] = (UNKNOWN, END_OF_TEXT)):
        self.entries = listed("word", tokens, special_tokens)
        self.special_tokens = {name: len(tokens) + at for at, name in enumerate(special_tokens)}
        self.vocab_size = len(self.entries)
        self.end_of_text = self.special_tokens.get(END_OF_TEXT)
        self._ids = {word: token for token, word in enumerate(tokens)}

    @staticmethod
    def train(texts: str | Iterable[str], special_tokens: Sequence[str] = (UNKNOWN, END_OF_TEXT)) -> "WordTokenizer":
        """Every word that occurs in the texts, in sorted order. Names of special tokens in the text are not learned."""
        met: set[str] = set()
        for text in all_texts(texts):
            met.update(WORD.findall(text))
        return WordTokenizer(sorted(met - set(special_tokens)), special_tokens)

    def encode(self, text: str, allow_special: bool = False) -> np.ndarray:
        """The ids of a text: str -> (N,) uint32. White space is lost; an unknown word is an error without <|unk|>."""
        ids = []
        for at, part in enumerate(in_parts(text, self.special_tokens, allow_special)):
            ids += [self.special_tokens[part]] if at % 2 else [self._id(word) for word in WORD.findall(part)]
        return np.array(ids, np.uint32)

    def _id(self, word: str) -> int:
        token = self._ids.get(word, self.special_tokens.get(UNKNOWN))
        if token is None:
            raise TokenizerError(
                f"word {word[:40]!a} is not among the {self.vocab_size:,} words this tokenizer has met. "
                f"Train it on text that holds it, or with special_tokens=[{UNKNOWN!r}]"
            )
        return token

    def encode_bytes(self, data: bytes) -> np.ndarray:
        """The ids of a text in UTF-8."""
        return self.encode(data.decode())

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids: one space between words, none before a comma or inside brackets. What was there is lost."""
        stream = self.stream()
        return "".join(stream.push(int(token)) for token in ids)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The text of ids, in UTF-8."""
        return self.decode(ids).encode()

    def token_bytes(self, token: int) -> bytes:
        """The text of one id, in UTF-8."""
        return entry(self.entries, token).encode()

    def stream(self) -> "Joiner":
        """A decoder for ids that come one at a time."""
        return Joiner(self.entries, spaced=True)

    def save(self, path: str | Path) -> None:
        """Write tokenizer.json, which the `tokenizers` library opens too."""
        from firsthand.tokenizer import formats

        formats.save(self, path)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides the ids."""
        return digest(self.kind, self.entries, self.special_tokens)


class Joiner:
    """Turns ids into text as they come; between words stands a space, except where the signs want none."""

    def __init__(self, entries: list[str], spaced: bool):
        self.entries, self.spaced, self.last = entries, spaced, ""

    def push(self, token: int) -> str:
        """The text of this id, with the space before it if there is one."""
        word = entry(self.entries, token)
        gap = self.spaced and self.last and self.last not in NO_SPACE_AFTER and word not in NO_SPACE_BEFORE
        self.last = word
        return f" {word}" if gap else word

    def flush(self) -> str:
        """The end: nothing ever waits here. Afterwards the decoder is as new."""
        self.last = ""
        return ""
