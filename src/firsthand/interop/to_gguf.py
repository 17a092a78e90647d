"""A model as a GGUF file for llama.cpp, Ollama and LM Studio: weights, tokenizer and chat template in one.

    model.gguf   in the layout of llama.cpp's own converter, in one of five kinds of numbers
    Modelfile    what Ollama wants to know beside it
    README.md    where it comes from and how it was checked

As llama.cpp's tools do it, norms, biases and positions stay F32 whatever the kind; rows that cannot be cut into blocks
of 32 become F16; and in a file of Q4_0 the head, which suffers most, has more bits: Q8_0.
Source: convert_hf_to_gguf.py and llama-quant.cpp of llama.cpp.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from firsthand import files
from firsthand.errors import ConfigError, TokenizerError, nearest
from firsthand.interop import gguf, gguf_config, gguf_tokenizer, gguf_write, modelfile, verified
from firsthand.interop.card import Card
from firsthand.interop.foreign import Foreign
from firsthand.interop.gguf_names import CONTROL, NORMAL, PRE, USER_DEFINED, halves_to_neighbours, theirs
from firsthand.interop.gguf_quantize import BLOCK, meant, stored
from firsthand.interop.gguf_tokenizer import ENDS
from firsthand.interop.gguf_write import Entry, Value
from firsthand.tokenizer.bpe import Tokenizer
from firsthand.tokenizer.tokenizer_json import visible

FILE = "model.gguf"
FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "BF16": 32}  # llama.cpp's number of each kind
RUNS_IN = ("llama.cpp", "Ollama", "LM Studio")


def to_gguf(model: Foreign, target: Path, kind: str = "f16") -> verified.Exported:
    """Write a folder with a GGUF file, once it was read back and found to be the model in this kind of numbers."""
    kind = kind.upper()
    if kind not in FILE_TYPES:
        kinds = [name.lower() for name in FILE_TYPES]
        hint = nearest(kind.lower(), kinds)
        raise ConfigError(f"a GGUF file of type {kind.lower()!r} cannot be written; use {', '.join(kinds)}.{hint}")
    name, known, tokenizer = target.absolute().name, gguf_config.entries(model.config), readable(model)
    known |= {"general.name": name, "general.file_type": FILE_TYPES[kind], "general.quantization_version": 2}
    known |= vocabulary(tokenizer, _ends(model))
    if model.template is not None:
        known["tokenizer.chat_template"] = model.template
    kinds = {name: chosen(name, tensor, kind, model.config.tied) for name, tensor in model.tensors.items()}
    rounded = {
        name: verified.finite(name, tensor, meant(tensor, kinds[name])) for name, tensor in model.tensors.items()
    }
    told = replace(model, tensors=rounded, tokenizer=tokenizer, ends=gguf_tokenizer.ends(known, tokenizer))
    size, write = gguf_write.stream(known, list(_entries(model, kinds)))
    ollama, left_out = modelfile.write(told, FILE)
    notes = (*_said(model, told, kinds, kind), *left_out)
    use = f"    ollama create {name} -f Modelfile\n    llama-cli -m {FILE}"
    card = Card(name, "gguf", str(known["general.architecture"]), kind, RUNS_IN, notes, use)
    content: dict[str, files.Content] = {FILE: write, "Modelfile": ollama}
    return verified.publish(model, target, verified.Written(told, content, size, _read, card))


def _read(folder: Path) -> Foreign:
    return gguf.read(folder / FILE)


def chosen(name: str, tensor: Tensor, kind: str, tied: bool) -> str:
    """The kind of one tensor in a file of this kind."""
    if tensor.dim() == 1 or name == "positions.weight":
        return "F32"
    if kind.startswith("Q") and tensor.shape[-1] % BLOCK:
        return "F16"
    return "Q8_0" if kind == "Q4_0" and name == ("embed.weight" if tied else "head.weight") else kind


def _said(model: Foreign, told: Foreign, kinds: dict[str, str], kind: str) -> list[str]:
    """What the file does not do as it was asked to, in words."""
    notes = []
    if short := [name for name in kinds if kinds[name] == "F16" != kind]:
        width = model.tensors[short[0]].shape[-1]
        notes.append(
            f"{len(short)} matrices are F16: rows of {width} are no whole blocks of {BLOCK} (the first: {short[0]})"
        )
    if kind == "Q4_0" and "Q8_0" in kinds.values():
        notes.append("the head is Q8_0: it suffers most from few bits")
    if model.tokenizer.nfc:
        notes.append("llama.cpp does not bring text into Unicode's form NFC first: text in another form gets other ids")
    if lost := set(model.ends) - set(told.ends):
        notes.append(f"the ids {sorted(lost)} also end an answer, which a GGUF file cannot say")
    return notes


def _entries(model: Foreign, kinds: dict[str, str]) -> Iterator[Entry]:
    """The tensors of the file: q and k of a Llama with their rows reordered, q, k and v of a GPT-2 as one."""
    config, architecture = model.config, gguf_config.architecture(model.config)
    for name, tensor in model.tensors.items():
        path, ending = name.rsplit(".", 1)
        parts, heads, title = [tensor], 0, name
        if architecture == "gpt2" and path.endswith((".k", ".v")):
            continue
        if architecture == "gpt2" and path.endswith(".q"):
            parts, title = [model.tensors[f"{path[:-1]}{letter}.{ending}"] for letter in "qkv"], f"{path}kv.{ending}"
        if architecture == "llama":
            heads = {"q": config.n_head, "k": config.n_kv_head}.get(path.rpartition(".")[2], 0)
        shape = (sum(len(part) for part in parts), *tensor.shape[1:])
        yield Entry(theirs(title), shape, kinds[name], partial(_bytes, parts, heads, kinds[name]))
    if config.rope_scaling is not None and config.rope_theta is not None:
        factors = gguf_config.factors(config.rope_scaling, config.d_head, config.rope_theta)
        yield Entry(gguf_config.FACTORS, factors.shape, "F32", partial(_bytes, [factors], 0, "F32"))


def _bytes(parts: list[Tensor], heads: int, kind: str) -> np.ndarray:
    rows = parts[0] if len(parts) == 1 else torch.cat(parts)
    return stored(halves_to_neighbours(rows, heads) if heads else rows, kind)


def readable(model: Foreign) -> Tokenizer:
    """The tokenizer as llama.cpp will apply it: without Unicode's form NFC, and with a name for every unused id."""
    old = model.tokenizer
    if old.kind != "bpe":
        raise TokenizerError(
            f"a GGUF file is not written with a {old.kind} tokenizer, only with byte-level BPE. "
            f"Export to a Hugging Face folder (--to hf), or train a model on a BPE vocabulary"
        )
    plain = Tokenizer(old.tokens, old.merges, old.pattern, old.special_tokens, old.whole, False, old.shown, old.begin)
    return plain.padded(model.config.vocab_size)


def vocabulary(tokenizer: Tokenizer, ends: tuple[int, ...]) -> dict[str, Value]:
    """What GGUF says of a tokenizer: how text is cut, every token with its type, the merges, and where a text ends."""
    cut = (tokenizer.pattern, tokenizer.whole)
    name = next((name for name, found in PRE.items() if found == cut), None)
    if name is None:
        whole = ", and takes a piece that is a token whole" if tokenizer.whole else ""
        raise TokenizerError(
            f"llama.cpp has no name for how this tokenizer cuts text: as {tokenizer.pattern}{whole}. "
            f"Export to a Hugging Face folder (--to hf), or train one with pattern gpt2"
        )
    special = dict.fromkeys(tokenizer.special_tokens.values(), CONTROL)
    special |= {tokenizer.special_tokens[name]: USER_DEFINED for name in tokenizer.shown}
    tokens = [token.decode() if at in special else visible(token) for at, token in enumerate(tokenizer.tokens)]
    begin = ends[0] if tokenizer.begin is None else tokenizer.begin
    known: dict[str, Value] = {
        "model": "gpt2",
        "pre": name,
        "tokens": tokens,
        "token_type": [special.get(token, NORMAL) for token in range(len(tokens))],
        "merges": [f"{visible(left)} {visible(right)}" for left, right in tokenizer.merge_bytes()],
        "bos_token_id": begin,
        "add_bos_token": tokenizer.begin is not None,
    }
    known |= {f"{role}_token_id": end for role, end in zip(ENDS, ends, strict=False)}
    return {f"tokenizer.ggml.{key}": value for key, value in known.items()}


def _ends(model: Foreign) -> tuple[int, ...]:
    """The ids that end a text or an answer, of which there must be one."""
    end = model.tokenizer.end_of_text
    if not model.ends and end is None:
        raise TokenizerError(
            "no token of this vocabulary ends a text, and llama.cpp would then take token 11 for it. "
            "Train the tokenizer with the special token <|endoftext|>, or export to a Hugging Face folder (--to hf)"
        )
    return model.ends or (end,)
