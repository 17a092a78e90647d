"""Tensors <-> a safetensors file: eight bytes of length N, N bytes of JSON, then the raw numbers one after another.

    {"embed.weight": {"dtype": "F32", "shape": [11, 24], "data_offsets": [0, 1056]}, ...}

Writing streams tensor by tensor into the one writer, so a checkpoint needs no second copy of the model in memory.
Reading believes nothing: the header is checked here, down to the last byte of the file, before a library maps it.
Source: the format, https://huggingface.co/docs/safetensors; its audit by Trail of Bits, 2023.
"""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from firsthand import files
from firsthand.errors import CheckpointError

DTYPES = {
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F32": torch.float32,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I16": torch.int16,
    "U16": torch.uint16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
HEADER_BYTES = 16 << 20  # some 100,000 tensors
PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
PICKLE_SUFFIXES = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"}


def stream(tensors: dict[str, Tensor]) -> tuple[int, Callable[[BinaryIO], None]]:
    """The size of the file that holds these tensors, and the function that writes it."""
    # the widest first, so that every tensor starts at a multiple of its own item size
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    entries, end = {}, 0
    for name in order:
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    head = json.dumps({"__metadata__": {"format": "pt"}, **entries}, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)

    def write(file: BinaryIO) -> None:
        file.write(len(head).to_bytes(8, "little") + head)
        for name in order:
            flat = tensors[name].detach().cpu().contiguous().reshape(-1)
            file.write(flat.view(torch.uint8).numpy().data)

    return 8 + len(head) + end, write


def read(path: Path | str, device: str = "cpu") -> dict[str, Tensor]:
    """The tensors of a file whose header holds; on the CPU they are mapped, not copied."""
    header(path)
    try:
        return load_file(path, device=device)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{files.shown(path)}: {str(error)[:120]}. Fetch the file again") from error


def header(path: Path | str) -> dict[str, dict]:
    """What a file says it holds, name -> {dtype, shape, data_offsets}, after every number of it was checked."""
    with files.open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        refuse_foreign(path, start, size)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(HEADER_BYTES, size - 8):
            limit = f"at most {files.amount(HEADER_BYTES)} and inside the file's {files.amount(size)}"
            raise CheckpointError(_bad(path, f"its header would be {length:,} bytes long; allowed is {limit}"), code=19)
        entries = files.parse_json(file.read(length), files.shown(path))
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(_bad(path, "its __metadata__ is not text to text"))
    spans = sorted(_span(path, name, entry) for name, entry in entries.items())
    end = 0
    for begin, stop, name in spans:
        if begin != end:
            raise CheckpointError(
                _bad(path, f"{files.quoted(name)} begins at byte {begin:,}, the one before ends at {end:,}")
            )
        end = stop
    promised = 8 + length + end
    if promised != size:
        found, told = (files.amount(count) for count in (size, promised))
        exact = f" ({size:,} of {promised:,} bytes)" if found == told else ""
        raise CheckpointError(_bad(path, f"it is {found}, its header promises {told}{exact}"), code=19)
    return entries


def _span(path: Path | str, name: str, entry: object) -> tuple[int, int, str]:
    """Where one tensor lies, after its type, shape and place agreed: (begin, stop, name)."""
    shown = files.quoted(name)
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(_bad(path, f"{shown} must have exactly dtype, shape and data_offsets"))
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointError(_bad(path, f"{shown} has type {files.quoted(dtype)}, known are F32, BF16, I64, ..."))
    if not _counts(shape) or len(shape) > 8 or not _counts(offsets) or len(offsets) != 2:
        raise CheckpointError(_bad(path, f"shape and data_offsets of {shown} must be whole numbers, 0 or more"))
    begin, stop = offsets
    if stop - begin != math.prod(shape) * DTYPES[dtype].itemsize:  # Python's integers do not overflow
        raise CheckpointError(_bad(path, f"{shown} has another size than its shape says"))
    return begin, stop, name


def _counts(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)


def _bad(path: Path | str, what: str) -> str:
    return f"{files.shown(path)} is damaged: {what}. Fetch the file again"


def refuse_foreign(path: Path | str, start: bytes, size: int) -> None:
    """Refuse what is often found under such a name: a pickle, or the pointer that Git leaves in place of a file."""
    impossible = int.from_bytes(start, "little") > HEADER_BYTES  # as the length of a header
    if Path(path).suffix.lower() in PICKLE_SUFFIXES or (impossible and start.startswith(PICKLES)):
        raise CheckpointError(
            f"{files.shown(path)} is a pickle and could run code; it is never opened. "
            f"Use a checkpoint in the safetensors format of the same model",
            code=21,
        )
    if start.startswith(b"version "):
        raise CheckpointError(
            f"{files.shown(path)} is a {size}-byte Git LFS pointer, not weights. Run 'git lfs pull' in that folder",
            code=20,
        )
