"""The same random weights in `transformers` and here give the same logits, in float64."""

from dataclasses import replace

import kit
import pytest
import torch
import transformers
from torch import nn

from firsthand.interop import names
from firsthand.model.assemble import assemble
from firsthand.model.gpt import GPT

SHAPE = {
    "vocab_size": 11,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "max_position_embeddings": 19,
    "rms_norm_eps": 1e-5,
    "attn_implementation": "sdpa",
}
TURNS = {"rope_type": "default", "rope_theta": 1e4}
STRETCHED = {
    "rope_type": "llama3",
    "rope_theta": 50.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 13,
}
THEIRS = {
    "llama": lambda: transformers.LlamaConfig(**SHAPE, rope_parameters=TURNS, tie_word_embeddings=True),
    "llama3": lambda: transformers.LlamaConfig(**SHAPE, rope_parameters=STRETCHED, tie_word_embeddings=True),
    "qwen2": lambda: transformers.Qwen2Config(**SHAPE, rope_parameters=TURNS, tie_word_embeddings=False),
    "qwen3": lambda: transformers.Qwen3Config(
        **{**SHAPE, "num_key_value_heads": 2}, head_dim=10, rope_parameters=TURNS, tie_word_embeddings=True
    ),
    "mistral": lambda: transformers.MistralConfig(
        **SHAPE, sliding_window=5, rope_parameters=TURNS, tie_word_embeddings=False
    ),
}


def randomise(model: nn.Module) -> nn.Module:
    """Every parameter random; and norms that keep float64, where the original drops to float32."""
    torch.manual_seed(0)
    for name, module in list(model.named_modules()):
        if "RMSNorm" in type(module).__name__:
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], nn.RMSNorm(module.weight.shape, module.variance_epsilon))
    for parameter in model.parameters():
        nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.3)
    return model.double().eval()


@pytest.mark.parametrize("variant", THEIRS)
def test_logits_equal_those_of_transformers(variant):
    theirs = randomise(transformers.AutoModelForCausalLM.from_config(THEIRS[variant]()))
    tensors, _ = names.to_ours(theirs.state_dict(), kit.VARIANTS[variant], "here")
    ours = assemble(kit.VARIANTS[variant], tensors, "here")
    ids = kit.ids(3, 17)
    with torch.no_grad():
        assert kit.gap(ours(ids), theirs(ids).logits) < 1e-9


def test_gpt2_logits_equal_those_of_transformers():
    config = transformers.GPT2Config(vocab_size=11, n_positions=19, n_embd=24, n_layer=2, n_head=6, n_inner=40)
    theirs = randomise(transformers.GPT2LMHeadModel(config))
    tensors, _ = names.to_ours(theirs.state_dict(), kit.VARIANTS["gpt2"], "here")
    ours = assemble(kit.VARIANTS["gpt2"], tensors, "here")
    ids = kit.ids(3, 17)
    with torch.no_grad():
        assert kit.gap(ours(ids), theirs(ids).logits) < 1e-9


def test_the_oracle_would_notice_a_wrong_rope_scaling():
    scaled = kit.tiny("llama3")
    plain = GPT(replace(scaled.config, rope_scaling=None)).double().eval()
    plain.load_state_dict(scaled.state_dict())
    assert kit.gap(scaled(kit.ids(3, 17)), plain(kit.ids(3, 17))) > 1e-3
