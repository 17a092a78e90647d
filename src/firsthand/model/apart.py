"""Several texts in one row, each of which sees itself alone: attention of a text at a time, everything else of the row.

Linear layers do not care which text a token belongs to, so a packed row costs them no padding. Only attention does: it
lays every text into a row of its own, padded to the longest, looks back there, and puts the tokens back where they
were. A mask over the packed row would give the same, but a row of eight texts has eight times as many pairs of tokens.

B rows, T positions, N texts, L tokens of the longest, H heads, G key-value heads, D head width.
"""

import torch
from torch import Tensor

from firsthand.model.attention import Attend, visible


class Apart:
    """Attention that stays within texts; `positions` (B, T) begin at 0 in each of them."""

    def __init__(self, positions: Tensor, window: int | None, attend: Attend):
        at = positions.flatten()
        text = (at == 0).cumsum(dim=0) - 1  # (B T,)
        self.texts, self.longest = int(text[-1]) + 1, int(at.max()) + 1
        self.place = text * self.longest + at  # of every token, among N L
        steps = torch.arange(self.longest, device=at.device)
        self.mask = None if (window or self.longest) >= self.longest else visible(steps, steps, window)
        self.attend = attend

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
        """(B, H, T, D), (B, G, T, D), (B, G, T, D) -> (B, H, T, D)."""
        B, H, T, D = q.shape
        y = self.attend(self.laid(q), self.laid(k), self.laid(v), self.mask, dropout)  # (N, H, L, D)
        y = y.transpose(1, 2).reshape(-1, H, D)[self.place]
        return y.view(B, T, H, D).transpose(1, 2)

    def laid(self, x: Tensor) -> Tensor:
        """Every text in a row of its own, zeros on the right, where no token looks: (B, H, T, D) -> (N, H, L, D)."""
        _, H, _, D = x.shape
        rows = x.new_zeros(self.texts * self.longest, H, D)
        rows = rows.index_copy(0, self.place, x.transpose(1, 2).reshape(-1, H, D))
        return rows.view(self.texts, self.longest, H, D).transpose(1, 2)
