"""Learn to answer: the next token of what the assistant says, or of the whole conversation.

B rows, T positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from firsthand.objectives.base import Batch, Loss
from firsthand.objectives.packing import packed
from firsthand.objectives.pretrain import next_token_loss
from firsthand.objectives.rows import Example, rows

Learn = Literal["answer", "all"]


@dataclass(frozen=True)
class Instruct:
    """The next token of answers; `learn` "all" takes the instruction in too, as pretraining would."""

    learn: Learn = "answer"

    def prepare(self, model: nn.Module) -> None:
        """Nothing to add: the model's own head is what learns."""

    def collate(self, examples: Sequence[Example]) -> Batch:
        """(ids, mask) of one conversation each -> inputs (B, T), targets (B, T); count: the learned tokens."""
        return rows([shown(example, self.learn) for example in examples])

    def loss(self, model: Any, batch: Batch) -> Loss:
        """Minus log-probability of every learned token, summed over the batch, in nats."""
        return Loss(next_token_loss(model, batch))


@dataclass(frozen=True)
class Packed:
    """The same from rows that hold several conversations each, as `pack` lays them: less padding, equal sums."""

    learn: Learn = "answer"

    def prepare(self, model: nn.Module) -> None:
        """Nothing to add: the model's own head is what learns."""

    def collate(self, examples: Sequence[Sequence[Example]]) -> Batch:
        """Rows of (ids, mask) -> inputs (B, T), targets (B, T), positions (B, T); count: the learned tokens."""
        return packed([[shown(example, self.learn) for example in row] for row in examples])

    def loss(self, model: Any, batch: Batch) -> Loss:
        """Minus log-probability of every learned token, summed over the batch, in nats."""
        return Loss(next_token_loss(model, batch))


def shown(example: Example, learn: Learn) -> Example:
    """An example as it is learned."""
    return (example[0], [True] * len(example[0])) if learn == "all" else example
