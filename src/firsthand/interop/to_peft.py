"""An adapter as PEFT's folder, which peft, vLLM and others put onto the same base.

What is written is opened again, onto the model it was taken from: settings and numbers must be those, to the bit.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from firsthand import __version__, files
from firsthand.errors import CheckpointError, FirsthandError, ModelError
from firsthand.files import tensors as stored
from firsthand.interop import hf_config, names, peft, peft_config, verified
from firsthand.interop.peft_config import CONFIG
from firsthand.linear import lora
from firsthand.linear.lora import Adapted, Adapter, Lora
from firsthand.model.gpt import GPT

AGAIN = "read_again"
RUNS_IN = ("peft", "vLLM")
Whole = tuple[Lora, dict[str, Tensor]]  # the adapter of one of their layers
CARD = """\
---
library_name: peft
{base}tags: [firsthand, lora]
---

# {name}

Written by firsthand {version}: an adapter of rank {rank} around {layers} layers. The model itself is not in it.

    from peft import PeftModel
    model = PeftModel.from_pretrained(base_model, ".")

Before this folder got its name it was opened again: every setting and every number was the one meant, to the bit.
"""


@torch.no_grad()
def to_peft(model: GPT, tokenizer: Any, target: Path, name: str = "", base: str = "") -> verified.Exported:
    """Write one adapter of a model, by default the one that acts; others find the model itself by the name `base`."""
    name = name or lora.active(model) or ""
    lora.use(model, name)
    hf_config.architecture(model.config)
    verified.make_way(target)
    known = names.linears(model.config)
    found = {their: whole for their, ours in known.items() if (whole := _whole(model, ours, name)) is not None}
    settings = {their: own for their, (own, _) in found.items()}
    tensors = {
        f"{peft.PREFIX}{their}.{kind}": one for their, (_, parts) in found.items() for kind, one in parts.items()
    }
    fields = peft_config.write(settings, known, names.family(model.config) is names.GPT2, base)
    size, write = stored.stream(tensors)
    told = {"base": f"base_model: {base}\n" if base else "", "rank": fields["r"], "layers": len(found)}
    content: dict[str, files.Content] = {
        "README.md": CARD.format(name=target.absolute().name, version=__version__, **told),
        CONFIG: json.dumps(fields, indent=2).encode() + b"\n",
        peft.WEIGHTS: write,
    }
    drifts: list[verified.Drift] = []
    path = files.publish(
        target,
        content,
        {"made_by": "firsthand export"},
        size,
        lambda folder: drifts.append(_read_again(model, tokenizer, folder, name)),
    )
    size = sum(part.stat().st_size for part in path.iterdir())
    return verified.Exported(path, "adapter", size, drifts[0], (), RUNS_IN)


def _whole(model: GPT, places: list[str], name: str) -> Whole | None:
    """The adapter of one of their layers, made of those of ours: of one, or for GPT-2's c_attn of up to three."""
    layers: list[Any] = [model.get_submodule(place) for place in places]
    adapters = [_adapter(layer, name) for layer in layers]
    present = [adapter for adapter in adapters if adapter is not None]
    if not present:
        return None
    settings, first = present[0].settings, present[0].a
    if any(adapter.settings != settings for adapter in present):
        raise ModelError(f"{' and '.join(places)} are one layer for PEFT, and have adapters of different settings")
    if len(present) == len(layers) and all(adapter.a.equal(first) for adapter in present):
        a, b = first, torch.cat([adapter.b for adapter in present])
    else:
        settings = peft_config.times(settings, len(layers))
        a = torch.cat([torch.zeros_like(first) if one is None else one.a for one in adapters])
        nothing = [torch.zeros(len(layer.weight), len(first)).to(first) for layer in layers]
        b = torch.block_diag(*(none if one is None else one.b for one, none in zip(adapters, nothing, strict=True)))
    parts = {"lora_A.weight": a, "lora_B.weight": b}
    if settings.dora:
        pairs = zip(layers, adapters, strict=True)
        lengths: list[Any] = [layer.weight.norm(dim=1) if one is None else one.lengths for layer, one in pairs]
        parts["lora_magnitude_vector"] = torch.cat(lengths)
    return settings, parts


def _adapter(layer: Any, name: str) -> Adapter | None:
    return layer.adapter(name) if isinstance(layer, Adapted) and name in layer.adapters else None


def _read_again(model: GPT, tokenizer: Any, folder: Path, name: str) -> verified.Drift:
    """How far the written adapter leads away from the model's own; an error if it is another one."""
    wanted = verified.behaviour_of(model, tokenizer)
    try:
        peft.put(model, folder, AGAIN)
        what = next(filter(None, (_difference(layer, name) for layer in lora.adapted(model))), "")
        drift = verified.compare(wanted, verified.behaviour_of(model, tokenizer))
    except FirsthandError as error:
        raise CheckpointError(f"the adapter was not written: read back, {error!s:.150}") from error
    finally:
        if AGAIN in lora.names(model):
            lora.remove(model, AGAIN)
        lora.use(model, name)
    if what or drift.differs_at is not None:
        raise CheckpointError(f"the adapter was not written: read back, {what or 'it says other tokens'}; report this")
    return drift


def _difference(layer: Adapted, name: str) -> str:
    """What of a layer's adapter came back otherwise; empty if nothing did."""
    own, read = _adapter(layer, name), _adapter(layer, AGAIN)
    if own is None or read is None:
        return "" if own is read else "another layer has it"
    if own.settings != replace(read.settings, name=name):
        return f"its settings are {read.settings}"[:90]
    numbers = zip(own.state_dict().items(), read.state_dict().values(), strict=True)
    return next((f"its {kind} has other numbers" for (kind, one), two in numbers if not one.equal(two)), "")
