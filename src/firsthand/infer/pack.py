"""Matrices (codes.py) as the fast engine reads them: blocks of 16 rows, column by column, in large pages of memory.

    form          bytes of 16 rows x 32 columns    beside them
    float32       2,048: (32, 16)                  nothing
    bfloat16      1,024: (16, 16, 2)               nothing
    int8          512: (8, 16, 4)                  64 a block: scales (16,) float32
    int8-groups   512: (8, 16, 4)                  32: scales (16,) float16
    int4          256: (4, 16, 4)                  32: scales (16,) float16
    int4-lows     256: (4, 16, 4)                  64: scales, then lows (2, 16) float16

Rows are filled up to a multiple of 16 with zeros. A page of the usual 4 KiB would need 33,000
entries in the processor's table of pages for the weights of SmolLM2; it holds about 2,000. Pages of 2 MiB need 65.
N rows, K columns.
"""

import mmap
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import torch

from firsthand.infer.codes import GROUP, Matrix
from firsthand.infer.kernels import BESIDE, ROWS

LARGE = 2 << 20  # bytes of a large page
BYTES = {"int4": 256, "int8": 512, "bfloat16": 1024, "float32": 2048}  # of 16 rows x 32 columns


def up(number: int, multiple: int) -> int:
    """The next multiple at or above a number."""
    return -(-number // multiple) * multiple


def room(size: int) -> np.ndarray:
    """`size` bytes of zeros that begin a large page, in large pages where the system has them: -> (size,) uint8.

    What is never touched costs no memory.
    """
    if sys.platform == "linux":
        memory = mmap.mmap(-1, size + LARGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(OSError):  # a kernel built without large pages: slower, not wrong
            memory.madvise(mmap.MADV_HUGEPAGE)
    else:
        memory = mmap.mmap(-1, size + LARGE)
    numbers = np.frombuffer(memory, np.uint8)
    start = -numbers.ctypes.data % LARGE
    return numbers[start : start + size]


def numbers(shape: Iterable[int], dtype: type = np.float32) -> np.ndarray:
    """An array of zeros in large pages."""
    shape = tuple(shape)
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return room(max(size, 64)).view(dtype)[: int(np.prod(shape))].reshape(shape)


class Packed(NamedTuple):
    """A matrix in blocks."""

    weights: np.ndarray  # uint8
    scales: np.ndarray  # uint8: whatever stands beside them


def packed(matrix: Matrix) -> Packed:
    """A matrix -> its blocks."""
    form, numbers, scales, lows = matrix.each(_to_whole_blocks)
    N, K = numbers.shape
    blocks, nothing = (N // ROWS, ROWS), np.empty(0, np.uint8)
    if form == "float32":
        return Packed(_columns(numbers.reshape(*blocks, K)), nothing)
    if form == "bfloat16":
        halves = torch.from_numpy(numbers).bfloat16().view(torch.int16).numpy()
        return Packed(_columns(halves.reshape(*blocks, K // 2, 2)), nothing)
    if form.startswith("int8"):
        weights = _columns(numbers.reshape(*blocks, K // 4, 4))
    else:
        fours = numbers.reshape(*blocks, K // 8, 2, 4)
        weights = _columns(fours[:, :, :, 0] | fours[:, :, :, 1] << 4)
    beside = np.stack([scales, lows], axis=2) if lows.size else scales[..., None]  # (N, groups, 1 or 2)
    return Packed(
        weights,
        np.ascontiguousarray(beside.reshape(*blocks, *beside.shape[1:]).transpose(0, 2, 3, 1))
        .reshape(-1)
        .view(np.uint8),
    )


def _to_whole_blocks(rows: np.ndarray) -> np.ndarray:
    """Rows up to a multiple of 16, with zeros: their scales are 0, so whatever a code of 0 means, they are."""
    return np.pad(rows, ((0, -len(rows) % ROWS), (0, 0)))


def _columns(blocks: np.ndarray) -> np.ndarray:
    """(N/16, 16, columns, ...) -> its bytes with the columns outside: (N/16, columns, 16, ...)."""
    return np.ascontiguousarray(blocks.swapaxes(1, 2)).reshape(-1).view(np.uint8)


def packed_bytes(matrix: Matrix) -> int:
    """What `Store` takes for a matrix."""
    N, K = matrix.numbers.shape
    blocks, groups = -(-N // ROWS), K // GROUP
    beside = 64 if matrix.form == "int8" else BESIDE.get(matrix.form, 0) * groups
    return blocks * (groups * BYTES[matrix.form.split("-")[0]] + beside) + 128


class Store:
    """One piece of memory for all matrices of a model, filled from its beginning."""

    def __init__(self, size: int):
        self.bytes, self.used = room(size), 0

    def put(self, matrix: Matrix) -> tuple[int, int]:
        """Append a matrix: -> the addresses of its weights and of its scales."""
        weights, scales = packed(matrix)
        return self._append(weights), self._append(scales)

    def _append(self, data: np.ndarray) -> int:
        start = up(self.used, 64)  # the border of a cache line
        self.used = start + len(data)
        self.bytes[start : self.used] = data
        return self.bytes.ctypes.data + start
