"""Learn to answer: the next token of what the assistant says, or of the whole conversation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from firsthand.objectives.base import Batch, Loss
from firsthand.objectives.pretrain import next_token_loss
from firsthand.objectives.rows import Example, rows


@dataclass(frozen=True)
class Instruct:
    """The next token of answers; `learn` "all" takes the instruction in too, as pretraining would."""

    learn: Literal["answer", "all"] = "answer"

    def prepare(self, model: nn.Module) -> None:
        """Nothing to add: the model's own head is what learns."""

    def collate(self, examples: Sequence[Example]) -> Batch:
        """(ids, mask) of one conversation each -> inputs (B, T), targets (B, T); count: the learned tokens."""
        if self.learn == "all":
            examples = [(ids, [True] * len(ids)) for ids, _ in examples]
        return rows(examples)

    def loss(self, model: Any, batch: Batch) -> Loss:
        """Minus log-probability of every learned token, summed over the batch, in nats."""
        return Loss(next_token_loss(model, batch))
