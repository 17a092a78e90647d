"""The three things every objective speaks of: a Batch, a Loss, and what an objective must be able to do.

B rows, T positions, N texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

IGNORE = -100  # a target that is not learned: the prompt of an instruction, the padding of a row


@dataclass(frozen=True)
class Batch:
    """Texts, one a row, padded on the right: inputs (B, T), targets (B, T) or (B,), lengths (B,).

    `count` says over how many things (tokens, texts, pairs) the sum of the loss runs. Where `positions` (1, T) are
    there, all N texts stand in one row (packing.py), and positions begin again at 0 with each; lengths are (N,).
    """

    inputs: Tensor
    targets: Tensor
    lengths: Tensor
    count: int
    positions: Tensor | None = None
    parts: int = 1  # texts that one example makes; a pair makes two

    @property
    def examples(self) -> int:
        """How many examples it was made of: so far does it move a run on in its data."""
        return len(self.lengths) // self.parts

    @property
    def starts(self) -> Tensor:
        """Where every text begins among all B T places: (N,)."""
        if self.positions is not None:
            return self.lengths.cumsum(dim=0) - self.lengths
        return torch.arange(len(self.lengths), device=self.lengths.device) * self.inputs.shape[1]

    @property
    def texts(self) -> list[Tensor]:
        """The ids of every text, without padding."""
        ids = self.inputs.flatten()
        return [ids[at : at + length] for at, length in zip(self.starts.tolist(), self.lengths.tolist(), strict=True)]

    @property
    def learned(self) -> Tensor:
        """How many targets of every text are learned, where targets are tokens: (N,)."""
        return self.by_text((self.targets != IGNORE).long())

    def by_text(self, values: Tensor) -> Tensor:
        """The sums over every text, of values that are 0 where there is padding: (B, T) -> (N,)."""
        if self.positions is None:
            return values.sum(dim=1)
        text = torch.repeat_interleave(torch.arange(len(self.lengths), device=values.device), self.lengths)
        return values.new_zeros(len(self.lengths)).index_add(0, text, values[0])

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("inputs", "targets", "lengths")}
        return replace(self, **moved, positions=None if self.positions is None else self.positions.to(device))


@dataclass(frozen=True)
class Loss:
    """A *sum* over `Batch.count` things, in nats, and further sums by name.

    Never a mean: batches of unequal count must be added up first and divided once (the loop does it).
    """

    total: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


class Objective(Protocol):
    """What is learned: a new one is one file with these three."""

    def prepare(self, model: nn.Module) -> None:
        """Change the model before training: add a head, thaw what must learn."""

    def collate(self, examples: Sequence[Any]) -> Batch:
        """Rows of examples -> one batch."""
        ...

    def loss(self, model: Any, batch: Batch) -> Loss:
        """How wrong the model is about a batch, summed."""
        ...
