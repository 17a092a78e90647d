"""Hugging Face's names and layouts of weights <-> ours.   C width, F inner width, H heads, D head width.

    transformer.h.3.attn.c_attn.weight      (C, 3C)      blocks.3.attention.{q,k,v}.weight    three of (C, C)
    transformer.h.3.mlp.c_fc.weight         (C, F)       blocks.3.mlp.up.weight               (F, C)
    model.layers.3.self_attn.q_proj.weight  (H D, C)     blocks.3.attention.q.weight          (H D, C)

GPT-2 keeps its matrices as (in, out), and q, k and v as one. Llama, Mistral, Qwen 2 and Qwen 3 differ from us in names
only. What is turned or cut here is a view, so that weights mapped from a file stay mapped.
"""

import re
from typing import NamedTuple

import torch
from torch import Tensor

from firsthand import files
from firsthand.errors import CheckpointError
from firsthand.model.config import ModelConfig

Weights = dict[str, Tensor]


class Family(NamedTuple):
    """How models of one kind call their parts."""

    prefix: str  # before every name but the head's; files of a bare model are without it
    layers: str
    outside: dict[str, str]  # theirs -> ours
    inside: dict[str, str]  # of a layer


GPT2 = Family(
    "transformer.",
    "h",
    {"wte": "embed", "wpe": "positions", "ln_f": "norm", "lm_head": "head"},
    {
        "ln_1": "attention_norm",
        "attn.c_attn": "attention.qkv",
        "attn.c_proj": "attention.o",
        "ln_2": "mlp_norm",
        "mlp.c_fc": "mlp.up",
        "mlp.c_proj": "mlp.down",
    },
)
LLAMA = Family(
    "model.",
    "layers",
    {"embed_tokens": "embed", "norm": "norm", "lm_head": "head"},
    {
        "input_layernorm": "attention_norm",
        "self_attn.q_proj": "attention.q",
        "self_attn.k_proj": "attention.k",
        "self_attn.v_proj": "attention.v",
        "self_attn.o_proj": "attention.o",
        "self_attn.q_norm": "attention.q_norm",
        "self_attn.k_norm": "attention.k_norm",
        "post_attention_layernorm": "mlp_norm",
        "mlp.gate_proj": "mlp.gate",
        "mlp.up_proj": "mlp.up",
        "mlp.down_proj": "mlp.down",
    },
)
TABLE = re.compile(r".*\b(attn\.(masked_)?bias|rotary_emb\.inv_freq)")  # the causal mask; the frequencies of the angles


def family(config: ModelConfig) -> Family:
    """The names of a model's parts: GPT-2's where positions are learned, else Llama's."""
    return GPT2 if config.rope_theta is None else LLAMA


def to_ours(theirs: Weights, config: ModelConfig, where: str) -> tuple[Weights, dict[str, str]]:
    """The weights by our names, in our layout; and what is left out, each with the reason.

    A name that is not known stays as it is: `assemble` will refuse it. `where` is for messages.
    """
    ours: Weights = {}
    left_out: dict[str, str] = {}
    for name, tensor in theirs.items():
        if TABLE.fullmatch(name):
            left_out[name] = "a table, which is computed here"
            continue
        for own, part in _ours(name, tensor, family(config)).items():
            if own in ours:
                raise CheckpointError(f"{where} holds {own!r} twice, once as {files.quoted(name)}; remove one of them")
            ours[own] = part
    if config.tied and "head.weight" in ours and "embed.weight" in ours:
        head, embed = ours.pop("head.weight"), ours["embed.weight"]
        if head.dtype != embed.dtype or not torch.equal(head, embed):
            raise CheckpointError(
                f"{where} holds a head that is not the embedding, and config.json says tie_word_embeddings true; "
                f"set that to false in config.json, or remove lm_head.weight"
            )
        left_out["lm_head.weight"] = "the embedding once more"
    return ours, left_out


def to_theirs(ours: Weights, config: ModelConfig) -> Weights:
    """The weights by Hugging Face's names, in its layout: the way back of `to_ours`."""
    known = family(config)
    outside = {own: their for their, own in known.outside.items()}
    inside = {own: their for their, own in known.inside.items()}
    theirs: Weights = {}
    for name, tensor in (_fused(ours) if known is GPT2 else ours).items():
        path, kind = name.rsplit(".", 1)
        if path.startswith("blocks."):
            _, number, part = path.split(".", 2)
            path = f"{known.prefix}{known.layers}.{number}.{inside[part]}"
            tensor = tensor.mT if known is GPT2 and tensor.dim() == 2 else tensor
        else:
            path = outside[path] if path == "head" else known.prefix + outside[path]
        theirs[f"{path}.{kind}"] = tensor
    return theirs


def linears(config: ModelConfig) -> dict[str, list[str]]:
    """Every linear layer by their name, and what it is here: GPT-2's c_attn is q, k and v, one below the other."""
    known = family(config)
    parts = {their: own for their, own in known.inside.items() if not own.endswith("norm")}
    found = {"lm_head": ["head"]}
    for number in range(config.n_layer):
        for their, own in parts.items():
            names = [own.removesuffix("qkv") + letter for letter in "qkv"] if own == "attention.qkv" else [own]
            found[f"{known.prefix}{known.layers}.{number}.{their}"] = [f"blocks.{number}.{name}" for name in names]
    return found


def _ours(name: str, tensor: Tensor, known: Family) -> Weights:
    """One of their tensors as ours: one, or of GPT-2's fused ones three."""
    found = re.fullmatch(rf"(?:{known.layers}\.([0-9]+)\.)?(.+)\.(weight|bias)", name.removeprefix(known.prefix))
    number, part, kind = found.groups() if found else (None, "", "")
    own = (known.outside if number is None else known.inside).get(part)
    if own is None:
        return {name: tensor}
    if number is None:
        return {f"{own}.{kind}": tensor}
    tensor = tensor.mT if known is GPT2 and tensor.dim() == 2 else tensor
    if own == "attention.qkv":
        thirds = torch.atleast_1d(tensor).tensor_split(3)  # of whatever shape: `assemble` compares it
        return {
            f"blocks.{number}.attention.{letter}.{kind}": third for letter, third in zip("qkv", thirds, strict=True)
        }
    return {f"blocks.{number}.{own}.{kind}": tensor}


def _fused(ours: Weights) -> Weights:
    """With q, k and v of every layer as one."""
    fused: Weights = {}
    for name, tensor in ours.items():
        found = re.fullmatch(r"(.+\.attention\.)([qkv])(\..+)", name)
        if found is None:
            fused[name] = tensor
        elif found[2] == "q":
            fused[f"{found[1]}qkv{found[3]}"] = torch.cat([ours[f"{found[1]}{letter}{found[3]}"] for letter in "qkv"])
    return fused
