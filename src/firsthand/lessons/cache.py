"""Lesson: the KV cache, from doing everything again to one token at a time. Each gives the same numbers.

    last_again       one head's answer for the last token, from all tokens
    last_remembered  the same from the last token and a memory of keys and values
    step             a whole GPT-2, one token at a time, with such a memory in every layer and head
    generate_again   a text made with a memory that is thrown away after every token
    generate         a text made with a memory that is kept

T tokens so far, C width of the model, D width of a head, V vocabulary.
Source: Shazeer 2019, arXiv:1911.02150, section 2.4 (there: "incremental" attention).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Memory = list[tuple[Tensor, Tensor]]  # for every layer and head: keys and values of all tokens so far, (T, D) each


def last_again(x: Tensor, wq: Tensor, wk: Tensor, wv: Tensor) -> Tensor:
    """What the last of T tokens finds in all of them: (T, C), (D, C), (D, C), (D, C) -> (D,).

    The query of the last token asks; the keys and values of every token answer. The queries of the other tokens are not
    even computed here: nobody needs them for the last token. But each call makes T keys and T values, though a call
    one token earlier made all of them but one.
    """
    q, K, V = x[-1] @ wq.T, x @ wk.T, x @ wv.T  # (D,), (T, D), (T, D)
    shares = torch.softmax(K @ q / math.sqrt(len(q)), dim=0)  # (T,)
    return shares @ V


def last_remembered(x: Tensor, K: Tensor, V: Tensor, wq: Tensor, wk: Tensor, wv: Tensor) -> tuple[Tensor, ...]:
    """The same from the last token alone: (C,), (S, D), (S, D), (D, C), (D, C), (D, C) -> (D,), (S+1, D), (S+1, D).

    Three products instead of 2 T + 1; the keys and values so far come in, and go out with one more.

    Why is that allowed? Because nobody looks into the future: what a token becomes in any layer depends on itself and
    on those before it, so a token that comes later changes no key and no value. A model that looks both ways has no
    cache.
    Why keys and values, and not queries? Later tokens look at this one by its key, and take its value. Its query is
    asked once, by itself, now.
    """
    q = x @ wq.T
    K, V = torch.cat([K, (x @ wk.T)[None]]), torch.cat([V, (x @ wv.T)[None]])  # (T, D)
    shares = torch.softmax(K @ q / math.sqrt(len(q)), dim=0)
    return shares @ V, K, V


def step(weights: dict[str, Tensor], n_head: int, id: int, memory: Memory) -> Tensor:
    """The scores of what follows one more token, (V,); the memory grows by that token.

    `weights` are a production GPT-2's `state_dict()`. The embedding needs to know how many tokens came before, which is
    the length of the memory. Attention is the only place where a token meets others: norms and feed-forward layers
    treat each alone, so they need no memory.

    What it costs: 2 C numbers a token in every layer. GPT-2 small keeps 2 x 768 x 12 = 18,432 for each token, 74 kB in
    float32: at its full context of 1,024 tokens 75 MB, beside 498 MB of weights.
    """
    position = len(memory[0][0]) if memory else 0
    x = weights["embed.weight"][id] + weights["positions.weight"][position]  # (C,)
    n_layer = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    for layer in range(n_layer):
        x = x + _attention(weights, f"blocks.{layer}.", layer, n_head, x, memory)
        y = _norm(weights, f"blocks.{layer}.mlp_norm", x)
        y = F.gelu(_linear(weights, f"blocks.{layer}.mlp.up", y), approximate="tanh")
        x = x + _linear(weights, f"blocks.{layer}.mlp.down", y)
    return weights["head.weight"] @ _norm(weights, "norm", x)


def _attention(weights: dict[str, Tensor], block: str, layer: int, n_head: int, x: Tensor, memory: Memory) -> Tensor:
    """One token, (C,), looks at what is remembered and at itself."""
    x = _norm(weights, block + "attention_norm", x)
    q, k, v = (_linear(weights, f"{block}attention.{name}", x).view(n_head, -1) for name in "qkv")  # (H, D) each
    found = []
    for head in range(n_head):
        at = layer * n_head + head
        if at == len(memory):  # the first token of all
            memory.append((k.new_zeros(0, k.shape[1]), v.new_zeros(0, v.shape[1])))
        K, V = torch.cat([memory[at][0], k[head : head + 1]]), torch.cat([memory[at][1], v[head : head + 1]])
        memory[at] = (K, V)
        found.append(torch.softmax(K @ q[head] / math.sqrt(q.shape[1]), dim=0) @ V)
    return _linear(weights, block + "attention.o", torch.cat(found))


def _linear(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return weights[name + ".weight"] @ x + weights[name + ".bias"]


def _norm(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape, weights[name + ".weight"], weights[name + ".bias"])


def generate_again(weights: dict[str, Tensor], n_head: int, ids: list[int], count: int) -> list[int]:
    """The `count` likeliest next tokens, each time from the beginning.

    A text of n tokens costs 1 + 2 + ... + n = n (n + 1) / 2 steps: twice as long, four times the work.
    """
    made: list[int] = []
    for _ in range(count):
        memory: Memory = []
        scores = [step(weights, n_head, id, memory) for id in [*ids, *made]]
        made.append(int(scores[-1].argmax()))
    return made


def generate(weights: dict[str, Tensor], n_head: int, ids: list[int], count: int) -> list[int]:
    """The same tokens with n steps: what was remembered is kept.

    A step still looks at all tokens before it, so it becomes slower with the length of the text, but slowly: C
    products a token looked at, beside the 12 C² or so of the matrices.
    """
    memory: Memory = []
    scores = [step(weights, n_head, id, memory) for id in ids]
    made: list[int] = []
    for _ in range(count):
        made.append(int(scores[-1].argmax()))
        scores = [step(weights, n_head, made[-1], memory)]
    return made
