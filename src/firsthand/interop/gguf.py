"""A GGUF file -> a model: what llama.cpp and Ollama run, read without either.

Numbers in blocks of 4 to 8 bits become float32 (gguf_blocks.py); q and k of architecture `llama` get their rows back
in our order, and GPT-2's one matrix for q, k and v becomes three (gguf_names.py).
"""

from collections import Counter
from pathlib import Path

import numpy as np
from torch import Tensor

from firsthand import files
from firsthand.errors import ModelError
from firsthand.interop import gguf_blocks, gguf_config, gguf_file, gguf_tokenizer
from firsthand.interop.foreign import Foreign, require_numbers
from firsthand.interop.gguf_file import Container, Stored
from firsthand.interop.gguf_names import neighbours_to_halves, ours
from firsthand.model.assemble import hollow
from firsthand.model.config import ModelConfig
from firsthand.tokenizer.formats import one_line

EMBEDDING, HEAD = "token_embd.weight", "output.weight"


def read(path: Path | str) -> Foreign:
    """The model of a GGUF file with its tokenizer, chat template and ends."""
    held, where = gguf_file.read(path), files.shown(path)
    config, tensors = weights(held, where)
    metadata = held.metadata
    with one_line(Path(path)):
        found = gguf_tokenizer.read(metadata)
        tokenizer = found.padded(config.vocab_size)
        ends = gguf_tokenizer.ends(metadata, tokenizer)
    template = metadata.get("tokenizer.chat_template")
    about = {
        "format": "gguf",
        "source": str(path),
        "architecture": metadata["general.architecture"],
        "kinds": dict(Counter(stored.kind.name for stored in held.tensors.values())),
        "ends": list(ends),
        "reserved_tokens": len(tokenizer.special_tokens) - len(found.special_tokens),
    }
    return Foreign(config, tensors, tokenizer, where, template if isinstance(template, str) else None, ends, about)


def weights(held: Container, where: str) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Config and tensors of a file, names and shapes compared before a block is opened."""
    if held.metadata.get("split.count", 1) != 1:
        raise ModelError(f"{where} is a part of a split file; join them: llama-gguf-split --merge FIRST OUT", code=18)
    rest = dict(held.tensors)
    factors = rest.pop(gguf_config.FACTORS, None)
    if EMBEDDING not in rest:
        raise ModelError(f"{where} has no tensor {EMBEDDING}; is it a language model? Take another file")
    if tied := HEAD not in rest or _same(rest[HEAD], rest[EMBEDDING]):
        rest.pop(HEAD, None)
    stretch = None if factors is None else _opened(gguf_config.FACTORS, factors, where)
    try:
        config = gguf_config.config(held.metadata, rest[EMBEDDING].shape[0], tied, stretch)
    except ModelError as error:
        reason = str(error).removesuffix(f" [FH{error.code:03d}]")[:142]  # several numbers may be wrong at once
        raise ModelError(f"{where}: {reason}", error.code) from error
    named = {_ours(name, where): stored for name, stored in rest.items()}
    shapes = {part: shape for name, stored in named.items() for part, shape in _shapes(name, stored, where)}
    hollow(config, shapes, where)
    turned = {"q": config.n_head, "k": config.n_kv_head} if held.metadata["general.architecture"] == "llama" else {}
    tensors: dict[str, Tensor] = {}
    for name, stored in named.items():
        parts = _opened(name, stored, where).chunk(len(_parts(name)))
        for part, tensor in zip(_parts(name), parts, strict=True):
            heads = turned.get(part.split(".")[-2])
            tensors[part] = tensor if heads is None else neighbours_to_halves(tensor, heads)
    return config, tensors


def _same(one: Stored, other: Stored) -> bool:
    """Whether two tensors are one, written twice, as GPT-2's head often is."""
    return one.kind == other.kind and one.shape == other.shape and np.array_equal(one.data, other.data)


def _ours(name: str, where: str) -> str:
    """Our name of a tensor; what we have no place for is refused, since the model would not be the same without it."""
    found = ours(name)
    if found is None:
        raise ModelError(
            f"{where}: tensor {files.quoted(name)} has no place in our models; run this one in llama.cpp", 18
        )
    return found


def _parts(name: str) -> list[str]:
    """The tensors of ours that are in one of theirs: GPT-2's qkv holds three."""
    return [name.replace(".qkv.", f".{letter}.") for letter in "qkv"] if ".qkv." in name else [name]


def _shapes(name: str, stored: Stored, where: str) -> list[tuple[str, tuple[int, ...]]]:
    """Name and shape of the tensors in a stored one."""
    parts, (rows, *width) = _parts(name), stored.shape
    if rows % len(parts):
        raise ModelError(f"{where}: tensor {name!r} has {rows:,} rows, which are not q, k and v. Fetch the file again")
    return [(part, (rows // len(parts), *width)) for part in parts]


def _opened(name: str, stored: Stored, where: str) -> Tensor:
    """The numbers of a tensor, every one of them finite."""
    require_numbers(name, gguf_blocks.rulers(stored.kind, stored.data), where)
    return gguf_blocks.tensor(stored.kind, stored.data, stored.shape)
