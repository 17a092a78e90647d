"""Layers of fewer bits: whole numbers and rulers are kept, and what they stand for is made anew for every product.

Only the layer's own bias is a parameter, and nothing here learns: rounded numbers have no gradient. What learns are
adapters around such a layer, as in QLoRA (Dettmers et al. 2023, arXiv:2305.14314).

Shapes of layers: (..., C_in) -> (..., C_out).
"""

from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from firsthand.errors import ModelError


class Quantized(nn.Module):
    """What stands where a Linear stood. A subclass says what it keeps (`empty`, `round`) and means (`numbers`)."""

    def __init__(self, layer: Any):
        super().__init__()
        if type(layer) is not nn.Linear:
            raise ModelError(
                f"a {type(layer).__name__} cannot be quantized, only a plain linear layer: merge adapters first, and "
                "quantize the original model rather than one that was rounded or taught labels before",
                code=42,
            )
        self.out_features, self.in_features = layer.weight.shape
        self.dtype, self.made_on = layer.weight.dtype, layer.weight.device
        self.bias = layer.bias
        self.requires_grad_(False)

    @classmethod
    def of(cls, layer: Any, settings: dict[str, Any]) -> Self:
        """The layer rounded to the nearest; of one without memory only the shape, to be given its numbers later."""
        made = cls.empty(layer, settings)
        if not layer.weight.is_meta:
            made.round(layer.weight.detach())
        return made

    @classmethod
    def empty(cls, layer: nn.Module, settings: dict[str, Any]) -> Self:
        """A layer of this kind and the shape of another, its numbers not yet set."""
        raise NotImplementedError

    def round(self, weight: Tensor) -> None:
        """Keep the nearest there is to a weight (C_out, C_in)."""
        raise NotImplementedError

    def numbers(self) -> Tensor:
        """What is meant, in float32: -> (C_out, C_in)."""
        raise NotImplementedError

    @property
    def weight(self) -> Tensor:
        """What is meant, in the type of the weight that stood here: (C_out, C_in)."""
        return self.numbers().to(self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C_in) -> (..., C_out)."""
        return self.shifted(Product.apply(x, self))

    def shifted(self, y: Tensor) -> Tensor:
        """With the bias, if there is one: (..., C_out) -> (..., C_out)."""
        return y if self.bias is None else y + self.bias.to(y.dtype)

    @property
    def bits(self) -> float:
        """How many bits one weight costs, rulers included."""
        stored = sum(buffer.nbytes for buffer in self.buffers(recurse=False))
        return 8 * stored / (self.in_features * self.out_features)

    def keep(self, name: str, *shape: int, dtype: torch.dtype) -> None:
        """Room for whole numbers or for rulers, where the weight is."""
        self.register_buffer(name, torch.empty(*shape, dtype=dtype, device=self.made_on))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What is kept moves between devices, as bytes; `model.to(torch.bfloat16)` must not round the rulers again."""
        kept = {id(buffer) for buffer in self.buffers(recurse=False)}
        super()._apply(lambda x: fn(x.view(torch.uint8)).view(x.dtype) if id(x) in kept else fn(x), recurse)
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device="cpu")).dtype
        return self


class Product(torch.autograd.Function):
    """x W^T for a W made of whole numbers: (..., C_in) -> (..., C_out).

    On the way back W is made once more instead of being kept, or a model in 4 bits would need the memory of one in 32.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Quantized) -> Tensor:
        ctx.layer = layer
        return x @ layer.numbers().to(x.dtype).T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] @ ctx.layer.numbers().to(grads[0].dtype), None


class Rows(nn.Module):
    """The embedding of a tied model whose head is quantized: both are one table of whole numbers, stored once.

    Looked up are the numbers it stands for, which are made at the first look and then kept.
    """

    def __init__(self, table: Quantized):
        super().__init__()
        self.table = table
        self.made: tuple[Tensor, Tensor] | None = None  # what they were made of, and the numbers

    @property
    def weight(self) -> Tensor:
        """The rows, one for each token: (V, C)."""
        codes = self.table.get_buffer("codes")  # another one after the model was moved, cast or given its weights
        if self.made is None or self.made[0] is not codes:
            self.made = (codes, self.table.weight)
        return self.made[1]

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, C)."""
        return F.embedding(ids, self.weight)
