"""The parts of a block that look at one token at a time: norms, feed-forward layers, rotary positions.

B batch, T new positions, C width, H heads, D head width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from firsthand.model.config import ModelConfig, RopeScaling
from firsthand.model.gradients import RMSNormalise, SquaredReLU, Turn


class LayerNorm(nn.Module):
    """Every token is shifted to mean 0 and scaled to variance 1, then stretched by what was learned.

    Source: Ba et al. 2016, arXiv:1607.06450, eq. 4.
    """

    def __init__(self, width: int, eps: float, bias: bool):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps).to(product_type(x))


class RMSNorm(nn.Module):
    """Every token is scaled to mean square 1, then stretched by what was learned; its mean stays.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4.
    """

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return RMSNormalise.apply(x, self.weight, self.eps, product_type(x))


def product_type(x: Tensor) -> torch.dtype:
    """The type in which matrix products will take x. Casting once here spares autocast a cast in each of q, k and v."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def norm(config: ModelConfig) -> nn.Module:
    """The norm that the config names, over the whole width."""
    if config.norm == "rmsnorm":
        return RMSNorm(config.d_model, config.norm_eps)
    return LayerNorm(config.d_model, config.norm_eps, bias=config.bias == "all")


def squared_relu(x: Tensor) -> Tensor:
    """max(0, x) squared. Source: So et al. 2021, arXiv:2109.08668, section 3."""
    return SquaredReLU.apply(x)


def gelu(x: Tensor) -> Tensor:
    """GPT-2's smooth ReLU, by tanh. Source: Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2."""
    return F.gelu(x, approximate="tanh")


class MLP(nn.Module):
    """Each token on its own: up to `d_ff`, through a bend, and down again."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        bias = config.bias == "all"
        self.bend = squared_relu if config.mlp == "relu2" else gelu
        self.up = nn.Linear(config.d_model, config.d_ff, bias)
        self.down = nn.Linear(config.d_ff, config.d_model, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.bend(self.up(x)))


class GatedMLP(nn.Module):
    """As MLP, but one half decides how much of the other half passes (SwiGLU).

    Source: Shazeer 2020, arXiv:2002.05202, eq. 6.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        bias = config.bias == "all"
        self.gate = nn.Linear(config.d_model, config.d_ff, bias)
        self.up = nn.Linear(config.d_model, config.d_ff, bias)
        self.down = nn.Linear(config.d_ff, config.d_model, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


def mlp(config: ModelConfig) -> nn.Module:
    """The feed-forward layer that the config names."""
    return GatedMLP(config) if config.mlp == "swiglu" else MLP(config)


def rotary(positions: Tensor, d_head: int, theta: float, scaling: RopeScaling | None = None) -> tuple[Tensor, Tensor]:
    """Cosine and signed sine of every position's angles: (T,) -> two of (T, 1, D); (B, T) -> two of (B, T, 1, D).

    Pair i of a head turns by position / theta^(2i/D). Always in float32, because that is how released weights
    were trained, and because half precision cannot count positions beyond a few hundred.
    Source: Su et al. 2021, arXiv:2104.09864, eq. 15.
    """
    pairs = torch.arange(0, d_head, 2, dtype=torch.float32, device=positions.device)
    frequencies = 1.0 / theta ** (pairs / d_head)  # (D/2,)
    if scaling is not None:
        frequencies = stretched(frequencies, scaling)
    angles = positions.float()[..., None, None] * frequencies
    cosine, sine = angles.cos(), angles.sin()
    return torch.cat([cosine, cosine], dim=-1), torch.cat([-sine, sine], dim=-1)


def stretched(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3's rule: how often did a pair turn in the original context? Often: keep it. Hardly: slow it down."""
    wavelengths = 2 * math.pi / frequencies  # the order of operations is Llama's, so that the tables agree to the bit
    turns = scaling.original_context_length / wavelengths
    span = scaling.high_freq_factor - scaling.low_freq_factor
    keep = ((turns - scaling.low_freq_factor) / span).clamp(0, 1)
    return (1 - keep) * frequencies / scaling.factor + keep * frequencies


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Every pair (i, i + D/2) of a head, turned by an angle: (B, T, H, D), (T, 1, D), (T, 1, D) -> (B, T, H, D).

    Pairs are halves apart, as Hugging Face stores them, not neighbours:
    (a, b) -> (a cos - b sin, b cos + a sin) = (a, b) (cos, cos) + (b, a) (-sin, sin).
    """
    return Turn.apply(x, cosine.to(x.dtype), sine.to(x.dtype))
