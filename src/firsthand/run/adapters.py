"""Adapters of a model: put on from PEFT's folder, given out in that form, or merged into the weights."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from firsthand.checkpoint import bundle as bundles
from firsthand.checkpoint.bundle import Bundle
from firsthand.data import hub
from firsthand.data.catalog import Progress
from firsthand.errors import ConfigError, ModelError
from firsthand.interop import peft
from firsthand.interop.to_peft import to_peft
from firsthand.interop.verified import behaviour_of, compare
from firsthand.linear import lora
from firsthand.run.source import load

MADE_HERE = ("swaps", "made_with", "tokenizer")  # what a checkpoint says of itself, not of its origin


def bring(source: str | Path, adapter: Path, out: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Write a model with the adapter in a folder on it as a checkpoint; in float32, so that no number is rounded."""
    bundle = load(source, progress=progress)
    loaded = peft.put(bundle.model, adapter, _free_name(bundle))
    known = {**bundle.about.get("adapters", {}), loaded.name: {"source": str(adapter), **asdict(loaded)}}
    _save(bundle, out, {"adapters": known})
    return {
        "path": str(out),
        "adapter": loaded.name,
        "matched": f"{loaded.matched} of {loaded.tensors} tensors, in {loaded.layers} layers",
        "output_changed_by": loaded.change,
        "adapters": ", ".join(lora.names(bundle.model)),
    }


def export(source: str | Path, out: Path, name: str = "", kind: str | None = None) -> dict[str, Any]:
    """Write an adapter of a model in PEFT's form; it is opened again and compared before it gets its name."""
    if kind:
        raise ConfigError(f"the numbers of an adapter are written as they are, not as {kind}; leave --type out")
    bundle = load(source, dtype=None)
    if not lora.names(bundle.model):
        raise ModelError(f"{bundle.path} has no adapters, and peft holds nothing else. Export the whole model: --to hf")
    base = str(bundle.about.get("source", ""))
    found = asdict(to_peft(bundle.model, bundle.tokenizer, out, name, base.split("@")[0] if hub.is_name(base) else ""))
    return found | {"path": str(found["path"]), "notes": list(found["notes"])}


def merge(source: str | Path, out: Path, name: str = "") -> dict[str, Any]:
    """Write a model with an adapter inside its weights; both are run in float32 and compared, from the disk.

    The sum is computed in float32 and stored in the type the weights have. Other adapters are left out.
    """
    before = load(source)
    names = lora.names(before.model)
    name = name or lora.active(before.model) or ""
    if not names:
        raise ModelError(f"{before.path} has no adapters, so there is nothing to merge")
    lora.use(before.model, name)
    wanted = behaviour_of(before.model, before.tokenizer)
    bundle = load(source, dtype=None)
    lora.merge(bundle.model, name)
    for other in lora.names(bundle.model):
        lora.remove(bundle.model, other)
    _save(bundle, out, {"merged": {"source": str(source), "adapter": name}})
    found = bundles.load(out, dtype=torch.float32)
    drift = compare(wanted, behaviour_of(found.model, found.tokenizer))
    return {
        "path": str(out),
        "adapter": name,
        "left_out": ", ".join(other for other in names if other != name),
        "largest_change_of_a_logit": drift.largest,
        "largest_logit": drift.scale,
        "greedy_tokens_alike": drift.tokens if drift.differs_at is None else drift.differs_at,
        "greedy_tokens": drift.tokens,
    }


def _save(bundle: Bundle, out: Path, more: dict[str, Any]) -> None:
    """A changed model as a checkpoint of its own, with the origin it had."""
    about = {key: value for key, value in bundle.about.items() if key not in MADE_HERE}
    bundles.save(out, bundle.model, bundle.tokenizer, about | more, template=bundle.template)


def _free_name(bundle: Bundle) -> str:
    """The name of the next adapter: default, then second, ..."""
    taken = lora.names(bundle.model)
    return "default" if not taken else f"adapter_{len(taken) + 1}"
