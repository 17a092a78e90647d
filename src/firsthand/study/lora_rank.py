"""The study `lora-rank`: which rank is enough? Adapters of several ranks beside full fine-tuning, on the same tasks.

The learning rate of every arm is chosen by the validation loss of its first seed, among RATES; the test part has no say
in it. The other seeds are then run with the chosen rate. Of the full fine-tuning's first seed, the spectrum of what
changed says which rank would have held it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from firsthand.study.canvas import BLUE, RUST, SOFT, canvas, note
from firsthand.study.cells import Cell
from firsthand.study.page import Picture, Row, Section, Table, figure, heading, paragraph, table
from firsthand.study.points import Point, against, points
from firsthand.study.study import Size, Study
from firsthand.study.sweep_page import endings, findings
from firsthand.study.work import Result

FULL = "full"
RATES = {"lora": ("3e-4", "1e-3", "3e-3"), FULL: ("3e-5", "1e-4", "3e-4")}
RANKS: dict[Size, tuple[int, ...]] = {"short": (2, 16), "cpu": (8, 16, 32, 128), "gpu": (1, 8, 16, 32, 64, 128, 256)}
SIZES: dict[Size, tuple[str, ...]] = {
    "short": ("train.steps=8", "train.warmup=2", "task.asked=0", "task.tested=92"),
    "cpu": ("train.steps=40", "train.warmup=4", "task.asked=92", "task.answer_tokens=12"),
    "gpu": ("train.steps=300", "train.warmup=20", "task.asked=368", "task.answer_tokens=24"),
}
ALWAYS = (
    "model=smollm2-135m-instruct",
    "task.kind=instruct",
    "data.source=tasks",
    "task.style=plain",
    "train.batch_size=8",
    "train.eval_every=0",
    "task.test=short",
    "lora.alpha=32",
)
SHARE = "0.9"  # of the change that a rank should hold


def lora_rank(words: Sequence[str] = (), seeds: Sequence[int] = (1, 2, 3), size: Size = "cpu") -> Study:
    """The study; `words` set what the arms share, such as model=..."""
    shared, ranks = (*ALWAYS, *SIZES[size], *words), RANKS[size]
    arms = [*(f"rank {rank}" for rank in ranks), FULL]
    rates = {arm: RATES[FULL if arm == FULL else "lora"] for arm in arms}
    if size == "short":
        rates = {arm: its[1:2] for arm, its in rates.items()}

    def cell(arm: str, rate: str, seed: int) -> Cell:
        what = ("task.thaw=all",) if arm == FULL else ("task.thaw=lora", f"lora.rank={arm.removeprefix('rank ')}")
        speed = (f"train.learning_rate={rate}", f"train.min_learning_rate={float(rate) / 10:g}")
        spectrum = arm == FULL and seed == seeds[0]
        return Cell("finetune", f"{arm}, rate {rate}", seed, (*shared, *what, *speed), spectrum)

    def then(results: Sequence[Result]) -> list[Cell]:
        chosen = choose(results)
        return [cell(arm, chosen[arm], seed) for arm in arms if arm in chosen for seed in seeds[1:]]

    first = [cell(arm, rate, seeds[0]) for arm in arms for rate in rates[arm]]
    later = [cell(arm, rates[arm][0], seed) for arm in arms for seed in seeds[1:]]
    return Study("lora-rank", "Which rank of LoRA is enough?", first, then, later, conclude, sections)


def choose(results: Sequence[Result]) -> dict[str, str]:
    """The rate of every arm: the one with the lowest validation loss under the first seed."""
    seed = results[0]["seed"]
    able = [one for one in results if one["seed"] == seed and not one["error"]]
    chosen: dict[str, Result] = {}
    for one in able:
        arm = _arm(one["point"])
        if arm not in chosen or one["validation_loss"] < chosen[arm]["validation_loss"]:
            chosen[arm] = one
    return {arm: one["point"].rpartition(" ")[2] for arm, one in chosen.items()}


def _arm(point: str) -> str:
    """rank 8, rate 3e-4 -> rank 8."""
    return point.partition(",")[0]


def conclude(results: Sequence[Result]) -> dict[str, Any]:
    """Every rank against full fine-tuning, each with its chosen rate."""
    chosen = choose(results)
    kept = [one for one in results if chosen.get(_arm(one["point"])) == one["point"].rpartition(" ")[2]]
    its = points([{**one, "point": _arm(one["point"])} for one in kept])
    by_name = {point.name: point for point in its if point.results}
    told: dict[str, Any] = {
        "rates": tuning(results, chosen),
        "points": [point.facts() for point in its],
        "spectrum": spectrum(results, chosen.get(FULL)),
        "comparisons": [],
    }
    if FULL not in by_name or len(by_name) == 1:
        return {**told, "verdict": "too few arms ended well to compare them; see the errors"}
    full = by_name.pop(FULL)
    told["comparisons"] = [
        against(point, full, score) for point in by_name.values() for score in full.scores if score in point.scores
    ]
    return {**told, "verdict": verdict(told, list(by_name.values()), full)}


def tuning(results: Sequence[Result], chosen: dict[str, str]) -> list[dict[str, Any]]:
    """What every rate came to on the validation part, and whether the chosen one stands at the edge of those tried."""
    seed, told = results[0]["seed"], []
    for arm in dict.fromkeys(_arm(one["point"]) for one in results):
        tried = [one for one in results if _arm(one["point"]) == arm and one["seed"] == seed]
        rates = [one["point"].rpartition(" ")[2] for one in tried]
        told.append(
            {
                "arm": arm,
                "validation_loss": {
                    rate: None if one["error"] else one["validation_loss"]
                    for rate, one in zip(rates, tried, strict=True)
                },
                "chosen": chosen.get(arm),
                "at_the_edge": len(rates) > 1 and chosen.get(arm) in (rates[0], rates[-1]),
            }
        )
    return told


def spectrum(results: Sequence[Result], rate: str | None) -> dict[str, Any]:
    """Which rank would have held full fine-tuning's change, by kind of layer: least, middle and most of the blocks."""
    found = [one["spectrum"] for one in results if "spectrum" in one and one["point"].endswith(f" {rate}")]
    if not found:
        return {}
    kinds: dict[str, list[int]] = {}
    for layer in found[0]:
        if layer["relative"] > 0:
            kinds.setdefault(layer["layer"].split(".", 2)[-1], []).append(layer["rank_for"][SHARE])
    held = {
        rank: float(np.mean([layer["held"][rank] for layer in found[0] if layer["relative"] > 0]))
        for rank in found[0][0]["held"]
    }
    blocks = [layer["rank_for"][SHARE] for layer in found[0] if layer["layer"] != "head" and layer["relative"] > 0]
    return {
        "rank_for_90": {kind: [min(its), int(np.median(its)), max(its)] for kind, its in kinds.items()},
        "median": int(np.median(blocks)) if blocks else 0,
        "held": held,
    }


def verdict(told: dict[str, Any], ranks: Sequence[Point], full: Point) -> str:
    """One sentence: the smallest rank that is not worse than full fine-tuning, by the first score."""
    score = full.scores[0]
    by_rank = {pair["first"]: pair for pair in told["comparisons"] if pair["score"] == score}
    good = [point for point in ranks if by_rank[point.name]["verdict"] in ("better", "not distinguishable")]
    theirs = full.mean(score)[0]
    name = score.replace("_", " ")
    seeds = f"{len(full.seeds)} seeds" if len(full.seeds) > 1 else "one seed only"
    if not good:
        return f"No rank tried is enough: each has a worse {name} than full fine-tuning's {theirs:.4g} ({seeds})."
    first = good[0]
    pair, ours = by_rank[first.name], first.mean(score)[0]
    low, high = pair["interval_95"]
    share = first.results[0]["parameters_learned"] / full.results[0]["parameters_learned"]
    peak = [max(one["peak_bytes"] for one in point.results) / 1e9 for point in (first, full)]
    wanted = told["spectrum"].get("median")
    spectral = "" if wanted is None else f"; to hold 90 % of full fine-tuning's change, the middle layer needs {wanted}"
    what = (
        "better than full fine-tuning" if pair["verdict"] == "better" else "the smallest not told from full fine-tuning"
    )
    return (
        f"{first.name.capitalize()} is {what}: {name} {ours:.4g} against {theirs:.4g} "
        f"({pair['difference']:+.4f} [{low:+.4f}, {high:+.4f}], {seeds}), with {share:.1%} of the "
        f"parameters and {peak[0]:.1f} instead of {peak[1]:.1f} GB{spectral}."
    )


def sections(told: dict[str, Any]) -> list[Section]:
    """The page."""
    made = findings(told, "Rank by rank", "Against full fine-tuning")
    if told["spectrum"]:
        lead = (
            "Full fine-tuning is bound to no rank. The singular values of what it changed say how much of the change "
            "an adapter of each rank could hold at best. Noise of training is in it too: a need is not a use."
        )
        kinds: list[Row] = [(kind, *its) for kind, its in told["spectrum"]["rank_for_90"].items()]
        shown = [figure(held(told["spectrum"])), heading("The rank that holds 90 % of the change, by kind of layer")]
        made.append(
            Section(
                "What full fine-tuning changed",
                lead,
                [*shown, table(Table(("layer", "least", "middle", "most"), kinds))],
            )
        )
    return [*made, _rates(told["rates"]), *endings(told)]


def _rates(tuned: Sequence[dict[str, Any]]) -> Section:
    """How the learning rates were found."""
    lead = (
        "Chosen by the validation loss of the first seed alone; the test part was not looked at. "
        "Adapters count alpha / rank times, with one alpha for all ranks."
    )
    rows: list[Row] = [
        (one["arm"], rate, loss, "chosen" * (rate == one["chosen"]))
        for one in tuned
        for rate, loss in one["validation_loss"].items()
    ]
    parts = [table(Table(("arm", "learning rate", "validation loss", ""), rows))]
    if edge := [one["arm"] for one in tuned if one["at_the_edge"]]:
        parts.append(paragraph(f"At the edge of what was tried, so perhaps not the best: {', '.join(edge)}."))
    return Section("The learning rates", lead, parts)


def held(found: dict[str, Any]) -> Picture:
    """The share of the change that a rank holds at best, averaged over layers."""
    ranks, shares = [int(rank) for rank in found["held"]], list(found["held"].values())
    with canvas("held", 3.0) as drawn:
        axes = drawn.figure.add_subplot(xlabel="rank", ylabel="share of the change held")
        axes.set_xscale("log", base=2)
        axes.plot(ranks, shares, color=BLUE, marker="o", markersize=5)
        axes.axhline(0.9, color=SOFT, linewidth=0.9, linestyle=(0, (4, 3)))
        note(axes, (ranks[0], 0.9), "90 %", SOFT, shift=(0, 8))
        note(axes, (ranks[-1], shares[-1]), f"{shares[-1]:.0%}", RUST)
        axes.set_xticks(ranks, [str(rank) for rank in ranks])
        axes.minorticks_off()
        axes.set_ylim(0, 1.05)
    alt = f"Line chart: a rank of {ranks[0]} holds {shares[0]:.0%} of the change, {ranks[-1]} holds {shares[-1]:.0%}."
    rows: list[Row] = list(zip(ranks, shares, strict=True))
    return Picture(drawn.svg, alt, "Mean over all layers that changed.", Table(("rank", "share held"), rows))
