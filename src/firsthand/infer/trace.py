"""One forward pass, opened: what every layer looked at, what it added, and what the model would say after it.

A transformer is one stream of vectors, one a token. Attention and feed-forward layer of every block read the stream
and add to it; nothing else ever changes it. So the stream can be read at any depth as if it were the end: through the
last norm and the head (the logit lens: nostalgebraist 2020, "interpreting GPT: the logit lens").

L layers, H heads, T tokens, C width, V vocabulary, K likeliest tokens.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from firsthand.checkpoint.bundle import Bundle
from firsthand.errors import ModelError
from firsthand.infer.draw import evaluating
from firsthand.infer.generate import start
from firsthand.model.attention import attend_explicit, attention_weights
from firsthand.model.gpt import GPT, Block

LONGEST = 512  # tokens: the attention weights of all heads grow with the square
DIGITS = 5  # of numbers in JSON


@dataclass(frozen=True)
class Trace:
    """What happened on the way up. Number l of a stack of L+1 is the stream after l layers; 0 is before the first."""

    ids: Tensor  # (T,)
    attention: Tensor  # (L, H, T, T): row t sums to 1 and says where token t looked
    streams: Tensor  # (L+1, T, C)
    from_attention: Tensor  # (L, T, C): what the attention of each layer added
    from_mlp: Tensor  # (L, T, C): what its feed-forward layer added
    logits: Tensor  # (T, V): of the whole model
    lens_ids: Tensor  # (L+1, T, K): the likeliest next tokens, read after each layer
    lens_probabilities: Tensor  # (L+1, T, K)
    lens_entropy: Tensor  # (L+1, T): how unsure, in nats; log V at most

    @property
    def norms(self) -> Tensor:
        """The lengths of the stream and of what each layer's two parts added to it: (3, L+1, T); nothing at 0."""
        nothing = torch.zeros_like(self.streams[:1])
        added = [torch.cat([nothing, part]) for part in (self.from_attention, self.from_mlp)]
        return torch.stack([self.streams, *added]).norm(dim=-1)

    @property
    def expected(self) -> Tensor:
        """How likely each token was after those before it: (T-1,)."""
        return self.logits[:-1].softmax(dim=-1).gather(-1, self.ids[1:, None])[:, 0]


@torch.no_grad()
def trace(model: GPT, ids: Tensor, top: int = 5) -> Trace:
    """One forward pass of T ids, (T,), with everything that happens on its way."""
    maps: list[Tensor] = []
    heard: dict[str, list[Tensor]] = {"stream": [], "attention": [], "mlp": []}

    def record(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
        maps.append(attention_weights(q, k, mask)[0])
        return attend_explicit(q, k, v, mask, dropout)

    def listen(part: torch.nn.Module, name: str) -> Any:
        return part.register_forward_hook(lambda module, given, out: heard[name].append(out[0]))

    usual, model.attend = model.attend, record
    with ExitStack() as hooks, evaluating(model):
        hooks.callback(setattr, model, "attend", usual)
        hooks.enter_context(listen(model.dropout, "stream"))  # the embedding leaves it
        for block in model.blocks:
            assert isinstance(block, Block)
            hooks.enter_context(listen(block, "stream"))
            hooks.enter_context(listen(block.attention, "attention"))
            hooks.enter_context(listen(block.mlp, "mlp"))
        logits = model(ids[None])[0]
    streams = torch.stack(heard["stream"])
    lens = [_lens(model, stream, top) for stream in streams]
    likeliest, chances, entropies = (torch.stack(part) for part in zip(*lens, strict=True))
    attention, mlp = torch.stack(heard["attention"]), torch.stack(heard["mlp"])
    return Trace(ids, torch.stack(maps), streams, attention, mlp, logits, likeliest, chances, entropies)


def _lens(model: GPT, stream: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor]:
    """What the model would say if the stream ended here: (T, C) -> (T, K), (T, K), (T,)."""
    chances = model.head(model.norm(stream)).float().log_softmax(dim=-1)
    likeliest = chances.topk(min(top, chances.shape[-1]))
    return likeliest.indices, likeliest.values.exp(), -(chances.exp() * chances).sum(dim=-1)


def inspect(bundle: Bundle, text: str, top: int = 5) -> Trace:
    """The trace of a text; of an empty one, that of the end-of-text token, with which texts begin."""
    ids = start(bundle, text)
    most = min(LONGEST, bundle.model.config.context_length)
    if len(ids) > most:
        raise ModelError(
            f"the text is {len(ids):,} tokens; {most} can be looked into. Shorten by {len(ids) - most}", code=2
        )
    return trace(bundle.model, torch.tensor(ids, device=bundle.model.embed.weight.device), top)


def facts(bundle: Bundle, found: Trace) -> dict[str, Any]:
    """A trace as plain numbers and words, without the vectors themselves."""
    decode = bundle.tokenizer.decode
    pairs = zip(found.lens_ids, found.lens_probabilities, strict=True)
    lens = [
        [
            [{"token": decode([id]), "probability": p} for id, p in zip(ids, chances, strict=True)]
            for ids, chances in zip(layer_ids.tolist(), _rounded(layer_chances), strict=True)
        ]
        for layer_ids, layer_chances in pairs
    ]
    stream, attention, mlp = found.norms
    return {
        "ids": found.ids.tolist(),
        "tokens": [decode([id]) for id in found.ids.tolist()],
        "expected": [None, *_rounded(found.expected)],  # nothing was expected of the first
        "next": lens[-1],
        "lens": lens,
        "entropy": _rounded(found.lens_entropy),
        "norms": {"stream": _rounded(stream), "attention": _rounded(attention[1:]), "mlp": _rounded(mlp[1:])},
        "attention": _rounded(found.attention),
    }


def _rounded(values: Tensor) -> Any:
    """Nested lists with few digits: a JSON of attention is large enough without."""
    return values.double().mul(10**DIGITS).round().div(10**DIGITS).tolist()
