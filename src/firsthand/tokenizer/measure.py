"""How well a tokenizer fits a text: numbers that can be compared between tokenizers, whatever their vocabulary."""

import time
from typing import Any

import numpy as np


def measure(tokenizer: Any, text: str) -> dict[str, float]:
    """Counts and ratios of one tokenizer on one text.

    `bytes_per_token` is the compression: a model reads that many bytes a position. `tokens_per_word` is the fertility
    of a space-separated word; `whole_words` is the share of words that are a single token; `used` is the share of the
    vocabulary that occurs at all. Speed is the second of two passes, in megabytes a second.
    """
    size = len(text.encode("utf-8"))
    ids = tokenizer.encode(text)
    began = time.perf_counter()
    tokenizer.encode(text)
    seconds = time.perf_counter() - began
    words = [f" {word}" for word in dict.fromkeys(text.split()[:20_000])]
    whole = sum(len(tokenizer.encode(word)) == 1 for word in words)
    return {
        "vocabulary": tokenizer.vocab_size,
        "tokens": len(ids),
        "bytes_per_token": size / max(len(ids), 1),
        "tokens_per_word": len(ids) / max(len(text.split()), 1),
        "whole_words": whole / max(len(words), 1),
        "used": len(np.unique(ids)) / tokenizer.vocab_size,
        "megabytes_per_second": size / 1e6 / max(seconds, 1e-9),
    }


def word_steps(tokenizer: Any, text: str, most: int = 12) -> list[list[list[str]]]:
    """How the first words of a text were merged: for each, the list of its parts after every merge."""
    words = list(dict.fromkeys(text.split()))[:most]
    return [
        [[part.decode("utf-8", "backslashreplace") for part in step] for step in tokenizer.merge_steps(word)]
        for word in words
    ]
