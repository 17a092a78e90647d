"""Half a byte a weight: neighbours in a row share a ruler, and every weight is one of its 16 marks.

    y = low + scale q      q from 0 to 15; scale and low are half precision, one of each for a group of weights
    y = scale (q - 8)      symmetric: half a bit less at a group of 32, and no ruler for weights that lie on one side

Where a ruler begins and how long its steps are is searched for: cutting off the furthest weight of a group often
leaves the others nearer to their marks. Rounding to the nearest mark is all there is to it; gptq.py does better.

The codes of a group lie in halves: byte j holds the numbers j (low bits) and j + group/2 (high bits), as in GGUF.

C_out, C_in widths; G groups of a row; N weights of a group.
"""

from collections.abc import Iterator
from typing import Any, Self

import torch
from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from firsthand.errors import ModelError
from firsthand.linear.quantized import Quantized

TOP, MIDDLE = 15, -8.0
SHARES = tuple(1 - 0.04 * step for step in range(13))  # of the reach that leaves no weight out
LONGER = (1.04, 1.08, 1.12, 1.16)  # an even ruler has a mark less on one side
Ruler = tuple[Tensor, Tensor]  # scale and low, half precision


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Groups:
    """The settings: how many neighbours share a ruler, and whether it must reach equally far on both sides of zero."""

    group: int = 32
    symmetric: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.group <= 1024 or self.group % 2:
            raise ModelError(f"group is {self.group}; use an even number from 2 to 1,024, usual: 32, 64 or 128")


class Int4(Quantized):
    """A layer whose weights are whole numbers of 4 bits."""

    symmetric: bool

    @classmethod
    def empty(cls, layer: nn.Module, settings: dict[str, Any]) -> Self:
        made, given = cls(layer), TypeAdapter(Groups).validate_python(settings)
        rows, groups, size = grouped(made, given.group)
        made.symmetric = given.symmetric
        made.keep("codes", rows, groups, size // 2, dtype=torch.uint8)
        made.keep("scales", rows, groups, 1, dtype=torch.float16)
        if not given.symmetric:
            made.keep("lows", rows, groups, 1, dtype=torch.float16)
        return made

    def round(self, weight: Tensor) -> None:
        groups = weight.float().view(*self.codes.shape[:2], -1)  # (C_out, G, N)
        ruler = self.fit(groups)
        self.fill(nearest(groups, *ruler), *ruler)

    def fit(self, groups: Tensor) -> Ruler:
        """The ruler of each group: (..., N) -> (..., 1), (..., 1)."""
        return best(groups, even(groups) if self.symmetric else free(groups))

    def fill(self, codes: Tensor, scales: Tensor, lows: Tensor) -> None:
        """Keep these: (C_out, G, N), (C_out, G, 1), (C_out, G, 1) -> ()."""
        self.codes, self.scales = pack(codes), scales
        if not self.symmetric:
            self.lows = lows

    def numbers(self) -> Tensor:
        lows = MIDDLE * self.scales if self.symmetric else self.lows
        return meaning(unpack(self.codes), self.scales, lows).view(self.out_features, self.in_features)


def grouped(layer: Quantized, group: int) -> tuple[int, int, int]:
    """A weight in groups of neighbours: (C_out, G, N)."""
    if layer.in_features % group:
        fitting = ", ".join(str(size) for size in (16, 32, 64, 128, 256) if layer.in_features % size == 0)
        raise ModelError(
            f"rows of {layer.in_features} weights cannot be cut into groups of {group}; here fit: {fitting or 'none'}"
        )
    return layer.out_features, layer.in_features // group, group


def free(groups: Tensor) -> Iterator[Ruler]:
    """Rulers from the smallest weight of a group to its largest, and shorter ones: (..., N) -> many of (..., 1)."""
    smallest, largest = groups.aminmax(dim=-1, keepdim=True)
    span = largest - smallest
    for share in SHARES:
        yield (share * span / TOP).half(), (smallest + (1 - share) / 2 * span).half()


def even(groups: Tensor) -> Iterator[Ruler]:
    """Rulers with zero at mark 8, on which the furthest weight is mark 0, or nearly: (..., N) -> many of (..., 1)."""
    furthest = groups.gather(-1, groups.abs().argmax(dim=-1, keepdim=True))
    for share in (*SHARES, *LONGER):
        scale = (share * furthest / MIDDLE).half()
        yield scale, MIDDLE * scale


def best(groups: Tensor, rulers: Iterator[Ruler]) -> Ruler:
    """Of several rulers for each group, the one on which rounding moves its weights least: squares, summed."""
    scale, low = next(rulers)
    least = strain(groups, scale, low)
    for tried in rulers:
        error = strain(groups, *tried)
        scale, low = (torch.where(error < least, new, old) for new, old in zip(tried, (scale, low), strict=True))
        least = torch.minimum(error, least)
    return scale, low


def strain(groups: Tensor, scale: Tensor, low: Tensor) -> Tensor:
    """How far rounding moves the weights of each group, squared: (..., N), (..., 1), (..., 1) -> (..., 1)."""
    return (meaning(nearest(groups, scale, low), scale, low) - groups).square().sum(dim=-1, keepdim=True)


def nearest(x: Tensor, scale: Tensor, low: Tensor) -> Tensor:
    """The mark nearest to each number, 0 to 15: (..., N), (..., 1), (..., 1) -> (..., N)."""
    step = torch.where(scale == 0, 1, scale.to(x.dtype))  # a group of equal numbers has a ruler without length
    return ((x - low.to(x.dtype)) / step).round().clamp(0, TOP)


def meaning(codes: Tensor, scale: Tensor, low: Tensor) -> Tensor:
    """What marks of a ruler stand for: (..., N), (..., 1), (..., 1) -> (..., N)."""
    return codes * scale.to(codes.dtype) + low.to(codes.dtype)


def pack(codes: Tensor) -> Tensor:
    """Two numbers of 4 bits to a byte: (..., N) -> (..., N/2)."""
    low, high = codes.to(torch.uint8).chunk(2, dim=-1)
    return low | high << 4


def unpack(packed: Tensor) -> Tensor:
    """The numbers again, as float32: (..., N/2) -> (..., N)."""
    return torch.cat([packed & 15, packed >> 4], dim=-1).float()
