"""Records -> what is learned from them: the ids of a conversation, and for each whether the model shall say it.

What does not fit into the context is shortened at a turn: whole exchanges are left out at the end, never the token that
ends an answer. A single exchange that does not fit is dropped: half a question asks for something else.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from firsthand.data.conversations import Item, Kind, Turns, read
from firsthand.data.ledger import Counts, Reading
from firsthand.data.records import MEND
from firsthand.errors import DataError, TokenizerError
from firsthand.tokenizer.chat import Chat

Row = tuple[list[int], list[bool]]

JOINTS = {"alpaca": "\n\n### Input:\n"}  # what stands between instruction and input, where a style says so
BATCH = 64  # conversations that are written at once
TOO_LONG = "longer than the context"
REFUSED = "refused by the chat template"


@dataclass(frozen=True)
class Example:
    """A record as a model will learn it; `turns` are those that fit, `rejected` is the other answer of a pair."""

    item: Item
    turns: Turns
    ids: list[int]
    mask: list[bool]
    rejected: Row | None = None

    @property
    def row(self) -> Any:
        """What an objective collates: (ids, mask), or for a pair (chosen, rejected), each of that form."""
        return (self.ids, self.mask) if self.rejected is None else ((self.ids, self.mask), self.rejected)

    @property
    def rows(self) -> list[Row]:
        """The rows that it becomes in a batch: one, or two of a pair."""
        return [(self.ids, self.mask), *([self.rejected] if self.rejected else [])]

    @property
    def cut(self) -> bool:
        """Whether the last turns were left out."""
        return len(self.turns) < len(self.item.turns)


def examples(
    sources: Sequence[Path | str],
    kind: Kind,
    chat: Chat,
    context_length: int,
    reading: Reading | None = None,
    counts: Counts | None = None,
) -> list[Example]:
    """Every record of files and folders as an example; the counts say what became of the others, and where."""
    reading, counts = reading or Reading(), counts if counts is not None else Counts()
    with TemporaryDirectory(prefix="firsthand-") as spool:
        items = read(sources, kind, Path(spool), reading, counts, JOINTS.get(style_of(chat), "\n\n"))
        return list(rendered(items, chat, context_length, reading, counts))


def style_of(chat: Chat) -> str:
    """The name of the built-in style that a chat writes in, or "" for a template of its own."""
    return chat.style.name if chat.style else ""


def rendered(
    items: Iterator[Item], chat: Chat, context_length: int, reading: Reading, counts: Counts
) -> Iterator[Example]:
    """The examples that fit: inputs are all ids but the last, so there may be one more than the context holds."""
    for item in _written(items, chat):
        try:
            example = render(item, chat, context_length + 1)
        except TokenizerError as error:
            if reading.on_bad == "error":
                raise DataError(f"{item.place} {str(error)[:150]}. {MEND}") from None
            counts.drop(REFUSED, item.place)
            continue
        if example is None:
            counts.drop(TOO_LONG, item.place)
        else:
            counts.use(item.text)
            yield example


def _written(items: Iterator[Item], chat: Chat) -> Iterator[Item]:
    """The same items, written by a model's own template a batch at a time."""
    while batch := list(islice(items, BATCH)):
        chat.ahead(turns for item in batch for turns in (item.turns, item.rejected) if turns and item.label is None)
        yield from batch


def render(item: Item, chat: Chat, room: int) -> Example | None:
    """A record as ids, at most `room` of them; None if not even its first exchange fits."""
    if item.label is not None:
        ids = chat.tokenizer.encode(item.turns[0].content).tolist()
        return Example(item, item.turns, ids, [False] * len(ids)) if len(ids) < room else None
    turns, (ids, mask) = item.turns, chat.example(item.turns)
    if item.rejected:
        other = chat.example(item.rejected)
        return Example(item, turns, ids, mask, other) if max(len(ids), len(other[0])) <= room else None
    if len(ids) > room:
        ends = [at + 1 for at, turn in enumerate(turns) if turn.role == "assistant"]
        fitting = bisect_right(ends, room, key=lambda end: len(chat.example(turns[:end])[0]))
        if not fitting:
            return None
        turns = turns[: ends[fitting - 1]]
        ids, mask = chat.example(turns)
    return Example(item, turns, ids, mask)


def trained(mask: Sequence[bool]) -> int:
    """The tokens of a row that are learned: nothing can be asked of the first."""
    return sum(mask[1:])


def ends_trained(row: Row, ends: Sequence[int]) -> bool:
    """Whether every answer of a row is learned together with a token that ends it."""
    ids, mask = row
    last = [id for id, (now, then) in zip(ids, pairwise([*mask, False]), strict=True) if now and not then]
    return bool(last) and all(id in ends for id in last)


def asked_otherwise(examples: Sequence[Example], chat: Chat) -> int:
    """How many of these hold a question that will be written otherwise when the model answers."""
    kept = (replace(example.item, turns=example.turns) for example in examples)
    pairs = zip(_written(kept, chat), examples, strict=True)
    return sum(not as_asked(example, chat) for _, example in pairs)


def as_asked(example: Example, chat: Chat) -> bool:
    """Whether the last question is written as it will be when the model answers: those ids begin the example."""
    for turns, (ids, _) in zip((example.turns, example.item.rejected), example.rows, strict=False):
        last = max(at for at, turn in enumerate(turns) if turn.role == "assistant")
        opening = chat.prompt(turns[:last])
        if ids[: len(opening)] != opening:
            return False
    return True
