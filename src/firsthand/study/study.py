"""A ready question: which cells answer it, what follows from them, and its page. The cells are an ordinary sweep."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from firsthand.study.cells import Cell
from firsthand.study.page import Section
from firsthand.study.sweep import Tell, sweep
from firsthand.study.sweep_page import cells_of, write
from firsthand.study.work import Result

Size = Literal["short", "cpu", "gpu"]


@dataclass(frozen=True)
class Study:
    """A question with its cells. What is run later may depend on what was found first; `later` is a guess at it."""

    name: str
    question: str
    first: list[Cell]
    then: Callable[[Sequence[Result]], list[Cell]]
    later: list[Cell]  # as many and as large as `then` will give, to be counted before the start
    conclude: Callable[[Sequence[Result]], dict[str, Any]]  # plain numbers, among them "verdict"
    sections: Callable[[dict[str, Any]], list[Section]]


def nothing_more(results: Sequence[Result]) -> list[Cell]:
    """Of a study whose cells are all known beforehand."""
    return []


def carry_out(
    study: Study, out: Path, command: str, *, workers: int = 1, tell: Tell = lambda event: None
) -> tuple[Path, dict[str, Any]]:
    """Run what is left of a study, and write its page; what was done before is only read."""

    def of_all(event: Any) -> None:
        tell(replace(event, total=len(study.first) + len(study.later)))

    results = sweep(study.first, out, workers=workers, tell=of_all)
    if more := study.then(results):
        done = len(results)
        results += sweep(more, out, workers=workers, tell=lambda event: of_all(replace(event, done=event.done + done)))
    told = {"study": study.name, "command": command, **study.conclude(results), "cells": cells_of(results)}
    return write(out, study.question, told, study.sections(told)), told
