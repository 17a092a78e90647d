"""What a step of the fast engine works on: the numbers of a config, addresses of weights, and room for the work.

R rows of a step, C width, F inner width, H heads, G groups, D head width, L layers, N positions, P threads, V tokens.
Keys and values lie in pages of 32 positions, which belong to texts by their tables, as in model/paged.py.
Widths are filled up with zeros, C, F, H D and D to a multiple of 32, D of values and results to one of 16.
"""

from typing import NamedTuple

import numpy as np

PAGE = 32  # positions of a page
QKV, O, GATE, UP, DOWN = range(5)
TOKENS, FIRST, LOGITS = range(3)  # of `now`: rows of this step; the first whose scores are wanted; where they go
GELU, SWIGLU, RELU2 = range(3)


class Form(NamedTuple):
    """What is compiled separately. Tuples: only their length counts."""

    layers: tuple[int, ...]  # form of the matrices (codes.py)
    head: tuple[int, ...]  # kind of the head's
    digits: tuple[int, ...]  # one or three of an activation
    fast: tuple[int, ...]  # 1: with the processor's integer instruction; 2: without


class Shape(NamedTuple):
    """The numbers of a config that a step needs."""

    n_layer: int
    n_head: int
    n_kv_head: int
    d_model: int
    d_head: int
    d_ff: int
    window: int
    bend: int
    centred: bool  # LayerNorm
    rotary: bool
    qk_norm: bool
    eps: float


class Weights(NamedTuple):
    """All that is learned."""

    embed: np.ndarray  # (V, C)
    positions: np.ndarray  # (N, C), zeros if they are rotary
    turns: np.ndarray  # (N, 2, D/2): cosine and sine, if they are
    norms: np.ndarray  # (2 L + 1, 2, C): weight and bias
    head_norms: np.ndarray  # (L, 2, D): of q and of k
    biases: np.ndarray  # (L, 5, widest)
    places: np.ndarray  # (L + 1, 5, 2) int64: where the blocks and scales of each matrix are; at last, of the head
    memory: np.ndarray  # what the places point into


class Room(NamedTuple):
    """Memory for the work."""

    ids: np.ndarray  # (R,) int64
    at: np.ndarray  # (R,) int64: the position of each
    tables: np.ndarray  # (R, N/32) int64: the pages of its text
    now: np.ndarray  # (3,) int64
    keys: np.ndarray  # (pages, L, G, 2, D, 16)
    values: np.ndarray  # (pages, L, G, D/16, 32, 16)
    stream: np.ndarray  # (R, C)
    normed: np.ndarray  # (P, R, C)
    raw: np.ndarray  # (R, widest): results of a product
    gate: np.ndarray  # (R, F)
    inner: np.ndarray  # (R, F)
    queries: np.ndarray  # (R + 8, H, D)
    mixed: np.ndarray  # (R, H D): what attention gives
    scores: np.ndarray  # (P, 8, N)
    head: np.ndarray  # (P, 8, D)
    digits: np.ndarray  # (P, most) int8
    sums: np.ndarray  # (P, most) int32
    scales: np.ndarray  # (P, most)
