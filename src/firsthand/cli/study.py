"""Verbs that compare: `sweep` runs a grid under several seeds, `study` one of the ready questions."""

import shlex
import sys
from pathlib import Path
from typing import Any, Literal

from firsthand.cli import show
from firsthand.cli.meter import Meter


def sweep(
    verb: str,
    *words: str,
    grid: tuple[str, ...] = (),
    seeds: str = "1,2,3",
    out: Path = Path("runs/sweep"),
    workers: int = 1,
    keep_models: bool = False,
    dry_run: bool = False,
) -> None:
    """Run a grid of settings under several seeds: `firsthand sweep finetune MODEL --grid task.thaw=head,block`.

    Every cell is an ordinary run in OUT/cells/NAME. Interrupted, the same command goes on; what is done stays done.

    Parameters
    ----------
    verb
        finetune or train.
    words
        What that verb takes: the model to finetune, TOML files, section.key=value.
    grid
        A key with its values, as --grid lora.rank=8,16; given several times, every combination is run.
    seeds
        Under which seeds each point is run, as 1,2,3.
    out
        The folder of the sweep; report.html and report.json at the end.
    workers
        Cells at once, each with its share of the cores.
    keep_models
        Keep the checkpoint of every cell; otherwise it is deleted once its cell is measured.
    dry_run
        List the cells and what they cost, and stop.
    """
    from firsthand.run.source import locate
    from firsthand.study import cells as grids
    from firsthand.study import sweep as sweeps
    from firsthand.study import sweep_page

    settings = list(words)
    if verb == "finetune" and words and "=" not in words[0] and not words[0].endswith(".toml"):
        settings[0] = f"model={words[0]}"
        with Meter() as meter:
            locate(words[0], meter.of)
    planned = grids.cells(verb, settings, grid, grids.seeds_of(seeds))
    forecast(planned, sweeps.cost(planned, out, workers, keep_models), dry_run)
    if dry_run:
        return
    results = sweeps.sweep(planned, out, workers=workers, keep=keep_models, tell=told)
    facts = sweep_page.sweep_facts(results, command_of())
    finished(sweep_page.write(out, f"Sweep {out.name}", facts, sweep_page.sweep_sections(facts)), facts)


def study(
    name: Literal["lora-rank", "mask", "spam"],
    *words: str,
    seeds: str = "",
    out: Path | None = None,
    size: Literal["short", "cpu", "gpu"] = "cpu",
    workers: int = 1,
    dry_run: bool = False,
) -> None:
    """Answer a ready question by experiment, with seeds, intervals and a verdict: `firsthand study spam`.

    Its cells are ordinary runs in OUT/cells/NAME. Interrupted, the same command goes on; what is done stays done.

    Parameters
    ----------
    name
        lora-rank: which rank is enough. mask: shall the question be learned too. spam: what must learn for labels.
    words
        section.key=value that all cells share, such as model=NAME or train.steps=200.
    seeds
        Under which seeds, as 1,2,3, which is also the default; of the short form, 1.
    out
        The folder; by default runs/NAME.
    size
        short: a look in minutes. cpu: on a few cores. gpu: more of everything.
    workers
        Cells at once, each with its share of the cores.
    dry_run
        List the cells and what they cost, and stop.
    """
    from firsthand.study import ready, sweep
    from firsthand.study.cells import seeds_of
    from firsthand.study.study import carry_out

    chosen = ready.study(name, words, seeds_of(seeds or ("1" if size == "short" else "1,2,3")), size)
    out = out or Path("runs") / f"study-{name}"
    planned = [*chosen.first, *chosen.later]
    forecast(planned, sweep.cost(planned, out, workers), dry_run)
    if not dry_run:
        page, facts = carry_out(chosen, out, command_of(), workers=workers, tell=told)
        show.paragraph(facts["verdict"])
        show.written(page)


def forecast(planned: Any, cost: dict[str, Any], listed: bool) -> None:
    """How many cells there are, and what those that are left take, before the first begins."""
    if listed:
        for cell in planned:
            show.paragraph(cell.name)
    seconds = cost["seconds_about"]
    time = "" if seconds is None else f", about {show.duration(seconds)} of training"
    disk, free = cost["disk_bytes"] / 1e9, cost["free_bytes"] / 1e9
    print(
        f"{cost['cells']} cells, {cost['done']} done before{time}; "
        f"at most about {disk:,.1f} GB of disk at once, {free:,.1f} GB free",
        file=sys.stderr,
        flush=True,
    )


def told(event: Any) -> None:
    """A line when a cell begins, and one when it ends; on a terminal also how far it is."""
    where = f"[{event.done}/{event.total}]"
    line = ""
    if event.kind == "began":
        line = f"{where} {event.cell.name} ..."
    elif event.kind == "ended":
        left = "" if event.seconds_left is None else f"; about {show.duration(event.seconds_left)} left"
        result = event.result
        end = result["error"] or (
            f"validation loss {result['validation_loss']:.4f}, {show.duration(result['seconds']['cell'])}"
        )
        line = f"{where} {event.cell.name}: {'FAILED, ' if result['error'] else ''}{show.safe(end)}{left}"
    elif sys.stderr.isatty() and event.step:
        print(f"\r{where} {event.cell.name} step {event.step} ", end="", file=sys.stderr, flush=True)
    if line:
        print(("\r\x1b[K" if sys.stderr.isatty() else "") + line, file=sys.stderr, flush=True)


def finished(page: Path, facts: dict[str, Any]) -> None:
    """The points in a table, the verdict in a sentence, and where the report lies."""
    scores = list(dict.fromkeys(score for point in facts["points"] for score in point.get("scores", {})))
    rows = []
    for point in facts["points"]:
        row: dict[str, Any] = {"point": point["point"] or "as given", "seeds": len(point["seeds"])}
        for score in scores:
            found = point.get("scores", {}).get(score, {"mean": None, "interval_95": None})
            row |= {score: found["mean"], f"{score}, 95 %": found["interval_95"]}
        rows.append({**row, "failed": point["failed"]})
    show.table(rows)
    show.paragraph(facts["verdict"])
    show.written(page)


def command_of() -> str:
    """The command that is running, to be pasted again."""
    return shlex.join(["firsthand", *sys.argv[1:]])


ALL = (sweep, study)
