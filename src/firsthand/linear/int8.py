"""One byte a weight: every row has a ruler of its own, and every weight is a whole number of its steps, -127 to 127.

    row      0.5  -1.0  0.25        largest 1.0, so a step is 1/127
    codes    64   -127  32          0.5 * 127 = 63.5, to the even one; 0.25 * 127 = 31.75
    means    0.504  -1.0  0.252

`Int8` multiplies by what the numbers mean. `Dynamic` rounds each token's vector in the same way on the spot, and then
multiplies whole numbers by whole numbers: exact, and several times faster where the processor has such products.
Source: Dettmers et al. 2022, arXiv:2208.07339, section 2.1 (absmax, row-wise), without its search for outliers.
"""

from typing import Any, Self

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from firsthand.linear.quantized import Quantized

TOP = 127  # not -128: both sides reach equally far


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Nothing:
    """There is nothing to set."""


class Int8(Quantized):
    """A layer whose weights are whole numbers of 8 bits."""

    @classmethod
    def empty(cls, layer: nn.Module, settings: dict[str, Any]) -> Self:
        TypeAdapter(Nothing).validate_python(settings)
        made = cls(layer)
        made.keep("codes", made.out_features, made.in_features, dtype=torch.int8)
        made.keep("scales", made.out_features, 1, dtype=torch.float32)
        return made

    def round(self, weight: Tensor) -> None:
        codes, scales = whole(weight.float())
        self.codes, self.scales = codes.to(torch.int8), scales

    def numbers(self) -> Tensor:
        return self.codes.float() * self.scales.float()


class Dynamic(Int8):
    """The same weights; what enters is rounded too, each token by its own largest number."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., C_in) -> (..., C_out)."""
        precise = torch.promote_types(x.dtype, torch.float32)  # whole numbers soon exceed float16
        codes, scales = whole(x.detach().to(precise))
        if torch.is_grad_enabled() and x.requires_grad:  # rounding counts as the identity: Bengio et al. 2013
            return super().forward(x + ((codes * scales).to(x.dtype) - x).detach())
        y = product(codes, self.codes).to(precise) * (scales * self.scales[:, 0])
        return self.shifted(y.to(x.dtype))


def whole(x: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers from -127 to 127, and the step of each row: (..., N) -> (..., N), (..., 1)."""
    scales = x.abs().amax(dim=-1, keepdim=True) / TOP
    return (x / scales.clamp(min=torch.finfo(x.dtype).tiny)).round(), scales


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Whole numbers times whole numbers: (..., C_in), (C_out, C_in) -> (..., C_out)."""
    if x.device.type != "cpu":  # other devices have such products for some shapes only; float32 is off by 1e-7
        return F.linear(x.float(), weight.float())
    rows = x.to(torch.int8).view(-1, x.shape[-1])
    return torch._int_mm(rows, weight.T).view(*x.shape[:-1], -1)
