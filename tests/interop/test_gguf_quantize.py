"""Numbers become the blocks that llama.cpp's own quantizer makes, to the bit."""

import gguf
import numpy as np
import pytest
import torch

from firsthand.interop import gguf_blocks
from firsthand.interop.gguf_quantize import meant, stored

KINDS = ["F32", "F16", "BF16", "Q8_0", "Q4_0"]


def numbers() -> torch.Tensor:
    """Rows of every sort: zeros, halves that could be rounded either way, huge, tiny, one that stands out."""
    rows = torch.randn(37, 96, generator=torch.Generator().manual_seed(0))
    rows[3], rows[4], rows[5] = 0.0, 0.5, (rows[5] * 4).round() / 4
    rows[6] *= 1e-9
    rows[7] *= 1e4
    rows[8, 17], rows[9, 40] = 100.0, -100.0
    return rows


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_are_those_of_the_gguf_package(kind):
    theirs = gguf.quants.quantize(numbers().numpy(), gguf.GGMLQuantizationType[kind])
    assert stored(numbers(), kind).tobytes() == theirs.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_meant_is_what_a_reader_finds(kind):
    rows = numbers()
    found = gguf_blocks.tensor(gguf_blocks.KINDS[kind], stored(rows, kind), tuple(rows.shape))
    assert meant(rows, kind).dtype == found.dtype
    assert meant(rows, kind).equal(found)


@pytest.mark.parametrize("kind, reach", [("Q8_0", 127), ("Q4_0", 8)])
def test_a_number_moves_by_half_a_step_at_most(kind, reach):
    """And by what the scale loses in half precision, 11 bits. The furthest is positive here: Q4_0 has no +8."""
    rows = torch.rand(11, 64, generator=torch.Generator().manual_seed(1)) - 0.25
    step = rows.view(-1, 32).abs().amax(1, keepdim=True) / reach
    moved = (meant(rows, kind) - rows).view(-1, 32).abs()
    assert (moved <= step * (0.5 + reach * 2**-11)).all()


def test_a_block_by_hand():
    """The largest of 32 numbers is -12.7, so a step is 0.1: -12.7, 3.14, 6.0 and 0 are -127, 31, 60 and 0 steps."""
    block = torch.zeros(1, 32)
    block[0, :3] = torch.tensor([-12.7, 3.14, 6.0])
    data = stored(block, "Q8_0")
    assert data[:2].view("<f2")[0] == np.float16(0.1)
    assert data[2:6].view(np.int8).tolist() == [-127, 31, 60, 0]
    data = stored(block, "Q4_0")  # a step is 12.7 / 8 = 1.5875: -8, 2, 4 and zeros, each stored with 8 added
    assert data[:2].view("<f2")[0] == np.float16(1.5875)
    assert data[2:6].tolist() == [0x80, 0x8A, 0x8C, 0x88]  # number 0 in the low half of a byte, number 16 in the high
