"""A head of labels where the head of tokens stood: what a text is, instead of what comes next.

N labels. It begins as zero: every label is equally likely, and the first loss is log N.
"""

from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass
from torch import nn

from firsthand import files
from firsthand.errors import ModelError
from firsthand.model.gpt import GPT

LABEL = Annotated[str, Field(min_length=1, max_length=200)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Settings:
    """The labels in the order of their scores."""

    labels: Annotated[list[LABEL], Field(max_length=10_000)]

    def __post_init__(self) -> None:
        if len(set(self.labels)) < max(2, len(self.labels)):
            raise ModelError(f"a head of labels needs two or more different ones; it was given {len(self.labels)}")


class LabelHead(nn.Linear):
    """Scores of labels: (..., C) -> (..., N)."""

    def __init__(self, width: int, labels: list[str]):
        super().__init__(width, len(labels))
        self.labels = tuple(labels)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


def instead(layer: Any, settings: dict[str, Any]) -> nn.Module:
    """A head of labels for the layer that stands there; of the same width, type and place."""
    labels = TypeAdapter(Settings).validate_python(settings).labels
    weight = layer.weight  # of a quantized layer, what its numbers stand for
    return LabelHead(weight.shape[1], labels).to(weight.device, weight.dtype)


def labels_of(model: GPT) -> tuple[str, ...]:
    """The labels a model tells apart; an error if it is not one that does."""
    if not isinstance(model.head, LabelHead):
        raise ModelError("this model continues text and knows no labels. Make it a classifier: firsthand finetune")
    return model.head.labels


def refuse_labels(model: GPT) -> None:
    """An error for a model that tells labels apart: it has no scores of tokens, and would seem to speak nonsense."""
    if isinstance(model.head, LabelHead):
        known = ", ".join(files.quoted(label)[1:-1] for label in model.head.labels)
        raise ModelError(f"this model tells labels apart ({known:.60}) and continues no text. Use: firsthand classify")
