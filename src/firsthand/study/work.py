"""One cell of a sweep, in a process of its own: the run, what is kept of it, and an end that others can read.

A fresh interpreter for every cell: what one allocates, loads or breaks cannot touch the next, and its peak of memory is
its own. If the sweep is killed, its cells are asked to stop, and save; whoever starts it again goes on with them.
"""

import json
import os
import signal
import sys
import threading
import time
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any

from firsthand import files
from firsthand.errors import FirsthandError
from firsthand.study.cells import Cell

PLAN, RESULT, LOG = "cell.json", "result.json", "log.txt"
Result = dict[str, Any]


def work(cell: Cell, folder: Path, keep: bool) -> None:
    """What the process of a cell does: it writes result.json, or is interrupted and leaves what can be resumed."""
    os.setsid()  # Ctrl-C belongs to the sweep, which passes it on once
    threading.Thread(target=_follow_parent, daemon=True).start()
    with open(folder / LOG, "ab", 0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    from firsthand.training.signals import Interrupted

    try:
        result = run(cell, folder)
    except Interrupted as stopped:
        sys.exit(stopped.exit_code)
    except FirsthandError as error:
        result = {"error": str(error)}
    except Exception as error:  # whatever it is, the other cells go on, and the log tells the rest
        result = {"error": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}
        sys.excepthook(type(error), error, error.__traceback__)
    finish(cell, folder, result, keep)


def finish(cell: Cell, folder: Path, result: Result, keep: bool) -> None:
    """Write the end of a cell; then its checkpoints may go."""
    told = {"name": cell.name, "point": cell.point, "seed": cell.seed, "words": list(cell.words), "error": None}
    files.write_file(folder / RESULT, json.dumps({**told, **result}) + "\n")
    tidy(folder, keep)


def tidy(folder: Path, keep: bool) -> None:
    """Delete the checkpoints of a cell that has ended well, unless they are to be kept."""
    if not keep and ended(folder):
        for path in files.checkpoints(folder):
            files.discard(path)


def ended(folder: Path) -> Result | None:
    """The result of a cell that has ended well; None where there is something left to do."""
    path = folder / RESULT
    found = files.parse_json(files.read_file(path), files.shown(path)) if path.exists() else {"error": "not begun"}
    return None if found["error"] else found


def run(cell: Cell, folder: Path) -> Result:
    """Do the run, or the rest of it, and give what the sweep keeps of it."""
    from firsthand.run.finetune import finetune
    from firsthand.run.train import train
    from firsthand.training.device import peak_memory

    began = time.monotonic()
    words = [*cell.words, f"train.seed={cell.seed}", f"out={folder}"]
    resume = files.newest(folder)[0] is not None
    path = (finetune if cell.verb == "finetune" else train)(*words, resume=resume).path
    told = _of_finetune(path) if cell.verb == "finetune" else {"scores": {}}
    log = [json.loads(line) for line in files.read_text(path / "metrics.jsonl", 2**30).splitlines()]
    validation = [line["eval/loss"] for line in log if "eval/loss" in line]
    newest = files.newest(path)[0]
    assert newest is not None
    return {
        **told,
        "validation_loss": validation[-1],
        "peak_bytes": peak_memory(),
        "checkpoint_bytes": sum(file.stat().st_size for file in newest.iterdir()),
        **({"spectrum": _spectrum(cell, newest)} if cell.spectrum else {}),
        "seconds": {**told.get("seconds", {}), "cell": time.monotonic() - began},
    }


def _of_finetune(path: Path) -> Result:
    """What the report of a fine-tuning run says that a sweep compares."""
    report = files.parse_json(files.read_file(path / "report.json"), str(path / "report.json"))
    return {
        "scores": report["test"]["examples"],
        "sizes": report["test"].get("example_sizes", {}),
        "parameters_learned": report["cost"]["parameters_learned"],
        "seconds": report["cost"]["seconds"],
        "arithmetic": report["cost"]["arithmetic"],
        "rows": report["rows"],
    }


def _spectrum(cell: Cell, after: Path) -> list[Result]:
    """Of which rank what training changed is, layer by layer."""
    from firsthand.evaluate.spectrum import spectra
    from firsthand.run.source import load
    from firsthand.run.tuning import read_tuning

    before = load(read_tuning(cell.words).model)
    return [
        {
            "layer": one.name,
            "relative": one.relative,
            "rank_for": {str(share): one.rank_for(share) for share in (0.5, 0.9, 0.99)},
            "held": {str(rank): one.held(rank) for rank in (1, 2, 4, 8, 16, 32, 64, 128, 256)},
        }
        for one in spectra(before.model, load(after).model)
    ]


def _follow_parent() -> None:
    """Stop as if asked to, when the process that started this one is gone."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
