"""A conversation: what is said goes to the model, the model answers, and what it has read stays read.

`Text` is for models that only continue: all that is said is one growing text. `Turns` is for chat models: each side
speaks in turn, and the model's template makes a prompt of them.
"""

from collections.abc import Iterator

from firsthand.checkpoint.bundle import Bundle
from firsthand.infer.generate import Sampling, Token, Writer, start
from firsthand.tokenizer.chat import Chat, Turn


class Text:
    """One growing text. A stop text that ended an answer stays in it though it is not shown; an end token does not."""

    def __init__(self, bundle: Bundle, sampling: Sampling):
        self.bundle, self.writer = bundle, Writer(bundle, sampling)

    @property
    def text(self) -> str:
        """All that was said and continued."""
        ids, tokenizer = self.writer.ids, self.bundle.tokenizer
        return tokenizer.decode(ids[1:] if ids and ids[0] in (tokenizer.begin, tokenizer.end_of_text) else ids)

    def say(self, text: str) -> Iterator[Token]:
        """Append a text now, and give the model's continuation token by token."""
        ids = self.writer.ids
        return self.writer.answer(
            ids + self.bundle.tokenizer.encode(text).tolist() if ids else start(self.bundle, text)
        )


class Turns:
    """Turns of a user and of the model, after what `system` asks for; a turn that does not fit changes nothing."""

    def __init__(self, bundle: Bundle, sampling: Sampling, system: str = ""):
        assert bundle.template is not None, "only a model with a chat template knows turns"
        self.chat = Chat(bundle.template, bundle.tokenizer, bundle.ends)
        self.writer = Writer(bundle, sampling, ends=self.chat.ends)
        self.turns = [Turn("system", system)] if system else []

    def say(self, text: str) -> Iterator[Token]:
        """Take the user's turn now, and give the model's token by token."""
        turns = [*self.turns, Turn("user", text)]
        answer = self.writer.answer(self.chat.prompt(turns, answer=True))
        self.turns = turns
        return self._noted(answer)

    def _noted(self, answer: Iterator[Token]) -> Iterator[Token]:
        said = ""
        try:
            for token in answer:
                said += token.text
                yield token
        finally:  # also when the listener leaves in the middle
            self.turns = [*self.turns, Turn("assistant", said)]


Conversation = Text | Turns
