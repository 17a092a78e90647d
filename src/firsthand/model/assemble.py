"""A model from a config and tensors read somewhere: names and shapes are compared before anything is allocated."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from firsthand import files
from firsthand.errors import ModelError, nearest
from firsthand.model.config import ModelConfig
from firsthand.model.gpt import GPT

Shapes = Mapping[str, Sequence[int]]
Change = Callable[[GPT], None]


def assemble(
    config: ModelConfig,
    tensors: dict[str, Tensor],
    where: str,
    dtype: torch.dtype | None = None,
    change: Change | None = None,
) -> GPT:
    """The model of a config with these tensors as its weights; ready to evaluate.

    `where` is the file or folder they come from, for the message if they do not fit. With `dtype` all parameters get
    that type; what a quantized layer keeps stays what it is. `change` replaces layers of the
    model before the tensors are compared with it.
    """
    model = hollow(config, {name: tensor.shape for name, tensor in tensors.items()}, where, change)
    model.load_state_dict(tensors, strict=False, assign=True)
    model.tie()
    return model.eval() if dtype is None else model.eval().to(dtype)


def hollow(config: ModelConfig, shapes: Shapes, where: str, change: Change | None = None) -> GPT:
    """The model of a config without memory for its weights, once tensors of these shapes were seen to fit it."""
    if config.n_layer > len(shapes):  # building a thousand layers to learn that the file has ten would cost seconds
        raise _misfit(where, f"its config says n_layer {config.n_layer}, the file has {len(shapes)} tensors")
    with torch.device("meta"), Undrawn():
        model = GPT(config)
        if change is not None:
            change(model)
    expected = {name: list(tensor.shape) for name, tensor in weights(model).items()}
    for name in sorted(expected.keys() - shapes.keys()):
        raise _misfit(where, f"tensor {name!r} is missing.{nearest(name, shapes.keys() - expected.keys())}")
    for name in sorted(shapes.keys() - expected.keys()):
        raise _misfit(where, f"tensor {files.quoted(name)} belongs to no part of this model.{nearest(name, expected)}")
    for name, shape in expected.items():
        if list(shapes[name]) != shape:
            raise _misfit(where, f"tensor {name!r} is {list(shapes[name])}, its config asks for {shape}")
    return model


def weights(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model by name, each once: a tied head goes by its first name, `embed.weight`."""
    named = model.state_dict(keep_vars=True)
    first = {id(tensor): name for name, tensor in reversed(named.items())}
    return {name: tensor.detach() for name, tensor in named.items() if first[id(tensor)] == name}


def _misfit(where: str, what: str) -> ModelError:
    return ModelError(f"{where} does not fit its config: {what}")


class Undrawn(TorchFunctionMode):
    """Inside, no random numbers are drawn for weights.

    A tensor without memory has none anyway; but to find that out torch would first load its compiler: 1.8 s.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (nn.init.normal_, Tensor.normal_):
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)
