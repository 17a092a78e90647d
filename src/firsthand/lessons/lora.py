"""Lesson: LoRA. Teach a model something new without touching what it knows.

A layer is a matrix W of C_out x C_in numbers. Fine-tuning all of them needs a gradient and two averages of AdamW for
each: four times the model in memory. But what a model must learn to follow one task is simple next to all it knows: the
*change* of W can be written as two thin matrices, B times A, with a few rows and columns. Only these are learned.

    W x                what the layer said before
    W x + s B (A x)    what it says now: x is squeezed into R numbers, and these are spread out again

A layer of 768 x 768 has 589,824 weights; with R = 8 its adapter has 2 x 8 x 768 = 12,288, a fiftieth.

R rank, C_in and C_out widths of the layer, B rows of a batch.
Source: Hu et al. 2021, arXiv:2106.09685, section 4.1.
"""

import math

import torch
from torch import Tensor, nn


class LoraLinear(nn.Module):
    """A layer that keeps its weights, and a detour around it that learns."""

    def __init__(self, layer: nn.Linear, rank: int, alpha: float, generator: torch.Generator):
        super().__init__()
        self.layer = layer.requires_grad_(False)  # frozen: it gets no gradient, and AdamW keeps nothing for it
        self.scale = alpha / rank  # so that a rate that suits one rank suits another
        # A is random and B is zero. The other way round would do as well; but with both zero neither could ever learn:
        # the gradient of A is a product with B, and that of B a product with A.
        bound = 1 / math.sqrt(layer.in_features)
        self.A = nn.Parameter(torch.empty(rank, layer.in_features).uniform_(-bound, bound, generator=generator))
        self.B = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in) -> (B, C_out)."""
        narrow = x @ self.A.T  # (B, R): what of x matters for the task
        wide = narrow @ self.B.T  # (B, C_out): what to do about it
        return self.layer(x) + self.scale * wide


def adapt(model: nn.Module, rank: int, alpha: float, generator: torch.Generator) -> list[nn.Parameter]:
    """Put a detour around every linear layer of a model, freeze all else, and give what is left to learn."""
    for weight in model.parameters():
        weight.requires_grad_(False)
    learned = []
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear):
                detour = LoraLinear(layer, rank, alpha, generator)
                setattr(parent, name, detour)
                learned += [detour.A, detour.B]
    return learned


def change(detour: LoraLinear) -> Tensor:
    """What was learned, as one matrix: () -> (C_out, C_in). However large it is, its rank is at most R."""
    return detour.scale * detour.B @ detour.A


def merge(detour: LoraLinear) -> nn.Linear:
    """The layer with the change inside: W x + s B A x = (W + s B A) x. No detour, no cost; and no way back."""
    merged = nn.Linear(detour.layer.in_features, detour.layer.out_features, detour.layer.bias is not None)
    merged.weight = nn.Parameter(detour.layer.weight + change(detour))
    if detour.layer.bias is not None:
        merged.bias = detour.layer.bias
    return merged


def rank_needed(difference: Tensor, share: float) -> int:
    """How many rows an A would need to hold this share of a change of weights: (C_out, C_in) -> ().

    Every matrix is a sum of columns times rows, the most important first, each with a length, its singular value. The
    best matrix of rank R is the first R of them (Eckart and Young 1936), and it holds their squares of the whole.
    """
    squares = torch.linalg.svdvals(difference.detach()) ** 2
    held = 0.0
    for rank in range(len(squares)):
        if held >= share * float(squares.sum()):
            return rank
        held += float(squares[rank])
    return len(squares)
