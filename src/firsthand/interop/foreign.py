"""What every reader of a foreign format gives: a model in our names and shapes, and what came with it."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from firsthand import files
from firsthand.errors import ModelError
from firsthand.model.assemble import assemble
from firsthand.model.config import ModelConfig
from firsthand.model.gpt import GPT


@dataclass(frozen=True)
class Foreign:
    """A model as another program stored it, read and checked, but not yet built."""

    config: ModelConfig
    tensors: dict[str, Tensor]  # by our names, in our layout, in the type of the file; what was quantized is float32
    tokenizer: Any  # has as many tokens as the model has rows
    where: str  # the file or folder, for messages
    template: str | None = None  # how turns of a chat become text, as Jinja
    ends: tuple[int, ...] = ()  # ids after which an answer is over
    about: dict = field(default_factory=dict)  # for firsthand.json: format, source, hashes, what was left out and why

    def build(self, dtype: torch.dtype | None = torch.float32) -> GPT:
        """The model; its numbers of type `dtype`, or with None as they are in the file."""
        return assemble(self.config, self.tensors, self.where, dtype)


def require_numbers(name: str, tensor: Tensor, where: str) -> None:
    """Weights are finite numbers of a floating type."""
    if not tensor.is_floating_point():
        raise ModelError(
            f"{where}: tensor {files.quoted(name)} is {tensor.dtype}, a quantized form that is not read. Use "
            "the original",
            18,
        )
    if tensor.numel() and not all(math.isfinite(end) for end in tensor.aminmax()):  # both are NaN if any number is
        raise ModelError(f"{where}: tensor {files.quoted(name)} holds NaN or infinite numbers. Fetch the model again")
