"""A model -> what the compiled step takes: its weights in blocks, its tables, and room for the work."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from firsthand.errors import ConfigError
from firsthand.infer.codes import GROUP, Matrix, alike, joined, own, rounding
from firsthand.infer.kernels import KINDS, ROWS, native
from firsthand.infer.layout import DOWN, GATE, GELU, PAGE, QKV, RELU2, SWIGLU, UP, Form, O, Room, Shape, Weights
from firsthand.infer.pack import Store, numbers, packed_bytes, up
from firsthand.model.config import ModelConfig
from firsthand.model.gpt import GPT
from firsthand.model.layers import GatedMLP, rotary

Take = Callable[[Any], Matrix]  # a layer -> its matrix
BENDS = {"gelu": GELU, "swiglu": SWIGLU, "relu2": RELU2}


class Loaded(NamedTuple):
    """What a step takes, and what is worth knowing of it."""

    forms: tuple[str, str]  # of the layers' matrices, and of the head
    weight_bytes: int
    room: Room
    form: Form
    shape: Shape
    weights: Weights


def arguments(model: GPT, weights: str, activations: str, threads: int, rows: int, pages: int) -> Loaded:
    """A model for a step, its matrices as they are ("own") or rounded to a form."""
    matrices, head = matrices_of(model, weights)
    forms = matrices[0].form, head.form
    whole = [form for form in forms if form.startswith("int")]
    if activations == "int8" and len(whole) < 2:
        raise ConfigError(
            f"activations of int8 need weights that are whole numbers, not {forms[0]} (head: {forms[1]}); "
            "use weights int8 or int4"
        )
    digits, instruction = 1 if activations == "int8" else 3, 1 if native() and whole else 2
    layers, top = (mark(KINDS.index(form) + 1) for form in forms)
    form = Form(layers, top, mark(digits), mark(instruction))
    learned, size = learned_of(model, matrices, head)
    return Loaded(forms, size, room(model.config, threads, rows, pages), form, shape(model.config), learned)


def matrices_of(model: GPT, weights: str) -> tuple[list[Matrix], Matrix]:
    """The five matrices of every block, all in one form, and the head: as they are, or rounded to a form."""
    take = own if weights == "own" else lambda layer: rounding(layer.weight, weights)
    found = [matrix for block in model.blocks for matrix in _matrices(block, model.config.d_head, take)]
    return alike(found), own(model.head) if weights == "own" else rounding(model.head.weight, head_form(weights))


def head_form(weights: str) -> str:
    """How the head is stored: it suffers most from few bits."""
    return {"int4": "int8-groups", "int4-lows": "int8-groups"}.get(weights, weights)


def _matrices(block: Any, D: int, take: Take) -> list[Matrix]:
    """Of a block, as a step has them: queries, keys and values as one; o; perhaps gate; up; down."""
    attention, mlp = block.attention, block.mlp
    heads = alike([take(part).each(lambda rows: spaced(rows, D)) for part in (attention.q, attention.k, attention.v)])
    gate = [mlp.gate] if isinstance(mlp, GatedMLP) else []
    return [joined(heads), *map(take, [attention.o, *gate, mlp.up, mlp.down])]


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


def spaced(heads: np.ndarray, D: int) -> np.ndarray:
    """The rows of every head filled up to a multiple of 16: (H D, ...) -> (H 16 ceil(D / 16), ...)."""
    rows = heads.reshape(-1, D, *heads.shape[1:])
    filled = np.zeros((len(rows), up(D, ROWS), *rows.shape[2:]), rows.dtype)
    filled[:, :D] = rows
    return filled.reshape(-1, *heads.shape[1:])


@torch.no_grad()
def learned_of(model: GPT, matrices: list[Matrix], head: Matrix) -> tuple[Weights, int]:
    """All that is learned, where a step finds it; and how many bytes of it a step reads."""
    config = model.config
    L, C, D = config.n_layer, config.d_model, config.d_head
    blocks: list[Any] = list(model.blocks)
    store = Store(sum(map(packed_bytes, matrices)) + packed_bytes(head))
    which = (QKV, O, *([GATE] if config.mlp == "swiglu" else []), UP, DOWN)
    places = np.zeros((L + 1, 5, 2), np.int64)
    biases = numbers((L, 5, max(up(config.d_ff, GROUP), up(C, GROUP), _qkv(config))))
    for at, matrix in enumerate(matrices):
        places[at // len(which), which[at % len(which)]] = store.put(matrix)
    places[L, 0] = store.put(head)
    norms = np.zeros((2 * L + 1, 2, C), np.float32)
    for at, norm in enumerate(
        [norm for block in blocks for norm in (block.attention_norm, block.mlp_norm)] + [model.norm]
    ):
        norms[at, 0] = norm.weight.float().numpy()
        if config.norm == "layernorm" and norm.bias is not None:
            norms[at, 1] = norm.bias.float().numpy()
    heads = np.ones((L, 2, D), np.float32)
    for layer, block in enumerate(blocks):
        _put_biases(biases[layer], block, D)
        if config.qk_norm:
            heads[layer] = [norm.weight.float().numpy() for norm in (block.attention.q_norm, block.attention.k_norm)]
    embed = model.embed.weight.detach().float().numpy()
    positions, turns = _positions(model, config.context_length)
    return Weights(embed, positions, turns, norms, heads, biases, places, store.bytes), store.used


def _put_biases(room: np.ndarray, block: Any, D: int) -> None:
    """The biases of a block to their places, those of heads filled up like their rows: into (5, widest)."""
    attention, mlp = block.attention, block.mlp
    parts = {O: attention.o, UP: mlp.up, DOWN: mlp.down} | ({GATE: mlp.gate} if isinstance(mlp, GatedMLP) else {})
    added = {which: part.bias.float().numpy() for which, part in parts.items() if part.bias is not None}
    if attention.q.bias is not None:
        heads = [spaced(part.bias.float().numpy(), D) for part in (attention.q, attention.k, attention.v)]
        added[QKV] = np.concatenate(heads)
    for which, bias in added.items():
        room[which, : len(bias)] = bias


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


def room(config: ModelConfig, threads: int, rows: int, pages: int) -> Room:
    """Room for `rows` rows of a step, and for the keys and values of so many pages."""
    L, H, G, D = config.n_layer, config.n_head, config.n_kv_head, config.d_head
    R, N, C, F = up(rows, 8), up(config.context_length, PAGE), up(config.d_model, GROUP), up(config.d_ff, GROUP)
    deep, wide, mixed = up(D, GROUP), up(D, ROWS), up(H * D, GROUP)
    groups = R * max(C, F, mixed) // GROUP
    return Room(
        ids=np.zeros(R, np.int64),
        at=np.zeros(R, np.int64),
        tables=np.zeros((R, N // PAGE), np.int64),
        now=np.zeros(3, np.int64),
        keys=numbers((pages, L, G, PAGE // ROWS, deep, ROWS)),
        values=numbers((pages, L, G, wide // ROWS, PAGE, ROWS)),
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
