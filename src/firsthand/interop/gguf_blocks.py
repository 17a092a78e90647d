"""What is inside a block: how GGUF stores numbers in 4 to 8 bits, and how they become float32 again.

Weights are cut into blocks of 32 (or 256, in the K kinds), and each block has its own ruler: whole numbers `q` say how
many steps of the ruler, `scale` says how long a step is, and in some kinds `low` says where the ruler begins.

    Q8_0   y = scale q                 q of 8 bits, -128 to 127                              34 bytes for 32 numbers
    Q4_0   y = scale (q - 8)           q of 4 bits, 0 to 15                                  18
    Q4_1   y = scale q + low           q of 4 bits                                           20
    Q5_0   y = scale (q - 16)          4 bits, and a fifth that lies apart                   22
    Q5_1   y = scale q + low           the same                                              24
    Q4_K   y = scale s q - low m       s, m of 6 bits for each 32 numbers: rulers for rulers 144 bytes for 256 numbers
    Q5_K   y = scale s q - low m       the same, q of 5 bits                                 176
    Q6_K   y = scale s (q - 32)        s of 8 bits for each 16 numbers, q of 4 + 2 bits      210

Two numbers of 4 bits share a byte, but they are not neighbours: the low halves of a row of bytes come first, then the
high halves, because that is how a processor unpacks them, many bytes at a time.
Source: ggml/src/ggml-common.h and ggml-quants.c of llama.cpp; the results agree with them to the bit.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Kind:
    """A way to store numbers: in the file it is a `code`, and `items` numbers lie in one `block`."""

    name: str
    code: int
    items: int
    block: np.dtype

    @property
    def size(self) -> int:
        """Bytes of a block."""
        return self.block.itemsize


def _block(*fields: tuple) -> np.dtype:
    """A block by its fields, one right behind the other: (name, type) or (name, type, shape)."""
    return np.dtype(list(fields))


SCALE, LOW, HALVES = ("scale", "<f2"), ("low", "<f2"), ("halves", "u1", 16)
SIX = ("six", "u1", (3, 4))  # eight s and eight m of 6 bits in 12 bytes
LISTED = (
    Kind("F32", 0, 1, np.dtype("<f4")),
    Kind("F16", 1, 1, np.dtype("<f2")),
    Kind("Q4_0", 2, 32, _block(SCALE, HALVES)),
    Kind("Q4_1", 3, 32, _block(SCALE, LOW, HALVES)),
    Kind("Q5_0", 6, 32, _block(SCALE, ("fifth", "u1", 4), HALVES)),
    Kind("Q5_1", 7, 32, _block(SCALE, LOW, ("fifth", "u1", 4), HALVES)),
    Kind("Q8_0", 8, 32, _block(SCALE, ("q", "i1", 32))),
    Kind("Q4_K", 12, 256, _block(SCALE, LOW, SIX, ("halves", "u1", (4, 32)))),
    Kind("Q5_K", 13, 256, _block(SCALE, LOW, SIX, ("fifth", "u1", 32), ("halves", "u1", (4, 32)))),
    Kind("Q6_K", 14, 256, _block(("halves", "u1", (2, 64)), ("top", "u1", (2, 32)), ("s", "i1", 16), SCALE)),
    Kind("BF16", 30, 1, np.dtype("<u2")),
)
KINDS = {kind.name: kind for kind in LISTED}
CODES = {kind.code: kind for kind in LISTED}
PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
AT_ONCE = 4096  # blocks; what they become stays in the processor's cache until it is done


def tensor(kind: Kind, data: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    """The numbers of a tensor from its bytes: plain ones are mapped, not copied; blocks become float32."""
    if kind.name in PLAIN:
        return torch.from_numpy(data).view(PLAIN[kind.name]).view(shape)
    return torch.from_numpy(dequantize(kind, data)).view(shape)


def dequantize(kind: Kind, data: np.ndarray) -> np.ndarray:
    """The numbers that blocks stand for: bytes (n * size,) uint8 -> (n * items,) float32."""
    blocks, open_block = data.view(kind.block), OPEN[kind.name]
    numbers = np.empty((len(blocks), kind.items), np.float32)
    for at in range(0, len(blocks), AT_ONCE):
        numbers[at : at + AT_ONCE] = open_block(blocks[at : at + AT_ONCE])
    return numbers.reshape(-1)


def rulers(kind: Kind, data: np.ndarray) -> Tensor:
    """The few numbers that are finite only if all are: scales and lows; of a plain kind simply all numbers."""
    if kind.name in PLAIN:
        return torch.from_numpy(data).view(PLAIN[kind.name])
    blocks, fields = data.view(kind.block), {"scale", "low"} & {*(kind.block.names or ())}
    return torch.from_numpy(np.stack([blocks[field] for field in fields]))


def _field(blocks: np.ndarray, name: str) -> np.ndarray:
    """A number of each block, as float32: -> (n, 1)."""
    return blocks[name].astype(np.float32)[:, None]


def _halves(blocks: np.ndarray) -> np.ndarray:
    """The low halves of a row of bytes, then the high halves: (n, rows, W) -> (n, rows, 2, W); (n, W) -> (n, 2, W)."""
    packed = blocks["halves"]
    return np.stack([packed & 15, packed >> 4], axis=-2)


def _five(blocks: np.ndarray) -> np.ndarray:
    """Numbers of 5 bits: bit i of the 32 in `fifth` is the highest of number i. -> (n, 32)."""
    fifth = np.unpackbits(blocks["fifth"], axis=-1, bitorder="little")
    return _halves(blocks).reshape(-1, 32) | fifth << 4


def _six(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Length and beginning of the eight rulers in a block of 256, as float32: -> two of (n, 8, 1).

    The first four of each have their 6 bits in bytes 0 to 3 and 4 to 7; of the last four, the lower 4 bits are in
    bytes 8 to 11 and the upper 2 in what the first four left free.
    """
    first, second, third = (blocks["six"][:, row] for row in range(3))
    s = np.concatenate([first & 63, third & 15 | first >> 2 & 48], axis=-1)
    m = np.concatenate([second & 63, third >> 4 | second >> 2 & 48], axis=-1)
    return (_field(blocks, "scale") * s)[..., None], (_field(blocks, "low") * m)[..., None]


def _q4_0(blocks: np.ndarray) -> np.ndarray:
    return _field(blocks, "scale") * (_halves(blocks).reshape(-1, 32).view(np.int8) - np.int8(8))


def _q4_1(blocks: np.ndarray) -> np.ndarray:
    return _field(blocks, "scale") * _halves(blocks).reshape(-1, 32) + _field(blocks, "low")


def _q5_0(blocks: np.ndarray) -> np.ndarray:
    return _field(blocks, "scale") * (_five(blocks).view(np.int8) - np.int8(16))


def _q5_1(blocks: np.ndarray) -> np.ndarray:
    return _field(blocks, "scale") * _five(blocks) + _field(blocks, "low")


def _q8_0(blocks: np.ndarray) -> np.ndarray:
    return _field(blocks, "scale") * blocks["q"]


def _q4_k(blocks: np.ndarray) -> np.ndarray:
    step, low = _six(blocks)
    return (step * _halves(blocks).reshape(-1, 8, 32) - low).reshape(-1, 256)


def _q5_k(blocks: np.ndarray) -> np.ndarray:
    """Bit r of byte i in `fifth` belongs to number i of ruler r."""
    step, low = _six(blocks)
    fifth = blocks["fifth"][:, None] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    return (step * (_halves(blocks).reshape(-1, 8, 32) | fifth << 4) - low).reshape(-1, 256)


def _q6_k(blocks: np.ndarray) -> np.ndarray:
    """The upper 2 bits of four numbers, 32 apart, share a byte of `top`."""
    top = blocks["top"][:, :, None] >> np.array([[0], [2], [4], [6]], np.uint8) & 3  # (n, 2, 4, 32)
    q = (_halves(blocks).reshape(-1, 16, 16) | top.reshape(-1, 16, 16) << 4).view(np.int8) - np.int8(32)
    return ((_field(blocks, "scale") * blocks["s"])[..., None] * q).reshape(-1, 256)


OPEN: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
