"""How the tokenizer's loops are compiled: once per installation, without Python's lock, kept on disk.

@compiled     what Python calls: kept on disk
@inlined      what only compiled code calls: becomes part of its callers
@lean         as @inlined, for code that makes no array: Numba then counts no references to arrays, and counting takes
              longer than the work where a function does little
"""

from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

inlined = njit(nogil=True, forceinline=True)
ALONE: dict[str, Any] = {"_nrt": False}  # no counting of references to arrays
UNWRAPPED: dict[str, Any] = {
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}  # Python never calls it: less to compile
lean = njit(nogil=True, forceinline=True, **ALONE, **UNWRAPPED)
ONES = 0x0101010101010101  # times a byte: eight copies of it


@cache
def sources(folder: Path) -> str:
    """The SHA-256 over all Python files of a folder."""
    return sha256(b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))).hexdigest()


def compiled(function, options=None):
    """Compile at the first call and keep the result until any file of the package changes.

    Numba itself only looks at the file of the function: code inlined from a neighbour would stay as it once was.
    """
    try:
        kernel: Any = njit(nogil=True, cache=True, **(options or {}))(function)
    except RuntimeError:  # neither the package nor the user's cache folder can be written: compile at every start
        return njit(nogil=True, **(options or {}))(function)
    kernel._cache._cache_file._source_stamp = sources(Path(function.__code__.co_filename).parent)
    return kernel


def instruction(build: Callable) -> Callable[..., Any]:
    """Something compiled code can do that Python has no word for."""
    return intrinsic(build)


def eight_bytes(context, builder, array_type, array, at):
    """The address of eight bytes inside an array of any type, for LLVM."""
    data = builder.bitcast(context.make_array(array_type)(context, builder, array).data, ir.IntType(8).as_pointer())
    return builder.bitcast(builder.gep(data, [at]), ir.IntType(64).as_pointer())


@instruction
def load64(typing, data, at):
    """The eight bytes that start `at` bytes into the array, as one number, the first byte lowest. Unchecked."""

    def generate(context, builder, signature, arguments):
        return builder.load(eight_bytes(context, builder, signature.args[0], *arguments), align=1)

    return types.uint64(data, types.int64), generate


@instruction
def store64(typing, data, at, value):
    """Write eight bytes that start `at` bytes into the array. Unchecked."""

    def generate(context, builder, signature, arguments):
        place = eight_bytes(context, builder, signature.args[0], *arguments[:2])
        builder.store(arguments[2], place, align=1)
        return context.get_dummy_value()

    return types.void(data, types.int64, types.uint64), generate


@instruction
def trailing_zeros(typing, word):
    """How many zeros stand below the lowest one of a number that is not 0."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate
