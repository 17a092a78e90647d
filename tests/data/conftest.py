"""A small tokenizer that really merges: over words, spaces, newlines and Windows line ends."""

import pytest

from firsthand.tokenizer.bpe import Tokenizer

TEXT = "The cat sat on the mat.\n\nThe other cat didn't; it sat there.\r\n  And then: 1234 cats.\n" * 20


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([TEXT], vocab_size=280, pattern="gpt2", special_tokens=["<|endoftext|>"])
