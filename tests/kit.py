"""Tiny models for every test. Every dimension is a different number, so that a swapped axis cannot pass."""

from dataclasses import replace

import torch

from firsthand.model.config import FAST, ModelConfig, RopeScaling
from firsthand.model.gpt import GPT

# 2 layers, vocabulary 11, context 19, width 24, 6 heads of 4 in 3 groups, inner width 40
SMALL = ModelConfig(vocab_size=11, context_length=19, n_layer=2, n_head=6, d_model=24, d_ff=40)
LLAMA = replace(SMALL, n_kv_head=3, norm="rmsnorm", mlp="swiglu", rope_theta=1e4, bias="none")
STRETCH = RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context_length=13)
VARIANTS = {
    "gpt2": SMALL,
    "llama": LLAMA,
    "llama3": replace(LLAMA, rope_scaling=STRETCH, rope_theta=50.0),
    "qwen2": replace(LLAMA, bias="qkv", tied=False),
    "qwen3": replace(LLAMA, qk_norm=True, d_head=10, n_kv_head=2),
    "mistral": replace(LLAMA, window=5, tied=False),
    "fast": replace(SMALL, **FAST),
}


def tiny(variant: str = "gpt2", dtype: torch.dtype = torch.float64, seed: int = 0) -> GPT:
    """A tiny model whose every parameter is random: norms and biases too, where a fresh model has ones and zeros."""
    model = GPT(VARIANTS[variant]).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.empty(parameter.shape, dtype=torch.float64).normal_(generator=generator)
            parameter.copy_(1 + noise / 4 if parameter.dim() == 1 else noise / parameter.shape[-1] ** 0.5)
    return model.eval()


def ids(*shape: int, vocab_size: int = 11, seed: int = 1) -> torch.Tensor:
    """Random token ids of a shape."""
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def gap(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference between two tensors of one shape."""
    assert a.shape == b.shape, f"{tuple(a.shape)} is not {tuple(b.shape)}"
    return (a.double() - b.double()).abs().max().item()
