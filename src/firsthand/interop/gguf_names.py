"""GGUF's words for our tensors and patterns, in both directions; and the two layouts that are not ours.

    token_embd.weight     embed.weight       blk.N.attn_q.weight      blocks.N.attention.q.weight
    output_norm.weight    norm.weight        blk.N.ffn_down.weight    blocks.N.mlp.down.weight

Architecture `llama` turns the neighbours (0, 1), (2, 3), ... of a head, where we and Hugging Face turn (0, D/2),
(1, D/2 + 1), ...: the rows of q and k stand in another order. And `gpt2` keeps q, k and v as one, `attn_qkv`.
Source: convert_hf_to_gguf.py and gguf-py/gguf/constants.py of llama.cpp.
"""

import re

from torch import Tensor

WHOLE = {  # ours -> theirs, outside the blocks
    "embed": "token_embd",
    "positions": "position_embd",
    "norm": "output_norm",
    "head": "output",
}
PARTS = {  # ours -> theirs, inside a block
    "attention_norm": "attn_norm",
    "attention.q": "attn_q",
    "attention.k": "attn_k",
    "attention.v": "attn_v",
    "attention.qkv": "attn_qkv",  # no name of ours, but a step on the way
    "attention.o": "attn_output",
    "attention.q_norm": "attn_q_norm",
    "attention.k_norm": "attn_k_norm",
    "mlp_norm": "ffn_norm",
    "mlp.gate": "ffn_gate",
    "mlp.up": "ffn_up",
    "mlp.down": "ffn_down",
}
OURS = {theirs: ours for ours, theirs in (WHOLE | PARTS).items()}

# What llama.cpp calls a way to cut text -> our pattern, and whether a piece that is a token is taken whole.
# The first of several names is the one to write.
PRE = {
    "gpt-2": ("gpt2", False),
    "smollm": ("smollm", False),
    "qwen2": ("qwen2", False),
    "dbrx": ("llama3", False),
    "llama-bpe": ("llama3", True),
    "llama3": ("llama3", True),
    "llama-v3": ("llama3", True),
    "smaug-bpe": ("llama3", False),
    "deepseek-r1-qwen": ("qwen2", False),
    "mpt": ("gpt2", False),
    "olmo": ("gpt2", False),
}
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # tokenizer.ggml.token_type


def theirs(name: str) -> str:
    """The name in GGUF of a tensor of ours: "blocks.0.mlp.up.weight" -> "blk.0.ffn_up.weight"."""
    part, kind = name.rsplit(".", 1)
    if not name.startswith("blocks."):
        return f"{WHOLE[part]}.{kind}"
    _, layer, part = part.split(".", 2)
    return f"blk.{layer}.{PARTS[part]}.{kind}"


def ours(name: str) -> str | None:
    """Our name of a tensor in GGUF, None if it has none: "blk.0.ffn_up.weight" -> "blocks.0.mlp.up.weight"."""
    found = re.fullmatch(r"(?:blk\.(0|[1-9][0-9]{0,3})\.)?([a-z_]+)\.(weight|bias)", name)
    layer, part, kind = found.groups() if found else (None, "", "")
    if part not in OURS or (OURS[part] in PARTS) != (layer is not None):
        return None
    return f"{OURS[part]}.{kind}" if layer is None else f"blocks.{int(layer)}.{OURS[part]}.{kind}"


def halves_to_neighbours(rows: Tensor, heads: int) -> Tensor:
    """The rows of q or k as architecture `llama` wants them: of each head 0, D/2, 1, D/2 + 1, ...; also a bias."""
    return rows.view(heads, 2, -1, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def neighbours_to_halves(rows: Tensor, heads: int) -> Tensor:
    """The way back: of each head 0, 2, 4, ..., 1, 3, 5, ..."""
    return rows.view(heads, -1, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)
