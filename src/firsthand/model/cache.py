"""Keys and values of tokens already seen, so that a new token costs one token's work.

A cache is an argument of `GPT.forward`, never a part of the model: conversations share no state. Every layer
appends its new keys and values; `forward` advances the lengths once, after the last layer.

L layers, B batch, T new positions, S positions attended to, G key-value heads, D head width.
"""

from typing import Protocol

import torch
from torch import Tensor

from firsthand.errors import ModelError
from firsthand.model.config import ModelConfig


class Cache(Protocol):
    """What attention needs of a cache."""

    capacity: int  # tokens a row can hold
    lengths: Tensor  # (B,) tokens a row holds; on the CPU, because shapes depend on them and a GPU must not be asked

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer, the new ones included: (B, G, T, D) twice -> (B, G, S, D) twice."""
        ...

    def advance(self, count: int | Tensor) -> None:
        """Count what was appended as seen: the same number for every row, or (B,) numbers without the padding."""
        ...


class GrowingCache:
    """The simplest cache: concatenate. Rows grow together, and each step copies all that came before."""

    def __init__(self, config: ModelConfig, batch: int = 1):
        self.capacity = config.context_length
        self.lengths = torch.zeros(batch, dtype=torch.long)
        self.keys: list[Tensor | None] = [None] * config.n_layer
        self.values: list[Tensor | None] = [None] * config.n_layer

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        old_k, old_v = self.keys[layer], self.values[layer]
        if old_k is not None and old_v is not None:
            k, v = torch.cat([old_k, k], dim=2), torch.cat([old_v, v], dim=2)  # (B, G, S, D)
        self.keys[layer], self.values[layer] = k, v
        return k, v

    def advance(self, count: int | Tensor) -> None:
        if isinstance(count, Tensor) and (count != count[0]).any():
            raise ModelError(f"a GrowingCache grows all rows alike, not by {count.tolist()}; use a StaticCache")
        self.lengths = self.lengths + count


class StaticCache:
    """Room for `length` tokens in each of `batch` rows, allocated once; every row has its own length.

    Memory comes with the first append, in the type and on the device of the keys.
    """

    def __init__(self, config: ModelConfig, batch: int = 1, length: int | None = None):
        self.capacity = config.context_length if length is None else length
        if not 0 < self.capacity <= config.context_length:
            raise ModelError(f"a cache of length {length} does not fit; use 1 to {config.context_length}, the context")
        self.lengths = torch.zeros(batch, dtype=torch.long)
        self.shape = (2, config.n_layer, batch, config.n_kv_head, self.capacity, config.d_head)
        self.store: Tensor | None = None

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if self.store is None:
            self.store = k.new_zeros(self.shape)  # zeros: a weight of 0 times garbage could be NaN
        longest = int(self.lengths.max()) + k.shape[2]
        for row in self._runs():
            start = int(self.lengths[row][0])
            self.store[0, layer, row, :, start : start + k.shape[2]] = k[row]
            self.store[1, layer, row, :, start : start + k.shape[2]] = v[row]
        keys, values = self.store[:, layer, :, :, :longest]  # (B, G, S, D) each
        return keys, values

    def _runs(self) -> list[slice]:
        """All rows at once when their lengths agree, else one by one."""
        if (self.lengths == self.lengths[0]).all():
            return [slice(None)]
        return [slice(row, row + 1) for row in range(len(self.lengths))]

    def advance(self, count: int | Tensor) -> None:
        self.lengths = self.lengths + torch.as_tensor(count).cpu()
