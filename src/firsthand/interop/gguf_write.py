"""A GGUF file, written: what is known of a model, a list of its tensors, then their bytes one after another.

    "GGUF"  version 3  how many tensors  how many keys
    key     text, type, value                               for each key
    tensor  name, dimensions (the innermost first), kind, where its bytes begin behind this head
    bytes   of the tensors in that order, each beginning at a multiple of 32

Text is its length in 8 bytes and then UTF-8; all numbers are little-endian.
Source: ggml/docs/gguf.md.
"""

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np

from firsthand.interop.gguf_blocks import KINDS

ALIGNMENT = 32
TYPES = {int: (4, "<I"), float: (6, "<f"), bool: (7, "<?")}  # of a value: its number in the file, how it is packed
INTEGERS, TEXT, LIST = 5, 8, 9  # integers in a list are signed
Value = bool | int | float | str | Sequence[int] | Sequence[str]


class Entry(NamedTuple):
    """A tensor to be written: rows are the first dimension of `shape`, and `content` gives its bytes."""

    name: str
    shape: Sequence[int]
    kind: str
    content: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        """Bytes in the file, without the gap behind."""
        kind = KINDS[self.kind]
        return int(np.prod(self.shape)) // kind.items * kind.size


def stream(known: Mapping[str, Value], entries: Sequence[Entry]) -> tuple[int, Callable[[BinaryIO], None]]:
    """The size of a file that holds these, and the function that writes it, tensor by tensor."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(entries), len(known))
    head += b"".join(_text(key) + _typed(value) for key, value in known.items())
    start = 0
    for entry in entries:
        dimensions = struct.pack(f"<I{len(entry.shape)}Q", len(entry.shape), *reversed(entry.shape))
        head += _text(entry.name) + dimensions + struct.pack("<IQ", KINDS[entry.kind].code, start)
        start += _padded(entry.size)
    head += bytes(_padded(len(head)) - len(head))

    def write(file: BinaryIO) -> None:
        file.write(head)
        for entry in entries:
            file.write(entry.content().data)
            file.write(bytes(_padded(entry.size) - entry.size))

    return len(head) + start, write


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _typed(value: Value) -> bytes:
    """The type of a value and the value."""
    if isinstance(value, str):
        return struct.pack("<I", TEXT) + _text(value)
    if isinstance(value, bool | int | float):
        number, form = TYPES[type(value)]
        return struct.pack("<I", number) + struct.pack(form, value)
    return struct.pack("<I", LIST) + _listed(value)


def _listed(values: Sequence[int] | Sequence[str]) -> bytes:
    items: Iterable[bytes] = (_text(item) if isinstance(item, str) else struct.pack("<i", item) for item in values)
    kind = INTEGERS if values and isinstance(values[0], int) else TEXT  # of a tokenizer without merges: no texts
    return struct.pack("<IQ", kind, len(values)) + b"".join(items)
