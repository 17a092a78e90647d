"""Llama 2's tokenizer: BPE over the characters of a whole text, spaces written as "▁"; rare characters become bytes.

It comes from SentencePiece, and differs from byte-level BPE (bpe.py) in three ways. The text is not cut into words: a
space is a character like others, written as ▁ (U+2581), and one more stands before the text. The alphabet is made of
characters; one that has no piece is written as its bytes, pieces with names like <0xE2>. And a merge may join whatever
the list of merges joins.

    "a cat"   ->   ▁ a ▁ c a t   ->   ▁a ▁c at

Source: Kudo and Richardson 2018, arXiv:1808.06226; byte fallback as in Llama (Touvron et al. 2023, section 2).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from firsthand.errors import TokenizerError
from firsthand.tokenizer import vocabulary
from firsthand.tokenizer.bpe import ENDS, RESERVED
from firsthand.tokenizer.compiled import compiled
from firsthand.tokenizer.merge import Links, build_table, merge_long
from firsthand.tokenizer.simple import in_parts
from firsthand.tokenizer.stream import StreamDecoder

SPACE = "\u2581"
CHUNK = 1 << 16  # characters merged together, where the pieces allow to cut between words
NO_ID = np.uint32(0xFFFFFFFF)


@compiled
def merge(ids, table, scores, links):
    """Merge ids in place: -> how many are left, at the front."""
    return merge_long(ids, 0, len(ids), table, scores, links)


class SentenceTokenizer:
    """Text <-> ids by the BPE of Llama 2.

    `pieces[id]` is what an id stands for, with ▁ for a space; special tokens and the 256 bytes <0x00>... by their name.
    `merges` are pairs of ids, the first to be merged first. With `prefix` a space is put before every text, and
    `decode` takes it away again; a stream does not, since it may continue a text.
    For GGUF ("llama"): `pieces`, `from_scores` and `scores()`, `special_tokens`.
    """

    kind = "sentence"

    def __init__(
        self,
        pieces: Sequence[str],
        merges: Sequence[tuple[int, int]],
        special_tokens: dict[str, int],
        prefix: bool = True,
        shown: Iterable[str] = (),
        begin: int | None = None,
    ):
        self.pieces, self.merges = list(pieces), [(int(left), int(right)) for left, right in merges]
        self.special_tokens, self.prefix, self.shown, self.begin = dict(special_tokens), prefix, frozenset(shown), begin
        names = [piece.encode() for piece in self.pieces]
        vocabulary.check_special(names, self.special_tokens)
        vocabulary.check_begin(begin, self.special_tokens)
        ids = vocabulary.numbered(names, set(self.special_tokens.values()))
        self._bytes = np.array([ids.get(byte_name(byte).encode(), NO_ID) for byte in range(256)], np.uint32)
        if NO_ID in self._bytes:
            byte = int(np.flatnonzero(self._bytes == NO_ID)[0])
            raise TokenizerError(f"there is no piece {byte_name(byte)}, so some texts could not be encoded")
        self._byte_of = {int(token): bytes([byte]) for byte, token in enumerate(self._bytes)}
        self._pairs = build_table(vocabulary.pairs_of_merges(names, ids, self.merges))
        single = {
            ord(piece): at for at, piece in enumerate(self.pieces) if len(piece) == 1 and ids.get(names[at]) == at
        }
        self._characters = np.full(max(single, default=0) + 2, NO_ID, np.uint32)
        self._characters[list(single)] = list(single.values())
        self._cuts = not any(SPACE in piece.lstrip(SPACE) for piece in self.pieces)

    def __reduce__(self):
        """Copies for other processes build their tables anew."""
        return SentenceTokenizer, (self.pieces, self.merges, self.special_tokens, self.prefix, self.shown, self.begin)

    @staticmethod
    def from_scores(
        pieces: Sequence[str],
        scores: Sequence[float],
        special_tokens: dict[str, int],
        prefix: bool = True,
        begin: int | None = None,
    ) -> SentenceTokenizer:
        """The tokenizer of SentencePiece's own terms: of two neighbours that make a piece, the highest score first."""
        ids = {piece: at for at, piece in enumerate(pieces) if at not in special_tokens.values()}
        merges = [
            (ids[piece[:cut]], ids[piece[cut:]])
            for piece in sorted(ids, key=lambda piece: -scores[ids[piece]])
            for cut in range(1, len(piece))
            if piece[:cut] in ids and piece[cut:] in ids
        ]
        return SentenceTokenizer(pieces, merges, special_tokens, prefix, (), begin)

    def scores(self) -> list[float]:
        """SentencePiece's score of every piece: minus the place of the first merge that makes it; 0 of all others."""
        first: dict[str, int] = {}
        for at, (left, right) in enumerate(self.merges):
            first.setdefault(self.pieces[left] + self.pieces[right], at)
        return [-float(first.get(piece, 0)) for piece in self.pieces]

    def padded(self, rows: int) -> SentenceTokenizer:
        """The same tokenizer with `rows` ids: each without a token becomes a special one, <|reserved_0|> and so on."""
        tokens, special = vocabulary.fill(
            [piece.encode() for piece in self.pieces], self.special_tokens, rows, RESERVED
        )
        pieces = [token.decode() for token in tokens]
        return SentenceTokenizer(pieces, self.merges, special, self.prefix, self.shown, self.begin)

    def save(self, path: str | Path) -> None:
        """Write tokenizer.json, which the `tokenizers` library opens too."""
        from firsthand.tokenizer import formats

        formats.save(self, path)

    @property
    def vocab_size(self) -> int:
        """V: how many ids there are, special ones included."""
        return len(self.pieces)

    @property
    def end_of_text(self) -> int | None:
        """The id of </s>, or what it is called here, if there is one."""
        return next((self.special_tokens[name] for name in ENDS if name in self.special_tokens), None)

    def encode(self, text: str, allow_special: bool = False) -> np.ndarray:
        """The ids of a text: str -> (N,) uint32. Names of special tokens are plain text unless `allow_special`."""
        found = [np.empty(0, np.uint32)]
        for at, part in enumerate(in_parts(text, self.special_tokens, allow_special)):
            if at % 2:
                found.append(np.array([self.special_tokens[part]], np.uint32))
            elif part:
                part = (SPACE if self.prefix else "") + part.replace(" ", SPACE)
                found += [self._merge(chunk) for chunk in self._chunks(part)]
        return np.concatenate(found)

    def encode_bytes(self, data: bytes) -> np.ndarray:
        """The ids of a text in UTF-8."""
        return self.encode(data.decode())

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, without the space before it; bytes that make no character become U+FFFD."""
        text = self.decode_bytes(ids).decode("utf-8", "replace")
        return text[1:] if self.prefix and text.startswith(" ") else text

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids, one behind the other, with the space before the text."""
        return b"".join(self.token_bytes(int(token)) for token in ids)

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one id."""
        if not 0 <= token < len(self.pieces) or not self.pieces[token]:
            raise TokenizerError(f"id {token} is no token; this vocabulary has the ids 0 to {len(self.pieces) - 1}")
        if token in self._byte_of:
            return self._byte_of[token]
        return self.pieces[token].replace(SPACE, " ").encode()

    def stream(self) -> StreamDecoder:
        """A decoder for ids that come one at a time: push(id) -> str, flush() -> str."""
        return StreamDecoder(self)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides the ids."""
        special = sorted(self.special_tokens.items())
        digest = hashlib.sha256(f"sentence {self.prefix} {special} {self.vocab_size}\n".encode())
        for piece in self.pieces:
            digest.update(len(piece.encode()).to_bytes(4, "little") + piece.encode())
        digest.update(np.array(self.merges, "<u4").tobytes())
        return digest.hexdigest()

    def _chunks(self, text: str) -> Iterator[str]:
        """A text in parts that never merge with each other: cut before a space, if no piece has one behind a word."""
        start = 0
        while self._cuts and (found := re.compile(f"[^{SPACE}](?={SPACE})").search(text, start + CHUNK)):
            yield text[start : found.end()]
            start = found.end()
        yield text[start:]

    def _merge(self, text: str) -> np.ndarray:
        """The ids of a text whose spaces are ▁."""
        try:
            codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        except UnicodeEncodeError as error:
            raise TokenizerError(
                f"character {error.start} is U+{ord(text[error.start]):04X}, half of a surrogate pair; remove it"
            ) from None
        tokens = self._characters[np.minimum(codes, len(self._characters) - 1)]
        missing = tokens == NO_ID
        widths = np.where(missing, 1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000), 1)
        fallen = np.repeat(missing, widths)
        ids = np.empty(len(fallen), np.uint32)
        ids[~fallen] = tokens[~missing]
        rest = codes[missing].tobytes().decode("utf-32-le").encode()
        ids[fallen] = self._bytes[np.frombuffer(rest, np.uint8)]
        size = len(ids)
        links = Links(np.empty(size, np.int32), np.empty(size, np.int32), np.empty(2 * size, np.uint64))
        return ids[: merge(ids, self._pairs, np.empty(size, np.uint64), links)].copy()


def byte_name(byte: int) -> str:
    """The name of the piece of one byte: 226 -> "<0xE2>"."""
    return f"<0x{byte:02X}>"
