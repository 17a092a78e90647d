"""Models of other programs in, and models out to other programs."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from firsthand import files
from firsthand.checkpoint import bundle as bundles
from firsthand.data.catalog import Progress
from firsthand.errors import ModelError
from firsthand.interop import export as exporting
from firsthand.interop.foreign import Foreign
from firsthand.linear import lora
from firsthand.linear.shrink import described, layers, plain, rounds_inputs
from firsthand.model.assemble import weights
from firsthand.model.gpt import GPT
from firsthand.run import adapters, use
from firsthand.run.source import load


def bring(source: str | Path, out: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Write whatever a word names as a checkpoint of ours, its numbers as they are stored, quantized ones as float32.

    What comes back is said of the checkpoint as it was opened again, every byte checked.
    """
    bundle = load(source, dtype=None, progress=progress)
    bundles.save(out, bundle.model, bundle.tokenizer, bundle.about, template=bundle.template)
    return use.info(out)


def export(source: str | Path, to: str, out: Path, kind: str | None = None) -> dict[str, Any]:
    """Write a model for other programs; it is opened again and compared before it gets its name.

    No other format has our quantized layers: what they stand for is written, which `kind` may round once more.
    """
    if to == "peft":
        return adapters.export(source, out, kind=kind)
    bundle = load(source, dtype=None)
    model, fewer = plain(bundle.model), described(layers(bundle.model))
    if model.swaps:
        raise ModelError(_kept_from(model, source))
    given = Foreign(
        model.config, weights(model), bundle.tokenizer, str(bundle.path), bundle.template, bundle.ends, bundle.about
    )
    found = asdict(exporting.export(given, to, out, kind))
    notes = [f"its quantized layers ({fewer}) were written as the plain numbers they stand for"] if fewer else []
    notes += ["what enters them is no longer rounded"] if rounds_inputs(bundle.model) else []
    return found | {"path": str(found["path"]), "notes": [*notes, *found["notes"]]}  # plain data, for --json


def _kept_from(model: GPT, source: str | Path) -> str:
    """Why a model whose layers were replaced goes nowhere else as it is, and what to do."""
    if lora.names(model):
        mend = f"firsthand merge {files.shown(source)} --out DIR"
        return f"this model has adapters, and no whole model has a place for them; merge them first: {mend}"
    return f"{files.shown(source)} tells labels apart; other programs would take it for a model that continues text"
