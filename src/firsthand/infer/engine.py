"""Many texts at once on one model: whoever waits is admitted, all read and write together, whoever ends makes room.

    engine = Engine(fast, rows=8)
    texts = [engine.admit(prompt, choose, most=64, ends=bundle.ends) for prompt in prompts]
    for text in engine.run():     # every text as it ends, in the order in which they end
        print(tokenizer.decode(text.said))

Most of a step is reading the weights, so eight texts a step cost little more than one. A text that ends gives its row
and its pages to the next that waits: no text waits for the longest of its batch. Prompts are read in pieces, so a long
one does not hold up those that write; what two texts begin with alike is read once (model/paged.py).
Source: Yu et al. 2022, Orca, section 4 (scheduling by iteration).
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from firsthand.errors import ModelError
from firsthand.infer.fast import Fast
from firsthand.model.cache import check_room

PIECE = 32  # tokens of a prompt that are read in one step


@dataclass(eq=False)
class Text:
    """A prompt and what is said after it."""

    ids: list[int]  # the prompt, then the answer
    choose: Callable[[Tensor], int]  # the next token, from its scores (V,)
    most: int  # tokens of an answer
    ends: frozenset[int]  # tokens that end one
    said: list[int] = field(default_factory=list)  # without the token that ended it
    finish: str | None = None  # "end" the model ended it, "length" it was long enough


class Engine:
    """So many rows of a fast engine, and those who wait for one."""

    def __init__(self, fast: Fast, rows: int = 8):
        self.fast, self.cache = fast, fast.new_cache(rows)
        self.rows: list[Text | None] = [None] * rows
        self.waiting: deque[Text] = deque()

    def admit(
        self, prompt: Sequence[int], choose: Callable[[Tensor], int], most: int, ends: Sequence[int] = ()
    ) -> Text:
        """A new text, which waits for its row; one that could never have room is refused now."""
        if not len(prompt) or most < 1:
            raise ModelError(f"a prompt of {len(prompt)} tokens and {most} to come; give at least one of both")
        check_room(len(prompt), most, self.fast.config.context_length)
        text = Text(list(prompt), choose, most, frozenset(ends))
        if (needed := self._pages(text)) > self.fast.pool.blocks:
            raise ModelError(
                f"{len(prompt)} tokens and {most} to come need {needed} pages, and the engine has "
                f"{self.fast.pool.blocks}; make it with tokens={needed * self.fast.pool.size} or more"
            )
        self.waiting.append(text)
        return text

    def leave(self, text: Text) -> None:
        """End a text now: its row is free."""
        if text in self.rows:
            self._release(self.rows.index(text))
        elif text in self.waiting:
            self.waiting.remove(text)

    def run(self) -> Iterator[Text]:
        """Steps until nobody reads, writes or waits: every text as it ends."""
        while self.waiting or any(self.rows):
            yield from self.step()

    def step(self) -> list[Text]:
        """One token more for whoever writes, a piece more for whoever reads: those that ended with it."""
        self._take_in()
        rows = [row for row, text in enumerate(self.rows) if text is not None]
        if not rows:
            return []
        texts = [text for text in self.rows if text is not None]
        held = self.cache.lengths[rows].tolist()
        new = [torch.tensor(text.ids[seen : seen + PIECE]) for text, seen in zip(texts, held, strict=True)]
        counts = torch.tensor([len(ids) for ids in new])
        ids = torch.nn.utils.rnn.pad_sequence(new, batch_first=True)
        scores = self.fast.last(ids, 1, self.cache.at(rows), counts)[:, 0]
        ended = []
        for row, text, seen, its in zip(rows, texts, held, scores, strict=True):
            if seen + PIECE >= len(text.ids) and self._written(text, its):
                self._release(row)
                ended.append(text)
        return ended

    def _take_in(self) -> None:
        """Give free rows to those who wait, in order, as long as the pages suffice for all to come to their end."""
        pledged = sum(self._pages(text) for text in self.rows if text is not None)
        for row, there in enumerate(self.rows):
            if there is None and self.waiting:
                pledged += self._pages(self.waiting[0])
                if pledged > self.fast.pool.blocks:
                    return
                self.rows[row] = text = self.waiting.popleft()
                self.cache.admit(row, text.ids)

    def _pages(self, text: Text) -> int:
        return -(-(len(text.ids) - len(text.said) + text.most) // self.fast.pool.size)

    def _written(self, text: Text, scores: Tensor) -> bool:
        """Choose the next token: whether the text has come to its end."""
        id = text.choose(scores)
        if id in text.ends:
            text.finish = "end"
            return True
        text.ids.append(id)
        text.said.append(id)
        if len(text.said) == text.most:
            text.finish = "length"
        return text.finish is not None

    def _release(self, row: int) -> None:
        self.cache.release(row)
        self.rows[row] = None
