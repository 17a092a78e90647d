"""Reports: a run folder, or a whole journey, as one page that opens anywhere and asks for nothing.

A report is a view of what lies on the disk, never a call inside a trainer: it can be made again, later and elsewhere.
"""

import json
from pathlib import Path
from typing import Any

from firsthand import files
from firsthand.errors import CheckpointError
from firsthand.study import chapters, runs
from firsthand.study.page import page
from firsthand.study.proof import proof_chapter


def run_report(run: Path | str) -> Path:
    """Write report.html into a run folder, from what the run has recorded so far."""
    run = Path(run)
    records = runs.read_lines(run / "metrics.jsonl")
    if not records:
        raise CheckpointError(
            f"{files.shown(run)} has recorded nothing to report: there is no metrics.jsonl in it. "
            "Give the folder of a training run, such as runs/journey/pretrain.",
            code=23,
        )
    footer = f"Made by: firsthand report {run}\nThe run was made by: firsthand train {run / 'config.toml'}"
    target = run / "report.html"
    sections = runs.run_sections(run, records)
    files.write_file(target, page(f"Run {run.name}", runs.summary(records), sections, footer))
    return target


def journey_report(out: Path | str, results: dict[str, dict[str, Any]]) -> Path:
    """Write report.html of a journey: a chapter for every stage with a result, in the order of `results`."""
    seconds = sum(result.get("seconds", 0.0) for result in results.values())
    lead = "From plain text to a model that writes: every part made here, on this machine, and looked at on the way."
    footer = f"Made by: firsthand journey --out {out}\nThe stages took {seconds / 60:.1f} minutes of computing."
    target = Path(out) / "report.html"
    sections = [chapters.chapter(name, result) for name, result in results.items()]
    files.write_file(target, page("The journey of a language model", lead, sections, footer))
    return target


def proof_report(source: str, facts: dict[str, Any]) -> Path:
    """Keep a proof in the folder of its run and make it a part of report.html; of another model, make a page of it."""
    run = Path(source)
    if (run / "metrics.jsonl").is_file():
        files.write_file(run / runs.PROOF, json.dumps(facts))
        return run_report(run)
    target = Path("runs") / f"proof-{run.name}.html"
    summary = f"{facts['model']}, on {facts['tokens']:,} tokens of {facts['text']}"
    content = page(
        "Is every form the same model?", summary, [proof_chapter(facts)], f"Made by: firsthand prove {source}"
    )
    files.write_file(target, content)
    return target
