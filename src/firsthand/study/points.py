"""What the cells of a sweep say together: a point of the grid is all its seeds, and two points are compared in pairs.

S seeds, E examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from firsthand.errors import ConfigError
from firsthand.evaluate.stats import Repeated, crossed, repeated
from firsthand.study.work import Result

LOWER = ("loss", "answer_loss", "validation_loss", "echo")  # scores of which less is better
NEITHER = ("words",)  # of which neither more nor less is better
WORDS = {1: "better", -1: "worse", 0: "not distinguishable"}


@dataclass(frozen=True)
class Point:
    """The runs that differ only by their seed, those that failed left out."""

    name: str
    results: list[Result]
    failed: list[Result]

    @property
    def seeds(self) -> list[int]:
        return [result["seed"] for result in self.results]

    @property
    def scores(self) -> list[str]:
        """The names of what was scored example by example; the validation loss where nothing was."""
        return list(self.results[0]["scores"]) or ["validation_loss"] if self.results else []

    def array(self, score: str, seeds: Sequence[int]) -> np.ndarray:
        """What every example scored under every seed: (S, E); of the validation loss, which is one number, (S, 1)."""
        by_seed = {result["seed"]: result for result in self.results}
        if score == "validation_loss":
            return np.array([[by_seed[seed][score]] for seed in seeds])
        rows = [by_seed[seed]["scores"][score] for seed in seeds]
        if len({len(row) for row in rows}) > 1:
            raise ConfigError(f"{self.name}: its seeds were tested on different examples; keep data.seed the same")
        return np.array(rows, dtype=np.float64)

    def sizes(self, score: str) -> np.ndarray | None:
        """Of how many things each example's score is the sum; None where every example is one."""
        found = self.results[0].get("sizes", {}).get(score)
        return None if found is None else np.array(found, dtype=np.float64)

    def mean(self, score: str) -> tuple[float, list[float], list[float]]:
        """The mean over examples and seeds, its 95 % interval, and the mean under every seed."""
        values = self.array(score, self.seeds)
        sizes = self.sizes(score)
        sizes = np.ones(values.shape[1]) if sizes is None else sizes
        by_seed = values.sum(axis=1) / sizes.sum()
        return float(by_seed.mean()), list(crossed(values, sizes)), by_seed.tolist()

    def facts(self) -> dict[str, Any]:
        """The point as plain numbers."""
        if not self.results:
            return {"point": self.name, "seeds": [], "failed": len(self.failed)}
        scores = {}
        for score in self.scores:
            mean, interval, by_seed = self.mean(score)
            scores[score] = {"mean": mean, "interval_95": interval, "by_seed": by_seed}
        middle = {key: np.mean([one["seconds"][key] for one in self.results]) for key in self.results[0]["seconds"]}
        return {
            "point": self.name,
            "seeds": self.seeds,
            "failed": len(self.failed),
            "validation_loss": float(np.mean([one["validation_loss"] for one in self.results])),
            "scores": scores,
            "parameters_learned": self.results[0].get("parameters_learned"),
            "peak_bytes": max(one["peak_bytes"] for one in self.results),
            "seconds": {key: float(value) for key, value in middle.items()},
        }


def points(results: Sequence[Result]) -> list[Point]:
    """The points of a sweep, in the order of their first cells."""
    names = list(dict.fromkeys(result["point"] for result in results))
    by_name = {name: [one for one in results if one["point"] == name] for name in names}
    return [
        Point(name, [one for one in its if not one["error"]], [one for one in its if one["error"]])
        for name, its in by_name.items()
    ]


def against(first: Point, second: Point, score: str) -> dict[str, Any]:
    """How much higher the first point's score is, over the seeds that both have, and whether that is better."""
    seeds = [seed for seed in first.seeds if seed in second.seeds]
    told: dict[str, Any] = {"first": first.name, "second": second.name, "score": score, "seeds": seeds}
    if not seeds:
        return {**told, "verdict": "not compared: no seed has both"}
    ours, theirs = first.array(score, seeds), second.array(score, seeds)
    if ours.shape != theirs.shape:
        return {**told, "verdict": "not compared: they were tested on different examples"}
    found = repeated(ours, theirs, first.sizes(score))
    return {
        **told,
        "difference": found.mean,
        "interval_95": list(found.interval),
        "by_seed": list(found.by_seed),
        "verdict": verdict(found, score),
    }


def verdict(found: Repeated, score: str) -> str:
    """Better, worse, or not distinguishable; of a loss, less is better; of a length, only more or fewer is said."""
    if score in NEITHER and found.sign:
        return "more" if found.sign > 0 else "fewer"
    return WORDS[-found.sign if score in LOWER else found.sign]


def best(its: Sequence[Point]) -> Point:
    """The point with the lowest validation loss, averaged over its seeds: the test side has no say in the choice."""
    able = [point for point in its if point.results]
    return min(able, key=lambda point: np.mean([one["validation_loss"] for one in point.results]))
