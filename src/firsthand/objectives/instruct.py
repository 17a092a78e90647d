"""Learn to answer: the next token of what the assistant says, or of the whole conversation.

B rows, T positions.
"""

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from firsthand.errors import ConfigError
from firsthand.model.gpt import GPT
from firsthand.objectives.base import IGNORE, Batch, Loss
from firsthand.objectives.packing import packed
from firsthand.objectives.pretrain import ROOM, token_loss
from firsthand.objectives.rows import Example, rows
from firsthand.objectives.thaw import Thaw, only_upper
from firsthand.objectives.trunk import Trunk, hidden_of

Learn = Literal["answer", "all"]


class Instruct:
    """The next token of answers; `learn` "all" takes the instruction in too, as pretraining would.

    `thaw` "block" and "two" freeze what lies below (thaw.py); the head is the model's own and then stays as it is. With
    a `trunk`, the frozen blocks are not computed again. "all" and "lora" leave the model as it came. `pack` makes a
    batch one row without padding.
    """

    references = 0  # forward passes beside the model's own

    def __init__(self, learn: Learn = "answer", thaw: Thaw = "all", pack: bool = False):
        if thaw == "head":
            raise ConfigError("thaw is head, which is a new head of labels; answers come from the old one. Use block")
        self.learn, self.thaw, self.pack = learn, thaw, pack
        self.trunk: Trunk | None = None

    def prepare(self, model: nn.Module) -> None:
        """Nothing to add: the model's own head is what speaks."""
        assert isinstance(model, GPT)
        only_upper(model, self.thaw)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """(ids, mask) of one conversation each -> inputs (B, T), targets (B, T); count: the learned tokens."""
        batch = rows([shown(example, self.learn) for example in examples])
        return packed(batch) if self.pack else batch

    def loss(self, model: Any, batch: Batch) -> Loss:
        """Minus log-probability of every learned token, summed over the batch, in nats."""
        hidden = hidden_of(model, batch, self.trunk)
        learned = batch.targets != IGNORE  # the head, a fifth of a small model, reads these positions only
        pieces = max(1, ROOM // model.config.vocab_size)
        return Loss(token_loss(hidden[learned], model.head, batch.targets[learned], pieces))


def shown(example: Example, learn: Learn) -> Example:
    """An example as it is learned."""
    return (example[0], [True] * len(example[0])) if learn == "all" else example
