"""A whole model in fewer bits: what it becomes, whether it may be trained, and the way back to plain layers.

The layers of the blocks get the kind that is asked for; the head gets 8 bits always, for an error there goes straight
into the scores. Where head and embedding are one table, they stay one. What else there is (norms, biases, positions,
an embedding of its own) is a small part, or read a row at a time, and stays as it was.
"""

from collections import Counter
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from firsthand.errors import ModelError
from firsthand.linear import gptq
from firsthand.linear.int8 import Dynamic
from firsthand.linear.kinds import FEWER_BITS, change
from firsthand.linear.quantized import Quantized, Rows
from firsthand.linear.swap import put
from firsthand.model.gpt import GPT

BLOCKS, HEAD = "blocks.*", "head"


def shrink(
    model: GPT,
    kind: str,
    settings: dict[str, Any],
    text: Tensor | None = None,
    told: gptq.Told = lambda done, total: None,
) -> None:
    """Quantize a model in place; with rows of text (R, T) by GPTQ, else each weight to the nearest."""
    if found := layers(model):
        raise ModelError(f"this model is quantized already ({described(found)}); quantize the original", code=42)
    if text is not None:
        gptq.calibrated(model, text, settings, told)
    else:
        change(model, kind, [BLOCKS], settings)
    change(model, "int8", [HEAD], {})


def layers(model: nn.Module) -> dict[str, Quantized]:
    """The quantized layers of a model by name; a table that is embedding and head goes by `head`."""
    named = model.named_modules(remove_duplicate=False)
    return {name: layer for name, layer in named if isinstance(layer, Quantized) and name != "embed.table"}


def described(found: dict[str, Quantized]) -> str:
    """In words: 210 Int4, 1 Int8."""
    return ", ".join(f"{count} {kind}" for kind, count in Counter(type(one).__name__ for one in found.values()).items())


def trainable(model: GPT) -> None:
    """Refuse to train a quantized model on which nothing was put that learns: its whole numbers have no gradient."""
    kinds = {done["kind"] for done in model.swaps}
    if kinds and kinds <= FEWER_BITS.keys():
        raise ModelError(
            f"this model is quantized ({described(layers(model))}) and cannot be trained. Train the original, or put "
            "adapters (LoRA) on top and train those",
            code=13,
        )


def rounds_inputs(model: nn.Module) -> bool:
    """Whether some layers round what enters them: where a number falls on a half, a last bit decides, and is seen."""
    return any(isinstance(layer, Dynamic) for layer in layers(model).values())


def plain(model: GPT) -> GPT:
    """A copy with plain layers that hold what the quantized ones stood for: no fewer bits, and the same function.

    But for `int8-dynamic`, whose layers also round what enters them: plain ones do not.
    """
    made = deepcopy(model)
    for name, layer in layers(made).items():
        with torch.device("meta"):
            linear = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
        linear.weight, linear.bias = nn.Parameter(layer.weight), layer.bias
        put(made, name, linear)
    if isinstance(made.embed, Rows):
        made.embed = nn.Embedding.from_pretrained(made.embed.weight, freeze=False)
        made.tie()
    made.swaps[:] = [done for done in made.swaps if done["kind"] not in FEWER_BITS]
    return made
