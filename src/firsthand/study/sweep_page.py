"""The report of a sweep: what it found in one sentence, every point with its interval, and what each one cost."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from firsthand import files
from firsthand.study.canvas import BLUE, RUST, SOFT, canvas, note
from firsthand.study.page import (
    Html,
    Picture,
    Row,
    Section,
    Table,
    code,
    figure,
    heading,
    page,
    paragraph,
    table,
)
from firsthand.study.points import Point, against, best, points
from firsthand.study.work import Result

UNITS = {
    "accuracy": "share of test examples that are right",
    "loss": "loss on the test side, nats per example",
    "answer_loss": "loss of the test answers, nats per token",
    "validation_loss": "loss on the validation side",
    "tasks_solved": "share of test tasks that are solved",
    "tasks_named": "share of tasks whose answer holds the right one",
    "echo": "share of answers that repeat five words of the question in a row, and need not",
    "words": "words of an answer",
    "rouge_l": "likeness to the answers wanted, ROUGE-L",
    "exact_match": "share of answers that are the ones wanted",
}


def sweep_facts(results: Sequence[Result], command: str) -> dict[str, Any]:
    """What a sweep found, as plain numbers: every point, and the best by validation against each of the others."""
    its = points(results)
    able = [point for point in its if point.results]
    told: dict[str, Any] = {"command": command, "points": [point.facts() for point in its], "cells": cells_of(results)}
    if not able:
        return {**told, "verdict": "no cell ended well; see the errors", "comparisons": []}
    first, score = best(able), able[0].scores[0]
    pairs = [against(first, other, score) for other in able if other is not first]
    return {**told, "best": first.name, "score": score, "comparisons": pairs, "verdict": _verdict(first, pairs, score)}


def cells_of(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Every cell with its settings and its end, without what every example scored."""
    left_out = ("scores", "sizes", "spectrum")
    return [{name: value for name, value in one.items() if name not in left_out} for one in results]


def _verdict(first: Point, pairs: Sequence[dict[str, Any]], score: str) -> str:
    mean, (low, high), _ = first.mean(score)
    words = [f"{word} than {_named(pairs, word)}" for word in ("better", "worse") if _named(pairs, word)]
    if alike := _named(pairs, "not distinguishable"):
        words.append(f"not distinguishable from {alike}")
    seeds = f" over {len(first.seeds)} seeds" if len(first.seeds) > 1 else ", of one seed only"
    compared = f"; {', '.join(words)}" if words else ""
    return (
        f"By validation loss {first.name or 'the only point'} is best: test {score.replace('_', ' ')} {mean:.4g} "
        f"[{low:.4g}, {high:.4g}]{seeds}{compared}."
    )


def _named(pairs: Sequence[dict[str, Any]], verdict: str) -> str:
    return ", ".join(pair["second"] for pair in pairs if pair["verdict"] == verdict)


def write(out: Path, title: str, told: dict[str, Any], sections: Sequence[Section]) -> Path:
    """OUT/report.json and OUT/report.html."""
    files.write_file(out / "report.json", json.dumps(told, indent=1) + "\n")
    target = out / "report.html"
    files.write_file(target, page(title, told["verdict"], sections, f"Made by: {told['command']}"))
    return target


def sweep_sections(told: dict[str, Any]) -> list[Section]:
    """The parts of the page of any sweep."""
    return [*findings(told, "What was found", "In pairs"), *endings(told)]


def findings(told: dict[str, Any], title: str, in_pairs: str) -> list[Section]:
    """Every point that has a result, the comparisons of pairs, and what it all cost."""
    able = [point for point in told["points"] if point["seeds"]]
    if not able:
        return []
    lead = "A small dot is one seed, the large one their mean, the line its 95 % interval over examples and seeds."
    pairs = [heading(in_pairs), pair_table(told["comparisons"])] if told["comparisons"] else []
    return [
        Section(title, lead, [*scored(able), *pairs]),
        Section("What it cost", "Means over the seeds; memory is the most of them.", [costs(able)]),
    ]


def endings(told: dict[str, Any]) -> list[Section]:
    """What stands at the end of every study: all cells, and how to do it again."""
    return [
        Section("Every cell", "Each is an ordinary run in cells/NAME.", [cell_table(told["cells"])]),
        Section("Do it again", "Finished cells are kept, and not done again.", [code(told["command"])]),
    ]


def scored(able: Sequence[dict[str, Any]], name: str = "sweep") -> list[Html]:
    """A figure of every score; a line of those that are the same number everywhere."""
    alike, drawn = [], []
    for score in able[0]["scores"]:
        values = {value for point in able for value in point["scores"][score]["by_seed"]}
        if len(values) == 1 and len(able) > 1:
            alike.append(paragraph(f"{UNITS.get(score, score)}: {values.pop():g} everywhere"))
        else:
            drawn.append(figure(dots(able, score, name)))
    return [*drawn, *alike]


def pair_table(pairs: Sequence[dict[str, Any]]) -> Html:
    """Every comparison of two points; the difference is that of the first minus the second."""
    rows: list[Row] = [
        (
            pair["first"],
            pair["second"],
            pair["score"].replace("_", " "),
            pair.get("difference"),
            *pair.get("interval_95", (None, None)),
            pair["verdict"],
        )
        for pair in pairs
    ]
    return table(Table(("point", "against", "score", "difference", "95 % from", "to", "verdict"), rows))


def dots(its: Sequence[dict[str, Any]], score: str, name: str = "sweep") -> Picture:
    """One score of every point: seeds, mean and interval; `name` keeps two figures of a page apart."""
    shown = [point for point in its if score in point["scores"]][::-1]
    rows: list[Row] = []
    with canvas(f"{name}-{score}", 0.9 + 0.3 * len(shown)) as drawn:
        axes = drawn.figure.add_subplot()
        for place, point in enumerate(shown):
            found = point["scores"][score]
            low, high = found["interval_95"]
            axes.plot([low, high], [place, place], color=BLUE, alpha=0.5, linewidth=1.6)
            axes.plot(found["by_seed"], [place] * len(found["by_seed"]), "o", color=RUST, markersize=3.5, alpha=0.8)
            axes.plot(found["mean"], place, "o", color=BLUE, markersize=7)
            note(axes, (high, place), f"{found['mean']:.4g}", SOFT, shift=(8, 0))
            rows.insert(0, (point["point"], found["mean"], low, high, *found["by_seed"]))
        axes.set_yticks(range(len(shown)), [point["point"] or "as given" for point in shown])
        axes.set_ylim(-0.7, len(shown) - 0.3)
        axes.margins(x=0.12)
        axes.grid(False, axis="y")
    most = max(len(point["scores"][score]["by_seed"]) for point in shown)
    rows = [(*row, *[None] * (4 + most - len(row))) for row in rows]
    columns = ("point", "mean", "95 % from", "to", *(f"seed {n + 1}" for n in range(most)))
    alt = f"Dot chart: {score.replace('_', ' ')} of {len(shown)} points."
    return Picture(drawn.svg, alt, UNITS.get(score, score), Table(columns, rows))


def costs(its: Sequence[dict[str, Any]]) -> Html:
    """Parameters that learn, memory, and time of every point."""
    rows: list[Row] = [
        (
            point["point"],
            point["parameters_learned"],
            point["peak_bytes"] / 1e6,
            point["seconds"].get("training"),
            point["seconds"]["cell"],
        )
        for point in its
    ]
    return table(Table(("point", "parameters that learn", "peak memory, MB", "training, s", "whole run, s"), rows))


def cell_table(cells: Sequence[dict[str, Any]]) -> Html:
    """Every cell with its end."""
    rows: list[Row] = [(one["name"], one.get("validation_loss"), one["error"] or "done") for one in cells]
    return table(Table(("cell", "validation loss", "end"), rows))
