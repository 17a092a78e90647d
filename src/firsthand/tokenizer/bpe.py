"""Byte-level BPE: text <-> ids, by a vocabulary of byte strings and an order of merges.

Source: Sennrich et al. 2016, arXiv:1508.07909, section 3.2; on bytes as in GPT-2 (Radford et al. 2019, section 2.2).
"""

from __future__ import annotations

import hashlib
import re
import threading
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np

from firsthand.errors import TokenizerError
from firsthand.tokenizer import kernels, vocabulary
from firsthand.tokenizer.split import CLASSES, pattern_code, split
from firsthand.tokenizer.stream import StreamDecoder

RESERVED = "<|reserved_{}|>"  # the name of a token that only fills a row of a model
ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>")  # GPT-2, SmolLM, Qwen; Llama 3; Llama 2


def composed(data: bytes) -> bytes:
    """The text in Unicode's form NFC: e and an accent behind it become é. Bytes that are no UTF-8 stay.

    Python 3.11 knows Unicode 14: signs that are younger keep their form.
    """
    return unicodedata.normalize("NFC", data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


class Words(threading.local):
    """The words a thread has met, each thread for itself: no lock, and all processors at work."""

    def __init__(self):
        self.cache = kernels.empty_cache()


class Tokenizer:
    """Text <-> ids by byte-level BPE.

    `tokens[id]` are the bytes of every id, special tokens included (their name in UTF-8); b"" is an id not in use.
    `merges` are pairs of ids, the first to be merged first (GPT-2, Hugging Face). None means ranks (tiktoken): two
    neighbours merge if together they are a token, the lowest id first, and a piece that is a token is taken whole;
    with merges it is only if `whole` (Llama 3; `ignore_merges` in tokenizer.json).
    `special_tokens` are names with their ids; `encode` gives them only with allow_special=True. `shown` are those that
    other programs show when they decode ("special": false). `begin` is the id a model wants before every text, which
    `encode` does not add. `nfc` brings texts into Unicode's form NFC first.
    A GGUF file needs `tokens` by id, `merge_bytes()`, and a name for `pattern` and `whole` (interop/gguf_names.py).
    """

    kind = "bpe"

    def __init__(
        self,
        tokens: Sequence[bytes],
        merges: Sequence[tuple[int, int]] | None,
        pattern: str = "gpt2",
        special_tokens: dict[str, int] | None = None,
        whole: bool = False,
        nfc: bool = False,
        shown: Iterable[str] = (),
        begin: int | None = None,
    ):
        self.tokens = list(tokens)
        self.merges = None if merges is None else [(int(left), int(right)) for left, right in merges]
        self.pattern = pattern
        self.special_tokens = dict(special_tokens or {})
        self.whole, self.nfc, self.shown, self.begin = whole or merges is None, nfc, frozenset(shown), begin
        self._code = pattern_code(pattern)
        self._ids = vocabulary.index(self.tokens, self.special_tokens)
        vocabulary.check_begin(begin, self.special_tokens)
        self._tables = vocabulary.build(self.tokens, self._ids, self.merges, self.whole)
        self._missing = bytes(byte for byte in range(256) if bytes([byte]) not in self._ids)
        self._words = Words()

    def __reduce__(self):
        """Copies for other processes start with an empty cache."""
        return Tokenizer, (self.tokens, self.merges, self.pattern, self.special_tokens, *self._habits)

    @property
    def _habits(self) -> tuple[bool, bool, frozenset[str], int | None]:
        return self.whole, self.nfc, self.shown, self.begin

    def padded(self, rows: int) -> Tokenizer:
        """The same tokenizer with `rows` ids: each without a token becomes a special one, <|reserved_0|> and so on."""
        tokens, special = vocabulary.fill(self.tokens, self.special_tokens, rows, RESERVED)
        return Tokenizer(tokens, self.merges, self.pattern, special, *self._habits)

    def merge_bytes(self) -> list[tuple[bytes, bytes]]:
        """All merges in order, as pairs of byte strings; of ranks: every cut of each token, by its id."""
        if self.merges is None:
            return vocabulary.all_cuts(self._ids)
        return [(self.tokens[left], self.tokens[right]) for left, right in self.merges]

    @staticmethod
    def train(
        texts_or_paths: Iterable[str | Path],
        vocab_size: int = 4096,
        pattern: str = "gpt2",
        special_tokens: Sequence[str] = ("<|endoftext|>",),
    ) -> Tokenizer:
        """Learn a vocabulary of `vocab_size` entries from texts or files, special tokens included."""
        from firsthand.tokenizer import learn

        return learn.train(texts_or_paths, vocab_size, pattern, special_tokens)

    @staticmethod
    def load(path: str | Path):
        """Read a tokenizer of any kind, file or folder: tokenizer.json, vocab.bpe with encoder.json, *.tiktoken."""
        from firsthand.tokenizer import formats

        return formats.load(path)

    def save(self, path: str | Path) -> None:
        """Write tokenizer.json, which the `tokenizers` library opens too."""
        from firsthand.tokenizer import formats

        formats.save(self, path)

    @property
    def vocab_size(self) -> int:
        """V: how many ids there are, special and unused ones included."""
        return len(self.tokens)

    @property
    def end_of_text(self) -> int | None:
        """The id of <|endoftext|>, or what it is called here, if there is one."""
        return next((self.special_tokens[name] for name in ENDS if name in self.special_tokens), None)

    def encode(self, text: str, allow_special: bool = False) -> np.ndarray:
        """The ids of a text: str -> (N,) uint32. Names of special tokens are plain text unless `allow_special`."""
        try:
            if not allow_special or not self.special_tokens:
                return self.encode_bytes(text.encode())
            parts = self._specials.split(text)  # text, name, text, name, ..., text
            return np.concatenate(
                [
                    np.array([self.special_tokens[part]], np.uint32) if at % 2 else self.encode_bytes(part.encode())
                    for at, part in enumerate(parts)
                ]
            )
        except UnicodeEncodeError as error:
            raise TokenizerError(
                f"character {error.start} is U+{ord(error.object[error.start]):04X}, half of a surrogate pair: "
                "it has no UTF-8; mend it with text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
            ) from None

    def encode_bytes(self, data: bytes) -> np.ndarray:
        """The ids of a text in UTF-8: N bytes -> (<= N,) uint32. A byte that is no UTF-8 counts as a sign."""
        if self.nfc and not data.isascii():
            data = composed(data)
        if self._missing and len(data.translate(None, self._missing)) < len(data):
            at = next(at for at, byte in enumerate(data) if byte in self._missing)
            raise TokenizerError(
                f"byte 0x{data[at]:02x} (place {at:,}) has no token here; the vocabulary lacks {len(self._missing)} "
                "of the 256; remove it from the text"
            )
        out = np.empty(len(data) + kernels.SPARE, np.uint32)
        text, count = np.frombuffer(data, np.uint8), 0
        cache, room = self._words.cache, kernels.room_for(min(len(data), kernels.CHUNK))
        for start, stop in kernels.chunks(data, kernels.CHUNK):
            if stop - start > len(room.links.after):
                room = kernels.room_for(stop - start)
            count = kernels.encode(text[start:stop], CLASSES, self._code, self._tables, cache, room, out, count)
        out.resize(count, refcheck=False)  # gives the room that was not needed back, without a copy
        return out

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; bytes that make no character become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids, one behind the other."""
        return b"".join(map(self.token_bytes, ids.tolist() if isinstance(ids, np.ndarray) else ids))

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one id."""
        if not 0 <= token < len(self.tokens) or not self.tokens[token]:
            raise TokenizerError(f"id {token} is no token; this vocabulary has the ids 0 to {len(self.tokens) - 1}")
        return self.tokens[token]

    def stream(self) -> StreamDecoder:
        """A decoder for ids that come one at a time: push(id) -> str, flush() -> str."""
        return StreamDecoder(self)

    def merge_steps(self, text: str) -> list[list[bytes]]:
        """How the text became tokens: first its bytes, then the parts after every single merge, piece by piece."""
        text = composed(text.encode()).decode() if self.nfc else text
        pieces = [piece.encode() for piece in split(text, self.pattern)]
        done: list[bytes] = []
        steps = [[bytes([byte]) for piece in pieces for byte in piece]]
        for number, piece in enumerate(pieces):
            rest = [bytes([byte]) for later in pieces[number + 1 :] for byte in later]
            parts = [bytes([byte]) for byte in piece]
            while (merged := self._merge_once(parts)) != parts:
                parts = merged
                steps.append(done + parts + rest)
            done += parts
        return steps

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides the ids: pattern, tokens, merges, special tokens."""
        digest = hashlib.sha256(
            f"bpe {self.pattern} {sorted(self.special_tokens.items())} {self.vocab_size}\n".encode()
        )
        for token in self.tokens:
            digest.update(len(token).to_bytes(4, "little") + token)
        digest.update(b"ranks" if self.merges is None else np.array(self.merges, "<u4").tobytes())
        if self.nfc or (self.whole and self.merges is not None):
            digest.update(f"whole={self.whole} nfc={self.nfc}".encode())
        return digest.hexdigest()

    @cached_property
    def _specials(self) -> re.Pattern[str]:
        """Finds the names of special tokens, the longest first."""
        names = sorted(self.special_tokens, key=len, reverse=True)
        return re.compile("(" + "|".join(map(re.escape, names)) + ")")

    @cached_property
    def _priorities(self) -> dict[tuple[bytes, bytes], int]:
        """The place of every merge in the list, by its parts."""
        return {
            (self.tokens[left], self.tokens[right]): at
            for at, (left, right) in reversed([*enumerate(self.merges or ())])
        }

    def _merge_once(self, parts: list[bytes]) -> list[bytes]:
        """The parts of a piece after the next merge, the plain way; the same parts if none is left."""
        if self.whole and b"".join(parts) in self._ids:
            return [b"".join(parts)]
        if self.merges is None:
            priorities = [self._ids.get(left + right) for left, right in pairwise(parts)]
        else:
            priorities = [self._priorities.get(pair) for pair in pairwise(parts)]
        found = [(priority, at) for at, priority in enumerate(priorities) if priority is not None]
        if not found:
            return parts
        _, at = min(found)
        return [*parts[:at], parts[at] + parts[at + 1], *parts[at + 2 :]]
