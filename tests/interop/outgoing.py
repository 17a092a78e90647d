"""Small models on their way out: random weights of every family, with a tokenizer that was really trained.

2 layers, width 64, 4 heads of 16 in 2 groups, inner width 96, context 128, vocabulary 307: rows are whole blocks of 32.
"""

from dataclasses import replace
from functools import cache

import torch

from firsthand.interop.foreign import Foreign
from firsthand.model.assemble import weights
from firsthand.model.config import ModelConfig, RopeScaling
from firsthand.model.gpt import GPT
from firsthand.tokenizer.bpe import Tokenizer

TEXT = "It's 12 o'clock; the café in 東京 opens.\n\nThe rats, 345 of them, they've  left already!\n\tDon't WE'LL? "
GPT2 = ModelConfig(vocab_size=307, context_length=128, n_layer=2, n_head=4, d_model=64, d_ff=96)
LLAMA = replace(GPT2, n_kv_head=2, norm="rmsnorm", mlp="swiglu", rope_theta=1e4, bias="none")
STRETCH = RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context_length=64)
FAMILIES = {
    "gpt2": (GPT2, "gpt2"),
    "llama": (LLAMA, "smollm"),
    "llama3": (replace(LLAMA, rope_scaling=STRETCH, rope_theta=500.0, tied=False), "llama3"),
    "qwen2": (replace(LLAMA, bias="qkv", tied=False), "qwen2"),
    "qwen3": (replace(LLAMA, qk_norm=True, d_head=32), "qwen2"),
}
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@cache
def trained(pattern: str) -> Tokenizer:
    """A tokenizer of 307 ids: the bytes, 48 merges, three special tokens."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return Tokenizer.train([TEXT * 3], 307, pattern, special)


def outgoing(family: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Foreign:
    """A model of a family whose every parameter is random, ready to be exported."""
    config, pattern = FAMILIES[family]
    tokenizer = trained(pattern)
    model, generator = GPT(config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.empty(parameter.shape).normal_(generator=generator)
            parameter.copy_(1 + noise / 4 if parameter.dim() == 1 else noise / parameter.shape[-1] ** 0.5)
        unsaid = [at for at, token in enumerate(tokenizer.tokens) if token[-1:] >= b"\x80"]
        model.head.weight[unsaid] *= 0.01  # half a character is never likeliest: llama.cpp would not report it
    tensors = {name: tensor.to(dtype) for name, tensor in weights(model).items()}
    ends = (tokenizer.special_tokens["<|im_end|>"], tokenizer.special_tokens["<|endoftext|>"])
    return Foreign(config, tensors, tokenizer, f"random {family}", CHATML, ends, {"source": "a test"})
