"""Attention: every token looks at the tokens before it and takes a weighted mean of what they offer.

B batch, T new positions, S positions attended to, C width, H heads, G key-value heads, D head width.
Head h reads the keys and values of group h // (H / G); with G = H that is ordinary multi-head attention.
Source: Vaswani et al. 2017, arXiv:1706.03762, eq. 1; groups: Ainslie et al. 2023, arXiv:2305.13245.
"""

from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from firsthand.model.cache import Cache
from firsthand.model.config import ModelConfig
from firsthand.model.layers import RMSNorm, rotate

if TYPE_CHECKING:
    from firsthand.model.gpt import GPT


class Attend(Protocol):
    """The inner product of attention: (B, H, T, D), (B, G, S, D), (B, G, S, D) -> (B, H, T, D).

    `mask` is true where a query may look, (T, S) or (B, 1, T, S). None means causal: query t sees the keys up to
    S - T + t, so the last query sees all.
    """

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor: ...


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    """How much each query looks at each key: (B, H, T, D), (B, G, S, D) -> (B, H, T, S). Every row sums to 1."""
    (B, H, T, D), (G, S) = q.shape, k.shape[1:3]
    seen = causal(T, S, q.device) if mask is None else mask
    hidden = torch.zeros_like(seen, dtype=q.dtype).masked_fill(~seen, float("-inf"))
    # One pass for hidden + q k / sqrt(D). The heads of a group are rows of one product, so no key is copied.
    hidden = hidden.expand(B, H, T, S).reshape(B * G, -1, S)
    scores = torch.baddbmm(hidden, q.reshape(B * G, -1, D), k.reshape(B * G, S, D).mT, alpha=D**-0.5)
    return scores.view(B, H, T, S).softmax(dim=-1)


def attend_explicit(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Attention as the paper writes it: all weights exist at once."""
    (B, H, T, D), (G, S) = q.shape, k.shape[1:3]
    weights = F.dropout(attention_weights(q, k, mask), dropout)
    return (weights.view(B, G, H // G * T, S) @ v).view(B, H, T, D)


def attend_fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """The same in one kernel that never writes the weights down (Dao et al. 2022, arXiv:2205.14135)."""
    T, S = q.shape[2], k.shape[2]
    if mask is None and 1 < T < S:
        mask = causal(T, S, q.device)
    square = mask is None and T > 1
    grouped = k.shape[1] != q.shape[1]
    return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=square, enable_gqa=grouped)


# The fused kernel of CPUs is slow at small squares. Fused / explicit time, 2 cores of an AMD EPYC (Zen 5):
#   bf16, forward and backward: 4 x 12 heads of 64: 3.8 at T = 64, 1.8 at 256, 0.9 at 512; forward alone: 0.2 to 0.7
#   float32 products by oneDNN, forward and backward: 5.2 at 128, 2.0 at 256, 0.6 at 512; forward alone: 1.4 to 8
EXPLICIT_UP_TO = 384 * 384


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Attention by whichever form is faster for these shapes."""
    return choose(q, k)(q, k, v, mask, dropout)


def choose(q: Tensor, k: Tensor) -> Attend:
    """On a CPU, explicit for small squares (in half precision only where a gradient is wanted); else fused."""
    small = q.shape[2] * k.shape[2] <= EXPLICIT_UP_TO
    worth = q.requires_grad or q.dtype in (torch.float32, torch.float64)
    return attend_explicit if small and worth and q.device.type == "cpu" else attend_fused


def causal(T: int, S: int, device: torch.device) -> Tensor:
    """True where one of the last T of S positions may look: at itself and before. -> (T, S)."""
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)


def visible(positions: Tensor, keys: Tensor, window: int | None) -> Tensor:
    """Where queries may look, from the positions of both: (T,), (S,) -> (T, S); a row for each: -> (B, 1, T, S).

    A negative position is no key at all.
    """
    keys, queries = keys[..., None, :], positions[..., None]
    mask = (keys <= queries) & (keys >= 0)
    if window is not None:
        mask = mask & (keys > queries - window)
    return mask if mask.dim() == 2 else mask[:, None]


class Pass(NamedTuple):
    """What all layers of one forward pass share."""

    rotary: tuple[Tensor, Tensor] | None
    mask: Tensor | None
    cache: Cache | None
    attend: Attend


class Attention(nn.Module):
    """Queries, keys, values, the look back, and the way out. q, k, v and o are separate so each can be swapped."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.layer, self.d_head, self.dropout = layer, config.d_head, config.dropout
        C, heads, groups = config.d_model, config.n_head * config.d_head, config.n_kv_head * config.d_head
        self.q = nn.Linear(C, heads, bias=config.bias != "none")
        self.k = nn.Linear(C, groups, bias=config.bias != "none")
        self.v = nn.Linear(C, groups, bias=config.bias != "none")
        self.o = nn.Linear(heads, C, bias=config.bias == "all")
        self.q_norm = RMSNorm(config.d_head, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(config.d_head, config.norm_eps) if config.qk_norm else nn.Identity()

    def forward(self, x: Tensor, this: Pass) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        B, T, _ = x.shape
        q = self.q_norm(self.q(x).view(B, T, -1, self.d_head))  # (B, T, H, D)
        k = self.k_norm(self.k(x).view(B, T, -1, self.d_head))  # (B, T, G, D)
        v = self.v(x).view(B, T, -1, self.d_head)
        if this.rotary is not None:
            q, k = rotate(q, *this.rotary), rotate(k, *this.rotary)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H or G, T, D)
        if this.cache is not None:
            k, v = this.cache.append(self.layer, k, v)  # (B, G, S, D)
        y = this.attend(q, k, v, this.mask, self.dropout if self.training else 0.0)
        return self.o(y.transpose(1, 2).reshape(B, T, -1))  # (B, T, C)


@torch.no_grad()
def attention_maps(model: "GPT", ids: Tensor) -> Tensor:
    """Who looked at whom, in every layer and head: (1, T) -> (L, H, T, T)."""
    maps = []

    def record(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
        maps.append(attention_weights(q, k, mask)[0])
        return attend_explicit(q, k, v, mask, dropout)

    usual, model.attend = model.attend, record
    try:
        model.hidden(ids)
    finally:
        model.attend = usual
    return torch.stack(maps)
