"""How many tasks with verifiable answers were solved, by kind, with an interval and the trivial baseline beside it."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from firsthand.data.tasks import Task, bare, right, tasks
from firsthand.errors import DataError
from firsthand.evaluate.stats import Interval, wilson


class Score(NamedTuple):
    """What was solved of one kind, or of all."""

    kind: str
    right: int  # answers that are exactly right
    total: int
    share: float
    interval: Interval  # 95 % of `share`
    named: int  # answers that name the right one as words of their own, whatever else they say
    majority: float  # the share that is right when the commonest answer of the training part is always given


def score(given: Sequence[Task], said: Sequence[str]) -> list[Score]:
    """The score over all tasks, then of every kind in the order of the tasks."""
    if len(given) != len(said) or not given:
        raise DataError(f"{len(said)} answers to {len(given)} tasks; give one answer to each, and at least one task")
    kinds = list(dict.fromkeys(task.kind for task in given))
    pairs = list(zip(given, said, strict=True))
    parts = {"all": pairs} | {kind: [pair for pair in pairs if pair[0].kind == kind] for kind in kinds}
    common = {kind: _commonest(kind) for kind in kinds}
    return [_score(kind, part, common) for kind, part in parts.items()]


def _score(kind: str, pairs: Sequence[tuple[Task, str]], common: dict[str, str]) -> Score:
    solved, total = sum(right(task, said) for task, said in pairs), len(pairs)
    lucky = sum(right(task, common[task.kind]) for task, _ in pairs)
    named = sum(names(task, said) for task, said in pairs)
    return Score(kind, solved, total, solved / total, wilson(solved, total), named, lucky / total)


def names(task: Task, said: str) -> bool:
    """Whether the right answer stands in what was said, as words of its own; also in a sentence about it."""
    wanted, found = bare(task.answer, task.cased), bare(said, task.cased)
    return f" {_plain(wanted)} " in f" {_plain(found)} "


def _plain(text: str) -> str:
    """Words and numbers only."""
    return " ".join("".join(char if char.isalnum() else " " for char in text).split())


def _commonest(kind: str) -> str:
    """The answer that occurs most often among the tasks of a kind to learn from."""
    return Counter(task.answer for task in tasks("train") if task.kind == kind).most_common(1)[0][0]
