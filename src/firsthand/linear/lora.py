"""Low-rank adapters: a frozen layer W learns through a small detour, W x + scale B A x.

A is (R, C_in) and B is (C_out, R) with R far below either width, so there is little to learn, to keep and to store.
B begins as zero: an adapter that has learned nothing changes nothing.
Source: Hu et al. 2021, arXiv:2106.09685, section 4.1.

R rank. Shapes of layers: (..., C_in) -> (..., C_out).
"""

from dataclasses import asdict
from typing import Any, Self

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from firsthand.errors import ModelError
from firsthand.linear.swap import put
from firsthand.model.gpt import GPT


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Lora:
    """The settings of one adapter."""

    name: str = "default"
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0  # of what enters the detour
    root: bool = False  # scale by alpha / sqrt(R) instead of alpha / R: rsLoRA, Kalajdzievski 2023, arXiv:2312.03732
    dora: bool = False  # learn length and direction of every row apart: Liu et al. 2024, arXiv:2402.09353, eq. 5

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ModelError(f"the rank of a LoRA adapter is {self.rank}; it must be 1 or more, usual: 8")
        if not self.name.isidentifier():
            raise ModelError(f"an adapter cannot be called {self.name[:40]!r}; use letters, digits and _")
        if not 0 <= self.dropout < 1:
            raise ModelError(f"dropout of adapter {self.name!r} is {self.dropout}; it must be 0 or more and below 1")

    @property
    def scale(self) -> float:
        return self.alpha / (self.rank**0.5 if self.root else self.rank)


class Adapter(nn.Module):
    """One detour around one layer."""

    def __init__(self, base: Any, settings: Lora):
        super().__init__()
        weight: Tensor = base.weight  # (C_out, C_in); of a quantized layer, what its numbers stand for
        wide, narrow = weight.shape[::-1], min(weight.shape)
        if settings.rank > narrow:
            raise ModelError(
                f"rank {settings.rank} is above {narrow}, the smaller side of a layer {tuple(weight.shape)}: "
                "that would learn more numbers than the layer has. Use a smaller rank, or full fine-tuning.",
                code=41,
            )
        self.settings = settings
        place = {"device": weight.device, "dtype": weight.dtype}
        self.a = nn.Parameter(torch.zeros(settings.rank, wide[0], **place))
        self.b = nn.Parameter(torch.zeros(wide[1], settings.rank, **place))
        self.lengths = nn.Parameter(weight.detach().norm(dim=1)) if settings.dora else None  # (C_out,)

    def delta(self) -> Tensor:
        """What the detour adds to the weight: (C_out, C_in)."""
        return self.settings.scale * (self.b @ self.a)

    def forward(self, x: Tensor, base: Any) -> Tensor:
        """(..., C_in) -> (..., C_out), the layer itself included."""
        straight = base(x)
        narrow = F.linear(F.dropout(x, self.settings.dropout, self.training), self.a)  # (..., R)
        detour = F.linear(narrow * self.settings.scale, self.b)  # scaled where it is narrow: C_out / R times less work
        if self.lengths is None:
            return straight + detour
        # rows of W + delta have the length that was learned; the present length counts as a constant (section 4.3)
        ratio = self.lengths / (base.weight + self.delta()).detach().norm(dim=1)
        plain = straight if base.bias is None else straight - base.bias
        return straight + (ratio - 1) * plain + ratio * detour

    def merged(self, weight: Tensor) -> Tensor:
        """The weight with the detour inside, computed in float32 or better: (C_out, C_in) -> (C_out, C_in)."""
        precise = torch.promote_types(weight.dtype, torch.float32)
        whole = weight.to(precise) + self.settings.scale * (self.b.to(precise) @ self.a.to(precise))
        if self.lengths is not None:
            whole = whole * (self.lengths.to(precise) / whole.norm(dim=1))[:, None]
        return whole.to(weight.dtype)


class Adapted(nn.Module):
    """A frozen layer with any number of adapters around it, of which one, or none, is active."""

    def __init__(self, base: nn.Module):
        super().__init__()
        self.base: Any = base.requires_grad_(False)
        self.adapters = nn.ModuleDict()
        self.active: str | None = None

    def with_adapter(self, settings: Lora) -> Self:
        """The same layer with one adapter more, which becomes the active one."""
        if settings.name in self.adapters:
            raise ModelError(f"this model already has an adapter {settings.name!r}; give the new one another name")
        self.adapters[settings.name] = Adapter(self.base, settings)
        self.active = settings.name
        return self

    @property
    def weight(self) -> Tensor:
        """The weight of the frozen layer."""
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    def adapter(self, name: str) -> Adapter:
        found = self.adapters[name]
        assert isinstance(found, Adapter)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """(..., C_in) -> (..., C_out)."""
        return self.base(x) if self.active is None else self.adapter(self.active)(x, self.base)


def over(layer: nn.Module, settings: dict[str, Any]) -> nn.Module:
    """A layer with an adapter around it, which as yet is zero."""
    adapted = layer if isinstance(layer, Adapted) else Adapted(layer)
    return adapted.with_adapter(TypeAdapter(Lora).validate_python(settings))


@torch.no_grad()
def initialise(model: GPT, name: str, seed: int) -> None:
    """A random, B zero: uniform within 1 / sqrt(C_in), as PEFT does; the same for the same seed. All else is frozen."""
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    for layer in adapted(model):
        if name in layer.adapters:
            adapter = layer.adapter(name).requires_grad_(True)
            bound = adapter.a.shape[1] ** -0.5
            adapter.a.copy_(torch.empty(adapter.a.shape).uniform_(-bound, bound, generator=generator))
            adapter.b.zero_()


def use(model: nn.Module, name: str | None) -> None:
    """Let one adapter act in the whole model, or with None no adapter: then it is the base model."""
    known = names(model)
    if name is not None and name not in known:
        raise ModelError(f"this model has no adapter {name[:40]!r}; it has: {', '.join(known) or 'none'}")
    for layer in adapted(model):
        layer.active = next((known for known in layer.adapters if known == name), None)


def merge(model: GPT, name: str) -> None:
    """Add an adapter into the weights it stands around, and remove it: the same function with no detour."""
    use(model, name)
    around = [(place, layer) for place, layer in model.named_modules() if isinstance(layer, Adapted)]
    around = [(place, layer) for place, layer in around if name in layer.adapters]
    for place, layer in around:
        if type(layer.base) is not nn.Linear:
            raise ModelError(
                f"{place} is {type(layer.base).__name__}: an adapter cannot be merged into quantized weights without "
                "rounding again. Keep the adapter apart, or merge it into the original model.",
                code=42,
            )
        if layer.base.weight is model.embed.weight:
            raise ModelError(
                f"{place} is also the embedding of this model, which a merged adapter would change with it. "
                "Keep the adapter apart.",
                code=42,
            )
    for _, layer in around:
        layer.base.weight = nn.Parameter(layer.adapter(name).merged(layer.base.weight))
    remove(model, name)


def remove(model: GPT, name: str) -> None:
    """Take an adapter away; where it was the only one, the layer itself stands there again, free to learn."""
    for place, layer in list(model.named_modules()):
        if isinstance(layer, Adapted) and name in layer.adapters:
            del layer.adapters[name]
            layer.active = None if layer.active == name else layer.active
            if not layer.adapters:
                put(model, place, layer.base.requires_grad_(True))
    model.swaps[:] = [done for done in model.swaps if done["kind"] != "lora" or done["settings"].get("name") != name]


def names(model: nn.Module) -> list[str]:
    """The adapters of a model, sorted."""
    return sorted({name for layer in adapted(model) for name in layer.adapters})


def active(model: nn.Module) -> str | None:
    """The adapter that acts, if one does."""
    return next((layer.active for layer in adapted(model) if layer.active is not None), None)


def adapted(model: nn.Module) -> list[Adapted]:
    """The layers with adapters, in the order of the model."""
    return [layer for layer in model.modules() if isinstance(layer, Adapted)]


def settings_of(settings: Lora) -> dict[str, Any]:
    """The settings as plain data, for `model.swaps`."""
    return asdict(settings)
