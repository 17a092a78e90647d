"""A cache of bytes: every key and value of a head is kept as whole numbers from -127 to 127 and one scale.

The new tokens too are seen as they will be remembered, so the logits do not depend on how a text is cut into pieces.
They do differ from those of the exact caches: each number by at most half a step, that is 1/254 of the largest in its
head. `firsthand prove` says what comes of it.

B batch, T new positions, S positions attended to, G key-value heads, D head width.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from firsthand.model.cache import Bytes, Cache, StaticCache
from firsthand.model.config import ModelConfig


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers and their scale, whose product is nearly x: (B, G, T, D) -> (B, G, T, D), (B, G, T, 1)."""
    scales = (x.abs().amax(dim=-1, keepdim=True) / 127).float().clamp(min=torch.finfo(torch.float32).tiny)
    return (x / scales.to(x.dtype)).round().clamp(-127, 127).to(torch.int8), scales


class Int8Cache:
    """Two caches of one kind side by side, one for the whole numbers and one for the scales."""

    def __init__(self, config: ModelConfig, batch: int = 1, kind: Callable[[ModelConfig, int], Cache] = StaticCache):
        self.numbers, self.scales = kind(config, batch), kind(config, batch)
        self.capacity, self.window = self.numbers.capacity, self.numbers.window

    @property
    def lengths(self) -> Tensor:
        return self.numbers.lengths

    def begin(self, counts: Tensor, T: int) -> Tensor:
        self.scales.begin(counts, T)
        return self.numbers.begin(counts, T)

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        (new_k, k_scale), (new_v, v_scale) = quantize(k), quantize(v)
        keys, values = self.numbers.append(layer, new_k, new_v)  # (B, G, S, D)
        k_scales, v_scales = self.scales.append(layer, k_scale, v_scale)  # (B, G, S, 1)
        return keys * k_scales.to(k.dtype), values * v_scales.to(v.dtype)

    def advance(self) -> None:
        self.numbers.advance()
        self.scales.advance()

    def rewind(self, lengths: Tensor | int) -> None:
        self.numbers.rewind(lengths)
        self.scales.rewind(lengths)

    def select(self, rows: Tensor) -> None:
        self.numbers.select(rows)
        self.scales.select(rows)

    def bytes(self) -> Bytes:
        numbers, scales = self.numbers.bytes(), self.scales.bytes()
        return Bytes(numbers.total + scales.total, numbers.token + scales.token)
