"""A model as a Hugging Face folder, which transformers, vLLM and others open.

config.json              the shape, under the name of an architecture that computes exactly this
generation_config.json   the ids that end a text
model.safetensors        the weights by that architecture's names, in its layout
tokenizer.json, tokenizer_config.json, chat_template.jinja
README.md                the model card
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from firsthand import files
from firsthand.errors import ConfigError, nearest
from firsthand.files import tensors as stored
from firsthand.interop import hf_config, huggingface, names, verified
from firsthand.interop.card import Card
from firsthand.interop.foreign import Foreign
from firsthand.tokenizer import tokenizer_json

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
SHARED = ("bpe", "sentence")  # kinds of tokenizers that other programs' models have too
RUNS_IN = ("transformers", "vLLM")
USE = """\
    from transformers import AutoModelForCausalLM, {0}
    model, tokenizer = AutoModelForCausalLM.from_pretrained("."), {0}.from_pretrained(".")"""
QWEN2 = (
    "transformers 5 cuts text for every Qwen 2 as Qwen 2 does, whatever tokenizer.json says; "
    "open this tokenizer with PreTrainedTokenizerFast, not with AutoTokenizer"
)


def to_huggingface(model: Foreign, target: Path, kind: str | None = None) -> verified.Exported:
    """Write a folder, once it was read back and found to be the model; without a kind in the type the weights have."""
    kind = kind or _kind(model)
    if kind not in DTYPES:
        hint = nearest(kind, DTYPES)
        raise ConfigError(f"a Hugging Face folder of type {kind!r} cannot be written; use {', '.join(DTYPES)}.{hint}")
    config, model = hf_config.write(model.config), _completed(model)
    rounded = {name: verified.finite(name, tensor, tensor.to(DTYPES[kind])) for name, tensor in model.tensors.items()}
    size, write = stored.stream(names.to_theirs(rounded, model.config))
    dtype = str(DTYPES[kind]).removeprefix("torch.")
    content: dict[str, files.Content] = {
        "config.json": _json({**config, **_roles(model), "dtype": dtype}),
        "generation_config.json": _json({**_roles(model), "do_sample": False}),
        "model.safetensors": write,
        "tokenizer.json": tokenizer_json.write(model.tokenizer),
        "tokenizer_config.json": _json(_tokenizer_config(model)),
    }
    if model.template is not None:
        content["chat_template.jinja"] = model.template
    notes = (QWEN2,) if config["model_type"] == "qwen2" and not _cuts_as_qwen2(model.tokenizer) else ()
    use = USE.format("PreTrainedTokenizerFast" if notes else "AutoTokenizer")
    card = Card(target.absolute().name, "transformers", config["architectures"][0], kind.upper(), RUNS_IN, notes, use)
    meant = replace(model, tensors=rounded)
    return verified.publish(model, target, verified.Written(meant, content, size, huggingface.read, card))


def _cuts_as_qwen2(tokenizer: Any) -> bool:
    return tokenizer.kind == "bpe" and tokenizer.pattern == "qwen2" and tokenizer.nfc


def _kind(model: Foreign) -> str:
    """The one type that holds all weights exactly."""
    found = {tensor.dtype for tensor in model.tensors.values()}
    return next((kind for kind, dtype in DTYPES.items() if found == {dtype}), "f32")


def _completed(model: Foreign) -> Foreign:
    """The same, with what other programs would otherwise guess: what ends a text, a token for every row."""
    tokenizer, end = model.tokenizer, model.tokenizer.end_of_text
    ends = model.ends or (() if end is None else (end,))
    rows = model.config.vocab_size
    return replace(model, ends=ends, tokenizer=tokenizer.padded(rows) if tokenizer.kind in SHARED else tokenizer)


def _roles(model: Foreign) -> dict[str, Any]:
    """The ids that begin and end a text, and fill rows up; one end stands alone, several as a list."""
    begin = model.tokenizer.begin if model.tokenizer.kind in SHARED else None
    first = model.ends[0] if model.ends else None
    ends = list(model.ends) if len(model.ends) > 1 else first
    return {"bos_token_id": begin, "eos_token_id": ends, "pad_token_id": first}


def _tokenizer_config(model: Foreign) -> dict[str, Any]:
    """What transformers wants to know beside tokenizer.json."""
    special = {token: name for name, token in model.tokenizer.special_tokens.items()}
    roles = {**_roles(model), "eos_token_id": model.ends[0] if model.ends else None}
    found = {role.removesuffix("_id"): special[token] for role, token in roles.items() if token in special}
    plain = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    return {**plain, "model_max_length": model.config.context_length, **found}


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=2, allow_nan=False).encode() + b"\n"
