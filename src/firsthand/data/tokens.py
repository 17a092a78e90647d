"""A shard: one file that holds the ids of a text, and says whose they are.

    8 bytes   b"FHTOKENS"
    8 bytes   length of the header, little-endian
    header    JSON, padded with spaces so that the ids begin at a multiple of 64
    ids       uint16 where the vocabulary allows it, otherwise uint32, little-endian

The file is mapped, not read: a shard larger than memory costs nothing until its ids are used.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, overload

import numpy as np

from firsthand.errors import DataError

MAGIC = b"FHTOKENS"
ALIGN = 64
LONGEST_HEADER = 1 << 20


class Vocabulary(Protocol):
    """What this module needs to know of a tokenizer."""

    @property
    def fingerprint(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    def decode(self, ids: Any) -> str: ...


@dataclass(frozen=True)
class Header:
    """What a shard says of itself."""

    dtype: str  # "uint16" or "uint32"
    count: int  # ids
    documents: int  # how many documents end in this shard
    text_bytes: int  # UTF-8 bytes of the text, separators not counted: the denominator of bits per byte
    vocab_size: int
    tokenizer: str  # fingerprint of the tokenizer
    end_of_text: int | None  # the id after each document; None if the tokenizer has none
    data_sha256: str  # of what was read: every source's name and SHA-256
    ids_sha256: str


def smallest_dtype(vocab_size: int) -> np.dtype:
    """uint16 where every id fits, otherwise uint32; little-endian on every machine."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def write_header(file: BinaryIO, header: Header) -> None:
    """Begin a shard; exactly `header.count` ids must follow."""
    text = json.dumps({"format": 1, **asdict(header)}).encode()
    text += b" " * (-(len(MAGIC) + 8 + len(text)) % ALIGN)
    file.write(MAGIC + len(text).to_bytes(8, "little") + text)


class Tokens:
    """The ids of one shard, mapped from its file: `tokens.ids` (N,), `tokens.header`, `len(tokens)`."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.header, offset = _read_header(self.path)
        dtype = np.dtype(self.header.dtype).newbyteorder("<")
        expected = offset + self.header.count * dtype.itemsize
        actual = self.path.stat().st_size
        if actual != expected:
            raise DataError(
                f"{self.path} has {actual:,} bytes, its header promises {expected:,}: it was cut or damaged. "
                f"Delete {self.path.parent} and run the same command again.",
                code=19,
            )
        empty = np.empty(0, dtype)  # an empty range cannot be mapped
        self.ids: np.ndarray = np.memmap(self.path, dtype, "r", offset) if self.header.count else empty

    def __len__(self) -> int:
        return self.header.count

    def check(self, tokenizer: Vocabulary) -> None:
        """Refuse a tokenizer other than the one that made these ids: they would mean other words."""
        if tokenizer.fingerprint != self.header.tokenizer:
            raise DataError(
                f"{self.path} was made with tokenizer {self.header.tokenizer[:8]} ({self.header.vocab_size:,} tokens), "
                f"this one is {tokenizer.fingerprint[:8]} ({tokenizer.vocab_size:,} tokens). "
                f"Use {self.path.parent / 'tokenizer.json'}, or prepare the text again with this one.",
                code=1,
            )

    def verify(self) -> None:
        """Read every id once, and refuse a shard whose SHA-256 is not the one in its header."""
        if hashlib.sha256(self.ids.data).hexdigest() != self.header.ids_sha256:
            raise DataError(
                f"{self.path} is damaged (its ids have another SHA-256 than its header). "
                f"Delete {self.path.parent} and run the same command again."
            )


class Windows(Sequence[np.ndarray]):
    """The plain data set of a language model: window i is `ids[i*stride : i*stride + context_length + 1]`.

    The input is `window[:-1]` and the target `window[1:]`: at every position the model is asked for the next id.
    """

    def __init__(self, ids: np.ndarray, context_length: int, stride: int):
        self.ids, self.context_length, self.stride = ids, context_length, stride

    def __len__(self) -> int:
        return (len(self.ids) - self.context_length - 1) // self.stride + 1

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[np.ndarray]: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | Sequence[np.ndarray]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        begin = index * self.stride
        return np.array(self.ids[begin : begin + self.context_length + 1])  # (context_length + 1,), a copy

    @property
    def unused(self) -> int:
        """How many ids at the end no window reaches."""
        return len(self.ids) - ((len(self) - 1) * self.stride + self.context_length + 1)


def windows(tokens: Tokens | np.ndarray, context_length: int, stride: int | None = None) -> Windows:
    """Slide a window of `context_length` + 1 ids over the text, `stride` ids at a time (default: no overlap)."""
    ids = tokens.ids if isinstance(tokens, Tokens) else tokens
    name = str(tokens.path) if isinstance(tokens, Tokens) else "the text"
    stride = context_length if stride is None else stride
    if context_length < 1 or stride < 1:
        raise DataError(f"context_length {context_length} and stride {stride} must be at least 1; try 256 and 256.")
    if len(ids) <= context_length:
        raise DataError(
            f"{name} has {len(ids):,} tokens, less than one window of {context_length:,} + 1. "
            f"Use model.context_length={max(1, len(ids) // 2)} or more text.",
            code=29,
        )
    return Windows(ids, context_length, stride)


@dataclass(frozen=True)
class ShownWindow:
    """One window as a reader sees it: at every position, what the model is given and what it must say."""

    index: int
    input_ids: list[int]
    target_ids: list[int]
    inputs: list[str]  # each id as text of its own; half a character shows as �
    targets: list[str]
    text: str  # the inputs decoded together


def show_windows(data: Windows, tokenizer: Vocabulary, indices: Sequence[int]) -> list[ShownWindow]:
    """The windows at `indices`, with the text of every id: pure data, for whoever draws it."""
    rows = []
    for index in indices:
        ids = data[index].tolist()
        pieces = [tokenizer.decode([id]) for id in ids]
        rows.append(ShownWindow(index, ids[:-1], ids[1:], pieces[:-1], pieces[1:], tokenizer.decode(ids[:-1])))
    return rows


def _read_header(path: Path) -> tuple[Header, int]:
    """The header of a shard, and the byte at which its ids begin; every field is checked before it is believed."""
    if not path.is_file():
        raise DataError(f"no token shard at {path}. Make one: firsthand data prepare data.source=TEXT")
    with path.open("rb") as file:
        start = file.read(len(MAGIC) + 8)
        length = int.from_bytes(start[len(MAGIC) :], "little")
        if start[: len(MAGIC)] != MAGIC or length > LONGEST_HEADER:
            raise DataError(f"{path} is not a token shard. Make one: firsthand data prepare data.source={path}")
        text = file.read(length)
    try:
        values = json.loads(text)
        if values.pop("format") != 1:
            raise ValueError("a format of another version")
        header = Header(**values)
        if header.dtype not in ("uint16", "uint32") or type(header.count) is not int or header.count < 0:
            raise ValueError("a dtype or a count out of range")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} has a damaged header ({type(error).__name__}). Prepare the text again.") from None
    return header, len(start) + length
