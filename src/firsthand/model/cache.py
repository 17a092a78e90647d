"""Keys and values of tokens already seen, so that a new token costs one token's work.

A cache is an argument of `GPT.forward`, never a part of the model: conversations share no state. A forward begins
with `begin`, every layer appends its new keys and values, and `advance` counts them as seen once, after the last
layer; what was interrupted before that never happened. Which kind:

    GrowingCache   the teaching one: concatenate                 rows of one length
    StaticCache    memory for all that may come, taken at once   rows of any length
    WindowCache    the last tokens only (model/window_cache.py)  rows of any length
    PagedCache     blocks from a common pool (model/paged.py)    rows of any length, that may share what is equal
    Int8Cache      a quarter of the memory (model/int8_cache.py) rows of any length; not exact

L layers, B batch, T new positions, S positions attended to, N tokens a row has room for, G key-value heads, D head
width, X numbers a head keeps of a token.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from firsthand.errors import ModelError
from firsthand.model.config import ModelConfig


class Bytes(NamedTuple):
    """What a cache costs. Both are 0 before the first append, which brings the type of the numbers."""

    total: int  # held now
    token: int  # for the keys and values of one token, in all layers


class Cache(Protocol):
    """What a model needs of a cache, and what sampling needs."""

    @property
    def capacity(self) -> int:
        """Tokens a row can take."""
        ...

    @property
    def window(self) -> int | None:
        """How many of them a row remembers; None: all."""
        ...

    @property
    def lengths(self) -> Tensor:
        """Tokens every row has taken: (B,). On the CPU: shapes depend on them, and a GPU must not be asked."""
        ...

    def begin(self, counts: Tensor, T: int) -> Tensor:
        """Say what comes: T new tokens a row, of which the first (B,) `counts` are real and the others padding.

        Gives the positions of the keys that `append` will give: (S,) if they are 0 to S - 1 in all rows, else (B, S),
        negative where there is none. On the CPU.
        """
        ...

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer, the new ones included: (B, G, T, D) twice -> (B, G, S, D) twice."""
        ...

    def advance(self) -> None:
        """Count what was announced and appended as seen."""
        ...

    def rewind(self, lengths: Tensor | int) -> None:
        """Forget what lies beyond these lengths, (B,) or one for all rows. 0 makes a row free for another text."""
        ...

    def select(self, rows: Tensor) -> None:
        """Row i becomes what row rows[i] was; rows may repeat or be left out, and their number may change."""
        ...

    def bytes(self) -> Bytes:
        """What the cache costs."""
        ...


def check_room(held: int, new: int, room: int) -> None:
    """Refuse more tokens in a row than there are positions."""
    if (over := held + new - room) > 0:
        after = f" after {held} cached ones" if held else ""
        raise ModelError(f"{new} tokens{after} exceed the {room} positions; shorten by {over}", code=2)


def real_counts(cache: Cache, B: int, T: int, lengths: Tensor | None) -> Tensor:
    """How many of T new ids are real in each of B rows, checked against what a cache has room for: -> (B,)."""
    counts, held = torch.full((B,), T) if lengths is None else lengths.cpu(), cache.lengths
    if len(held) != B:
        raise ModelError(f"ids have {B} rows and the cache {len(held)}; make it with batch={B}")
    if counts.shape != (B,) or (counts < 0).any() or (counts > T).any():
        raise ModelError(f"lengths are {counts.tolist()}; give {B} numbers from 0 to {T}, the real ids of each row")
    fullest = int((held + counts).argmax())
    check_room(int(held[fullest]), int(counts[fullest]), cache.capacity)
    return counts


def shortened(held: Tensor, lengths: Tensor | int) -> Tensor:
    """The lengths to rewind to, one a row, checked."""
    wanted = torch.as_tensor(lengths).cpu()
    wanted = torch.full_like(held, int(wanted)) if wanted.dim() == 0 else wanted
    if wanted.shape != held.shape or (wanted < 0).any() or (wanted > held).any():
        raise ModelError(f"a cache cannot be rewound to {wanted.tolist()}; its rows hold {held.tolist()} tokens")
    return wanted


def chosen(rows: Tensor, batch: int) -> list[int]:
    """The rows to select, checked."""
    wanted = rows.tolist()
    if not wanted or not all(0 <= row < batch for row in wanted):
        raise ModelError(f"rows {wanted} cannot be selected of a cache of {batch}; name some of 0 to {batch - 1}")
    return wanted


class GrowingCache:
    """The simplest cache: concatenate. Rows grow together, and each step copies all that came before."""

    def __init__(self, config: ModelConfig, batch: int = 1):
        self.capacity, self.window = config.context_length, None
        self.lengths = torch.zeros(batch, dtype=torch.long)
        self.count = 0
        self.keys: list[Tensor | None] = [None] * config.n_layer
        self.values: list[Tensor | None] = [None] * config.n_layer

    def begin(self, counts: Tensor, T: int) -> Tensor:
        self.count = self._common(counts, "grows")
        return torch.arange(int(self.lengths[0]) + self.count)

    def _common(self, numbers: Tensor, verb: str) -> int:
        if (numbers != numbers[0]).any():
            raise ModelError(f"a GrowingCache {verb} all rows alike, not by {numbers.tolist()}; use a StaticCache")
        return int(numbers[0])

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        held, old_k, old_v = int(self.lengths[0]), self.keys[layer], self.values[layer]
        k, v = k[:, :, : self.count], v[:, :, : self.count]
        if old_k is not None and old_v is not None:
            # up to `held`: a forward that was interrupted may have left more
            k, v = torch.cat([old_k[:, :, :held], k], dim=2), torch.cat([old_v[:, :, :held], v], dim=2)
        self.keys[layer], self.values[layer] = k, v
        return k, v

    def advance(self) -> None:
        self.lengths = self.lengths + self.count

    def rewind(self, lengths: Tensor | int) -> None:
        wanted = shortened(self.lengths, lengths)
        self._common(self.lengths - wanted, "shortens")
        self.lengths = wanted

    def select(self, rows: Tensor) -> None:
        wanted = chosen(rows, len(self.lengths))
        self.lengths = self.lengths[wanted]
        self.keys = [k if k is None else k[wanted] for k in self.keys]
        self.values = [v if v is None else v[wanted] for v in self.values]

    def bytes(self) -> Bytes:
        held = [store[:, :, : int(self.lengths[0])] for store in [*self.keys, *self.values] if store is not None]
        total = sum(store.nbytes for store in held)
        return Bytes(total, total // max(1, int(self.lengths.sum())))


class Places(NamedTuple):
    """Where new tokens go: number i comes from `steps[i]` of row `rows[i]` and belongs at `positions[i]`."""

    rows: Tensor
    steps: Tensor
    positions: Tensor
    start: int | None  # where all of them begin, if all rows agree and nothing is padding

    @classmethod
    def of(cls, held: Tensor, counts: Tensor, T: int) -> "Places":
        """(B,) tokens held, (B,) real ones among T new ones."""
        alike = bool((held == held[0]).all() and (counts == T).all())
        rows, steps = (torch.arange(T) < counts[:, None]).nonzero(as_tuple=True)
        return cls(rows, steps, held[rows] + steps, int(held[0]) if alike else None)

    def to(self, device: torch.device) -> "Places":
        """The same where the keys are: moved once a forward, not in every layer."""
        if self.rows.device == device:
            return self
        return Places(self.rows.to(device), self.steps.to(device), self.positions.to(device), self.start)

    def write(self, store: Tensor, new: Tensor) -> None:
        """Keep what is real: (B, G, N, X), (B, G, T, X). Padding is not: a weight of 0 times garbage could be NaN."""
        if self.start is not None:
            store[:, :, self.start : self.start + new.shape[2]] = new
        else:
            store[self.rows, :, self.positions] = new[self.rows, :, self.steps]


class StaticCache:
    """Room for `length` tokens in each of `batch` rows, allocated once; every row has its own length.

    Memory comes with the first append, in the type and on the device of the keys. Beyond a row's length it holds 0.
    """

    def __init__(self, config: ModelConfig, batch: int = 1, length: int | None = None):
        self.capacity = config.context_length if length is None else length
        if not 0 < self.capacity <= config.context_length:
            raise ModelError(f"a cache of length {length} does not fit; use 1 to {config.context_length}, the context")
        self.window, self.n_layer = None, config.n_layer
        self.lengths = torch.zeros(batch, dtype=torch.long)
        self.store: Tensor | None = None  # (2, L, B, G, N, D)

    def begin(self, counts: Tensor, T: int) -> Tensor:
        self.counts, self.places = counts, Places.of(self.lengths, counts, T)
        self.longest = min(int(self.lengths.max()) + T, self.capacity)
        return torch.arange(self.longest)

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if self.store is None:
            B, G, _, D = k.shape
            self.store = k.new_zeros(2, self.n_layer, B, G, self.capacity, D)
        self.places = self.places.to(k.device)
        self.places.write(self.store[0, layer], k)
        self.places.write(self.store[1, layer], v)
        keys, values = self.store[:, layer, :, :, : self.longest]  # (B, G, S, D) each
        return keys, values

    def advance(self) -> None:
        self.lengths = self.lengths + self.counts

    @torch.inference_mode()  # or what was made in it could not be changed outside
    def rewind(self, lengths: Tensor | int) -> None:
        wanted = shortened(self.lengths, lengths)
        for row in (wanted < self.lengths).nonzero().flatten().tolist():
            if self.store is not None:
                self.store[:, :, row, :, int(wanted[row]) : int(self.lengths[row])] = 0
        self.lengths = wanted

    def select(self, rows: Tensor) -> None:
        wanted, old = chosen(rows, len(self.lengths)), self.store
        if old is not None and wanted != list(range(len(self.lengths))):
            longest = int(self.lengths.max())
            self.store = old.new_zeros(*old.shape[:2], len(wanted), *old.shape[3:])
            self.store[..., :longest, :] = old[:, :, wanted, :, :longest]
        self.lengths = self.lengths[wanted]

    def bytes(self) -> Bytes:
        total = 0 if self.store is None else self.store.nbytes
        return Bytes(total, total // (len(self.lengths) * self.capacity))
