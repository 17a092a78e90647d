"""Of which rank is what training changed: the singular values of W_after - W_before, layer by layer.

A LoRA adapter of rank R can hold any change of rank R, and of a larger one at best its R largest parts. So the spectrum
of full fine-tuning says beforehand which rank would have done. A share counts squares: the squared singular values sum
to the squared length of the change.
Source: Eckart and Young 1936, theorem 1.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from firsthand.errors import ModelError
from firsthand.linear.lora import Adapted
from firsthand.linear.swap import linears
from firsthand.model.gpt import GPT


@dataclass(frozen=True)
class Spectrum:
    """What training changed in one layer."""

    name: str
    values: Tensor  # singular values of the change, the largest first
    relative: float  # length of the change over length of the weight before

    def rank_for(self, share: float) -> int:
        """The smallest rank that holds this share of the change; 0 where nothing changed."""
        if not 0 < share <= 1:
            raise ModelError(f"a share of the change is {share}; it must be above 0 and at most 1, usual: 0.9")
        squares = self.values.double() ** 2
        held = squares.cumsum(0)
        return 0 if not held[-1] > 0 else int((held < share * held[-1] * (1 - 1e-12)).sum()) + 1

    def held(self, rank: int) -> float:
        """The share of the change that the best matrix of a rank holds; of no change, all."""
        squares = self.values.double() ** 2
        return float(squares[:rank].sum() / squares.sum()) if squares.sum() > 0 else 1.0

    @property
    def effective(self) -> float:
        """How many parts matter, without a threshold: e to the entropy of their shares.

        Source: Roy and Vetterli 2007, "The effective rank", eq. 3, here of the squares.
        """
        squares = self.values.double() ** 2
        shares = squares[squares > 0] / squares.sum()
        return float(torch.exp(-(shares * shares.log()).sum())) if len(shares) else 0.0


@torch.no_grad()
def spectra(before: GPT, after: GPT) -> list[Spectrum]:
    """The spectrum of every linear layer, in the order of the model; of two models of one shape."""
    if before.config != after.config:
        raise ModelError(
            "the models before and after have different shapes, so there is no difference of their weights"
        )
    found = []
    for name in linears(before):
        old, new = (_weight(model, name) for model in (before, after))
        delta = new - old
        values = torch.linalg.svdvals(delta) if delta.any() else delta.new_zeros(min(delta.shape))  # a head is large
        found.append(Spectrum(name, values, float(delta.norm() / old.norm())))
    return found


def ranks_for(found: list[Spectrum], share: float) -> dict[str, list[int]]:
    """The rank that would hold a share of the change, by kind of layer: one for each block."""
    ranks: dict[str, list[int]] = {}
    for one in found:
        ranks.setdefault(one.name.split(".", 2)[-1], []).append(one.rank_for(share))
    return ranks


def _weight(model: GPT, name: str) -> Tensor:
    """What a layer multiplies by, in float32 or better: (C_out, C_in); the adapter that acts included."""
    layer: Any = model.get_submodule(name)
    weight = layer.weight.to(torch.promote_types(layer.weight.dtype, torch.float32))
    acting = isinstance(layer, Adapted) and layer.active is not None
    return layer.adapter(layer.active).merged(weight) if acting else weight
