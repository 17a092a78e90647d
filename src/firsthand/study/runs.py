"""What a run folder tells: the numbers it reached, its curves, and what it wrote on the way."""

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from firsthand import files
from firsthand.errors import CheckpointError
from firsthand.study import plots
from firsthand.study.page import Html, Section, code, facts, figure, quotes
from firsthand.study.proof import proof_chapter

Result = dict[str, Any]
SAMPLES = 14  # shown at most
PROOF = "proof.json"  # what `firsthand prove RUN --report` found


def run_sections(run: Path, records: Sequence[Result]) -> list[Section]:
    """The parts of a report about one run: what it reached, its curves, what it wrote, and how to do it again."""
    sections = [Section("What it reached", "", [facts(reached(records)), *curves(records)])]
    if samples := samples_over_time(run):
        lead = "The same question after more and more steps, drawn with the same seed. Only the model changes."
        sections.append(Section("Samples over time", lead, [samples]))
    if (run / PROOF).is_file():
        sections.append(proof_chapter(files.parse_json(files.read_file(run / PROOF), files.shown(run / PROOF))))
    if settings := text_of(run / "config.toml"):
        again = code(f"firsthand train {run / 'config.toml'} out=runs/again")
        lead = "The resolved settings are a file in the folder; given back, they make the same run."
        sections.append(Section("Do it again", lead, [again, code(settings)]))
    return sections


def curves(records: Sequence[Result], baselines: dict[str, float] | None = None) -> list[Html]:
    """Loss, speed, learning rate and gradient norm, as far as they were recorded."""
    found = [plots.loss_curve(records, baselines), plots.throughput(records), plots.rate_and_norm(records)]
    return [figure(picture) for picture in found if picture is not None]


def reached(records: Sequence[Result]) -> list[tuple[str, str, str]]:
    """The few numbers of a run: name, value, and what to compare it with."""
    loss, held_out = plots.series(records, "train/loss"), plots.series(records, "eval/loss")
    bits, speed = plots.series(records, "val/bpb"), plots.series(records, "train/tok_per_sec")
    tokens = plots.series(records, "train/num_tokens")
    rows = []
    if held_out.steps:
        best = min(held_out.values)
        rows.append(("held-out loss", f"{held_out.last[1]:.3f}", f"nats per token; best {best:.3f}"))
    if bits.steps:
        rows.append(("bits per byte", f"{bits.last[1]:.3f}", "on held-out text; comparable between tokenizers"))
    if loss.steps:
        rows.append(
            ("training loss", f"{loss.last[1]:.3f}", f"at step {loss.last[0]:,}; {loss.values[0]:.2f} at first")
        )
    if tokens.steps:
        rows.append(("tokens", f"{tokens.last[1]:,.0f}", "learned from, repetitions counted"))
    if speed.steps:
        rows.append(("speed", f"{plots.median(speed.values):,.0f}", "tokens per second, median"))
    return rows


def summary(records: Sequence[Result]) -> str:
    """A run in one line."""
    loss, held_out = plots.series(records, "train/loss"), plots.series(records, "eval/loss")
    words = [f"{loss.last[0]:,} steps"] if loss.steps else []
    words += [f"held-out loss {held_out.last[1]:.3f} nats per token"] if held_out.steps else []
    return ", ".join(words) or "no step recorded yet"


def samples_over_time(run: Path) -> Html | None:
    """What the model wrote while it learned, the prompt set apart; first and last sample, and some between."""
    samples = read_lines(run / "samples.jsonl")
    if not samples:
        return None
    prompt = tomllib.loads(text_of(run / "config.toml")).get("sample", {}).get("prompt", "")
    places = sorted({round(place * (len(samples) - 1) / (SAMPLES - 1)) for place in range(SAMPLES)})
    rows = []
    for sample in (samples[place] for place in places):
        given = prompt if sample["text"].startswith(prompt) else ""
        rows.append((f"step {sample['step']:,}", given, sample["text"].removeprefix(given)))
    return quotes(rows)


def read_lines(path: Path) -> list[Result]:
    """The records of a JSON-lines file; none if it is not there. A last line torn by a crash is left out."""
    lines = text_of(path).splitlines()
    records = []
    for place, line in enumerate(lines):
        try:
            records.append(json.loads(line))
        except ValueError:
            if place < len(lines) - 1:
                raise CheckpointError(
                    f"{files.shown(path)}:{place + 1} is not JSON. Restore the file, or delete the line."
                ) from None
    return records


def text_of(path: Path) -> str:
    """The content of a file; nothing if it is not there."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""
