"""What a step of the fast engine does to single rows, and a matrix to all of them: compiled, called by step.py."""

import numpy as np
from numba import njit

from firsthand.infer.codes import GROUP
from firsthand.infer.digits import to_digits
from firsthand.infer.kernels import AHEAD, BESIDE, KINDS, ROWS, dot_real, dot_whole
from firsthand.infer.team import address
from firsthand.tokenizer.compiled import ALONE, UNWRAPPED

CHECKED = {"error_model": "numpy", "boundscheck": False}
# Sums may be taken in any order, quotients as products with an inverse; but what is not a number stays none.
LOOSE = {"fastmath": {"reassoc", "contract", "arcp", "nsz"}, **CHECKED}
part = njit(nogil=True, **ALONE, **UNWRAPPED, **LOOSE)  # pyrefly: ignore
lean = njit(nogil=True, forceinline=True, **ALONE, **UNWRAPPED, **LOOSE)  # pyrefly: ignore
# If a number here is none, so is what is computed from it afterwards; the largest of the others may be anything.
ordered = njit(nogil=True, forceinline=True, **ALONE, **UNWRAPPED, fastmath={"nnan", "nsz"}, **CHECKED)  # pyrefly: ignore
exact = njit(nogil=True, forceinline=True, **ALONE, **UNWRAPPED, fastmath={"contract"}, **CHECKED)  # pyrefly: ignore
f32 = np.float32
WHOLE = sum(kind.startswith("int") for kind in KINDS)  # so many kinds, the first ones, are whole numbers
SIZES = tuple({"int4": 256, "int8": 512, "bfloat16": 1024, "float32": 2048}[kind.split("-")[0]] for kind in KINDS)
ASIDE = tuple(BESIDE.get(kind, 0) for kind in KINDS)  # bytes of scales for a group of a block; and for a block:
ROW_SCALES = tuple(64 if kind == "int8" else 0 for kind in KINDS)
PLAIN = (0,) * (1 + KINDS.index("float32"))
TILES = (0,), (0, 0, 0, 0), (0, 0, 0, 0, 0, 0, 0, 0)  # vectors that a block is multiplied by at once


@lean
def up(number, multiple):
    return (number + multiple - 1) // multiple * multiple


@exact
def exponential(x):
    """e^x without a branch, so that 16 are computed at once: 2^n times a polynomial. Source: Cephes, expf."""
    x = min(max(x, f32(-87.0)), f32(87.0))
    n = np.rint(x * f32(1.4426950408889634))
    r = x - n * f32(0.693359375) + n * f32(2.12194440e-4)
    p = f32(1.9875691500e-4) * r + f32(1.3981999507e-3)
    p = ((p * r + f32(8.3334519073e-3)) * r + f32(4.1665795894e-2)) * r + f32(1.6666665459e-1)
    p = ((p * r + f32(5.0000001201e-1)) * r + f32(1.0)) * r + f32(1.0)
    return p * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@part
def ready(kind, digits, source, rows, groups, room, thread):
    """The rows of `source` as a product wants them: addresses of numbers, sums and scales."""
    if len(kind) > WHOLE:
        return address(source), 0, 0
    count = len(digits)
    whole, sums, scales = room.digits[thread], room.sums[thread], room.scales[thread]
    for row in range(rows):
        at = row * groups
        to = address(whole) + at * GROUP * count, address(sums) + 4 * at * count, address(scales) + 4 * at
        to_digits(digits, address(source[row]), *to, groups)
    return address(whole), address(sums), address(scales)


@part
def tile(kind, form, tiles, where, x, groups, row, out, step):
    """16 rows of a matrix times as many vectors as `tiles` is long."""
    if len(kind) > WHOLE:
        dot_real(kind, tiles, (0,), where[0], x[0] + row * groups * 128, groups * 128, groups, out, step, AHEAD)
    else:
        count, at = len(form.digits), row * groups
        inputs = x[0] + at * 32 * count, x[1] + at * 4 * count, x[2] + at * 4
        dot_whole(kind, form.digits, form.fast, tiles, where[0], where[1], *inputs, groups, out, step)


@part
def product(kind, form, place, x, rows, groups, first, last, out, step):
    """Blocks `first` to `last` of a matrix times all rows, to `out`, whose rows are `step` numbers apart."""
    size = SIZES[len(kind) - 1] * groups
    scale = ASIDE[len(kind) - 1] * groups + ROW_SCALES[len(kind) - 1]
    for block in range(first, last):
        where = place[0] + block * size, place[1] + block * scale
        row = 0
        while row < rows:
            to = out + 4 * (row * step + block * ROWS)
            if rows - row > 4:
                tile(kind, form, TILES[2], where, x, groups, row, to, 4 * step)
                row += 8
            elif rows - row > 1:
                tile(kind, form, TILES[1], where, x, groups, row, to, 4 * step)
                row += 4
            else:
                tile(kind, form, TILES[0], where, x, groups, row, to, 4 * step)
                row += 1


@part
def many(goes_on, block, x, step, groups, out, out_step, count, ahead):
    """16 rows of float32 times one to eight vectors, `step` numbers apart."""
    if count == 1:
        dot_real(PLAIN, TILES[0], goes_on, block, x, 4 * step, groups, out, out_step, ahead)
    elif count <= 4:
        dot_real(PLAIN, TILES[1], goes_on, block, x, 4 * step, groups, out, out_step, ahead)
    else:
        dot_real(PLAIN, TILES[2], goes_on, block, x, 4 * step, groups, out, out_step, ahead)


@part
def normalise(source, shape, weight, rows, out):
    """LayerNorm or RMSNorm of every row."""
    C = shape.d_model
    for row in range(rows):
        x, y = source[row], out[row]
        mean, square = f32(0), f32(0)
        if shape.centred:
            for i in range(C):
                mean += x[i]
            mean /= f32(C)
        for i in range(C):
            square += (x[i] - mean) * (x[i] - mean)
        scale = f32(1) / np.sqrt(square / f32(C) + f32(shape.eps))
        for i in range(C):
            y[i] = (x[i] - mean) * scale * weight[0, i] + weight[1, i]


@ordered
def largest_of(numbers):
    """The largest of some numbers."""
    largest = numbers[0]
    for i in range(len(numbers)):
        largest = max(largest, numbers[i])
    return largest
