"""Folders of tiny random models as `transformers` writes them, with small real tokenizers of `tokenizers`."""

from pathlib import Path

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, trainers
from torch import nn

from firsthand.tokenizer.split import PATTERNS

TEXT = ["The cat sat on the mat.\n\nThe other cat didn't; it sat there. And then: 1234 cats."] * 9
TOKENS, END = 271, "<|endoftext|>"
SHAPE = {
    "vocab_size": TOKENS,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "max_position_embeddings": 19,
    "rms_norm_eps": 1e-5,
    "eos_token_id": 0,
    "bos_token_id": None,
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
WINDOW = {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 0}
CONFIGS = {
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=TOKENS, n_positions=19, n_embd=24, n_layer=2, n_head=6, n_inner=40, eos_token_id=0, bos_token_id=0
    ),
    "llama": lambda: transformers.LlamaConfig(**SHAPE, rope_parameters=TURNS, tie_word_embeddings=True),
    "llama-untied": lambda: transformers.LlamaConfig(**SHAPE, rope_parameters=TURNS, tie_word_embeddings=False),
    "llama-bias": lambda: transformers.LlamaConfig(**SHAPE, rope_parameters=TURNS, attention_bias=True, mlp_bias=True),
    "llama3": lambda: transformers.LlamaConfig(**SHAPE, rope_parameters=STRETCHED, tie_word_embeddings=True),
    "mistral": lambda: transformers.MistralConfig(**SHAPE, sliding_window=5, rope_parameters=TURNS),
    "qwen2": lambda: transformers.Qwen2Config(**SHAPE | {"vocab_size": 283}, rope_parameters=TURNS),
    "qwen2-window": lambda: transformers.Qwen2Config(**SHAPE, rope_parameters=TURNS, **WINDOW),
    "qwen3": lambda: transformers.Qwen3Config(
        **SHAPE | {"num_key_value_heads": 2}, head_dim=10, rope_parameters=TURNS, tie_word_embeddings=True
    ),
}


def tokenizer(pattern: str = "gpt2") -> tokenizers.Tokenizer:
    """Byte-level BPE of 271 tokens that cuts like one of our patterns; id 0 is the end of text."""
    made = tokenizers.Tokenizer(models.BPE())
    cut = pre_tokenizers.Split(tokenizers.Regex(PATTERNS[pattern]), "isolated")
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rest = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = whole if pattern == "gpt2" else pre_tokenizers.Sequence([cut, rest])
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENS, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(TEXT, trainer)
    return made


def model(name: str) -> transformers.PreTrainedModel:
    """A model in float64 whose every parameter is random."""
    torch.manual_seed(0)
    made = transformers.AutoModelForCausalLM.from_config(CONFIGS[name]())
    for parameter in made.parameters():
        nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.3)
    return made.double().eval()


def write(
    name: str, folder: Path, shard: str = "5GB", dtype: torch.dtype = torch.float64
) -> transformers.PreTrainedModel:
    """Save a model with its tokenizer, and give it back."""
    made = model(name)
    made.to(dtype).save_pretrained(folder, max_shard_size=shard)
    pattern = {"qwen": "qwen2", "gpt2": "gpt2"}.get(name[:4], "llama3")
    tokenizer(pattern).save(str(folder / "tokenizer.json"))
    return made


def precise(made: nn.Module) -> nn.Module:
    """With norms that stay in float64, where the original drops to float32."""
    for name, module in list(made.named_modules()):
        if "RMSNorm" in type(module).__name__:
            parent, _, last = name.rpartition(".")
            exact = nn.RMSNorm(module.weight.shape, module.variance_epsilon)  # pyrefly: ignore
            exact.weight = module.weight  # pyrefly: ignore
            setattr(made.get_submodule(parent), last, exact)
    return made
