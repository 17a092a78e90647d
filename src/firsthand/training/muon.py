"""Muon: step along the nearest orthogonal matrix to the momentum, so that every direction moves equally far.

K matrices of one shape (A, B) at once.
Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon.
"""

import math

import torch
from torch import Tensor

from firsthand.training.optim import Group, gradients

# A quintic that lifts every singular value in (0, 1] to about 1 (0.7 to 1.2) within five turns.
QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonal(matrices: Tensor, turns: int = 5) -> Tensor:
    """U V^T of every U S V^T, about: (K, A, B) -> (K, A, B). Newton-Schulz: products only, no decomposition.

    One turn is X <- a X + b (X X^T) X + c (X X^T)^2 X, which maps each singular value s to a s + b s^3 + c s^5.
    """
    a, b, c = QUINTIC
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices  # the smaller X X^T
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # the largest singular value is now at most 1
    for _ in range(turns):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon:
    """Momentum of Nesterov, made orthogonal; weight decay apart. For the matrices inside the blocks only.

    Matrices of one shape are updated in one stack. `dtype` is the arithmetic of the products: bfloat16 is enough.
    """

    def __init__(self, groups: list[Group], momentum: float = 0.95, turns: int = 5, dtype: torch.dtype = torch.float32):
        self.groups, self.momentum, self.turns, self.dtype = groups, momentum, turns, dtype
        self.buffers = {
            name: torch.zeros_like(parameter, memory_format=torch.contiguous_format)
            for group in groups
            for name, parameter in group.members
        }

    @torch.no_grad()
    def step(self, factor: float = 1.0) -> None:
        """One update with every learning rate times `factor`."""
        for group in self.groups:
            shapes: dict[torch.Size, list[str]] = {}
            for name, parameter in group.members:
                shapes.setdefault(parameter.shape, []).append(name)
            for names in shapes.values():
                self._update(group, names, group.learning_rate * factor)

    def _update(self, group: Group, names: list[str], rate: float) -> None:
        """One stack of equal shapes."""
        members = dict(group.members)
        parameters: list[Tensor] = [members[name] for name in names]
        buffers = [self.buffers[name] for name in names]
        slopes = gradients(parameters)
        torch._foreach_lerp_(buffers, slopes, 1 - self.momentum)
        ahead = torch._foreach_lerp(slopes, buffers, self.momentum)  # Nesterov: one step further along
        A, B = parameters[0].shape
        update = orthogonal(torch.stack(ahead).to(self.dtype), self.turns).to(parameters[0].dtype)  # (K, A, B)
        torch._foreach_mul_(parameters, 1 - rate * group.decay)
        torch._foreach_add_(parameters, list(update), alpha=-rate * math.sqrt(max(1.0, A / B)))

    def tensors(self) -> dict[str, Tensor]:
        """Everything to be saved, by name."""
        return {f"{name}.momentum": buffer for name, buffer in self.buffers.items()}
