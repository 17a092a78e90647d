"""Numbers -> the blocks of a GGUF file: 32 neighbours in a row share one scale.

    Q8_0   34 bytes: the scale in half precision, 32 whole numbers from -127 to 127          8.5 bits a number
    Q4_0   18 bytes: the scale, 32 numbers from -8 to 7, stored as 0 to 15, two to a byte    4.5 bits

Every number becomes the nearest whole multiple of the scale. `stored` is what a file holds, `meant` what those bytes
stand for, found without reading them: an export is compared with it.
Source: ggml-quants.c of llama.cpp, quantize_row_q8_0_ref and quantize_row_q4_0_ref; the bytes are the same.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from firsthand.interop.gguf_blocks import AT_ONCE, PLAIN

BLOCK = 32
Scaled = tuple[np.ndarray, np.ndarray]  # scales (N, 1) float16, whole numbers (N, 32) int8


def stored(tensor: Tensor, kind: str) -> np.ndarray:
    """The bytes of a tensor in a file, row by row: -> (N,) uint8."""
    if kind in PLAIN:
        return tensor.to(PLAIN[kind]).contiguous().view(-1).view(torch.uint8).numpy()
    return np.concatenate([_packed(kind, *SCALED[kind](some)) for some in _blocks(tensor)]).reshape(-1)


def _packed(kind: str, scale: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """The bytes of blocks: (N, 1), (N, 32) -> (N, 34) or (N, 18)."""
    if kind == "Q4_0":
        low, high = np.hsplit((whole + 8).view(np.uint8), 2)  # byte i holds the numbers i and i + 16
        whole = low | high << np.uint8(4)
    return np.concatenate([scale.view(np.uint8), whole.view(np.uint8)], axis=1)


def meant(tensor: Tensor, kind: str) -> Tensor:
    """The numbers that remain of a tensor: of its own type and shape if the kind is plain, else float32."""
    if kind in PLAIN:
        return tensor.to(PLAIN[kind])
    scaled = (SCALED[kind](some) for some in _blocks(tensor))
    numbers = [scale.astype(np.float32) * whole for scale, whole in scaled]
    return torch.from_numpy(np.concatenate(numbers)).view(tensor.shape)


def _blocks(tensor: Tensor) -> Iterator[np.ndarray]:
    """All numbers as (N, 32), so many at once as stay in the processor's cache."""
    blocks = tensor.float().contiguous().numpy().reshape(-1, BLOCK)
    return (blocks[at : at + AT_ONCE] for at in range(0, len(blocks), AT_ONCE))


def q8_0(blocks: np.ndarray) -> Scaled:
    """The largest of a block becomes 127 or -127; halves are rounded away from zero, as C's roundf does."""
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    scaled = blocks * _inverse(scale)
    size = np.abs(scaled)
    floor = np.floor(size)
    return scale.astype("<f2"), (np.sign(scaled) * (floor + np.floor(2 * (size - floor)))).astype(np.int8)


def q4_0(blocks: np.ndarray) -> Scaled:
    """What is furthest from zero becomes -8; a block reaches only to 7 on the other side."""
    furthest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1, keepdims=True), axis=1)
    scale = furthest / np.float32(-8)
    codes = np.trunc(blocks * _inverse(scale) + np.float32(8.5)).clip(0, 15)
    return scale.astype("<f2"), codes.astype(np.int8) - np.int8(8)


def _inverse(scale: np.ndarray) -> np.ndarray:
    """1 / scale; 0 for a block of zeros, or of numbers so small that their scale is 0 in half precision anyway."""
    return np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=np.abs(scale) > 1e-30)


SCALED = {"Q8_0": q8_0, "Q4_0": q4_0}
