"""Weights as the fast engine reads them: blocks of 16 rows, column after column, in large pages of memory.

    kind      a number    bytes of 16 rows x 32 columns    scale
    float32   4 bytes     2,048: (32, 16)                  none
    bfloat16  2 bytes     1,024: (16, 16, 2)               none
    int8      1 byte      512: (8, 16, 4), plus 128        float32, one a row
    int4      half        256: (4, 16, 4), plus 8          float16, one for 32 neighbours in a row

Rows are filled up to a multiple of 16 and columns to one of 32 with zeros. A page of the usual 4 KiB would need 33,000
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
from torch import Tensor

from firsthand.infer.kernels import GROUP, ROWS
from firsthand.interop.gguf_quantize import q4_0

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


def row_scaled(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers from -127 to 127 and a scale a row: (N, K) -> (N, K) int8, (N, 1) float32."""
    scale = np.abs(weight).max(axis=1, keepdims=True) / np.float32(127)
    return np.rint(weight / np.where(scale > 0, scale, 1)).astype(np.int8), scale


def group_scaled(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers from -8 to 7 and a scale for 32 neighbours: (N, K) -> (N, K) int8, (N, K/32) float16."""
    scale, whole = q4_0(weight.reshape(-1, GROUP))
    return whole.reshape(weight.shape), scale.reshape(len(weight), -1)


def padded(weight: np.ndarray) -> np.ndarray:
    """Rows up to a multiple of 16, columns to one of 32, with zeros."""
    N, K = weight.shape
    return np.pad(weight, ((0, up(N, ROWS) - N), (0, up(K, GROUP) - K)))


def meant(weight: Tensor, kind: str) -> Tensor:
    """What remains of a weight that is stored as a kind: (N, K) -> (N, K) float32."""
    if kind in ("float32", "bfloat16"):
        return weight.to(getattr(torch, kind)).float()
    (N, K), plain = weight.shape, padded(weight.detach().float().numpy())
    whole, scale = row_scaled(plain) if kind == "int8" else group_scaled(plain)
    rounded = whole.reshape(len(plain), scale.shape[1], -1) * scale.astype(np.float32)[..., None]
    return torch.from_numpy(rounded.reshape(plain.shape)[:N, :K].copy())


class Packed(NamedTuple):
    """A matrix in blocks."""

    weights: np.ndarray  # uint8
    scales: np.ndarray  # float16, float32, or none


def packed(weight: np.ndarray, kind: str) -> Packed:
    """(N, K) float32 -> its blocks."""
    plain = padded(weight)
    N, K = plain.shape
    blocks = (N // ROWS, ROWS)
    if kind == "float32":
        return Packed(_columns(plain.reshape(*blocks, K)), np.empty(0, np.float32))
    if kind == "bfloat16":
        halves = torch.from_numpy(plain).bfloat16().view(torch.int16).numpy()
        return Packed(_columns(halves.reshape(*blocks, K // 2, 2)), np.empty(0, np.float32))
    if kind == "int8":
        whole, scale = row_scaled(plain)
        return Packed(_columns((whole.view(np.uint8) ^ 128).reshape(*blocks, K // 4, 4)), scale.reshape(-1))
    whole, scale = group_scaled(plain)
    fours = (whole + 8).astype(np.uint8).reshape(*blocks, K // 8, 2, 4)
    both = fours[:, :, :, 0] | fours[:, :, :, 1] << 4
    return Packed(_columns(both), _columns(scale.reshape(*blocks, K // GROUP)).view(np.float16))


def _columns(blocks: np.ndarray) -> np.ndarray:
    """(N/16, 16, columns, ...) -> its bytes with the columns outside: (N/16, columns, 16, ...)."""
    return np.ascontiguousarray(blocks.swapaxes(1, 2)).reshape(-1).view(np.uint8)


def packed_bytes(weight: Tensor, kind: str) -> int:
    """What `Store` takes for a matrix (N, K)."""
    N, K = weight.shape
    blocks, groups = -(-N // ROWS), -(-K // GROUP)
    scales = {"int4": 32 * groups, "int8": 64}.get(kind, 0)
    return blocks * (groups * BYTES[kind] + scales) + 128


class Store:
    """One piece of memory for all matrices of a model, filled from its beginning."""

    def __init__(self, size: int):
        self.bytes, self.used = room(size), 0

    def put(self, weight: Tensor, kind: str) -> tuple[int, int]:
        """Append a matrix: -> the addresses of its weights and of its scales."""
        weights, scales = packed(weight.detach().float().numpy(), kind)
        return self._append(weights), self._append(scales.view(np.uint8))

    def _append(self, data: np.ndarray) -> int:
        start = up(self.used, 64)  # the border of a cache line
        self.used = start + len(data)
        self.bytes[start : self.used] = data
        return self.bytes.ctypes.data + start
