"""A cache that remembers the last tokens only, in a ring: however long the text, its memory stays what it is.

Position p is kept at place p mod R. A model whose own attention looks no further back than `window` loses nothing;
any other one becomes the model it would be with that window.

L layers, B batch, T new positions, S positions attended to, R places of a row, G key-value heads, D head width.
"""

import torch
from torch import Tensor

from firsthand.errors import ModelError
from firsthand.model.cache import Bytes, Places, chosen, shortened
from firsthand.model.config import ModelConfig


class WindowCache:
    """The last `window` tokens of each row, by default as many as the model looks back at; rows of any length.

    `spare` further tokens are kept so that as many can be taken back: a rewound row needs the window before its end.
    """

    def __init__(self, config: ModelConfig, batch: int = 1, window: int | None = None, spare: int = 0):
        window = config.window if window is None else window
        if window is None:
            raise ModelError("this model looks back at all tokens; say how many to remember, for example window=256")
        if window < 1 or spare < 0:
            raise ModelError(f"a window of {window} and {spare} spare tokens cannot be; use 1 or more, and 0 or more")
        self.capacity, self.window = config.context_length, window
        self.places, self.n_layer = self.window + spare, config.n_layer
        self.lengths = torch.zeros(batch, dtype=torch.long)
        self.oldest = torch.zeros(batch, dtype=torch.long)  # the first position a row still holds
        self.store: Tensor | None = None  # (2, L, B, G, R, D)

    def begin(self, counts: Tensor, T: int) -> Tensor:
        self.counts, self.T, held = counts, T, self.lengths
        rows, steps, positions, start = Places.of(held, counts, T)
        last = positions >= (held + counts - self.places)[rows]  # of tokens for one place, the last
        start = None if T > 1 or start is None else start % self.places
        self.new = Places(rows[last], steps[last], positions[last] % self.places, start)
        self.padding = (torch.arange(T) >= counts[:, None])[:, None, :, None]  # (B, 1, T, 1)
        if T == 1:  # the ring as it will be, the new token in it
            return self._positions(held + 1)
        return torch.cat([self._positions(held), held[:, None] + torch.arange(T)], dim=1)

    def _positions(self, lengths: Tensor) -> Tensor:
        """What stands at each place of a row that has taken so many tokens; negative: nothing yet. (B,) -> (B, R)."""
        latest = lengths[:, None] - 1
        return latest - (latest - torch.arange(self.places)) % self.places

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if self.store is None:
            B, G, _, D = k.shape
            self.store = k.new_zeros(2, self.n_layer, B, G, self.places, D)
        self.new, keys, values = self.new.to(k.device), self.store[0, layer], self.store[1, layer]
        if self.T == 1:
            self.new.write(keys, k)
            self.new.write(values, v)
            return keys, values
        # Many new tokens would overwrite what the first of them still looks at: attend to old and new, then keep.
        self.padding = self.padding.to(k.device)
        k, v = k.masked_fill(self.padding, 0), v.masked_fill(self.padding, 0)
        seen = torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2)  # (B, G, R + T, D)
        self.new.write(keys, k)
        self.new.write(values, v)
        return seen

    def advance(self) -> None:
        self.lengths = self.lengths + self.counts
        self.oldest = self.oldest.maximum(self.lengths - self.places)

    @torch.inference_mode()  # or what was made in it could not be changed outside
    def rewind(self, lengths: Tensor | int) -> None:
        wanted, spare = shortened(self.lengths, lengths), self.places - self.window
        missing = self.oldest - (wanted - self.window + 1).clamp(min=0)  # of what the next token looks back at
        missing[(wanted == 0) | (wanted == self.lengths)] = 0
        if (missing > 0).any():
            row = int(missing.argmax())
            raise ModelError(
                f"row {row} cannot go back from {int(self.lengths[row])} to {int(wanted[row])} tokens: it remembers "
                f"{self.places}; make the cache with spare={spare + int(missing[row])} or more"
            )
        for row in (wanted < self.lengths).nonzero().flatten().tolist():
            if self.store is not None:
                gone = torch.arange(int(wanted[row]), int(self.lengths[row])) % self.places
                self.store[:, :, row, :, gone] = 0
        self.lengths, self.oldest = wanted, self.oldest.where(wanted > 0, 0)

    def select(self, rows: Tensor) -> None:
        wanted = chosen(rows, len(self.lengths))
        self.lengths, self.oldest = self.lengths[wanted], self.oldest[wanted]
        self.store = None if self.store is None else self.store[:, :, wanted]

    def bytes(self) -> Bytes:
        total = 0 if self.store is None else self.store.nbytes
        return Bytes(total, total // (len(self.lengths) * self.places))
