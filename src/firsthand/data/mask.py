"""The mask under a microscope: of every token, who says it, whether it is learned, and how much it weighs."""

from collections.abc import Sequence
from typing import NamedTuple

from firsthand.data.examples import Example, Row, trained
from firsthand.tokenizer.chat import Chat, Turn


class Seen(NamedTuple):
    """One token of an example."""

    id: int
    token: str
    role: str  # of the turn it belongs to
    trained: bool
    weight: float  # its share in the loss of the batch: 1 / learned tokens, or 0


class View(NamedTuple):
    """One row of a batch, token by token."""

    place: str
    answer: str  # "", or of a pair: chosen, rejected
    tokens: list[Seen]


def views(examples: Sequence[Example], chat: Chat) -> list[View]:
    """The rows of one batch of conversations or pairs."""
    count = sum(trained(mask) for example in examples for _, mask in example.rows)
    weight = 1 / count if count else 0.0
    return [
        View(example.item.place, answer, _seen(turns, row, chat, weight))
        for example in examples
        for answer, turns, row in _sides(example)
    ]


def _sides(example: Example) -> list[tuple[str, Sequence[Turn], Row]]:
    if example.rejected is None:
        return [("", example.turns, example.rows[0])]
    return [
        ("chosen", example.turns, example.rows[0]),
        ("rejected", example.item.rejected, example.rejected),
    ]


def _seen(turns: Sequence[Turn], row: Row, chat: Chat, weight: float) -> list[Seen]:
    ids, mask = row
    learned = [False, *mask[1:]]  # nothing can be asked of the first token
    return [
        Seen(id, chat.tokenizer.token_bytes(id).decode("utf-8", "backslashreplace"), role, now, weight if now else 0.0)
        for id, role, now in zip(ids, roles(turns, ids, chat), learned, strict=True)
    ]


def roles(turns: Sequence[Turn], ids: Sequence[int], chat: Chat) -> list[str]:
    """Who says each token: a turn reaches as far as the conversation up to it is written the same."""
    turns = list(turns)
    if chat.style and chat.style.system and turns[0].role != "system":
        turns = [Turn("system", chat.style.system), *turns]  # the style writes it by itself
    found: list[str] = []
    for end in range(1, len(turns) + 1):
        until = _shared(chat.prompt(turns[:end], answer=False), ids) if end < len(turns) else len(ids)
        found += [turns[end - 1].role] * (until - len(found))
    return found


def _shared(ids: Sequence[int], others: Sequence[int]) -> int:
    """How many ids two rows begin with together."""
    return next((at for at, (a, b) in enumerate(zip(ids, others, strict=False)) if a != b), min(len(ids), len(others)))
