"""What can stand where a Linear stood, by name; what was done to a model is remembered, so that it can be done again.

`model.swaps` is plain data and goes into the checkpoint: {"kind": "lora", "patterns": [...], "settings": {...}}, in
order. A loaded model is built by its config, changed by this list, and then given its weights; no file names a class.
"""

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from torch import nn

from firsthand.errors import CheckpointError, ModelError
from firsthand.linear import labels, lora
from firsthand.linear.int4 import Int4
from firsthand.linear.int8 import Dynamic, Int8
from firsthand.linear.nf4 import NF4
from firsthand.linear.quantized import Quantized, Rows
from firsthand.linear.swap import put, swap
from firsthand.model.gpt import GPT

Make = Callable[[nn.Module, dict[str, Any]], nn.Module]
FEWER_BITS: dict[str, Make] = {"int8": Int8.of, "int8-dynamic": Dynamic.of, "nf4": NF4.of, "int4": Int4.of}
KINDS: dict[str, Make] = {"lora": lora.over, "labels": labels.instead, **FEWER_BITS}


def change(model: GPT, kind: str, patterns: Sequence[str], settings: dict[str, Any]) -> list[str]:
    """Replace the layers that match by another kind, and remember it; the names of what was replaced."""
    if kind not in KINDS:
        raise ModelError(f"a layer of kind {str(kind)[:40]!r} is unknown here; known: {', '.join(KINDS)}")
    places = swap(model, patterns, lambda layer: KINDS[kind](layer, settings))
    if model.config.tied and isinstance(model.head, Quantized) and type(model.embed) is nn.Embedding:
        put(model, "embed", Rows(model.head))  # what was one table stays one
    if kind == "lora":
        lora.use(model, settings.get("name", "default"))  # one acts, also where layers have another only
    model.swaps.append({"kind": kind, "patterns": list(patterns), "settings": settings})
    return places


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Change:
    """One entry of `model.swaps`, as it is read from a file."""

    kind: str
    patterns: list[str]
    settings: dict[str, Any]


def replay(model: GPT, swaps: Sequence[dict[str, Any]]) -> None:
    """Do to a fresh model, in the same order, what was once done to another. The list may be anybody's."""
    try:
        for done in TypeAdapter(list[Change]).validate_python(swaps):
            change(model, done.kind, done.patterns, done.settings)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part)[:40] for part in first["loc"])
        message = f"firsthand.json: what replaced the layers does not hold: {place}: {first['msg'][:80]}"
        raise CheckpointError(message, code=33) from error
