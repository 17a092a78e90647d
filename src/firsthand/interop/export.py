"""A model on its way out, by the name of the format."""

from pathlib import Path

from firsthand.errors import ConfigError, ModelError, nearest
from firsthand.interop.foreign import Foreign
from firsthand.interop.to_gguf import to_gguf
from firsthand.interop.to_huggingface import to_huggingface
from firsthand.interop.verified import Exported
from firsthand.model.assemble import hollow

FORMATS = ("hf", "gguf", "peft")


def export(model: Foreign, to: str, target: Path | str, kind: str | None = None) -> Exported:
    """Write a model as a folder for other programs; `kind` is the type of its numbers: f32, f16, bf16, q8_0, q4_0.

    Without a kind a Hugging Face folder keeps the type the weights have, and a GGUF file gets f16.
    """
    hollow(model.config, {name: tensor.shape for name, tensor in model.tensors.items()}, model.where)
    if to == "hf":
        return to_huggingface(model, Path(target), kind)
    if to == "gguf":
        return to_gguf(model, Path(target), kind or "f16")
    if to == "peft":
        raise ModelError(f"{model.where} has no adapters, and peft holds nothing else. Export the whole model: --to hf")
    raise ConfigError(f"there is no format {to!r}; use {', '.join(FORMATS)}.{nearest(to, FORMATS)}")
