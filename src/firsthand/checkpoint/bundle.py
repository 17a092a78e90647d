"""A model on disk, with all that is needed to use it, and to go on training it.

    step-000120/
      model.safetensors    the weights; a tied head is stored once
      config.json          the shape: the fields of ModelConfig
      tokenizer.json       the tokenizer, which other programs can read too
      chat_template.jinja  only of a chat model: how turns become text, in the form other programs use
      firsthand.json       where it comes from: versions, tokenizer, data, parent, settings, layers replaced
      optim.safetensors    only of a checkpoint: what the optimiser remembers
      state.json           only of a checkpoint: step, position in the data, random states
      MANIFEST.json        bytes and SHA-256 of all the above

Loading checks every byte, then builds the model without memory, compares names and shapes, and only then maps the
weights in. Nothing in a checkpoint is code.
"""

import json
import platform
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from firsthand import __version__, files
from firsthand.errors import CheckpointError, ModelError, nearest
from firsthand.files import tensors as stored
from firsthand.linear.kinds import replay
from firsthand.model.assemble import Change, assemble, hollow, weights
from firsthand.model.config import ModelConfig
from firsthand.model.gpt import GPT
from firsthand.tokenizer import tokenizer_json
from firsthand.tokenizer.bpe import Tokenizer
from firsthand.tokenizer.template import LONGEST

TEMPLATE = "chat_template.jinja"


@dataclass(frozen=True)
class Bundle:
    """A model, the tokenizer it was trained with, what is known of its origin, and where it lies."""

    model: GPT
    tokenizer: Any
    about: dict
    path: Path
    template: str | None = None  # how turns of a chat become text, as Jinja; None: the model only continues text

    @property
    def ends(self) -> tuple[int, ...]:
        """The ids after which nothing follows: those the model came with, else the tokenizer's end of text."""
        end = self.tokenizer.end_of_text
        return tuple(self.about.get("ends", () if end is None else (end,)))


def save(
    directory: Path | str,
    model: GPT,
    tokenizer: Any,
    about: dict,
    optim: dict[str, Tensor] | None = None,
    state: dict | None = None,
    template: str | None = None,
) -> Path:
    """Publish a model as a directory; `optim` and `state`, given together, make it one to go on training from."""
    _same_vocabulary(directory, tokenizer.vocab_size, model.config.vocab_size)
    model_bytes, write_model = stored.stream(weights(model))
    expected = model_bytes
    content: dict[str, files.Content] = {
        "model.safetensors": write_model,
        "config.json": _json(asdict(model.config)),
        "tokenizer.json": tokenizer_json.write(tokenizer),
        "firsthand.json": _json({**_origin(tokenizer), **about, **({"swaps": model.swaps} if model.swaps else {})}),
    }
    if template is not None:
        content[TEMPLATE] = template
    assert (optim is None) == (state is None), "a checkpoint to go on from needs both"
    if optim is not None and state is not None:
        optim_bytes, content["optim.safetensors"] = stored.stream(optim)
        content["state.json"] = json.dumps(state, allow_nan=False)
        expected += optim_bytes
    return files.publish(directory, content, expected=expected)


def load(directory: Path | str, device: str = "cpu", dtype: torch.dtype | None = None) -> Bundle:
    """The model of a directory, after every byte agreed with the manifest, and every name and shape with the config.

    Its numbers are of type `dtype`, or with None as they are in the file.
    """
    directory = Path(directory)
    _refuse_other_things(directory)
    if (directory / "model.safetensors").exists():
        stored.header(directory / "model.safetensors")  # a cut-off download deserves a better message than a wrong hash
    manifest = files.verify(directory)
    _require(directory, manifest, "model.safetensors", "config.json", "tokenizer.json", "firsthand.json")
    about = _read_json(directory / "firsthand.json")
    tokenizer = Tokenizer.load(directory / "tokenizer.json")
    config = _config(directory / "config.json")
    _same_vocabulary(directory, tokenizer.vocab_size, config.vocab_size)
    template = files.read_text(directory / TEMPLATE, LONGEST) if TEMPLATE in manifest["files"] else None
    change = partial(replay, swaps=about.get("swaps", []))
    model = _model(directory / "model.safetensors", config, change, device, dtype)
    return Bundle(model, tokenizer, about, directory, template)


def load_training(directory: Path | str) -> tuple[dict[str, Tensor], dict]:
    """What a checkpoint remembers beside the weights: the optimiser's tensors, and the state of the run."""
    directory = Path(directory)
    _require(directory, files.verify(directory), "optim.safetensors", "state.json")
    return stored.read(directory / "optim.safetensors"), _read_json(directory / "state.json")


def _model(path: Path, config: ModelConfig, change: Change, device: str, dtype: torch.dtype | None) -> GPT:
    """The model of a config, changed as it once was, with the weights of a file."""
    hollow(config, {name: entry["shape"] for name, entry in stored.header(path).items()}, files.shown(path), change)
    return assemble(config, stored.read(path, device), files.shown(path), dtype, change)


def _config(path: Path) -> ModelConfig:
    """The shape of the model, from a file that may be anybody's."""
    fields = _read_json(path)
    if "architectures" in fields or "model_type" in fields:
        given = fields.get("architectures") or fields.get("model_type")
        raise CheckpointError(
            f"{files.shown(path)} says architecture {files.quoted(given)}; "
            f"only directories that firsthand wrote are read here",
            code=18,
        )
    try:
        return TypeAdapter(ModelConfig).validate_python(fields)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part)[:40] for part in first["loc"])
        hint = nearest(key, ModelConfig.__dataclass_fields__)
        raise CheckpointError(
            f"{files.shown(path)}: {files.quoted(key)}: {first['msg'][:100]}.{hint}", code=33
        ) from error


def _same_vocabulary(directory: Path | str, tokens: int, rows: int) -> None:
    """Every id the tokenizer gives must have a row, and every row a token: otherwise they belong to two models."""
    if tokens != rows:
        raise ModelError(
            f"tokenizer has {tokens:,} tokens but the model of {files.shown(directory)} has {rows:,} embedding rows "
            f"(config.json:vocab_size). Use the tokenizer the model was trained with",
            code=1,
        )


def _refuse_other_things(directory: Path) -> None:
    """A file, or a folder that is no bundle, gets the message that helps most."""
    if directory.is_file():
        _refuse_file(directory)
        raise CheckpointError(f"{files.shown(directory)} is a file; give the directory it lies in")
    if (directory / files.MANIFEST).exists():
        return
    if inside := files.checkpoints(directory):
        raise CheckpointError(f"{files.shown(directory)} is a run. Give a checkpoint of it: {files.shown(inside[-1])}")
    for path in sorted(directory.glob("*")):
        if path.is_file():
            _refuse_file(path)
    files.verify(directory)  # which says that there is no manifest


def _refuse_file(path: Path) -> None:
    with files.open_regular(path) as file:
        stored.refuse_foreign(path, file.read(8), path.stat().st_size)


def _require(directory: Path, manifest: dict, *names: str) -> None:
    """Use only what the manifest vouches for."""
    missing = [name for name in names if name not in manifest["files"]]
    if missing:
        held = ", ".join(manifest["files"])[:60]
        raise CheckpointError(f"{files.shown(directory)} has no {' and no '.join(missing)}; it holds {held}")


def _origin(tokenizer: Any) -> dict:
    """What made this checkpoint: enough to explain it later, and nothing about the person who made it."""
    return {
        "made_with": {"firsthand": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "tokenizer": {"kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size, "sha256": tokenizer.fingerprint},
    }


def _json(value: dict) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False).encode() + b"\n"


def _read_json(path: Path) -> dict:
    return files.parse_json(files.read_file(path), files.shown(path))
