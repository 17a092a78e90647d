"""A model -> what the compiled step takes: its weights in blocks, its tables, and room for the work."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from firsthand.infer.kernels import GROUP, KINDS, ROWS, native
from firsthand.infer.layout import GELU, RELU2, SWIGLU, Form, Room, Shape, Weights
from firsthand.infer.pack import Store, numbers, packed_bytes, up
from firsthand.model.config import ModelConfig
from firsthand.model.gpt import GPT
from firsthand.model.layers import GatedMLP, rotary

BENDS = {"gelu": GELU, "swiglu": SWIGLU, "relu2": RELU2}


def arguments(
    model: GPT, kind: str, head: str, activations: str, threads: int, batch: int, rows: int, length: int
) -> tuple[Form, Shape, Weights, Room, int]:
    """What a step takes; and how many bytes the weights are."""
    config = model.config
    digits, instruction = 1 if activations == "int8" else 3, 1 if native() and kind.startswith("int") else 2
    form = Form(mark(KINDS.index(kind) + 1), mark(KINDS.index(head) + 1), mark(digits), mark(instruction))
    weights, size = learned(model, kind, head, length)
    return form, shape(config), weights, room(config, threads, batch, rows, length), size


def mark(number: int) -> tuple[int, ...]:
    """A number as the compiler sees it in a type."""
    return (0,) * number


def shape(config: ModelConfig) -> Shape:
    """The numbers of a config that a step needs."""
    return Shape(
        config.n_layer,
        config.n_head,
        config.n_kv_head,
        config.d_model,
        config.d_head,
        config.d_ff,
        config.window or config.context_length,
        BENDS[config.mlp],
        config.norm == "layernorm",
        config.rope_theta is not None,
        config.qk_norm,
        config.norm_eps,
    )


def spaced(heads: Tensor, D: int) -> Tensor:
    """The rows of every head filled up to a multiple of 16: (H D, ...) -> (H 16 ceil(D / 16), ...)."""
    rows = heads.reshape(-1, D, *heads.shape[1:])
    filled = rows.new_zeros(len(rows), up(D, ROWS), *rows.shape[2:])
    filled[:, :D] = rows
    return filled.flatten(0, 1)


@torch.no_grad()
def learned(model: GPT, kind: str, head: str, length: int) -> tuple[Weights, int]:
    """All weights; and how many bytes those are that a step reads."""
    config = model.config
    L, C, D = config.n_layer, config.d_model, config.d_head
    blocks: list[Any] = list(model.blocks)
    layers = [_layer(block, D) for block in blocks]
    every = [weight for matrices, _ in layers for weight in matrices if weight is not None]
    store = Store(sum(packed_bytes(weight, kind) for weight in every) + packed_bytes(model.head.weight, head))
    places = np.zeros((L + 1, 5, 2), np.int64)
    biases = numbers((L, 5, max(up(config.d_ff, GROUP), up(C, GROUP), _qkv(config))))
    for layer, (matrices, added) in enumerate(layers):
        for which, (weight, bias) in enumerate(zip(matrices, added, strict=True)):
            if weight is not None:
                places[layer, which] = store.put(weight, kind)
            if bias is not None:
                biases[layer, which, : len(bias)] = bias.float().numpy()
    places[L, 0] = store.put(model.head.weight, head)
    norms = np.zeros((2 * L + 1, 2, C), np.float32)
    for at, norm in enumerate(
        [norm for block in blocks for norm in (block.attention_norm, block.mlp_norm)] + [model.norm]
    ):
        norms[at, 0] = norm.weight.float().numpy()
        if config.norm == "layernorm" and norm.bias is not None:
            norms[at, 1] = norm.bias.float().numpy()
    heads = np.ones((L, 2, D), np.float32)
    if config.qk_norm:
        heads[:, 0] = [block.attention.q_norm.weight.float().numpy() for block in blocks]
        heads[:, 1] = [block.attention.k_norm.weight.float().numpy() for block in blocks]
    embed = model.embed.weight.detach().float().numpy()
    positions, turns = _positions(model, length)
    return Weights(embed, positions, turns, norms, heads, biases, places, store.bytes), store.used


def _layer(block: Any, D: int) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """The five matrices of a block, as a step has them, and their biases."""
    attention, mlp = block.attention, block.mlp
    gate = mlp.gate if isinstance(mlp, GatedMLP) else None
    heads = [spaced(part.weight, D) for part in (attention.q, attention.k, attention.v)]
    matrices = [
        torch.cat(heads),
        attention.o.weight,
        None if gate is None else gate.weight,
        mlp.up.weight,
        mlp.down.weight,
    ]
    if attention.q.bias is None:
        added = None
    else:
        added = torch.cat([spaced(part.bias, D) for part in (attention.q, attention.k, attention.v)])
    return matrices, [added, attention.o.bias, None if gate is None else gate.bias, mlp.up.bias, mlp.down.bias]


def _qkv(config: ModelConfig) -> int:
    """Rows of queries, keys and values together."""
    return (config.n_head + 2 * config.n_kv_head) * up(config.d_head, ROWS)


def _positions(model: GPT, length: int) -> tuple[np.ndarray, np.ndarray]:
    """What is added to the stream at every position, and how far pairs turn there."""
    config = model.config
    if config.rope_theta is None:
        assert model.positions is not None
        learned = model.positions.weight[:length].detach().float().numpy()
        return learned, np.zeros((length, 2, 0), np.float32)
    cosine, sine = rotary(torch.arange(length), config.d_head, config.rope_theta, config.rope_scaling)
    half = config.d_head // 2
    turns = torch.stack([cosine[:, 0, half:], sine[:, 0, half:]], dim=1).numpy()  # (N, 2, D/2)
    return numbers((length, config.d_model)), turns


def room(config: ModelConfig, threads: int, batch: int, rows: int, length: int) -> Room:
    """Room for `rows` rows of a step, and for the keys and values of `batch` texts."""
    L, H, G, D = config.n_layer, config.n_head, config.n_kv_head, config.d_head
    R, N, C, F = up(rows, 8), up(length, GROUP), up(config.d_model, GROUP), up(config.d_ff, GROUP)
    deep, wide, mixed = up(D, GROUP), up(D, ROWS), up(H * D, GROUP)
    groups = R * max(C, F, mixed) // GROUP
    return Room(
        ids=np.zeros(R, np.int64),
        at=np.zeros(R, np.int64),
        slots=np.zeros(R, np.int64),
        now=np.zeros(3, np.int64),
        keys=numbers((batch, L, G, N // ROWS, deep, ROWS)),
        values=numbers((batch, L, G, wide // ROWS, N, ROWS)),
        stream=numbers((R, C)),
        normed=numbers((threads, R, C)),
        raw=numbers((R, max(_qkv(config), C))),
        gate=numbers((R, F)),
        inner=numbers((R, F)),
        queries=numbers((R + 8, H, deep)),
        mixed=numbers((R, mixed)),
        scores=numbers((threads, 8, N)),
        head=numbers((threads, 8, wide)),
        digits=numbers((threads, groups * GROUP * 3), np.int8),
        sums=numbers((threads, groups * 3), np.int32),
        scales=numbers((threads, groups)),
    )
