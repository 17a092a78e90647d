"""GGUF, the container: what a file says of itself, checked to the last byte, and its tensors as mapped bytes.

    "GGUF"  version 2 or 3  number of tensors  number of entries           4 + 4 + 8 + 8 bytes
    entries       key, type, value                                         text is a length of 8 bytes and UTF-8
    tensors       name, number of axes, axes, kind, place                  the fastest axis first, unlike here
    zeros up to a multiple of the alignment, then each tensor's bytes, each at such a multiple

All numbers are little-endian. No number of the file is believed: a count must fit into the bytes that are left before
anything is made of it, and tensors must lie one behind the other, in their order, up to the end of the file.
Source: the format, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import mmap
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from firsthand import files
from firsthand.errors import CheckpointError
from firsthand.interop.gguf_blocks import CODES, KINDS, Kind

MAGIC = b"GGUF"
BOOL, STRING, ARRAY = 7, 8, 9
SCALARS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", BOOL: "u1"}
SCALARS |= {10: "<u8", 11: "<i8", 12: "<f8"}
TYPES = {code: np.dtype(name) for code, name in SCALARS.items()}
LEAST = {STRING: 8, ARRAY: 12} | {code: dtype.itemsize for code, dtype in TYPES.items()}  # bytes of the smallest value
DEEPEST = 4  # arrays in arrays
LONGEST_KEY, LONGEST_NAME = 65_535, 64  # bytes
MOST_AXES = 4


class Stored(NamedTuple):
    """A tensor as it lies in the file: rows first, as here; its bytes are mapped."""

    kind: Kind
    shape: tuple[int, ...]
    data: np.ndarray


@dataclass(frozen=True)
class Container:
    """A file whose every number was checked. Lists of numbers are arrays, other lists are lists."""

    metadata: dict[str, Any]
    tensors: dict[str, Stored]


class Refused(ValueError):
    """What is wrong with a file, without its name; `code` as in errors.py."""

    def __init__(self, what: str, code: int | None = None, mend: str = "Fetch the file again"):
        super().__init__(f"{what}. {mend}")
        self.code = code


def read(path: Path | str) -> Container:
    """The entries and tensors of a GGUF file. Nothing is copied: the tensors are pages of the file."""
    with files.open_regular(path) as file:
        size, start = os.fstat(file.fileno()).st_size, file.read(8)
        if start.startswith(b"version "):
            raise CheckpointError(
                f"{files.shown(path)} is a {size}-byte Git LFS pointer, not weights. Run 'git lfs pull' in that folder",
                code=20,
            )
        if not start.startswith(MAGIC):
            raise CheckpointError(f"{files.shown(path)} is no GGUF file: it begins with {start[:4]!r}, not {MAGIC!r}")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # a private copy of each page that is written to
    try:
        return _container(Cursor(data))
    except Refused as error:
        raise CheckpointError(f"{files.shown(path)} cannot be read: {error}", error.code) from error


class Cursor:
    """A place in the bytes of a file, which never goes beyond their end."""

    def __init__(self, data: mmap.mmap):
        self.data, self.at = data, 0

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if count > self.left:
            promised, found = files.amount(count), files.amount(self.left)
            raise Refused(f"at byte {self.at:,} it promises {promised}, and has {found}", 19)
        self.at += count
        return self.data[self.at - count : self.at]

    def unsigned(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def count(self, least: int, what: str) -> int:
        """How many things follow, each of at least so many bytes."""
        count = self.unsigned(8)
        if count > self.left // least:
            raise Refused(f"it promises {count:,} {what}, the rest of the file has room for {self.left // least:,}", 19)
        return count

    def text(self, limit: int | None = None) -> str:
        length = self.unsigned(8)
        if limit is not None and length > limit:
            raise Refused(f"at byte {self.at:,} stands a name of {length:,} bytes; at most {limit:,} are allowed")
        start = self.at
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as error:
            raise Refused(f"the text at byte {start:,} is not UTF-8") from error

    def value(self, code: int, depth: int = 0) -> Any:
        """A value of one of the thirteen types."""
        if code == STRING:
            return self.text()
        if code == ARRAY:
            return self.array(depth + 1)
        return _plain(self.numbers(code, 1)[0])

    def array(self, depth: int) -> Any:
        if depth > DEEPEST:
            raise Refused(f"at byte {self.at:,} arrays lie in arrays more than {DEEPEST} deep")
        code = self.unsigned(4)
        count = self.count(_known(code), "items of a list")
        if code in TYPES:
            return self.numbers(code, count)
        return [self.value(code, depth) for _ in range(count)]

    def numbers(self, code: int, count: int) -> np.ndarray:
        found = np.frombuffer(self.take(count * _known(code)), TYPES[code])
        if code == BOOL:
            if found.max(initial=0) > 1:
                raise Refused(f"before byte {self.at:,} a truth value is neither 0 nor 1")
            return found.astype(bool)
        return found


def _known(code: int) -> int:
    """The bytes of the smallest value of a type."""
    if code not in LEAST:
        raise Refused(f"it has a value of type {code}; known are 0 to {max(LEAST)}")
    return LEAST[code]


def _plain(number: np.generic) -> Any:
    """A Python number; of float32 the shortest that means the same, 1e-05 and not 9.999999747378752e-06."""
    return float(str(number)) if number.dtype == np.float32 else number.item()


def _container(cursor: Cursor) -> Container:
    """All of a file, from its first byte."""
    cursor.take(len(MAGIC))
    if (version := cursor.unsigned(4)) not in (2, 3):
        swapped = int.from_bytes(version.to_bytes(4, "big"), "little") in (2, 3)
        raise Refused(f"its version is {version:,}; 2 and 3 are read{', little-endian alone' if swapped else ''}")
    tensors = cursor.count(24 + 1, "tensors")
    metadata = dict(_once(_entry, cursor, cursor.count(8 + 4 + 1, "entries"), "key"))
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 8 <= alignment <= 4096 or alignment & (alignment - 1):
        raise Refused(f"general.alignment is {files.quoted(alignment)}; it must be a power of two from 8 to 4096")
    infos = dict(_once(_info, cursor, tensors, "tensor"))
    cursor.take(-cursor.at % alignment if infos else 0)
    return Container(metadata, dict(_placed(cursor, infos, alignment)))


def _once(one: Callable[[Cursor], tuple[str, Any]], cursor: Cursor, count: int, what: str) -> Iterator[tuple[str, Any]]:
    """So many named things, no name twice."""
    seen = set()
    for _ in range(count):
        name, value = one(cursor)
        if name in seen:
            raise Refused(f"the {what} {files.quoted(name)} stands twice")
        seen.add(name)
        yield name, value


def _entry(cursor: Cursor) -> tuple[str, Any]:
    key = cursor.text(LONGEST_KEY)
    return key, cursor.value(cursor.unsigned(4))


def _info(cursor: Cursor) -> tuple[str, tuple[Kind, tuple[int, ...], int]]:
    """What is said of a tensor: its kind, its shape, and where it begins."""
    name = cursor.text(LONGEST_NAME)
    shown, axes = files.quoted(name), cursor.unsigned(4)
    if not 1 <= axes <= MOST_AXES:
        raise Refused(f"tensor {shown} has {axes:,} axes; 1 to {MOST_AXES} are allowed")
    shape = struct.unpack(f"<{axes}Q", cursor.take(8 * axes))
    code, offset = cursor.unsigned(4), cursor.unsigned(8)
    if code not in CODES:
        raise Refused(f"kind {code} of numbers is not read; {', '.join(KINDS)} are", 18, "Requantize it")
    kind = CODES[code]
    if min(shape) < 1 or prod(shape) >= 1 << 60:  # Python's integers do not overflow
        raise Refused(f"tensor {shown} would have {prod(shape):.3g} numbers")
    if shape[0] % kind.items:
        raise Refused(f"the rows of tensor {shown} are {shape[0]:,} long; {kind.name} has blocks of {kind.items}")
    return name, (kind, shape[::-1], offset)


def _placed(cursor: Cursor, infos: dict[str, tuple[Kind, tuple[int, ...], int]], alignment: int) -> Iterator[tuple]:
    """The tensors with their bytes, once it is seen that they fill the file."""
    end = 0
    for name, (kind, shape, offset) in infos.items():
        begin = end + -end % alignment
        if offset != begin:
            raise Refused(f"tensor {files.quoted(name)} begins at byte {offset:,} of the data, not at {begin:,}")
        end = begin + prod(shape) // kind.items * kind.size
        if end <= cursor.left:
            data = np.frombuffer(cursor.data, np.uint8, end - begin, cursor.at + begin)
            yield name, Stored(kind, shape, data)
    if not end <= cursor.left <= end + -end % alignment:
        promised, found = cursor.at + end, len(cursor.data)
        raise Refused(f"it has {found:,} bytes, its header promises {promised:,}", 19)
