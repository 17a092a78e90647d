"""Many runs from one command: planned and counted first, each in a process of its own, interrupted and gone on with.

OUT/sweep.json             the arithmetic that every cell uses, measured once
OUT/cells/NAME/            one run, as its verb makes it: config.toml, metrics.jsonl, report.json
OUT/cells/NAME/result.json its end, or its error; a cell that ended well is never done again
OUT/cells/NAME/log.txt     what it said
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from firsthand import files
from firsthand.errors import ConfigError, TrainingError
from firsthand.study.cells import Cell
from firsthand.study.work import LOG, PLAN, RESULT, Result, ended, finish, tidy, work
from firsthand.training.signals import Signals

NOTE = "sweep.json"
FREE = (  # keys that change neither time nor size, or hardly
    "train.learning_rate", "train.min_learning_rate", "task.start", "task.reads", "task.learn", "data.split",
    "data.pack",
)  # fmt: skip


@dataclass(frozen=True)
class Event:
    """What a listener hears: a cell that began, goes on, or ended, and how far the sweep is."""

    kind: str  # "began", "goes on", "ended"
    cell: Cell
    done: int
    total: int
    step: str = ""  # of the run, as "12/100"
    result: Result = field(default_factory=dict)
    seconds_left: float | None = None  # by the cells that ended, of those that are left


Tell = Callable[[Event], None]


class Stopped(TrainingError):
    """Somebody asked the sweep to stop; its cells have saved what they had."""

    def __init__(self, number: int, done: int, total: int):
        super().__init__(f"stopped with {done} of {total} cells done. Go on by the same command")
        self.exit_code = 128 + number


def sweep(
    cells: Sequence[Cell], out: Path, *, workers: int = 1, keep: bool = False, tell: Tell = lambda event: None
) -> list[Result]:
    """The results of all cells, in their order; those that ended well before are only read.

    A cell that fails is one with an `error`, and the others go on; the same command tries it again.
    """
    if workers < 1:
        raise ConfigError(f"--workers is {workers}; it must be 1 or more")
    with files.RunLock(out):
        cells, dtype = settled(cells, out)
        compare(cells, out)
        if not (out / NOTE).exists():
            files.write_file(out / NOTE, json.dumps({"dtype": dtype}) + "\n")
        for cell in cells:
            tidy(folder_of(cell, out), keep)
        left = [cell for cell in cells if not ended(folder_of(cell, out))]
        Crew(out, workers, keep, tell, len(cells)).work(left)
        return [result_of(cell, out) for cell in cells]


def folder_of(cell: Cell, out: Path) -> Path:
    """Where a cell lies."""
    return out / "cells" / cell.name


def result_of(cell: Cell, out: Path) -> Result:
    """How a cell ended."""
    path = folder_of(cell, out) / RESULT
    return files.parse_json(files.read_file(path), files.shown(path))


def settled(cells: Sequence[Cell], out: Path) -> tuple[list[Cell], str]:
    """The cells with their arithmetic named: measured once, for two cells must not differ by a busy machine."""
    note = out / NOTE
    known = note.exists()
    dtype = files.parse_json(files.read_file(note), files.shown(note))["dtype"] if known else _dtype(cells[0])
    word = f"train.dtype={dtype}"
    return [cell if _sets(cell, "train.dtype") else replace(cell, words=(*cell.words, word)) for cell in cells], dtype


def _dtype(cell: Cell) -> str:
    from firsthand.training import device

    train = settings_of(cell).train
    return train.dtype if train.dtype != "auto" else device.choose(train.device, "auto").dtype


def _sets(cell: Cell, key: str) -> bool:
    return any(word.startswith(f"{key}=") for word in cell.words)


def settings_of(cell: Cell) -> Any:
    """The settings of a cell, checked."""
    from firsthand.run.settings import read_run
    from firsthand.run.tuning import read_tuning

    return read_tuning(cell.words) if cell.verb == "finetune" else read_run(cell.words)


def compare(cells: Sequence[Cell], out: Path) -> None:
    """Every cell's settings can be read, and are those with which its folder was begun."""
    names: dict[str, Cell] = {}
    for cell in cells:
        if names.setdefault(cell.name, cell) is not cell:
            raise ConfigError(f"two cells would have the folder {cell.name!r}; name their values differently")
        settings_of(cell)
        note = folder_of(cell, out) / PLAN
        if note.exists() and (before := files.parse_json(files.read_file(note), files.shown(note))) != cell.facts():
            other = [word for word in cell.words if word not in before.get("words", [])] or ["fewer settings"]
            raise ConfigError(
                f"{files.shown(note.parent)} was begun with other settings than {' '.join(other)[:80]}. "
                f"Choose another --out, or keep those",
                code=25,
            )


def cost(cells: Sequence[Cell], out: Path, workers: int = 1, keep: bool = False) -> Result:
    """What the cells that are left will take: seconds by the plans of their runs, and bytes of disk at most."""
    cells, _ = settled(cells, out)
    compare(cells, out)
    left = [cell for cell in cells if not ended(folder_of(cell, out))]
    plans: dict[tuple[str, ...], Result] = {}
    for cell in left:
        plans.setdefault(_shape(cell), plan_of(cell))
    planned = [plans[_shape(cell)] for cell in left]
    seconds = [one["seconds_about"] for one in planned]
    sizes = [4 * one["parameters"] + 8 * one.get("parameters_learned", one["parameters"]) for one in planned]
    most = sorted(sizes, reverse=True)[: len(sizes) if keep else workers]
    return {
        "cells": len(cells),
        "done": len(cells) - len(left),
        "seconds_about": None if None in seconds else sum(seconds),
        "disk_bytes": sum(most),
        "free_bytes": files.free_bytes(out),
    }


def _shape(cell: Cell) -> tuple[str, ...]:
    """The words that decide what a cell costs."""
    return tuple(word for word in cell.words if word.partition("=")[0] not in FREE)


def plan_of(cell: Cell) -> Result:
    """What one run would be."""
    from firsthand.run import finetune, train

    words = [*cell.words, f"train.seed={cell.seed}"]
    return finetune.plan(*words) if cell.verb == "finetune" else train.plan(*words)


class Crew:
    """The processes that work on cells, at most `workers` at a time."""

    def __init__(self, out: Path, workers: int, keep: bool, tell: Tell, total: int):
        self.out, self.workers, self.keep, self.tell, self.total = out, workers, keep, tell, total
        self.going: dict[BaseProcess, Cell] = {}
        self.seconds: list[float] = []  # that cells took which ended well
        self.done = 0

    def work(self, left: list[Cell]) -> None:
        """Work until nothing is left, or somebody asks to stop."""
        self.done, waiting = self.total - len(left), list(left)
        with Signals() as signals:
            try:
                while (waiting or self.going) and not signals.received:
                    while waiting and len(self.going) < self.workers:
                        self.begin(waiting.pop(0))
                    connection.wait([process.sentinel for process in self.going], timeout=0.5)
                    self.look(len(waiting))
            finally:
                self.dismiss()
            if signals.received:
                raise Stopped(signals.received, self.done, self.total)

    def begin(self, cell: Cell) -> None:
        """Start the process of a cell; cores are divided among those that run at once."""
        folder = folder_of(cell, self.out)
        files.write_file(folder / PLAN, json.dumps(cell.facts()) + "\n")
        (folder / RESULT).unlink(missing_ok=True)
        process = get_context("spawn").Process(target=work, args=(cell, folder, self.keep))
        with threads(self.workers):
            process.start()
        self.going[process] = cell
        self.tell(Event("began", cell, self.done, self.total))

    def look(self, waiting: int) -> None:
        """Note which cells ended, and how far the others are."""
        for process, cell in list(self.going.items()):
            if process.is_alive():
                self.tell(Event("goes on", cell, self.done, self.total, step=_step(folder_of(cell, self.out))))
                continue
            process.join()
            del self.going[process]
            self.end(process, cell, waiting)

    def end(self, process: BaseProcess, cell: Cell, waiting: int) -> None:
        """A cell whose process is gone: its result, or what became of it."""
        folder = folder_of(cell, self.out)
        if not (folder / RESULT).exists():
            finish(cell, folder, {"error": _gone(process.exitcode, folder / LOG)}, self.keep)
        result = result_of(cell, self.out)
        self.done += 1
        if not result["error"]:
            self.seconds.append(result["seconds"]["cell"])
        mean = sum(self.seconds) / len(self.seconds) if self.seconds else None
        ahead = None if mean is None else mean * (waiting + len(self.going) / 2) / self.workers
        self.tell(Event("ended", cell, self.done, self.total, result=result, seconds_left=ahead))

    def dismiss(self) -> None:
        """Ask every process once to save and end, and wait until it has."""
        for process in self.going:
            process.terminate()
        for process in self.going:
            process.join()


@contextmanager
def threads(workers: int) -> Iterator[None]:
    """Inside, a process that is started computes with its share of the threads that this one has."""
    import torch

    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(max(1, torch.get_num_threads() // workers))
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]
        os.environ.update({} if before is None else {"OMP_NUM_THREADS": before})


def _gone(code: int | None, log: Path) -> str:
    """Why a process ended without a word."""
    what = f"signal {-code}" if code and code < 0 else f"exit code {code}"
    memory = " (memory may have run out; use fewer --workers, or a smaller train.batch_size)" if code == -9 else ""
    return f"its process ended by {what}{memory}; see {files.shown(log)}"


def _step(folder: Path) -> str:
    """How far a run is, by the last line of its log: "12", or nothing before the first step."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return ""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 2_000))
        lines = file.read().decode(errors="replace").splitlines()
    steps = [line for line in lines if line.startswith("{") and line.endswith("}")]
    return str(json.loads(steps[-1]).get("train/global_step", "")) if steps else ""
