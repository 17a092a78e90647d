"""Tiny models that speak: one writes random bytes, one draws a few letters, one knows a table by heart."""

from dataclasses import replace
from pathlib import Path

import torch
from kit import SMALL, VARIANTS

from firsthand.checkpoint.bundle import Bundle
from firsthand.model.gpt import GPT
from firsthand.tokenizer.bpe import Tokenizer

END = 258
CONTEXT = 47


def bytes_tokenizer(special: dict[str, int] | None = None) -> Tokenizer:
    """Every byte, two merged tokens, and the end of text."""
    tokens = [bytes([byte]) for byte in range(256)] + [b"th", b"the"]
    special = {"<|endoftext|>": END} if special is None else special
    tokens += [name.encode() for name in special]
    return Tokenizer(tokens, [(ord("t"), ord("h")), (256, ord("e"))], "gpt2", special)


def bundle(variant: str = "llama", seed: int = 0, context: int = CONTEXT) -> Bundle:
    """A tiny model with random weights, so that it writes random bytes: the hardest text to stream."""
    model = GPT(replace(VARIANTS[variant], vocab_size=END + 1, context_length=context)).to(torch.float64)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.4, generator=generator)
    return Bundle(model.eval(), bytes_tokenizer(), {}, Path("nowhere"))


def forgetful(shares: dict[str, float], end: float) -> Bundle:
    """A model that gives fixed probabilities to a few letters and to the end of text, whatever came before."""
    config = replace(SMALL, vocab_size=END + 1, context_length=CONTEXT, tied=False)
    model = GPT(config).to(torch.float64).eval()
    with torch.no_grad():
        model.norm.weight.zero_()
        model.norm.bias.copy_(torch.eye(24)[0])  # the head reads (1, 0, 0, ...)
        model.head.weight.fill_(-60.0)  # e^-60: never
        for letter, share in shares.items():
            model.head.weight[ord(letter), 0] = torch.tensor(share).log()
        model.head.weight[END, 0] = torch.tensor(max(end, 1e-26)).log()
    return Bundle(model, bytes_tokenizer(), {}, Path("nowhere"))


def by_heart(table: torch.Tensor, context: int = 23) -> GPT:
    """A model whose next token depends on the last one alone: probabilities (V, V), one row for each last token."""
    V = len(table)
    shape = {"n_layer": 1, "n_head": 1, "n_kv_head": 1, "d_model": V, "d_ff": V}
    model = GPT(replace(SMALL, vocab_size=V, context_length=context, tied=False, **shape)).to(torch.float64).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        # of a row of the unit matrix the norm makes (V e - 1) / sqrt(V - 1); these two turn it back into e
        model.embed.weight.copy_(1e5 * torch.eye(V))  # large, so that the norm's epsilon does not count
        model.norm.weight.fill_((V - 1) ** 0.5 / V)
        model.norm.bias.fill_(1 / V)
        model.head.weight.copy_(table.log().T)
    return model
