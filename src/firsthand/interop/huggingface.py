"""A folder in the form of Hugging Face -> a model.

    config.json              the shape (hf_config.py)
    model.safetensors        the weights (names.py); or model.safetensors.index.json, which says the file of each tensor
    tokenizer.json           the tokenizer; of old GPT-2 folders vocab.json and merges.txt
    chat_template.jinja      of a chat model; older folders keep it in tokenizer_config.json
    generation_config.json   the ids that end an answer

The folder may be anybody's: no name leads out of it, no file is run, and every number of the weights is finite. The
only links followed are those of the hub's own cache, from snapshots/COMMIT into blobs/ beside it.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from firsthand import files
from firsthand.errors import CheckpointError, ModelError, TokenizerError
from firsthand.files import tensors as stored
from firsthand.interop import hf_config, names
from firsthand.interop.foreign import Foreign, require_numbers
from firsthand.model.assemble import hollow
from firsthand.model.config import ModelConfig
from firsthand.tokenizer import formats

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def read(folder: Path | str, source: str = "") -> Foreign:
    """The model in a folder. `source` is the name under which it was asked for, where the folder does not tell it."""
    given, folder = folder, Path(folder).absolute()
    where = files.shown(folder)
    fields = _json(folder, "config.json", f"{where} has no config.json; give the folder of a whole model")
    config, unread = hf_config.read(fields, files.shown(folder / "config.json"))
    tensors, left_out = names.to_ours(_weights(folder), config, where)
    hollow(config, {name: tensor.shape for name, tensor in tensors.items()}, where)
    for name, tensor in tensors.items():
        require_numbers(name, tensor, where)
    tokenizer, reserved = _tokenizer(folder, config)
    ends = _ends(folder, fields, config, tokenizer.end_of_text)
    about = {
        "format": "huggingface",
        "source": source or str(given),
        "architecture": hf_config.architecture_of(fields, where),
        "ends": list(ends),
        "reserved_tokens": reserved,
        "left_out": left_out,
        "unread": unread,
        **_origin(folder),
    }
    return Foreign(config, tensors, tokenizer, where, _template(folder), ends, about)


def _weights(folder: Path) -> dict[str, Tensor]:
    """The tensors by their own names, mapped: of one file, or of several when each holds just what the index says."""
    if _has(folder, WEIGHTS) or not _has(folder, INDEX):
        return stored.read(_weights_file(folder))
    places = _json(folder, INDEX).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
        raise CheckpointError(
            f"{files.shown(folder / INDEX)}: weight_map must say a file for each tensor; fetch it again"
        )
    tensors: dict[str, Tensor] = {}
    for place in sorted(set(places.values())):
        path = _inside(folder, place)
        if not path.exists():
            raise CheckpointError(f"{files.shown(path)} is not there, and {INDEX} names it. Fetch the rest", code=19)
        found = stored.read(path)
        told = {name for name, held_by in places.items() if held_by == place}
        for name in sorted(told ^ {name for name in found if name in told or not names.TABLE.fullmatch(name)}):
            lacks = "lacks" if name in told else "holds"
            raise CheckpointError(
                f"{files.shown(path)} {lacks} {files.quoted(name)}, and {INDEX} says otherwise. Fetch the model again"
            )
        tensors |= found
    return tensors


def _weights_file(folder: Path) -> Path:
    """The one file of weights; where it is missing, whatever lies there instead gets the message that helps most."""
    if _has(folder, WEIGHTS):
        return _inside(folder, WEIGHTS)
    for path in sorted(folder.glob("*")):
        if path.suffix in stored.PICKLE_SUFFIXES:
            stored.refuse_foreign(path, b"", 0)
    held = ", ".join(sorted(path.name for path in folder.glob("*")))
    raise CheckpointError(
        f"{files.shown(folder)} holds no {WEIGHTS}; it holds {files.quoted(held)}. Fetch the model again"
    )


def _tokenizer(folder: Path, config: ModelConfig) -> tuple[Any, int]:
    """The tokenizer, with as many tokens as the model has rows, and how many of them are there only for that."""
    if not any(_has(folder, name) for name in ("tokenizer.json", *formats.PAIRS)):
        found = "only tokenizer.model, for SentencePiece" if _has(folder, "tokenizer.model") else "none"
        raise TokenizerError(
            f"{files.shown(folder)} has no tokenizer.json, and no vocab.json with merges.txt ({found}). "
            f"Put the tokenizer.json of this model there"
        )
    tokenizer, rows = formats.load(folder), config.vocab_size
    tokens = tokenizer.vocab_size
    if tokens > rows:
        raise ModelError(
            f"tokenizer has {tokens:,} tokens but the model of {files.shown(folder)} has {rows:,} embedding rows. "
            f"Use the tokenizer.json the model was trained with",
            code=1,
        )
    return formats.padded(tokenizer, rows) if tokens < rows else tokenizer, rows - tokens


def _template(folder: Path) -> str | None:
    """How turns of a chat become text: a file of its own, or in tokenizer_config.json one text or several by name."""
    if _has(folder, "chat_template.jinja"):
        try:
            return files.read_file(_inside(folder, "chat_template.jinja")).decode()
        except UnicodeDecodeError:
            raise CheckpointError(
                f"{files.shown(folder / 'chat_template.jinja')} is not UTF-8. Fetch it again"
            ) from None
    given = _json(folder, "tokenizer_config.json").get("chat_template")
    named = given if isinstance(given, list) else [{"name": "default", "template": given}]
    texts = [entry.get("template") for entry in named if isinstance(entry, dict) and entry.get("name") == "default"]
    return texts[0] if texts and isinstance(texts[0], str) else None


def _ends(folder: Path, fields: dict, config: ModelConfig, end_of_text: int | None) -> tuple[int, ...]:
    """The ids that end an answer: what generation_config.json says, else config.json, else the tokenizer's own."""
    said = (_json(folder, "generation_config.json").get("eos_token_id"), fields.get("eos_token_id"), end_of_text)
    given = next((end for end in said if end is not None), [])
    ends = given if isinstance(given, list) else [given]
    if any(type(end) is not int for end in ends):
        raise ModelError(f"{files.shown(folder)} says eos_token_id {files.quoted(given)}; it must be an id, or several")
    return tuple(end for end in dict.fromkeys(ends) if 0 <= end < config.vocab_size)  # others can never be met


def _origin(folder: Path) -> dict[str, Any]:
    """Of a folder that was fetched here: its name in the hub or the catalog, and the sums its files agreed with."""
    manifest = _json(folder, files.MANIFEST)
    about, listed = manifest.get("about"), manifest.get("files")
    name = about.get("hub", about.get("row")) if isinstance(about, dict) else None
    if not isinstance(name, str) or not isinstance(listed, dict):
        return {}
    sums = {file: entry[-1] for file, entry in listed.items() if isinstance(entry, list) and entry}
    return {"source": f"{name}@{folder.name}", "sha256": sums}


def _has(folder: Path, name: str) -> bool:
    return (folder / name).exists()


def _inside(folder: Path, name: str) -> Path:
    """The file of a name that may be a stranger's; in the hub's cache it may be a link into the same model's blobs."""
    if folder.parent.name == "snapshots" and (folder.parents[1] / "blobs").is_dir():
        return files.safe_join(folder.parents[1], f"snapshots/{folder.name}/{name}")
    return files.safe_join(folder, name)


def _json(folder: Path, name: str, missing: str = "") -> dict:
    """The object in a JSON file, empty if there is no such file and that is no mistake."""
    if not _has(folder, name):
        if missing:
            raise CheckpointError(missing)
        return {}
    path = _inside(folder, name)
    data = files.read_file(path)
    stored.refuse_foreign(path, data[:8], len(data))
    return files.parse_json(data, files.shown(folder / name))
