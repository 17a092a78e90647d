"""Lesson: attention in five rungs. Each adds one idea to the rung below and gives the same numbers.

    one_query        a token looks at S tokens
    self_attention   every token looks, all at once
    causal           nobody looks into the future
    multi_head       several ways of looking, side by side
    fused            one view, one kernel: what production runs

S tokens looked at, T tokens that look, C width of the model, H heads, D width of a head, B batch.
Source: Vaswani et al. 2017, arXiv:1706.03762, sections 3.2.1 and 3.2.2.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def one_query(q: Tensor, K: Tensor, V: Tensor) -> Tensor:
    """One token's look at S tokens: (D,), (S, D), (S, D) -> (D,).

    The query says what I am looking for, a key says what a token has on offer, and their product says how well the two
    agree. The softmax turns agreement into shares that sum to 1, and the answer is the values in those shares.

    Why divide by sqrt(D)? The product of two vectors of D random numbers grows like sqrt(D); without the division wide
    heads would put nearly all weight on one token, and the softmax would have no slope left to learn from.
    """
    scores = [float(q @ key) / math.sqrt(len(q)) for key in K]
    powers = [math.exp(score - max(scores)) for score in scores]  # minus the largest: exp must not overflow
    total = sum(powers)
    answer = torch.zeros_like(V[0])
    for power, value in zip(powers, V, strict=True):
        answer = answer + power / total * value
    return answer


def self_attention(Q: Tensor, K: Tensor, V: Tensor) -> Tensor:
    """Every token looks at every token: (S, D), (S, D), (S, D) -> (S, D).

    All products of all queries with all keys are one matrix product; row t of `weights` is what `one_query` called
    shares. New: nothing but the matrix.
    """
    scores = Q @ K.T / math.sqrt(Q.shape[1])  # (S, S)
    weights = torch.softmax(scores, dim=1)
    return weights @ V  # (S, D)


def causal(Q: Tensor, K: Tensor, V: Tensor) -> Tensor:
    """Every token looks at itself and at those before it: (S, D), (S, D), (S, D) -> (S, D).

    A language model is asked for the next token, so it must not see it. New: a score of minus infinity above the
    diagonal, which the softmax turns into a share of exactly 0. Masking *before* the softmax keeps every row's sum
    at 1; the last row, which has no future, is what it was.
    """
    scores = Q @ K.T / math.sqrt(Q.shape[1])  # (S, S)
    future = torch.ones_like(scores).triu(diagonal=1).bool()
    weights = torch.softmax(scores.masked_fill(future, -math.inf), dim=1)
    return weights @ V


def multi_head(x: Tensor, wq: Tensor, wk: Tensor, wv: Tensor, wo: Tensor, n_head: int) -> Tensor:
    """H smaller attentions side by side: (T, C) and four (C, C) -> (T, C).

    One softmax makes one choice. A token may need several at once: its subject, its opening bracket, the word before.
    New: queries, keys and values are made from x by learned matrices and cut into H slices of width D = C / H; every
    head attends on its own slice; `wo` mixes what the heads found. As many multiplications as one wide head.
    """
    q, k, v = x @ wq.T, x @ wk.T, x @ wv.T  # (T, C) each; nn.Linear keeps its matrix as (out, in), hence .T
    width = q.shape[1] // n_head
    found = []
    for head in range(n_head):
        mine = slice(head * width, (head + 1) * width)
        found.append(causal(q[:, mine], k[:, mine], v[:, mine]))  # (T, D)
    return torch.cat(found, dim=1) @ wo.T  # (T, C)


def fused(x: Tensor, wq: Tensor, wk: Tensor, wv: Tensor, wo: Tensor, n_head: int) -> Tensor:
    """The same for a whole batch and all heads in one call: (B, T, C) and four (C, C) -> (B, T, C).

    New: no arithmetic at all. The slices of all heads are a *view* of the same numbers with one more dimension, and
    one kernel runs scores, mask, softmax and sum tile by tile, so that the (T, T) shares never lie in memory
    (Dao et al. 2022, arXiv:2205.14135).
    """
    B, T, C = x.shape
    q, k, v = (F.linear(x, w).view(B, T, n_head, -1).transpose(1, 2) for w in (wq, wk, wv))  # (B, H, T, D)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return F.linear(y.transpose(1, 2).reshape(B, T, C), wo)
