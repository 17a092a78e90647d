"""An adapter in the form of PEFT -> an adapter on a loaded model.   R rank, C_in and C_out widths of a layer.

    adapter_config.json          {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], ...}
    adapter_model.safetensors    base_model.model.LAYER.lora_A.weight             (R, C_in)
                                 base_model.model.LAYER.lora_B.weight             (C_out, R)
                                 base_model.model.LAYER.lora_magnitude_vector     (C_out,), of DoRA

Which layers have an adapter is read from the tensors. Where target_modules is a list, they must be just those; where
it is a regular expression, it may be a stranger's, and is not run.

GPT-2 keeps q, k and v as one layer, and its adapter has one A for all three: each of ours gets A, and its own rows of
B. The way back makes blocks of three adapters: their A one below the other, (3R, C_in), and B with a block for each.
Source: peft 0.21, `LoraConfig`, `get_peft_model_state_dict`.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from firsthand import files
from firsthand.errors import CheckpointError, FirsthandError, ModelError
from firsthand.files import tensors as stored
from firsthand.interop import names, peft_config
from firsthand.interop.foreign import require_numbers
from firsthand.interop.peft_config import CONFIG, Settings
from firsthand.linear import lora
from firsthand.linear.kinds import change
from firsthand.linear.lora import Lora, settings_of
from firsthand.linear.swap import PARTS, linears
from firsthand.model.gpt import GPT

WEIGHTS, PREFIX = "adapter_model.safetensors", "base_model.model."
NAME = re.compile(re.escape(PREFIX) + r"(.+)\.(lora_A\.weight|lora_B\.weight|lora_magnitude_vector)")


class Detour(NamedTuple):
    """What one of our layers gets."""

    settings: Lora
    a: Tensor
    b: Tensor
    lengths: Tensor | None


@dataclass(frozen=True)
class Loaded:
    """What became of an adapter's file."""

    name: str
    tensors: int  # in the file
    matched: int  # of them, those that found their layer; the rest repeats weights of the base
    layers: int
    change: float  # of a logit on a fixed row of ids, at most


@torch.no_grad()
def put(model: GPT, folder: Path | str, name: str = "default") -> Loaded:
    """Put the adapter in a folder onto a model, under a name, and let it act; all else is frozen.

    If it fails, nothing of it stays. An adapter without any effect is a failure.
    """
    if name in lora.names(model):
        raise ModelError(f"this model already has an adapter {name[:40]!r}; give the new one another name")
    detours, tensors, matched = read(folder, model, name)
    ids = torch.arange(min(64, model.config.context_length), device=next(model.parameters()).device)[None]
    ids = ids * 31 % model.config.vocab_size
    lora.use(model, None)
    before = model(ids)
    try:
        _attach(model, detours, name)
        lora.use(model, name)
        difference = (model(ids) - before).abs().max().item()
        if not 0 < difference < math.inf:
            told = "changes no logit: it was never trained" if difference == 0 else "makes logits that are no numbers"
            raise ModelError(f"adapter {name!r} {told}; {files.quoted(folder)} is of no use here")
    except FirsthandError:
        lora.remove(model, name)
        raise
    model.requires_grad_(False)
    for place in detours:
        model.get_submodule(f"{place}.adapters.{name}").requires_grad_(True)
    return Loaded(name, tensors, matched, len(detours), difference)


def read(folder: Path | str, model: GPT, name: str = "default") -> tuple[dict[str, Detour], int, int]:
    """What each of a model's layers gets, by its place; the tensors in the file, and those used."""
    folder = Path(folder).absolute()
    here = set(linears(model))
    known = {their: ours for their, ours in names.linears(model.config).items() if here.issuperset(ours)}
    settings, meant = peft_config.read(_config(folder), known, name, files.shown(folder / CONFIG))
    tensors = _tensors(folder)
    parts = _by_layer(tensors, model, folder)
    _same_base(parts, known, meant, settings, model, folder)
    detours: dict[str, Detour] = {}
    for their, found in parts.items():
        layers: list[Any] = [model.get_submodule(place) for place in known[their]]
        detours |= _shares(settings(their), found, known[their], [len(layer.weight) for layer in layers])
    return detours, len(tensors), sum(map(len, parts.values()))


def _config(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).exists():
        raise CheckpointError(f"{files.shown(folder)} has no {CONFIG}; give the folder that PEFT wrote", code=23)
    return files.parse_json(files.read_file(files.safe_join(folder, CONFIG)), files.shown(folder / CONFIG))


def _tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors by their own names; a pickle in place of the file gets the message that helps most."""
    if not (folder / WEIGHTS).exists():
        for path in sorted(folder.glob("*")):
            if path.suffix in stored.PICKLE_SUFFIXES:
                stored.refuse_foreign(path, b"", 0)
        raise CheckpointError(f"{files.shown(folder)} has no {WEIGHTS}. Fetch the adapter again", code=23)
    tensors = stored.read(files.safe_join(folder, WEIGHTS))
    for name, tensor in tensors.items():
        require_numbers(name, tensor, files.shown(folder))
    return tensors


def _by_layer(tensors: dict[str, Tensor], model: GPT, folder: Path) -> dict[str, dict[str, Tensor]]:
    """The parts of each adapter, by the name of its layer in a whole model."""
    if model.config.tied and any(name.startswith(f"{PREFIX}lm_head.") for name in tensors):
        raise ModelError(
            f"{files.quoted(folder.name)} adapts lm_head, which in this model is the embedding itself. Merge it "
            f"in peft (merge_and_unload), and import the whole model"
        )
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        found = NAME.fullmatch(name)
        if found is None:
            _repeated(name, tensor, model, folder)
            continue
        layer, kind = found.groups()
        before = "" if layer == "lm_head" else names.family(model.config).prefix  # which files of bare models lack
        parts.setdefault(before + layer.removeprefix(before), {})[kind] = tensor
    return parts


def _repeated(name: str, tensor: Tensor, model: GPT, folder: Path) -> None:
    """Allow a weight of the base that PEFT wrote once more, as it does beside an adapter of the head."""
    plain, held = name.removeprefix(PREFIX).replace(".base_layer.", "."), dict(model.named_parameters())
    for ours, weight in names.to_ours({plain: tensor}, model.config, files.shown(folder))[0].items():
        own = held.get(ours)
        if own is None or own.shape != weight.shape or not own.to(weight.dtype).equal(weight.to(own.device)):
            raise ModelError(
                f"{files.shown(folder)} holds {files.quoted(name)}: more was trained than adapters. "
                f"Merge it in peft (merge_and_unload), and import the whole model"
            )


def _same_base(
    parts: dict[str, dict[str, Tensor]],
    known: dict[str, list[str]],
    meant: set[str] | None,
    settings: Settings,
    model: GPT,
    folder: Path,
) -> None:
    """Refuse an adapter that was made for another model, by the first layer that does not fit."""
    misfit = ""
    for their in sorted(parts.keys() | (meant or set())):
        if their not in known or their not in parts or their not in (meant or parts):
            misfit = f"{files.quoted(their)} has {'an' if their in parts else 'no'} adapter"
        elif wrong := _other_shape(parts[their], settings(their), [model.get_submodule(at) for at in known[their]]):
            misfit = f"{files.quoted(their)}: {wrong}"
        if misfit:
            break
    if misfit or not parts:
        numbers = [int(number) for their in parts for number in re.findall(r"\.(\d{1,6})\.", their)]
        config = model.config
        raise ModelError(
            f"{files.quoted(folder.name)} was made for another model, of {max(numbers, default=-1) + 1} layers or more "
            f"({misfit or 'no tensor'}); this one has {config.n_layer}, width {config.d_model}. Use its own base",
            code=7,
        )


def _other_shape(found: dict[str, Tensor], settings: Lora, layers: list[Any]) -> str:
    """What is missing, or of another shape than such an adapter of this layer has; empty if nothing is."""
    rows, width = sum(layer.weight.shape[0] for layer in layers), layers[0].weight.shape[1]
    shapes = {"lora_A.weight": [settings.rank, width], "lora_B.weight": [rows, settings.rank]}
    shapes |= {"lora_magnitude_vector": [rows]} if settings.dora else {}
    if found.keys() != shapes.keys():
        return f"it is {' and '.join(sorted(found)) or 'nothing'}"
    return next(
        (
            f"{name[:6]} is {list(found[name].shape)}, should be {shape}"
            for name, shape in shapes.items()
            if list(found[name].shape) != shape
        ),
        "",
    )


def _shares(settings: Lora, found: dict[str, Tensor], places: list[str], rows: list[int]) -> dict[str, Detour]:
    """What each of our layers gets of the adapter of one of theirs, which holds them one below the other."""
    a, b = found["lora_A.weight"], found["lora_B.weight"].split(rows)
    lengths = found["lora_magnitude_vector"].split(rows) if settings.dora else [None] * len(rows)
    each, rank = [a] * len(rows), settings.rank // len(rows)
    if len(rows) > 1 and rank * len(rows) == settings.rank:
        own = [part[:, at * rank : (at + 1) * rank] for at, part in enumerate(b)]
        if all(part.count_nonzero() == block.count_nonzero() for part, block in zip(b, own, strict=True)):
            settings, each, b = peft_config.share(settings, len(rows)), list(a.split(rank)), own
    return {
        place: Detour(settings, *parts)
        for place, *parts in zip(places, each, b, lengths, strict=True)
        if parts[0].any() or parts[1].any()  # a block of nothing fills the place of a layer that has no adapter
    }


def _attach(model: GPT, detours: dict[str, Detour], name: str) -> None:
    """Make the adapters, and give them their numbers."""
    for settings in dict.fromkeys(detour.settings for detour in detours.values()):
        places = [place for place, detour in detours.items() if detour.settings == settings]
        change(model, "lora", _in_short(places, model.config.n_layer), settings_of(settings))
    for place, detour in detours.items():
        adapter: Any = model.get_submodule(f"{place}.adapters.{name}")
        for own, tensor in zip((adapter.a, adapter.b, adapter.lengths), detour[1:], strict=True):
            if tensor is not None:
                own.copy_(tensor)


def _in_short(places: list[str], n_layer: int) -> list[str]:
    """The same layers by as few names as can be: "mlp.up" for that of every block."""
    of_blocks = {part: [f"blocks.{layer}.{part}" for layer in range(n_layer)] for part in PARTS}
    whole = {part: named for part, named in of_blocks.items() if set(named) <= set(places)}
    rest = set(places) - {place for named in whole.values() for place in named}
    return [*whole, *(place for place in places if place in rest)]
