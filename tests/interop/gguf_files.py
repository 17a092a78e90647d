"""GGUF files as others write them, by llama.cpp's own package: tiny random models, and their pieces as bytes."""

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from firsthand.tokenizer.tokenizer_json import CHARACTERS

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "l d", "Ġwor ld"]
TOKENS = [*CHARACTERS.values(), *(merge.replace(" ", "") for merge in MERGES), *SPECIAL]  # 256 + 9 + 3 = 268
TYPES = [1] * (len(TOKENS) - len(SPECIAL)) + [3] * len(SPECIAL)
END = len(TOKENS) - 1  # <|im_end|>
TEMPLATE = "{% for turn in messages %}<|im_start|>{{ turn.content }}<|im_end|>{% endfor %}"

# 2 layers, width 32, 4 heads in 2 groups, inner width 40, context 64
NUMBERS = {"block_count": 2, "context_length": 64, "embedding_length": 32, "feed_forward_length": 40}
NUMBERS |= {"attention.head_count": 4}


def tokenizer_entries(pre: str = "gpt-2") -> dict[str, Any]:
    """What a file says of its tokenizer."""
    listed = {"model": "gpt2", "pre": pre, "tokens": TOKENS, "token_type": TYPES, "merges": MERGES}
    ids = {"bos_token_id": END - 2, "eos_token_id": END, "add_bos_token": False}
    return {f"tokenizer.ggml.{key}": value for key, value in (listed | ids).items()} | {
        "tokenizer.chat_template": TEMPLATE
    }


def entries(architecture: str, pre: str = "gpt-2", **more: Any) -> dict[str, Any]:
    """What a file says of a tiny model; more numbers by name, dots written as double underscores."""
    numbers = NUMBERS | {name.replace("__", "."): value for name, value in more.items()}
    if architecture == "gpt2":
        numbers |= {"attention.layer_norm_epsilon": 1e-5}
    else:
        numbers |= {"attention.layer_norm_rms_epsilon": 1e-6, "rope.freq_base": 500.0, "attention.head_count_kv": 2}
    said = {"general.architecture": architecture, "general.name": "tiny"}
    return said | {f"{architecture}.{key}": value for key, value in numbers.items()} | tokenizer_entries(pre)


def tensors(architecture: str, d_head: int = 8, head: bool = True, rows: int = len(TOKENS)) -> dict[str, np.ndarray]:
    """Random weights of a tiny model, by their names in GGUF, rows first."""
    width, inner, q, k = 32, 40, 4 * d_head, 2 * d_head
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (rows, width), "output_norm.weight": (width,)}
    shapes |= {"output.weight": (rows, width)} if head else {}
    for layer in range(2):
        parts: dict[str, tuple[int, ...]] = {"attn_norm.weight": (width,), "ffn_norm.weight": (width,)}
        if architecture == "gpt2":
            parts |= {"attn_qkv.weight": (3 * width, width), "attn_qkv.bias": (3 * width,)}
            parts |= {"attn_output.weight": (width, width), "ffn_up.weight": (inner, width)}
            parts |= {"ffn_down.weight": (width, inner), "ffn_up.bias": (inner,)}
            parts |= {f"{name}.bias": (width,) for name in ("attn_norm", "ffn_norm", "attn_output", "ffn_down")}
        else:
            parts |= {"attn_q.weight": (q, width), "attn_k.weight": (k, width), "attn_v.weight": (k, width)}
            parts |= {"attn_output.weight": (width, q), "ffn_gate.weight": (inner, width)}
            parts |= {"ffn_up.weight": (inner, width), "ffn_down.weight": (width, inner)}
        if architecture == "qwen2":
            parts |= {"attn_q.bias": (q,), "attn_k.bias": (k,), "attn_v.bias": (k,)}
        if architecture == "qwen3":
            parts |= {"attn_q_norm.weight": (d_head,), "attn_k_norm.weight": (d_head,)}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in parts.items()}
    if architecture == "gpt2":
        shapes |= {"position_embd.weight": (64, width), "output_norm.bias": (width,)}
    random = np.random.default_rng(3)
    made = {name: _drawn(random, name, shape) for name, shape in shapes.items()}
    for name in {"token_embd.weight", "output.weight"} & made.keys():
        made[name][94:256] /= 10  # half a character is never the best: llama.cpp's server would hold it back
    return made


def _drawn(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Every number random: norms around 1, matrices so that no layer drowns the others."""
    noise = random.normal(size=shape)
    scaled = noise / shape[-1] ** 0.5 if len(shape) == 2 else noise / 4
    return (scaled + ("norm.weight" in name)).astype(np.float32)


def write(
    path: Path, said: dict[str, Any], weights: dict[str, np.ndarray], kinds: dict[str, str] | None = None
) -> Path:
    """A file by the package of llama.cpp; `kinds` are the kinds of tensors that are not F32."""
    writer = gguf.GGUFWriter(path, said["general.architecture"])
    add = {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    for key, value in said.items():
        if key != "general.architecture":
            add.get(type(value), writer.add_array)(key, value)
    for name, numbers in weights.items():
        kind = gguf.GGMLQuantizationType[(kinds or {}).get(name, "F32")]
        writer.add_tensor(name, gguf.quants.quantize(numbers, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# ---------------------------------------------------------------- bytes by hand, for files nobody should write


def text(value: str | bytes) -> bytes:
    """A text: its length and its bytes."""
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def entry(key: str, code: int, value: bytes) -> bytes:
    """An entry: key, type, value."""
    return text(key) + struct.pack("<I", code) + value


def info(name: str, axes: Iterable[int], code: int = 0, offset: int = 0) -> bytes:
    """What is said of a tensor."""
    axes = list(axes)
    return text(name) + struct.pack(f"<I{len(axes)}QIQ", len(axes), *axes, code, offset)


def file(
    said: list[bytes], infos: list[bytes], data: bytes = b"", counts: tuple[int, int] | None = None, version: int = 3
) -> bytes:
    """A whole file; `counts` are the numbers of tensors and of entries that it promises, if they are lies."""
    tensors, entries = counts or (len(infos), len(said))
    head = b"GGUF" + struct.pack("<IQQ", version, tensors, entries) + b"".join(said + infos)
    return head + bytes(-len(head) % 32 if infos else 0) + data
