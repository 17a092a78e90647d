"""GPTQ: weights are rounded one column after the other, and those still to come make up for the error.

What a layer should keep is not its weights but its answers, W x for the x it meets. With H = sum of x x^T over text,

    error(Q) = sum over rows of (w - q) H (w - q)^T

If column j is rounded, the best that the columns after it can do is to move along a row of H's inverse, conditioned on
the columns already fixed. The Cholesky factor U of H^-1 = U^T U holds all these rows at once. Blocks of columns only
save passes over memory: the result is the same.
Source: Frantar et al. 2022, arXiv:2210.17323, eq. 2 to 4, algorithm 1; a ruler is laid when its group is reached, on
what the weights have become by then (section 4).

C_out, C_in widths; G groups of a row; N weights of a group; R rows of text, T tokens of a row.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from firsthand.linear.int4 import Int4, Ruler, meaning, nearest
from firsthand.linear.swap import put
from firsthand.model.gpt import GPT

DAMPING = 0.01  # of the mean of H's diagonal, added to it: what was hardly met must not be trusted without limit
BLOCK = 128  # columns between two passes over all that come after
SIDE_BY_SIDE = 8  # rows of text
STAGES = (  # layers of a block that read the same input
    ("attention.q", "attention.k", "attention.v"),
    ("attention.o",),
    ("mlp.gate", "mlp.up"),
    ("mlp.down",),
)
Told = Callable[[int, int], None]  # blocks done, blocks in all


def compensated(
    weight: Tensor, hessian: Tensor, group: int, fit: Callable[[Tensor], Ruler]
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes and rulers of a weight: (C_out, C_in), (C_in, C_in) -> (C_out, G, N), (C_out, G, 1), (C_out, G, 1)."""
    left, follow, wide = weight.clone(), followers(hessian).to(weight.dtype), weight.shape[1]
    codes, rulers = torch.zeros_like(left), []
    block = group * max(1, BLOCK // group)
    for start in range(0, wide, block):
        end = min(start + block, wide)
        errors = torch.zeros_like(left[:, start:end])
        for j in range(start, end):
            if j % group == 0:
                rulers.append(fit(left[:, j : j + group]))
            here = slice(j, j + 1)
            codes[:, here] = nearest(left[:, here], *rulers[-1])
            error = (left[:, here] - meaning(codes[:, here], *rulers[-1])) / follow[j, j]
            left[:, j:end] -= error * follow[j, j:end]
            errors[:, j - start] = error[:, 0]
        left[:, end:] -= errors @ follow[start:end, end:]
    scales, lows = (torch.stack(parts, dim=1) for parts in zip(*rulers, strict=True))
    return codes.view(len(codes), -1, group), scales, lows


def followers(hessian: Tensor) -> Tensor:
    """Row j: how the columns from j on move for an error of column j, times U_jj: (C_in, C_in) -> (C_in, C_in)."""
    diagonal = hessian.diagonal()
    damped = hessian + torch.diag((diagonal == 0).to(diagonal.dtype) + DAMPING * diagonal.mean())
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)


@torch.no_grad()
def calibrated(model: GPT, ids: Tensor, settings: dict[str, Any], told: Told = lambda done, total: None) -> None:
    """Round all linear layers of the blocks to 4 bits, each by what reaches it through those already rounded.

    `ids` are rows of text like that the model will meet: (R, T) -> (). At one time there is one stage's H in memory,
    and the stream of all rows.
    """
    model.eval()
    stream = [stopped(model.blocks[0], model.hidden, (rows,)) for rows in ids.split(SIDE_BY_SIDE)]
    for index, block in enumerate(model.blocks):
        told(index, len(model.blocks))
        for stage in STAGES:
            if names := [name for name in stage if name in dict(block.named_modules())]:
                hessian = met(block, names[0], stream)
                for name in names:
                    put(block, name, rounded(block.get_submodule(name), hessian, settings))
        stream = [(block(x, this), this) for x, this in stream]
    model.swaps.append({"kind": "int4", "patterns": ["blocks.*"], "settings": settings})


def rounded(layer: nn.Module, hessian: Tensor, settings: dict[str, Any]) -> Int4:
    """One layer in 4 bits, faithful to the inputs of which H is the sum."""
    made = Int4.empty(layer, settings)
    weight: Any = layer.weight
    group = made.in_features // made.codes.shape[1]
    made.fill(*compensated(weight.detach().float(), hessian, group, made.fit))
    return made


def met(block: nn.Module, name: str, stream: list[tuple[Tensor, Any]]) -> Tensor:
    """H of one layer, the sum of x x^T over all its inputs, in float64: -> (C_in, C_in)."""
    total: Any = 0.0
    for given in stream:
        (x,) = stopped(block.get_submodule(name), block, given)
        x = x.flatten(0, -2)  # (R·T, C_in)
        total = total + (x.T @ x).double()
    return total


class Reached(Exception):
    """A layer was about to be computed; that was all that was wanted."""


def stopped(at: nn.Module, run: Callable[..., object], given: tuple[Any, ...]) -> tuple[Any, ...]:
    """What reaches a layer when `run` runs; nothing after it is computed."""

    def stop(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        raise Reached(*inputs)

    hook = at.register_forward_pre_hook(stop)
    try:
        run(*given)
    except Reached as reached:
        return reached.args
    finally:
        hook.remove()
    raise AssertionError("the layer was not reached")
