"""Learn what a text is: one of N labels, read at its last token, the only one that has seen all of it.

B rows, T positions, C width, N labels. An example is (ids, label), the label as a number.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from firsthand.errors import ConfigError, DataError
from firsthand.linear.kinds import change
from firsthand.linear.labels import LabelHead
from firsthand.model.gpt import GPT
from firsthand.objectives.base import Batch, Loss
from firsthand.objectives.packing import packed
from firsthand.objectives.thaw import Thaw, frozen_below
from firsthand.objectives.trunk import Trunk, hidden_of

Reads = Literal["last", "first"]


class Classify:
    """The label of every row. `thaw` says what learns beside the new head (thaw.py).

    `reads` says at which token: the last has seen the whole text, the first only itself, for comparison.
    `weights` count the rows of a label more or less, one number a label, normalised to mean 1. With a `trunk`, the
    frozen blocks are not computed again; dropout in them is then off, as it should be where nothing learns. `pack` says
    that a batch is one row without padding, which changes nothing but the time.
    """

    references = 0  # forward passes beside the model's own

    def __init__(
        self,
        labels: Sequence[str],
        thaw: Thaw = "block",
        weights: Sequence[float] = (),
        reads: Reads = "last",
        pack: bool = False,
    ):
        if weights and len(weights) != len(labels):
            raise ConfigError(f"{len(weights)} weights for {len(labels)} labels; give one for each")
        self.labels, self.thaw, self.reads, self.pack = tuple(labels), thaw, reads, pack
        mean = sum(weights) / len(labels)
        self.weights = torch.tensor([weight / mean for weight in weights]) if weights else None
        self.trunk: Trunk | None = None

    def prepare(self, model: nn.Module) -> None:
        """A head of labels, unless these are its labels already, and nothing frozen that shall learn."""
        assert isinstance(model, GPT)
        if not isinstance(model.head, LabelHead) or model.head.labels != self.labels:
            change(model, "labels", ["head"], {"labels": list(self.labels)})
        if self.thaw != "lora":
            model.requires_grad_(self.thaw == "all")
        for block in frozen_below(model, self.thaw)[1]:
            block.requires_grad_(True)
        model.head.requires_grad_(True)

    def collate(self, examples: Sequence[tuple[Sequence[int], int]]) -> Batch:
        """Rows (ids, label) -> inputs (B, T), targets (B,), padded on the right or packed; count: the texts."""
        lengths = torch.tensor([len(ids) for ids, _ in examples])
        if not int(lengths.min()):
            raise DataError("a text of no tokens cannot be labelled; leave empty rows out", code=15)
        inputs = torch.zeros(len(examples), int(lengths.max()), dtype=torch.long)
        for row, (ids, _) in enumerate(examples):
            inputs[row, : len(ids)] = torch.as_tensor(ids)
        batch = Batch(inputs, torch.tensor([label for _, label in examples]), lengths, len(examples))
        return packed(batch) if self.pack else batch

    def loss(self, model: Any, batch: Batch) -> Loss:
        """Minus log-probability of every row's label, in nats, summed; and how many labels were the likeliest."""
        scores = self.scores(model, batch)
        weights = None if self.weights is None else self.weights.to(scores)
        total = F.cross_entropy(scores, batch.targets, weights, reduction="sum")
        return Loss(total, {"accuracy": (scores.argmax(dim=1) == batch.targets).sum()})

    def scores(self, model: Any, batch: Batch) -> Tensor:
        """The score of every label, at the last real token of each text, or the first: (B, T) -> (B, N)."""
        hidden = hidden_of(model, batch, self.trunk).flatten(0, 1)  # (B T, C)
        at = batch.starts if self.reads == "first" else batch.starts + batch.lengths - 1
        scores = model.head(hidden[at])  # (B, C) -> (B, N)
        return scores.to(torch.promote_types(scores.dtype, torch.float32))
