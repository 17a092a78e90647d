"""Half a byte a weight, the marks where weights are: dense near zero, sparse far out, as a normal distribution is.

    y = scale level(q)      q from 0 to 15; scale is the largest size in the group, levels reach from -1 to 1

Each of the 16 levels should be used equally often; so they are quantiles of the normal distribution, eight above zero
and seven below, with zero itself among them, because a weight of zero must stay zero.
With `double` the scales are rounded as well, to 8 bits: 4.13 bits a weight instead of 4.25 (group 64).
Source: Dettmers et al. 2023, arXiv:2305.14314, section 3 and appendix E.

C_out, C_in widths; G groups of a row; N weights of a group.
"""

from statistics import NormalDist
from typing import Any, Self

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from firsthand.linear.int4 import Groups, grouped, pack, unpack
from firsthand.linear.int8 import whole
from firsthand.linear.quantized import Quantized

FURTHEST = 0.9677083  # the quantile that becomes 1: between 1 - 1/32 and 1 - 1/30, half a step from either end
BLOCK = 256  # scales that share a step
TINY = 1e-30  # instead of 0, the scale of a group of zeros


def levels() -> Tensor:
    """The sixteen marks, rising from -1 to 1, as float32."""
    reach = FURTHEST - 0.5
    above = [NormalDist().inv_cdf(0.5 + reach * step / 8) for step in range(1, 9)]
    below = [-NormalDist().inv_cdf(0.5 + reach * step / 7) for step in range(7, 0, -1)]
    return torch.tensor([*below, 0.0, *above], device="cpu") / above[-1]


LEVELS = levels()


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Settings:
    """How many neighbours share a scale, and whether the scales are rounded too."""

    group: int = 64
    double: bool = False

    def __post_init__(self) -> None:
        Groups(self.group)


class NF4(Quantized):
    """A layer whose weights are levels of 4 bits."""

    twice: bool  # `double` is a verb of every module

    @classmethod
    def empty(cls, layer: nn.Module, settings: dict[str, Any]) -> Self:
        made, given = cls(layer), TypeAdapter(Settings).validate_python(settings)
        rows, groups, size = grouped(made, given.group)
        made.twice = given.double
        made.keep("codes", rows, groups, size // 2, dtype=torch.uint8)
        made.keep("scales", rows, groups, 1, dtype=torch.int8 if given.double else torch.float16)
        if given.double:
            made.keep("steps", -(-rows * groups // BLOCK), 1, dtype=torch.float32)
            made.keep("mean", 1, dtype=torch.float32)
        return made

    def round(self, weight: Tensor) -> None:
        groups = weight.float().view(*self.codes.shape[:2], -1)  # (C_out, G, N)
        largest = groups.abs().amax(dim=-1, keepdim=True)
        if self.twice:
            self.mean = largest.mean().view(1)
            self.scales, self.steps = rounded(largest, self.mean)
        else:
            self.scales = largest.half()
        self.codes = pack(nearest(groups / self.lengths().clamp(min=TINY)))

    def lengths(self) -> Tensor:
        """What level 1 stands for in each group: -> (C_out, G, 1)."""
        scales = self.scales.float()
        if not self.twice:
            return scales
        return in_blocks(scales).mul(self.steps).flatten()[: scales.numel()].view(scales.shape) + self.mean

    def numbers(self) -> Tensor:
        marks = LEVELS.to(self.codes.device)[unpack(self.codes).int()]
        return (marks * self.lengths()).view(self.out_features, self.in_features)


def nearest(x: Tensor) -> Tensor:
    """The level nearest to each number, 0 to 15: (..., N) -> (..., N)."""
    between = (LEVELS[1:] + LEVELS[:-1]) / 2
    return torch.bucketize(x.contiguous(), between.to(x.device))


def rounded(scales: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Scales as whole numbers of 8 bits, once their mean is taken off, with a step for each block of 256."""
    codes, steps = whole(in_blocks(scales - mean))
    return codes.flatten()[: scales.numel()].view(scales.shape).to(torch.int8), steps


def in_blocks(scales: Tensor) -> Tensor:
    """All of them in rows of 256, the last filled up with zeros: -> (blocks, 256)."""
    flat = scales.flatten()
    return F.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
