"""Activations as whole numbers: 32 neighbours share a scale, and each is one digit of 8 bits, or three (kernels.py)."""

from llvmlite import ir
from numba import types
from numba.core import cgutils

from firsthand.infer.kernels import FLOAT, GROUP, I8, I32, I64, REAL, ROWS, WHOLE, all_lanes, load, spread
from firsthand.tokenizer.compiled import instruction

MOST = {1: 127.0, 3: 127.0 * 256 * 256}  # of the largest neighbour; so no rounding can overflow the first digit


def call(builder, name, kind, *values):
    """One of LLVM's own functions; all values are of the same vector type."""
    function = ir.FunctionType(kind, [value.type for value in values])
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), values)


def store(builder, value, address, offset, align):
    """Write a value `offset` bytes after an address."""
    builder.store(value, builder.inttoptr(builder.add(address, I64(offset)), value.type.as_pointer()), align=align)


def scale_of(builder, halves):
    """The largest of 32 numbers without their signs: the bits of positive floats are in order, as whole numbers."""
    sizes = [builder.and_(builder.bitcast(half, WHOLE), all_lanes(WHOLE, 0x7FFFFFFF)) for half in halves]
    larger = builder.select(builder.icmp_signed(">", *sizes), *sizes)
    largest = builder.bitcast(call(builder, "llvm.vector.reduce.smax.v16i32", I32, larger), FLOAT)
    tiny = FLOAT(1e-30)
    return builder.select(builder.fcmp_ordered("<", largest, tiny), tiny, largest)


@instruction
def to_digits(typing, digits, source, to, sums, scales, groups):
    """Groups of 32 float32 at `source` -> digits (groups, digits, 32) int8, minus their sums, int32, and scales.

    The last digit is what remains of the number in 8 bits with a sign; it is taken away, and what is left divided by
    256, for the next. All arguments but the first are addresses.
    """
    count = digits.count

    def generate(context, builder, signature, arguments):
        source, to, sums, scales, groups = arguments[1:]
        with cgutils.for_range(builder, groups, intp=I64) as loop:
            here = builder.add(source, builder.mul(loop.index, I64(4 * GROUP)))
            halves = [load(builder, here, 64 * half, REAL, 4) for half in range(2)]
            largest = scale_of(builder, halves)
            scale = builder.fmul(largest, FLOAT(1 / MOST[count]))
            store(builder, scale, builder.add(scales, builder.mul(loop.index, I64(4))), 0, 4)
            inverse = spread(builder, builder.fdiv(FLOAT(MOST[count]), largest), REAL)
            scaled = [builder.fmul(half, inverse) for half in halves]
            whole = [builder.fptosi(call(builder, "llvm.rint.v16f32", REAL, half), WHOLE) for half in scaled]
            place = builder.add(to, builder.mul(loop.index, I64(GROUP * count)))
            total = builder.add(sums, builder.mul(loop.index, I64(4 * count)))
            for digit in reversed(range(count)):
                bits = all_lanes(WHOLE, 24)
                last = [builder.ashr(builder.shl(half, bits), bits) for half in whole] if digit else whole
                for half in range(2):
                    byte = builder.trunc(last[half], ir.VectorType(I8, ROWS))
                    store(builder, byte, place, GROUP * digit + ROWS * half, 1)
                added = call(builder, "llvm.vector.reduce.add.v16i32", I32, builder.add(*last))
                store(builder, builder.neg(added), total, 4 * digit, 4)
                eight = all_lanes(WHOLE, 8)
                whole = [builder.ashr(builder.sub(*pair), eight) for pair in zip(whole, last, strict=True)]
        return context.get_dummy_value()

    return types.void(digits, *[types.int64] * 5), generate
