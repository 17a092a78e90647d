"""Put something else where a Linear stands, found by its name."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from torch import nn

from firsthand.errors import ModelError
from firsthand.model.gpt import GPT

PARTS = ("attention.q", "attention.k", "attention.v", "attention.o", "mlp.gate", "mlp.up", "mlp.down")


def swap(model: GPT, patterns: Sequence[str], make: Callable[[nn.Module], nn.Module]) -> list[str]:
    """Replace every linear layer that a pattern matches by what `make` makes of it, and give their names.

    A pattern is a name such as "blocks.0.attention.q", with * for anything; "attention.q" means that of every block.
    """
    places = matching(model, patterns)
    for place in places:
        put(model, place, make(model.get_submodule(place)))
    return places


def matching(model: GPT, patterns: Sequence[str]) -> list[str]:
    """The names of the linear layers that a pattern matches, in the model's order; each pattern must match one."""
    names = linears(model)
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in names):
            parts = ", ".join(dict.fromkeys(_part(name) for name in names))
            raise ModelError(
                f"pattern {pattern[:40]!r} matches 0 of {len(names)} layers. Layers here: {parts}.", code=6
            )
    return [name for name in names if any(_matches(name, pattern) for pattern in patterns)]


def linears(model: GPT) -> list[str]:
    """The names of the linear layers the model was built with, whatever stands there now."""
    inside = [name for name in PARTS if any(found == name for found, _ in model.blocks[0].named_modules())]
    return [f"blocks.{layer}.{name}" for layer in range(len(model.blocks)) for name in inside] + ["head"]


def put(model: nn.Module, place: str, layer: nn.Module) -> None:
    """Let a layer stand at a place: put(model, "blocks.0.attention.q", layer)."""
    parent, _, name = place.rpartition(".")
    setattr(model.get_submodule(parent), name, layer)


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(_part(name), pattern)


def _part(name: str) -> str:
    """The name inside a block: blocks.3.mlp.up -> mlp.up; the head stays the head."""
    return name.split(".", 2)[2] if name.startswith("blocks.") else name
