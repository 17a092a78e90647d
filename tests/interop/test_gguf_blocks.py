"""Blocks become numbers, as llama.cpp's own package has them, to the bit."""

import struct

import gguf
import numpy as np
import pytest

from firsthand.interop.gguf_blocks import AT_ONCE, CODES, KINDS, LISTED, PLAIN, dequantize, rulers, tensor


def blocks(name: str, count: int) -> np.ndarray:
    """Random bytes, with numbers of ordinary size for the rulers: (count, size) uint8."""
    kind, random = KINDS[name], np.random.default_rng(0)
    raw = random.integers(0, 256, (count, kind.size), np.uint8)
    for field in {"scale", "low"} & {*(kind.block.names or ())}:
        raw.view(kind.block)[field] = random.normal(size=(count, 1)).astype(np.float16)
    return raw


@pytest.mark.parametrize("name", [name for name in KINDS if name not in PLAIN])
def test_blocks_become_the_numbers_of_llama_cpp_to_the_bit(name):
    raw = blocks(name, AT_ONCE + 37)
    theirs = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[name])
    ours = dequantize(KINDS[name], raw.reshape(-1))
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours.view(np.uint32), theirs.reshape(-1).view(np.uint32))


@pytest.mark.parametrize("name", PLAIN)
def test_plain_numbers_are_mapped_and_not_changed(name):
    raw = np.random.default_rng(1).normal(size=35).astype(np.float32)
    data = gguf.quants.quantize(raw, gguf.GGMLQuantizationType[name]).view(np.uint8)
    ours = tensor(KINDS[name], data, (5, 7))
    theirs = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[name]).reshape(5, 7)
    assert (ours.dtype, ours.data_ptr()) == (PLAIN[name], data.ctypes.data)
    np.testing.assert_array_equal(ours.float().numpy(), theirs)


def test_the_table_of_kinds_is_llama_cpps():
    for kind in LISTED:
        theirs = gguf.GGMLQuantizationType(kind.code)
        assert (theirs.name, *gguf.GGML_QUANT_SIZES[theirs]) == (kind.name, kind.items, kind.size)
        assert CODES[kind.code] is KINDS[kind.name] is kind


@pytest.mark.parametrize("name", [name for name in KINDS if name not in PLAIN])
def test_a_block_without_numbers_shows_in_its_rulers(name):
    kind, raw = KINDS[name], blocks(name, 5)
    assert rulers(kind, raw.reshape(-1)).isfinite().all()
    for field in {"scale", "low"} & {*(kind.block.names or ())}:
        broken = raw.copy()
        broken.view(kind.block)[field][3] = np.inf
        assert not rulers(kind, broken.reshape(-1)).isfinite().all()
        with np.errstate(invalid="ignore"):
            assert np.isfinite(dequantize(kind, broken.reshape(-1))).reshape(5, -1).all(1).tolist() == [1, 1, 1, 0, 1]


def test_a_block_of_q4_1_by_hand():
    # steps of 0.5 from -1: byte i holds number i in its low half (15 - i), and number 16 + i in its high half (i)
    raw = struct.pack("<ee", 0.5, -1.0) + bytes((i << 4) | (15 - i) for i in range(16))
    numbers = dequantize(KINDS["Q4_1"], np.frombuffer(raw, np.uint8))
    assert numbers[:16].tolist() == [-1 + 0.5 * (15 - i) for i in range(16)]
    assert numbers[16:].tolist() == [-1 + 0.5 * i for i in range(16)]


def test_a_block_of_q6_k_by_hand():
    # scale 0.25, every s = 2 but the last (-1): a step is 0.5. All q are 0b10_0011 = 35, so y = 0.5 * (35 - 32) = 1.5
    raw = bytes([0x33] * 128 + [0b10101010] * 64) + struct.pack("<16be", *[2] * 15, -1, 0.25)
    numbers = dequantize(KINDS["Q6_K"], np.frombuffer(raw, np.uint8))
    assert numbers.tolist() == [1.5] * 240 + [-0.75] * 16
