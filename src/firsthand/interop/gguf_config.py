"""A ModelConfig <-> the numbers that GGUF keeps of a model, such as llama.attention.head_count = 9.

Four architectures are ours too: gpt2, llama (Mistral and SmolLM are of it), qwen2, qwen3. Each fixes what kind of
norm, feed-forward layer and biases there are; the rest are numbers. What a file asks for and we cannot do is refused
by name: a model that is nearly the one somebody trained talks nearly sense, which is worse than an error.

Llama 3's stretched rotary positions are no number but a tensor, `rope_freqs.weight`: how much slower each pair turns.
Source: gguf-py/gguf/constants.py and convert_hf_to_gguf.py of llama.cpp.
"""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from firsthand import files
from firsthand.errors import ModelError
from firsthand.model.config import ModelConfig, RopeScaling
from firsthand.model.layers import stretched

FACTORS = "rope_freqs.weight"
LLAMA = {"norm": "rmsnorm", "mlp": "swiglu", "bias": "none", "qk_norm": False}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt2": {"norm": "layernorm", "mlp": "gelu", "bias": "all", "qk_norm": False},
    "llama": LLAMA,
    "qwen2": LLAMA | {"bias": "qkv"},
    "qwen3": LLAMA | {"qk_norm": True},
}
NUMBERS = {  # ours -> theirs, behind the architecture and a dot
    "context_length": "context_length",
    "n_layer": "block_count",
    "d_model": "embedding_length",
    "d_ff": "feed_forward_length",
    "n_head": "attention.head_count",
}
GROUPS, WIDTH, THETA = "attention.head_count_kv", "attention.key_length", "rope.freq_base"
SAME = ("attention.value_length", "rope.dimension_count")  # must be the width of a head
EPSILON = {"layernorm": "attention.layer_norm_epsilon", "rmsnorm": "attention.layer_norm_rms_epsilon"}
WINDOW = "attention.sliding_window"
SILENT = {"vocab_size", "tensor_data_layout"}  # say nothing that the tensors do not say
NEUTRAL = {  # may stand there if it changes nothing
    "rope.scaling.type": "none",
    "rope.scaling.factor": 1.0,
    "rope.scale_linear": 1.0,
    "expert_count": 0,
    "expert_used_count": 0,
    "attention.causal": True,
    "use_parallel_residual": False,
}


def architecture(config: ModelConfig) -> str:
    """The name under which llama.cpp runs a model of this shape."""
    window = config.window is not None and config.window < config.context_length
    for name, fixed in ARCHITECTURES.items():
        same = all(getattr(config, field) == value for field, value in fixed.items())
        rotary = config.rope_theta is not None
        if same and rotary == (name != "gpt2") and not window and (name == "llama" or config.rope_scaling is None):
            return name
    traits = f"{config.norm}, {config.mlp}, bias {config.bias}, qk_norm {config.qk_norm}, window {config.window}"
    raise ModelError(
        f"llama.cpp runs no model with {traits}; it knows {', '.join(ARCHITECTURES)}. "
        f"Export to a Hugging Face folder, or train one of these shapes",
        code=18,
    )


def entries(config: ModelConfig) -> dict[str, str | int | float]:
    """What GGUF says of a config: general.architecture, and the numbers under its name."""
    name = architecture(config)
    numbers: dict[str, Any] = {theirs: getattr(config, ours) for ours, theirs in NUMBERS.items()}
    numbers |= {EPSILON[config.norm]: config.norm_eps, GROUPS: config.n_kv_head, "vocab_size": config.vocab_size}
    if config.rope_theta is not None:
        numbers |= {THETA: config.rope_theta, WIDTH: config.d_head} | dict.fromkeys(SAME, config.d_head)
    return {"general.architecture": name} | {f"{name}.{key}": value for key, value in numbers.items()}


def config(metadata: dict[str, Any], vocab_size: int, tied: bool, factors: Tensor | None = None) -> ModelConfig:
    """The config of a file. What it cannot express is refused with its name; `factors` is rope_freqs.weight."""
    name = metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise ModelError(
            f"architecture {files.quoted(name)} is not known here; {', '.join(ARCHITECTURES)} can be read", code=18
        )
    given = {key.removeprefix(f"{name}."): value for key, value in metadata.items() if key.startswith(f"{name}.")}
    fields: dict[str, Any] = ARCHITECTURES[name] | {"vocab_size": vocab_size, "tied": tied}
    fields |= {ours: _number(given, theirs, int) for ours, theirs in NUMBERS.items()}
    fields["norm_eps"] = _number(given, EPSILON[fields["norm"]], float)
    fields["n_kv_head"] = _number(given, GROUPS, int, fields["n_head"])
    fields["d_head"] = _number(given, WIDTH, int, fields["d_model"] // max(fields["n_head"], 1))
    if name != "gpt2":
        fields["rope_theta"] = _number(given, THETA, float, 10_000.0)
        fields["window"] = _number(given, WINDOW, int, 0) or None
    _refuse_rest(name, given, fields["d_head"])
    plain = ModelConfig(**fields)
    return plain if factors is None else replace(plain, rope_scaling=scaling(factors, plain))


def _number(given: dict[str, Any], key: str, kind: type, default: Any = None) -> Any:
    """A number of the file, of its type; it is taken out of what is given."""
    value = given.pop(key, default)
    if type(value) is not kind:
        raise ModelError(f"{key} is {files.quoted(value)}, which must be one {kind.__name__}; take another file", 34)
    return value


def _refuse_rest(name: str, rest: dict[str, Any], d_head: int) -> None:
    """Refuse what the file says beyond what was read, unless it changes nothing."""
    allowed = NEUTRAL | dict.fromkeys(SAME, d_head)
    for key, value in rest.items():
        neutral = type(value) is type(allowed.get(key)) and value == allowed[key]
        if key not in SILENT and not neutral:
            shown = f"{files.quoted(f'{name}.{key}')} is {files.quoted(value)}"
            raise ModelError(f"{shown}, which our models cannot do; run this one in llama.cpp", code=18)


def factors(scaling: RopeScaling, d_head: int, theta: float) -> Tensor:
    """How much slower each pair turns than without the stretch: -> (D/2,) float32."""
    frequencies = theta ** -(torch.arange(0, d_head, 2) / d_head)
    return frequencies / stretched(frequencies, scaling)


def scaling(found: Tensor, config: ModelConfig) -> RopeScaling:
    """The rule behind the factors of a file, which has to give them all again.

    The slowest pairs tell the factor, a pair between slow and fast the original context, if low and high are 1 and 4
    as in every Llama 3. With no pair between, Llama 3's own 8,192 is tried.
    """
    theta, pairs = config.rope_theta, config.d_head // 2
    factor = round(found.max().item(), 4)
    if theta is not None and factor > 1 and found.shape == (pairs,):
        contexts = [8192]
        for pair in ((found > 1.001) & (found < factor * 0.999)).nonzero().flatten().tolist()[:1]:
            keep = (1 / found[pair].item() - 1 / factor) / (1 - 1 / factor)
            contexts.append(round((1 + 3 * keep) * 2 * math.pi * theta ** (pair / pairs)))
        for rule in (RopeScaling(factor, original_context_length=context) for context in contexts):
            if torch.allclose(found, factors(rule, config.d_head, theta), rtol=1e-3, atol=0):
                return rule
    raise ModelError(f"{FACTORS} does not follow Llama 3's rule, the only one here; run this model in llama.cpp", 18)
