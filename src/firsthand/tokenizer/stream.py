"""Ids, one at a time -> text that never shows half a character."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from firsthand.tokenizer.bpe import Tokenizer
    from firsthand.tokenizer.sentence import SentenceTokenizer


class StreamDecoder:
    """Turns ids into text as they come; the bytes of an unfinished character wait for the next id.

    Bytes that can no longer become a character are given out as U+FFFD, as `decode` would.
    """

    def __init__(self, tokenizer: Tokenizer | SentenceTokenizer):
        self.tokenizer = tokenizer
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text that is complete now; often a word, sometimes nothing yet."""
        return self.decoder.decode(self.tokenizer.token_bytes(token))

    def flush(self) -> str:
        """The end: what still waits, as U+FFFD. Afterwards the decoder is as new."""
        rest = self.decoder.decode(b"", final=True)
        self.decoder.reset()
        return rest
