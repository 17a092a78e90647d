"""The innermost products of the fast engine: 16 rows of a matrix times up to 8 vectors, in the processor's own words.

Reading a token means multiplying every matrix of the model by one vector. Almost all time goes here, so it is worth
knowing what a processor does in one instruction, and arranging the weights for it (pack.py does, once).

Why blocks of 16 rows. A vector register holds 16 numbers of 32 bits. If they were 16 neighbours *of one row*, their
products would have to be added across the register at the end of the row: a horizontal sum, six instructions that wait
for each other. If they are the same column *of 16 rows*, every lane adds up its own row, and at the end the register is
16 finished results. So weights lie in blocks: all of 16 rows, column after column. One number of the vector then
belongs to all 16 lanes; the processor spreads it over a register while it loads it.

Why integers are multiplied as integers. `vpdpbusd` takes 64 small integers at once: in each of 16 lanes it multiplies
four weights (0 to 255) by four numbers (-128 to 127) and adds the four products to a 32-bit sum. That is four times
what a float32 instruction does, and nothing needs to be converted first. The vector must be integers too:

    activations="int8"     32 neighbours share a scale; each becomes one digit from -127 to 127: 8 bits, coarse
    activations="float32"  each becomes three such digits, a 65536 + b 256 + c: 24 bits, as many as a float32 has

Three digits cost three instructions instead of one, still less than converting weights to floats, and the sums are
exact: what is lost is what rounding a float32 loses, a few in 2^23 of the largest of the 32 neighbours.
Weights are stored with an offset (128, or 8 for four bits) because the instruction wants no sign; so the sum starts at
minus the offset times the sum of the digits. Where groups have a lowest weight instead of an offset, it is multiplied
by the sum of the digits in the end.

A weight is loaded once and used for all vectors of a batch (a `tile`: 1, 4 or 8), which is why a batch is cheap.
Without these instructions (AVX-512 VNNI) the same is written as multiplications of 16-bit numbers, which every
processor has.

What is a number in Python is a type here: the *length* of a tuple. Numba compiles each length on its own, so the
loops over digits and tiles below run while code is generated, not when it is executed.
"""

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils

from firsthand.infer.codes import FORMS, GROUP
from firsthand.tokenizer.compiled import instruction

ROWS = 16  # of a block
KINDS = tuple(FORMS)  # a form is passed as a tuple of its place here, counted from 1
AHEAD = 4096  # bytes; the processor's own look ahead stops at the end of every page
BESIDE = {"int4": 32, "int4-lows": 64, "int8-groups": 32}  # bytes of scales and lows for 16 rows x 32 columns
I8, I16, I32, I64, HALF, FLOAT = (
    ir.IntType(8),
    ir.IntType(16),
    ir.IntType(32),
    ir.IntType(64),
    ir.HalfType(),
    ir.FloatType(),
)
WHOLE, REAL = ir.VectorType(I32, ROWS), ir.VectorType(FLOAT, ROWS)
FUSE = ("contract",)  # a product and a sum may become one instruction, where there is one


def native() -> bool:
    """Whether this processor multiplies 64 small integers at once."""
    features = binding.get_host_cpu_features()
    return bool(features.get("avx512vnni") and features.get("avx512bw"))


def all_lanes(type, value):
    """The same constant in all 16 lanes."""
    return ir.Constant(type, [value] * ROWS)


def spread(builder, value, type):
    """One number in all 16 lanes."""
    nothing = ir.Constant(type, ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(nothing, value, I32(0)), nothing, all_lanes(WHOLE, 0))


def load(builder, address, offset, type, align):
    """What stands `offset` bytes after an address. An offset is a number here, or one in the program."""
    offset = I64(offset) if isinstance(offset, int) else offset
    return builder.load(builder.inttoptr(builder.add(address, offset), type.as_pointer()), align=align)


def prefetch(builder, address):
    """Ask for memory that will be needed soon."""
    kind = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [builder.inttoptr(address, I8.as_pointer()), I32(0), I32(3), I32(1)])


def multiply_add(builder, x, y, total):
    """x y + total, lane by lane."""
    return builder.fadd(builder.fmul(x, y, flags=FUSE), total, flags=FUSE)


def dot_of_fours(builder, total, weights, numbers, fast):
    """In each lane: total + the four unsigned bytes of `weights` times the four signed bytes of `numbers`."""
    if fast:
        kind = ir.FunctionType(WHOLE, [WHOLE] * 3)
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.vpdpbusd.512")
        return builder.call(function, [total, weights, numbers])
    short, wide = ir.VectorType(I16, 2 * ROWS), ir.VectorType(I32, 2 * ROWS)
    weights, numbers, eight = (
        builder.bitcast(weights, short),
        builder.bitcast(numbers, short),
        ir.Constant(short, [8] * 32),
    )
    evens = builder.and_(weights, ir.Constant(short, [255] * 32)), builder.ashr(builder.shl(numbers, eight), eight)
    odds = builder.lshr(weights, eight), builder.ashr(numbers, eight)
    nothing = ir.Constant(wide, ir.Undefined)
    for left, right in (evens, odds):  # LLVM knows this: multiply pairs of 16 bits and add neighbours
        products = builder.mul(builder.sext(left, wide), builder.sext(right, wide))
        for first in (0, 1):
            lanes = ir.Constant(WHOLE, list(range(first, 2 * ROWS, 2)))
            total = builder.add(total, builder.shuffle_vector(products, nothing, lanes))
    return total


def whole_weights(builder, kind, address):
    """The weights of a group as eight registers, each of four columns: bytes from 0 to 15, or 0 to 255."""
    for pair in range(4):
        if kind.startswith("int4"):  # a byte holds column j and, above it, column j + 4
            packed = load(builder, address, 64 * pair, WHOLE, 64)
            yield builder.and_(packed, all_lanes(WHOLE, 0x0F0F0F0F))
            yield builder.and_(builder.lshr(packed, all_lanes(WHOLE, 4)), all_lanes(WHOLE, 0x0F0F0F0F))
        else:
            yield load(builder, address, 128 * pair, WHOLE, 64)
            yield load(builder, address, 128 * pair + 64, WHOLE, 64)


def real_weights(builder, kind, address):
    """The weights of a group as 32 registers, each of one column."""
    for column in range(0, GROUP, 2):
        if kind == "float32":
            yield load(builder, address, 64 * column, REAL, 64)
            yield load(builder, address, 64 * column + 64, REAL, 64)
        else:  # a bfloat16 is the upper half of a float32; two columns lie in one register
            both = load(builder, address, 32 * column, WHOLE, 64)
            yield builder.bitcast(builder.shl(both, all_lanes(WHOLE, 16)), REAL)
            yield builder.bitcast(builder.and_(both, all_lanes(WHOLE, -65536)), REAL)


def accumulators(builder, count):
    """Places for sums that start at 0; LLVM keeps them in registers."""
    return [cgutils.alloca_once_value(builder, all_lanes(REAL, 0.0)) for _ in range(count)]


def add_to(builder, place, x, y):
    """place += x y."""
    builder.store(multiply_add(builder, x, y, builder.load(place)), place)


@instruction
def dot_whole(typing, kind, digits, fast, tile, weights, scales, x, sums, x_scales, groups, out, out_step):
    """16 rows of integers times `tile` vectors of digits -> 16 float32 each, at `out`, `out_step` bytes apart.

    `x` is (tile, groups, digits, 32) int8; `sums`, of the digits, (tile, groups, digits) int32, negative;
    `x_scales` (tile, groups) float32. `scales`: what stands beside the weights (pack.py).
    """
    name, count, tiles, vnni = KINDS[kind.count - 1], digits.count, tile.count, fast.count == 1
    size = 256 if name.startswith("int4") else 512  # bytes of a group
    shift = {"int4": 3, "int4-lows": None}.get(name, 7)  # the offset is 8 or 128, or there is none
    beside = BESIDE.get(name, 0)  # bytes of scales for every group; 0: one scale a row

    def generate(context, builder, signature, arguments):
        weights, scales, x, sums, x_scales, groups, out, out_step = arguments[4:]
        totals = accumulators(builder, tiles)
        with cgutils.for_range(builder, groups, intp=I64) as loop:
            here = builder.add(weights, builder.mul(loop.index, I64(size)))
            at = [builder.add(loop.index, builder.mul(groups, I64(row))) for row in range(tiles)]  # the group of a row
            places = [builder.add(sums, builder.mul(at[row], I64(4 * count))) for row in range(tiles)]
            minus = [[load(builder, place, 4 * d, I32, 4) for d in range(count)] for place in places]
            numbers = [builder.add(x, builder.mul(at[row], I64(GROUP * count))) for row in range(tiles)]
            dots = [[started(builder, number, shift) for number in row] for row in minus]
            for line in range(0, size, 64):
                prefetch(builder, builder.add(here, I64(AHEAD + line)))
            for column, block in enumerate(whole_weights(builder, name, here)):
                for row in range(tiles):
                    for d in range(count):
                        four = spread(builder, load(builder, numbers[row], GROUP * d + 4 * column, I32, 4), WHOLE)
                        dots[row][d] = dot_of_fours(builder, dots[row][d], block, four, vnni)
            aside = builder.add(scales, builder.mul(loop.index, I64(beside)))
            for row in range(tiles):
                scale = load(builder, x_scales, builder.mul(at[row], I64(4)), FLOAT, 4)
                value, each = one_number(builder, dots[row], REAL), spread(builder, scale, REAL)
                add_to(builder, totals[row], value, builder.fmul(each, halves(builder, aside, 0)) if beside else each)
                if name == "int4-lows":
                    sum_of_digits = builder.fneg(builder.fmul(one_number(builder, minus[row], FLOAT), scale))
                    add_to(builder, totals[row], halves(builder, aside, 32), spread(builder, sum_of_digits, REAL))
        for row in range(tiles):
            value = builder.load(totals[row])
            if not beside:
                value = builder.fmul(value, load(builder, scales, 0, REAL, 64))
            place = builder.add(out, builder.mul(out_step, I64(row)))
            builder.store(value, builder.inttoptr(place, REAL.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(kind, digits, fast, tile, *[types.int64] * 8), generate


def started(builder, minus, shift):
    """Where the sum of products begins: at minus the offset times the sum of the digits, in all lanes."""
    return all_lanes(WHOLE, 0) if shift is None else builder.shl(spread(builder, minus, WHOLE), all_lanes(WHOLE, shift))


def one_number(builder, digits, type):
    """The digits become one number again; `type` is that of a lane or of all 16."""
    value = builder.sitofp(digits[0], type)
    for digit in digits[1:]:
        step = all_lanes(type, 256.0) if type is REAL else type(256.0)
        value = multiply_add(builder, value, step, builder.sitofp(digit, type))
    return value


def halves(builder, address, offset):
    """16 numbers of half precision, as float32."""
    return builder.fpext(load(builder, address, offset, ir.VectorType(HALF, ROWS), 32), REAL)


@instruction
def dot_real(typing, kind, tile, goes_on, weights, x, x_step, groups, out, out_step, ahead):
    """16 rows of floats times `tile` vectors of float32, `x_step` bytes apart -> 16 float32 each, at `out`.

    If `goes_on` is of length 2, they are added to what stands there. What comes `ahead` bytes later is asked for.
    """
    name, tiles, added = KINDS[kind.count - 1], tile.count, goes_on.count == 2
    chains = max(1, 4 // tiles)  # an addition takes four cycles: one sum alone would wait for itself

    def generate(context, builder, signature, arguments):
        weights, x, x_step, groups, out, out_step, ahead = arguments[3:]
        totals = [accumulators(builder, chains) for _ in range(tiles)]
        size = 2048 if name == "float32" else 1024
        with cgutils.for_range(builder, groups, intp=I64) as loop:
            here = builder.add(weights, builder.mul(loop.index, I64(size)))
            start = builder.add(x, builder.mul(loop.index, I64(4 * GROUP)))
            numbers = [builder.add(start, builder.mul(x_step, I64(row))) for row in range(tiles)]
            for column, block in enumerate(real_weights(builder, name, here)):
                if column % (2048 // size) == 0:
                    prefetch(builder, builder.add(builder.add(here, ahead), I64(column * size // GROUP)))
                for row in range(tiles):
                    one = spread(builder, load(builder, numbers[row], 4 * column, FLOAT, 4), REAL)
                    add_to(builder, totals[row][column % chains], block, one)
        for row in range(tiles):
            values = [builder.load(total) for total in totals[row]]
            while len(values) > 1:
                values = [builder.fadd(*values[at : at + 2]) for at in range(0, len(values), 2)]
            place = builder.inttoptr(builder.add(out, builder.mul(out_step, I64(row))), REAL.as_pointer())
            value = builder.fadd(values[0], builder.load(place, align=4)) if added else values[0]
            builder.store(value, place, align=4)
        return context.get_dummy_value()

    return types.void(kind, tile, goes_on, *[types.int64] * 7), generate
