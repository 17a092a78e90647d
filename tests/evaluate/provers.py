"""What the tests of proofs share: a tiny model with letters for tokens, and a text for it."""

from pathlib import Path

import kit
import torch

from firsthand.checkpoint.bundle import Bundle
from firsthand.evaluate.compare import Text, cut
from firsthand.tokenizer.simple import CharTokenizer


def bundle(variant: str = "llama") -> Bundle:
    """11 tokens: ten letters and the end of text."""
    letters = CharTokenizer.train("abcdefghij", ["<|endoftext|>"])
    return Bundle(kit.tiny(variant, torch.float32), letters, {}, Path("a-model"))


def text(tokens: int = 60) -> Text:
    """Random letters, of which each stands for 4 bytes."""
    return cut("letters", kit.ids(400).numpy(), 4.0, tokens, 19)
