"""The whole model: tokens in, a score for every possible next token out.

B batch, T new positions, S positions attended to, C width, V vocabulary, L layers.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from firsthand.errors import ModelError
from firsthand.model.apart import Apart
from firsthand.model.attention import Attend, Attention, Pass, attend, visible
from firsthand.model.cache import Cache, StaticCache, check_room, real_counts
from firsthand.model.config import ModelConfig
from firsthand.model.layers import mlp, norm, rotary


class Block(nn.Module):
    """Look back at other tokens, then think alone; each adds to the stream and may be skipped by the gradient."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.attention_norm = norm(config)
        self.attention = Attention(config, layer)
        self.mlp_norm = norm(config)
        self.mlp = mlp(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, this: Pass) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.dropout(self.attention(self.attention_norm(x), this))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class GPT(nn.Module):
    """A decoder-only transformer: GPT-2, Llama, Qwen, or our own fast variant, by its config.

    `model.attend` is how attention is computed (`attend_explicit` or `attend_fused` to force one);
    `model.checkpointing = True` keeps one tensor a block for the backward pass and computes the rest again.
    """

    attend: Attend

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.d_model)
        learned = config.rope_theta is None
        self.positions = nn.Embedding(config.context_length, config.d_model) if learned else None
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = norm(config)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.attend = attend
        self.checkpointing = False
        self.swaps: list[dict[str, Any]] = []  # which layers were replaced, and by what: linear/swap.py
        self.tie()
        self.initialise(seed=0)

    def tie(self) -> None:
        """Let head and embedding be one parameter, if the config says so; again after weights were replaced."""
        for layer in self.head.modules() if self.config.tied else ():  # the head itself, or what an adapter surrounds
            if type(layer) is nn.Linear:  # another kind of head has weights of its own
                layer.weight = self.embed.weight

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Fresh weights, the same for the same seed.

        As GPT-2: normal with deviation 0.02, biases 0, and what writes into the stream divided by sqrt(2 L),
        so that the stream's variance does not grow with depth (Radford et al. 2019, section 2.3).
        Beyond GPT-2, both measured on tiny Shakespeare (LOG.md): an embedding that is not also the head has deviation
        0.1; and normed queries are longer in narrow heads, where no score could otherwise exceed sqrt(D).
        """
        generator = torch.Generator().manual_seed(seed)
        config, into_stream = self.config, 0.02 * (2 * self.config.n_layer) ** -0.5
        constants = {"q_norm.weight": (128 / config.d_head) ** 0.5, "norm.weight": 1.0, "bias": 0.0}
        deviations = {"o.weight": into_stream, "down.weight": into_stream, "embed.weight": 0.02 if config.tied else 0.1}
        for name, parameter in self.named_parameters():
            value = next((constants[end] for end in constants if name.endswith(end)), None)
            deviation = next((deviations[end] for end in deviations if name.endswith(end)), 0.02)
            if value is not None:
                parameter.fill_(value)
            else:
                parameter.copy_(torch.empty(parameter.shape).normal_(0.0, deviation, generator=generator))

    def forward(self, ids: Tensor, cache: Cache | None = None, lengths: Tensor | None = None) -> Tensor:
        """Scores of every possible next token: (B, T) -> (B, T, V)."""
        return self.head(self.hidden(ids, cache, lengths))

    def last(self, ids: Tensor, count: int, cache: Cache | None = None) -> Tensor:
        """Scores after the last `count` ids of every row; the head reads no others: (B, T) -> (B, count, V)."""
        return self.head(self.hidden(ids.to(self.embed.weight.device), cache)[:, -count:])

    def new_cache(self, batch: int = 1, length: int | None = None) -> Cache:
        """A cache for so many rows of at most so many tokens."""
        return StaticCache(self.config, batch, length)

    def hidden(
        self, ids: Tensor, cache: Cache | None = None, lengths: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """What the head reads, after the last norm: (B, T) -> (B, T, C).

        With a cache, `ids` continue what it holds, and it is advanced. Rows are padded on the right; `lengths` (B,)
        counts the ids that are real, for the cache alone: causality already hides everything on the right.
        Without a cache a row may hold several texts: `positions` (B, T) begin at 0 in each, and none sees another.
        """
        if ids.dim() != 2:
            raise ModelError(f"ids have shape {tuple(ids.shape)}; give rows of ids (B, T), for one row ids[None]")
        assert cache is None or positions is None, "what continues a cache is one text"
        at, this = self._pass(ids, positions) if cache is None else self._pass_back(ids, cache, lengths)
        x = self._through(self.dropout(self._embed(ids, at)), this, 0, None)
        if cache is not None:
            cache.advance()
        return self.norm(x)

    def stream(self, ids: Tensor, upto: int) -> Tensor:
        """What the first `upto` blocks make of the ids: (B, T) -> (B, T, C); `finish(stream(ids, n), n)` is `hidden`.

        Two halves of one pass: where the lower blocks are frozen, the first half need not be computed twice.
        """
        at, this = self._pass(ids, None)
        return self._through(self.dropout(self._embed(ids, at)), this, 0, upto)

    def finish(self, x: Tensor, first: int, positions: Tensor | None = None) -> Tensor:
        """What the head reads, from what came out of the blocks below `first`: (B, T, C) -> (B, T, C)."""
        return self.norm(self._through(x, self._pass(x, positions)[1], first, None))

    def _through(self, x: Tensor, this: Pass, first: int, upto: int | None) -> Tensor:
        """Blocks [first, upto), one after the other: (B, T, C) -> (B, T, C)."""
        again = self.checkpointing and self.training and this.cache is None
        for block in list(self.blocks)[first:upto]:
            x = checkpoint(block, x, this, use_reentrant=False) if again else block(x, this)
        return x

    def _pass(self, x: Tensor, positions: Tensor | None) -> tuple[Tensor, Pass]:
        """Where the tokens stand, (T,) or, of several texts in a row, (B, T), and what every block is told of it."""
        T, window = x.shape[1], self.config.window
        if positions is not None:
            apart = Apart(positions, window, self.attend)
            check_room(0, apart.longest, self.config.context_length)
            return positions, Pass(self._rotary(positions), None, None, apart)
        check_room(0, T, self.config.context_length)
        at = torch.arange(T, device=x.device)
        mask = None if (window or T) >= T else visible(at, at, window)
        return at, Pass(self._rotary(at), mask, None, self.attend)

    def _pass_back(self, ids: Tensor, cache: Cache, lengths: Tensor | None) -> tuple[Tensor, Pass]:
        """The same among what the cache holds: (T,) when all rows agree, else (B, T)."""
        (B, T), context, held = ids.shape, self.config.context_length, cache.lengths
        counts = real_counts(cache, B, T, lengths)
        keys, start = cache.begin(counts, T), int(held[0])
        alike = bool((held == start).all())
        positions = torch.arange(T) + (start if alike else held[:, None])
        positions = positions.clamp(max=context - 1).to(ids.device)  # only padding can stand beyond
        S, window = keys.shape[-1], min(self.config.window or context, cache.window or context)
        plain = alike and keys.dim() == 1 and start + T == S and T in (1, S) and window >= S
        mask = None if plain else visible(positions, keys.to(ids.device), window)
        return positions, Pass(self._rotary(positions), mask, cache, self.attend)

    def _embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """A vector for every token, and in GPT-2 one for its position: (B, T) -> (B, T, C)."""
        try:
            x = self.embed(ids)
        except IndexError:
            raise ModelError(
                f"token id {int(ids.max())} (smallest {int(ids.min())}) is not in the model's vocabulary of "
                f"{self.config.vocab_size}; use the tokenizer saved beside the model",
                code=1,
            ) from None
        return x if self.positions is None else x + self.positions(positions)

    def _rotary(self, positions: Tensor) -> tuple[Tensor, Tensor] | None:
        config = self.config
        if config.rope_theta is None:
            return None
        return rotary(positions, config.d_head, config.rope_theta, config.rope_scaling)
