"""AdamW, from zero: each weight moves by its smoothed gradient over that gradient's smoothed size.

Two forms of one formula: `update` in whole-tensor operations, for any device; `update_in_one_pass`, compiled, for
float32 on the processor, where memory is the limit and every further pass over the weights costs time.
"""

import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numba
import numpy as np
import torch
from torch import Tensor, nn

SLICE = 2**20  # weights that one thread updates at a time


@dataclass(frozen=True)
class Group:
    """Weights that share a peak learning rate and a decay."""

    members: list[tuple[str, nn.Parameter]]
    learning_rate: float
    decay: float


@dataclass(frozen=True)
class Pace:
    """The numbers of one AdamW update, bias corrections worked in."""

    rate: float  # learning rate / (1 - beta1^t)
    beta1: float
    beta2: float
    keep: float  # 1 - learning rate x decay: what is left of a weight
    root: float  # sqrt(1 - beta2^t)
    eps: float


class Optimizer(Protocol):
    """What the loop asks of an optimiser."""

    groups: list[Group]

    def step(self, factor: float = 1.0) -> None:
        """One update with every learning rate times `factor`."""

    def tensors(self) -> dict[str, Tensor]:
        """Everything to be saved, by name; copying into these tensors restores it."""
        ...


class AdamW:
    """Adam with weight decay beside the gradient, not inside it.

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2; Kingma and Ba 2015, arXiv:1412.6980.
    """

    def __init__(self, groups: list[Group], betas: tuple[float, float] = (0.9, 0.95), eps: float = 1e-8):
        self.groups, self.betas, self.eps = groups, betas, eps
        members = [member for group in groups for member in group.members]
        self.mean = {name: torch.zeros_like(parameter) for name, parameter in members}
        self.square = {name: torch.zeros_like(parameter) for name, parameter in members}
        self.steps = torch.zeros((), dtype=torch.int64)

    @torch.no_grad()
    def step(self, factor: float = 1.0) -> None:
        """One update with every learning rate times `factor`."""
        self.steps += 1
        for group in self.groups:
            names = [name for name, _ in group.members]
            parameters: list[Tensor] = [parameter for _, parameter in group.members]
            mean, square = [self.mean[name] for name in names], [self.square[name] for name in names]
            form = update_in_one_pass if _suits_the_kernel(parameters) else update
            form(parameters, gradients(parameters), mean, square, self._pace(group, factor))

    def _pace(self, group: Group, factor: float) -> Pace:
        beta1, beta2 = self.betas
        rate, t = group.learning_rate * factor, int(self.steps)
        return Pace(rate / (1 - beta1**t), beta1, beta2, 1 - rate * group.decay, math.sqrt(1 - beta2**t), self.eps)

    def tensors(self) -> dict[str, Tensor]:
        """Both averages of every weight, and how many updates there were."""
        means = {f"{name}.mean": tensor for name, tensor in self.mean.items()}
        squares = {f"{name}.square": tensor for name, tensor in self.square.items()}
        return {**means, **squares, "adamw.steps": self.steps}


Tensors = list[Tensor]


def update(p: Tensors, g: Tensors, mean: Tensors, square: Tensors, a: Pace) -> None:
    """The formula, an operation at a time over all tensors: p <- keep p - rate mean / (sqrt(square) / root + eps)."""
    torch._foreach_lerp_(mean, g, 1 - a.beta1)
    torch._foreach_mul_(square, a.beta2)
    torch._foreach_addcmul_(square, g, g, 1 - a.beta2)
    size = torch._foreach_sqrt(square)
    torch._foreach_div_(size, a.root)
    torch._foreach_add_(size, a.eps)
    torch._foreach_mul_(p, a.keep)
    torch._foreach_addcdiv_(p, mean, size, -a.rate)


def update_in_one_pass(p: Tensors, g: Tensors, mean: Tensors, square: Tensors, a: Pace) -> None:
    """The same, every weight read and written once, large tensors by slices on as many threads as torch uses."""
    numbers = [np.float32(x) for x in (a.rate, a.beta1, a.beta2, a.keep, a.root, a.eps)]
    work = [
        tuple(array[start : start + SLICE] for array in arrays)
        for tensors in zip(p, g, mean, square, strict=True)
        for arrays in [[tensor.detach().view(-1).numpy() for tensor in tensors]]
        for start in range(0, arrays[0].size, SLICE)
    ]
    threads = min(torch.get_num_threads(), len(work))
    if threads == 1 or sum(slices[0].size for slices in work) < SLICE:  # threads would cost more than they save
        for slices in work:
            _adamw(*slices, *numbers)
        return
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(_adamw, *slices, *numbers) for slices in work]:
            done.result()


@numba.njit(
    "void(f4[::1], f4[::1], f4[::1], f4[::1], f4, f4, f4, f4, f4, f4)",
    nogil=True,
    cache=True,
    error_model="numpy",
    fastmath={"contract", "nsz"},  # never "nnan": a NaN must stay one
)
def _adamw(
    p: Any, g: Any, mean: Any, square: Any, rate: Any, beta1: Any, beta2: Any, keep: Any, root: Any, eps: Any
) -> None:
    one = np.float32(1)
    for i in range(p.size):
        mean[i] += (g[i] - mean[i]) * (one - beta1)
        square[i] = square[i] * beta2 + g[i] * g[i] * (one - beta2)
        p[i] = p[i] * keep - rate * mean[i] / (math.sqrt(square[i]) / root + eps)


def _suits_the_kernel(parameters: Iterable[Tensor]) -> bool:
    return all(p.device.type == "cpu" and p.dtype == torch.float32 and p.is_contiguous() for p in parameters)


def gradients(parameters: Iterable[Tensor]) -> list[Tensor]:
    """The gradient of each; zero where the loss did not reach a weight in this step."""
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]


class Together:
    """Several optimisers as one: Muon for the matrices, AdamW for everything else."""

    def __init__(self, *members: Optimizer):
        self.members = members
        self.groups = [group for member in members for group in member.groups]

    def step(self, factor: float = 1.0) -> None:
        """One update of every member."""
        for member in self.members:
            member.step(factor)

    def tensors(self) -> dict[str, Tensor]:
        """What every member saves; names do not collide, for a weight belongs to one member."""
        return {name: tensor for member in self.members for name, tensor in member.tensors().items()}
