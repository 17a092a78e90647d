"""TensorFlow's checkpoints ("tensor bundles"), read without TensorFlow.

    model.ckpt.index                  a sorted table (sorted_table.py): name of a tensor -> where it lies
    model.ckpt.data-00000-of-00001    the numbers of all tensors one after another; there may be more such files

The values in the table are messages of Protocol Buffers, which are simpler than their fame: a message is a row of
fields, a field is a varint, tag = 8 number + kind, and then by its kind

    0  a varint        1  eight bytes        2  a varint N and N bytes (text, or a message inside)        5  four bytes

A field that is left out has the value 0. The empty name, always the first, leads to the header of the bundle:

    1 number of data files   2 order of bytes, 0 little-endian   3 versions: {1 written by, 2 readable from}

and every other name to the entry of a tensor:

    1 type   2 shape: {2 axis: {1 size}, ...}   3 data file   4 offset   5 size in bytes   6 masked CRC-32C of them

So `08 01 12 04 12 02 08 0B 28 2C ...` is: type 1 (float32), a shape with one axis of 11, and 44 bytes from offset 0 on.

Every byte of both files is vouched for by a checksum, and tensors fill the data files without a gap; otherwise nothing
is read. Source: tensorflow/core/protobuf/tensor_bundle.proto and .../util/tensor_bundle/tensor_bundle.cc.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from firsthand import files
from firsthand.errors import CheckpointError
from firsthand.files.tensors import refuse_foreign
from firsthand.interop import sorted_table
from firsthand.interop.sorted_table import Cursor

INDEX_BYTES = 256 << 10  # GPT-2 XL has 40,000
MOST_FILES = 1_000
VERSION = 1
DTYPES = {1: torch.float32, 2: torch.float64, 3: torch.int32, 9: torch.int64, 14: torch.bfloat16, 19: torch.float16}
NUMBER, BYTES, FOUR = 0, 2, 5  # kinds of fields
HEADER = {1: NUMBER, 2: NUMBER, 3: BYTES}
VERSIONS = {1: NUMBER, 2: NUMBER, 3: BYTES}
ENTRY = {1: NUMBER, 2: BYTES, 3: NUMBER, 4: NUMBER, 5: NUMBER, 6: FOUR}
SHAPE, AXIS = {2: BYTES}, {1: NUMBER, 2: BYTES}

Fields = dict[int, list]


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies, and what it is."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    file: int
    offset: int
    size: int
    checksum: int


def read(index: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, given its file NAME.index; every byte was checked."""
    data = files.read_file(index, INDEX_BYTES)
    refuse_foreign(index, data[:8], len(data))
    try:
        count, entries = _listing(sorted_table.read(data))
    except CheckpointError as error:
        raise _damaged(index, str(error)) from error
    inside: list[dict[str, Entry]] = [{} for _ in range(count)]
    for name, entry in entries.items():
        inside[entry.file][name] = entry
    found: dict[str, Tensor] = {}
    for number, some in enumerate(inside):
        found |= _tensors(index.with_name(f"{index.stem}.data-{number:05d}-of-{count:05d}"), some)
    return found


def _tensors(path: Path, entries: dict[str, Entry]) -> dict[str, Tensor]:
    """The tensors of one data file, in the order in which they lie there."""
    found = {}
    with files.open_regular(path) as file:
        _require_tiles(path, entries, os.fstat(file.fileno()).st_size)
        for name, entry in sorted(entries.items(), key=lambda item: item[1].offset):
            data = bytearray(entry.size)
            if file.readinto(data) != entry.size or sorted_table.masked(sorted_table.crc32c(data)) != entry.checksum:
                raise _damaged(path, f"the checksum of tensor {files.quoted(name)} differs")
            flat = torch.frombuffer(data, dtype=entry.dtype) if data else torch.empty(0, dtype=entry.dtype)
            found[name] = flat.view(entry.shape)
    return found


def _require_tiles(path: Path, entries: dict[str, Entry], size: int) -> None:
    """Tensors follow each other without a gap, from the first byte of the file to its last."""
    end = 0
    for offset, length, name in sorted((entry.offset, entry.size, name) for name, entry in entries.items()):
        if offset != end:
            raise _damaged(path, f"{files.quoted(name)} begins at byte {offset:,}, not at {end:,}")
        end = offset + length
    if end != size:
        raise CheckpointError(
            f"{files.shown(path)} has {size:,} bytes, its index promises {end:,}: the copy is incomplete, or of "
            f"another model. Fetch it again",
            code=19,
        )


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{files.shown(path)} is damaged: {what}. Fetch it again")


# ---------------------------------------------------------------- messages


def _listing(table: dict[bytes, bytes]) -> tuple[int, dict[str, Entry]]:
    """How many data files there are, and the entry of every tensor."""
    header = _fields(table.pop(b"", b""), HEADER)
    count, version = _one(header, 1), _fields(_one(header, 3, b""), VERSIONS)
    if not 0 < count <= MOST_FILES:
        raise CheckpointError(f"its header speaks of {count:,} data files; allowed are 1 to {MOST_FILES:,}")
    if _one(header, 2) != 0 or _one(version, 2) > VERSION:
        raise CheckpointError(f"only little-endian checkpoints of version {VERSION} can be read")
    entries = {}
    for key, value in table.items():
        try:
            name = key.decode()
        except UnicodeDecodeError:
            raise CheckpointError(f"the name {files.quoted(key)} is not UTF-8") from None
        entries[name] = _entry(name, _fields(value, ENTRY), count)
    return count, entries


def _entry(name: str, fields: Fields, count: int) -> Entry:
    """One tensor, after its numbers agreed with each other."""
    shown, kind = files.quoted(name), _one(fields, 1)
    if kind not in DTYPES:
        raise CheckpointError(f"tensor {shown} has type {kind:,}; known are {', '.join(map(str, DTYPES))}")
    axes = [_one(_fields(axis, AXIS), 1) for axis in _fields(_one(fields, 2, b""), SHAPE).get(2, [])]
    entry = Entry(DTYPES[kind], tuple(axes), *(_one(fields, number) for number in (3, 4, 5, 6)))
    if entry.file >= count:
        raise CheckpointError(f"tensor {shown} lies in data file {entry.file:,} of {count:,}")
    if len(axes) > 8 or math.prod(axes) * entry.dtype.itemsize != entry.size:
        raise CheckpointError(f"tensor {shown} has another size than its shape {axes[:8]!s:.40} says")
    return entry


def _fields(message: bytes, known: dict[int, int]) -> Fields:
    """The fields of a message by their numbers; one that is unknown, or of another kind, is refused."""
    cursor, found = Cursor(message), {}
    while cursor.left:
        number, kind = divmod(cursor.varint(), 8)
        if known.get(number) != kind:
            raise CheckpointError(f"field {number:,} of kind {kind} is not expected; known are {[*known]}")
        if kind == NUMBER:
            value = cursor.varint()
        else:
            value = cursor.take(cursor.varint()) if kind == BYTES else int.from_bytes(cursor.take(4), "little")
        found.setdefault(number, []).append(value)
    return found


def _one(fields: Fields, number: int, default: int | bytes = 0):
    """The field that may stand at most once."""
    values = fields.get(number, [default])
    if len(values) > 1:
        raise CheckpointError(f"field {number} stands {len(values):,} times")
    return values[0]
