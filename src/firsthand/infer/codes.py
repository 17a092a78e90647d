"""A matrix as the fast engine keeps it: its numbers, half their bits, or whole numbers and a scale.

    form          a number is                 kept for it
    float32       itself                      4 bytes
    bfloat16      itself                      2 bytes
    int8          scale (code - 128)          a byte; scale float32, one a row
    int8-groups   scale (code - 128)          a byte; scale float16, one for 32 neighbours: as in Q8_0 of llama.cpp
    int4          scale (code - 8)            half a byte; scale float16, one for 32 neighbours: as in Q4_0
    int4-lows     scale code + low            half a byte; scale and low float16, for 32 neighbours: as in Q4_1

`rounding` makes one of these of any matrix. `own` takes a layer as it is, in the fewest bytes that hold every number to
the bit: a model read from a file of 4 bits is then again one of 4 bits, and nothing was rounded.
N rows, K columns.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from firsthand.interop.gguf_quantize import q4_0, q8_0
from firsthand.linear import lora
from firsthand.linear.int4 import MIDDLE, TOP, Int4, unpack
from firsthand.linear.int8 import Dynamic, Int8
from firsthand.linear.labels import LabelHead

GROUP = 32  # columns that share a scale
TRIED = 16  # rows that are looked at before a form is tried on all
NOTHING = np.empty((0, 0), np.float32)


class Matrix(NamedTuple):
    """A matrix in one of the forms."""

    form: str
    numbers: np.ndarray  # (N, K) float32, or uint8 where they are codes
    scales: np.ndarray = NOTHING  # (N, 1) or (N, K/32)
    lows: np.ndarray = NOTHING  # (N, K/32)

    def each(self, change: Callable[[np.ndarray], np.ndarray]) -> Self:
        """The same done to numbers, scales and lows: something that moves or adds rows."""
        return type(self)(self.form, *(change(part) if part.size else part for part in self[1:]))

    def meant(self) -> np.ndarray:
        """What it stands for: (N, K) float32."""
        if self.form in ("float32", "bfloat16"):
            return self.numbers
        groups = self.numbers.reshape(len(self.numbers), self.scales.shape[1], -1).astype(np.float32)
        scales = self.scales.astype(np.float32)[..., None]
        if self.form == "int4-lows":
            groups = groups * scales + self.lows.astype(np.float32)[..., None]
        else:
            groups = (groups - np.float32(8 if self.form == "int4" else 128)) * scales
        return groups.reshape(self.numbers.shape)


def joined(parts: Iterable[Matrix]) -> Matrix:
    """Matrices of one form and width, one under the other."""
    forms, *arrays = zip(*parts, strict=True)
    return Matrix(forms[0], *(np.concatenate(part) if part[0].size else part[0] for part in arrays))


def _float32(weight: np.ndarray) -> Matrix:
    return Matrix("float32", weight)


def _bfloat16(weight: np.ndarray) -> Matrix:
    return Matrix("bfloat16", torch.from_numpy(weight).bfloat16().float().numpy())


def _int8(weight: np.ndarray) -> Matrix:
    scale = np.abs(weight).max(axis=1, keepdims=True) / np.float32(127)
    whole = np.rint(weight / np.where(scale > 0, scale, 1)).astype(np.int16)
    return Matrix("int8", (whole + 128).astype(np.uint8), scale)


def _int8_groups(weight: np.ndarray) -> Matrix:
    scale, whole = q8_0(weight.reshape(-1, GROUP))
    codes = whole.reshape(weight.shape).view(np.uint8) ^ np.uint8(128)
    return Matrix("int8-groups", codes, scale.reshape(len(weight), -1))


def _int4(weight: np.ndarray) -> Matrix:
    scale, whole = q4_0(weight.reshape(-1, GROUP))
    return Matrix("int4", (whole + 8).astype(np.uint8).reshape(weight.shape), scale.reshape(len(weight), -1))


def _int4_lows(weight: np.ndarray) -> Matrix:
    groups = weight.reshape(len(weight), -1, GROUP)
    low, high = groups.min(axis=2), groups.max(axis=2)
    scale, low = ((high - low) / np.float32(TOP)).astype(np.float16), low.astype(np.float16)
    step = np.where(scale > 0, scale, 1).astype(np.float32)[..., None]
    codes = np.rint((groups - low.astype(np.float32)[..., None]) / step).clip(0, TOP)
    return Matrix("int4-lows", codes.astype(np.uint8).reshape(weight.shape), scale, low)


FORMS: dict[str, Callable[[np.ndarray], Matrix]] = {  # how to round to one; in the order in which `own` tries them
    "int4": _int4,
    "int4-lows": _int4_lows,
    "int8-groups": _int8_groups,
    "int8": _int8,
    "bfloat16": _bfloat16,
    "float32": _float32,
}


def filled(weight: np.ndarray) -> np.ndarray:
    """Columns up to a multiple of 32, with zeros: (N, K) float32."""
    return np.pad(weight, ((0, 0), (0, -weight.shape[1] % GROUP))) if weight.shape[1] % GROUP else weight


def rounding(weight: Tensor, form: str) -> Matrix:
    """A matrix in a form, every number to the nearest: (N, K) -> one of 32 ceil(K / 32) columns."""
    return FORMS[form](filled(weight.detach().float().cpu().numpy()))


def own(layer: Any) -> Matrix:
    """A layer as it is, in the fewest bytes."""
    if isinstance(layer, Int4) and layer.codes.shape[2] % (GROUP // 2) == 0:
        return _of_int4(layer)
    if type(layer) is Int8:
        codes = layer.codes.cpu().numpy().view(np.uint8) ^ np.uint8(128)
        return Matrix("int8", np.pad(codes, ((0, 0), (0, -codes.shape[1] % GROUP))), layer.scales.float().cpu().numpy())
    weight = filled(layer.weight.detach().float().cpu().numpy())
    return next(found for form in FORMS if (found := _exactly(weight, form)) is not None)


def _exactly(weight: np.ndarray, form: str) -> Matrix | None:
    """A matrix in a form that holds it to the bit; None if the form does not."""
    with np.errstate(invalid="ignore", over="ignore"):  # what is no number, or too large for a half, is held by float32
        if form != "float32" and not np.array_equal(FORMS[form](weight[:TRIED]).meant(), weight[:TRIED]):
            return None
        found = FORMS[form](weight)
        return found if form == "float32" or np.array_equal(found.meant(), weight) else None


def _of_int4(layer: Int4) -> Matrix:
    """A layer of linear/int4.py: its codes, and its rulers once for every 32 neighbours."""
    codes = unpack(layer.codes).to(torch.uint8).flatten(1).cpu().numpy()
    times = codes.shape[1] // layer.codes.shape[1] // GROUP
    scales = np.repeat(layer.scales[..., 0].cpu().numpy(), times, axis=1)
    if layer.symmetric:
        return Matrix("int4", codes, scales)
    return Matrix("int4-lows", codes, scales, np.repeat(layer.lows[..., 0].cpu().numpy(), times, axis=1))


def alike(matrices: list[Matrix]) -> list[Matrix]:
    """The same matrices in one form, the smallest that holds all of them."""
    forms = {matrix.form for matrix in matrices}
    if len(forms) == 1:
        return matrices
    if forms == {"int4", "int4-lows"}:
        return [_with_lows(matrix) if matrix.form == "int4" else matrix for matrix in matrices]
    form = "bfloat16" if forms == {"bfloat16"} else "float32"
    return [Matrix(form, matrix.meant()) for matrix in matrices]


def _with_lows(matrix: Matrix) -> Matrix:
    """Codes whose middle is 8, as codes above a lowest number: the same numbers."""
    return matrix._replace(form="int4-lows", lows=matrix.scales * np.float16(MIDDLE))


def refusal(model: nn.Module) -> str | None:
    """Why a model cannot be taken as it is; None if it can."""
    if lora.names(model):
        return "it has adapters; merge them first: firsthand merge"
    for layer in model.modules():
        if isinstance(layer, Dynamic):
            return "its layers (int8-dynamic) also round what enters them, in a way of their own"
        if isinstance(layer, LabelHead):
            return "it tells labels apart and continues no text"
    return None
