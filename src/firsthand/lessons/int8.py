"""Lesson: fewer bits. A weight needs four bytes to be learned, one to be used, and half a byte if its neighbours help.

A ruler is laid beside some weights, and of each is kept only the mark that is nearest. Three things make it good:

    many rulers      one for a row of weights, or for 32 neighbours: a single large weight spoils only its own
    whole numbers    marks times marks is exact, and processors multiply bytes several times faster than fractions
    make up for it   what rounding one weight did wrong, the weights not yet rounded can partly undo (GPTQ)

135 million weights take 540 MB with four bytes each, 135 MB with one, and 84 MB with four bits and a ruler for every 32
of them, which is two numbers of half precision.

C_in and C_out widths of a layer, B rows of a batch, N weights of a group.
Sources: Dettmers et al. 2022, arXiv:2208.07339, section 2.1; Frantar et al. 2022, arXiv:2210.17323, eq. 2 and 3.
"""

import torch
from torch import Tensor

SHARES = [1 - 0.04 * cut for cut in range(13)]  # how much of a group's span a ruler of 16 marks is tried to cover


def whole_numbers(x: Tensor) -> tuple[Tensor, Tensor]:
    """Eight bits: each row as whole numbers from -127 to 127, and how long its step is: (B, N) -> (B, N), (B, 1).

    The largest number of the row, on either side of zero, is mark 127.
    """
    step = x.abs().amax(dim=1, keepdim=True) / 127
    return torch.round(x / step.clamp(min=1e-30)), step  # a row of zeros has a step of zero


def integer_layer(x: Tensor, codes: Tensor, steps: Tensor) -> Tensor:
    """A layer in whole numbers: (B, C_in), (C_out, C_in), (C_out, 1) -> (B, C_out).

    What enters is rounded too, each row by its own largest number. Then y = sum of (step x's) (step w's) splits into
    the two steps, taken once, and a sum of products of bytes, which is exact however long it is.
    """
    marks, step = whole_numbers(x)
    products = marks.to(torch.int32) @ codes.to(torch.int32).T  # no rounding anywhere
    return products.to(x.dtype) * step * steps[:, 0]


def nearest(x: Tensor, scale: Tensor, low: Tensor) -> Tensor:
    """The nearest of a ruler's 16 marks, as the number that it stands for: (N,), (), () -> (N,)."""
    if scale == 0:  # all weights were equal
        return low.expand(x.shape)
    return low + scale * torch.round((x - low) / scale).clamp(0, 15)


def ruler(group: Tensor) -> tuple[Tensor, Tensor]:
    """Four bits: where a ruler of 16 marks begins, and how long its steps are, for some neighbours: (N,) -> (), ().

    From the smallest weight to the largest would leave none out. But one far off makes the steps long for all: so
    shorter rulers are tried as well, which cut off both ends, and the one with the smallest squared error is taken.
    Both numbers are kept in half precision, and it is these that count.
    """
    smallest, span = group.min(), group.max() - group.min()
    tried = []
    for share in SHARES:
        scale = (share * span / 15).half().to(group.dtype)
        low = (smallest + (1 - share) / 2 * span).half().to(group.dtype)
        error = ((nearest(group, scale, low) - group) ** 2).sum()
        tried.append((float(error), scale, low))
    _, scale, low = min(tried, key=lambda one: one[0])  # of equal ones the first, which is the longest
    return scale, low


def in_groups(weight: Tensor, size: int) -> Tensor:
    """A weight as four bits mean it, every group by its own ruler: (C_out, C_in) -> (C_out, C_in)."""
    rounded = torch.empty_like(weight)
    for row in range(weight.shape[0]):
        for start in range(0, weight.shape[1], size):
            group = weight[row, start : start + size]
            rounded[row, start : start + size] = nearest(group, *ruler(group))
    return rounded


def answer_error(weight: Tensor, rounded: Tensor, inputs: Tensor) -> float:
    """How far answers are off for the inputs that a layer meets, squared: (C_out, C_in) twice, (B, C_in) -> ()."""
    return float(((inputs @ (weight - rounded).T) ** 2).sum())


def gptq(weight: Tensor, inputs: Tensor, size: int) -> Tensor:
    """Four bits that keep the answers rather than the weights: (C_out, C_in), (B, C_in) -> (C_out, C_in).

    Columns are rounded from left to right. If inputs 3 and 7 always come together, then what weight 3 lost, weight 7
    can give back. How much of it each later column should take stands in the inverse of H = sum of x x^T; once a column
    is fixed it can give nothing any more, and is taken out of the inverse by one step of elimination.
    """
    hessian = inputs.T @ inputs
    damping = 0.01 * hessian.diagonal().mean()  # what the inputs hardly show must not be trusted without limit
    inverse = torch.linalg.inv(hessian + damping * torch.eye(len(hessian), dtype=hessian.dtype))
    left, rounded = weight.clone(), torch.empty_like(weight)
    rulers: list[tuple[Tensor, Tensor]] = []
    for j in range(weight.shape[1]):
        if j % size == 0:  # laid on what the weights have become by now
            rulers = [ruler(row[j : j + size]) for row in left]
        rounded[:, j] = torch.stack([nearest(w, *marks) for w, marks in zip(left[:, j], rulers, strict=True)])
        error = (left[:, j] - rounded[:, j]) / inverse[j, j]
        left -= torch.outer(error, inverse[j])  # column j becomes what it was rounded to; columns before do not move
        inverse = inverse - torch.outer(inverse[:, j], inverse[j]) / inverse[j, j]
        inverse[j], inverse[:, j] = 0, 0  # exactly, not nearly: it is out
    return rounded
