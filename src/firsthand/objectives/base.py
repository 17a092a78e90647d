"""The three things every objective speaks of: a Batch, a Loss, and what an objective must be able to do.

B rows, T positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

IGNORE = -100  # a target that is not learned: the prompt of an instruction, the padding of a row


@dataclass(frozen=True)
class Batch:
    """Rows of equal length, padded on the right: inputs (B, T), targets (B, T) or (B,), lengths (B,).

    `count` says over how many things (tokens, rows, pairs) the sum of the loss runs.
    """

    inputs: Tensor
    targets: Tensor
    lengths: Tensor
    count: int
    rows: int = 1  # that one example makes; a pair makes two

    @property
    def examples(self) -> int:
        """How many examples it was made of: so far does it move a run on in its data."""
        return len(self.inputs) // self.rows

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("inputs", "targets", "lengths")}
        return replace(self, **moved)


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
