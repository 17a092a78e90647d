"""What a model is: eighteen numbers and names, checked together before anything is built."""

from typing import Any, Literal, Self

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from firsthand.errors import ModelError, nearest

STRICT = ConfigDict(extra="forbid")

# What a file from a stranger may ask for: name -> (lowest, highest). A 0 where 0 is allowed means "derive it".
LIMITS = {
    "vocab_size": (1, 4_000_000),
    "context_length": (1, 16_000_000),
    "n_layer": (1, 1_000),
    "n_head": (1, 4_096),
    "n_kv_head": (0, 4_096),
    "d_model": (1, 65_536),
    "d_head": (0, 4_096),
    "d_ff": (0, 1_048_576),
    "norm_eps": (1e-12, 1e-1),
    "rope_theta": (1.0, 1e12),
    "window": (1, 16_000_000),
    "dropout": (0.0, 0.99),
}


@dataclass(frozen=True, config=STRICT)
class RopeScaling:
    """How Llama 3 stretches rotary positions: slow frequencies by `factor`, fast ones not at all, smoothly between."""

    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context_length: int = 8192

    def __post_init__(self):
        if not (self.factor >= 1 and self.low_freq_factor < self.high_freq_factor and self.original_context_length > 0):
            raise ModelError(f"{self} needs factor >= 1, low_freq_factor < high_freq_factor and a context", code=34)


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    """The shape of a GPT. The defaults are GPT-2 small; `preset` and `depth` give others."""

    vocab_size: int = 50_257
    context_length: int = 1_024  # positions the model may see at once
    n_layer: int = 12
    n_head: int = 12
    n_kv_head: int = 0  # heads of keys and values; fewer than n_head: grouped. 0: n_head
    d_model: int = 768
    d_head: int = 0  # width of one head. 0: d_model / n_head
    d_ff: int = 0  # inner width of the feed-forward layer. 0: 4 d_model, or for "swiglu" 8/3 d_model
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    norm_eps: float = 1e-5
    mlp: Literal["gelu", "swiglu", "relu2"] = "gelu"
    rope_theta: float | None = None  # slowest wavelength of rotary positions; None: positions are learned, as in GPT-2
    rope_scaling: RopeScaling | None = None
    bias: Literal["none", "qkv", "all"] = "all"
    qk_norm: bool = False  # RMSNorm on every query and key
    tied: bool = True  # the output head is the embedding
    window: int | None = None  # a token sees itself and the window - 1 before it; None: all before it
    dropout: float = 0.0

    def __post_init__(self):
        beyond = _out_of_range(self)
        problems = [*beyond.values(), *_misfits(self, frozenset(beyond))]
        if problems:
            raise ModelError("; ".join(problems), code=31 if "does not divide" in problems[0] else 34)
        derived = {
            "n_kv_head": self.n_kv_head or self.n_head,
            "d_head": self.d_head or self.d_model // self.n_head,
            "d_ff": self.d_ff or _feed_forward_width(self.mlp, self.d_model),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)  # frozen for everybody else

    @classmethod
    def preset(cls, name: str) -> Self:
        """The config of a known model; `dataclasses.replace` changes single fields."""
        if name not in PRESETS:
            raise ModelError(f"there is no preset {name!r}; known: {', '.join(PRESETS)}.{nearest(name, PRESETS)}")
        return cls(**PRESETS[name])

    @classmethod
    def depth(cls, n_layer: int, vocab_size: int = 50_257, context_length: int = 1_024) -> Self:
        """The fast variant by one dial: width is 64 a layer, heads are 64 wide (32 below eight layers).

        RMSNorm, rotary positions, QK-norm, squared ReLU, no biases, separate head. `sizes.recipe` gives the
        batch, learning rate and steps that belong to it.
        """
        d_head = 64 if n_layer >= 8 else 32
        d_model = 64 * n_layer
        shape = {"n_layer": n_layer, "n_head": d_model // d_head, "d_model": d_model, "d_head": d_head}
        return cls(vocab_size=vocab_size, context_length=context_length, **shape, **FAST)


def _out_of_range(config: ModelConfig) -> dict[str, str]:
    """Field -> what is wrong with its value alone."""
    given = {name: getattr(config, name) for name in LIMITS}
    return {
        name: f"{name} {given[name]!s:.20} is out of range; use {low:,} to {high:,}"
        for name, (low, high) in LIMITS.items()
        if given[name] is not None and not low <= given[name] <= high  # NaN is in no range
    }


def _misfits(config: ModelConfig, beyond: frozenset[str]) -> list[str]:
    """What is wrong between fields, each of which is in its range."""
    problems = []
    n_head, d_model, n_kv_head = config.n_head, config.d_model, config.n_kv_head
    if beyond.isdisjoint({"n_head", "d_model"}) and not config.d_head and d_model % n_head:
        problems.append(f"n_head {n_head} does not divide d_model {d_model}; try n_head = {near(d_model, n_head)}")
    if beyond.isdisjoint({"n_head", "n_kv_head"}) and n_kv_head and n_head % n_kv_head:
        problems.append(f"n_kv_head {n_kv_head} does not divide n_head {n_head}; try {near(n_head, n_kv_head)}")
    d_head = config.d_head or d_model // max(n_head, 1)
    if config.rope_theta is not None and d_head % 2:
        problems.append(f"d_head {d_head} is odd, and rotary positions turn pairs; try d_head = {d_head + 1}")
    if config.rope_theta is None and config.rope_scaling is not None:
        problems.append("rope_scaling needs rotary positions, and rope_theta is None; try rope_theta = 500000.0")
    return problems


def near(total: int, wished: int) -> str:
    """The divisors of `total` next to `wished`, in words: near(768, 10) is "8 or 12"."""
    divisors = [d for d in range(1, total + 1) if total % d == 0]
    below = [d for d in divisors if d < wished][-1:]
    above = [d for d in divisors if d > wished][:1]
    return " or ".join(str(d) for d in below + above)


def _feed_forward_width(mlp: str, d_model: int) -> int:
    """Four times the width; a gated layer has three matrices instead of two, so it gets two thirds of that."""
    return 4 * d_model if mlp != "swiglu" else -(-8 * d_model // 3 // 64) * 64


FAST: dict[str, Any] = {
    "norm": "rmsnorm",
    "norm_eps": 1e-6,
    "mlp": "relu2",
    "rope_theta": 10_000.0,
    "bias": "none",
    "qk_norm": True,
    "tied": False,
}
PRESETS: dict[str, dict[str, Any]] = {
    "gpt2-small": {},
    "gpt2-medium": {"n_layer": 24, "n_head": 16, "d_model": 1_024},
    "gpt2-large": {"n_layer": 36, "n_head": 20, "d_model": 1_280},
    "gpt2-xl": {"n_layer": 48, "n_head": 25, "d_model": 1_600},
    "smollm2-135m": {
        "vocab_size": 49_152,
        "context_length": 8_192,
        "n_layer": 30,
        "n_head": 9,
        "n_kv_head": 3,
        "d_model": 576,
        "d_ff": 1_536,
        "norm": "rmsnorm",
        "mlp": "swiglu",
        "rope_theta": 100_000.0,
        "bias": "none",
    },
}
