"""The cells of a sweep: every combination of a grid, each an ordinary run with a folder of its own.

--grid lora.rank=8,16 --grid train.learning_rate=1e-4,3e-4 --seeds 1,2      8 cells: 4 points, each under 2 seeds
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from firsthand.errors import ConfigError, nearest

Verb = Literal["finetune", "train"]
VERBS = ("finetune", "train")
SWEPT = ("out", "train.seed")  # keys that a sweep sets itself
PIECE = re.compile(r'(?:\[[^\]]*\]|"[^"]*"|[^,\["])+')  # up to a comma that is not inside brackets or quotes


@dataclass(frozen=True)
class Cell:
    """One run: a point of the grid under one seed."""

    verb: Verb
    point: str  # what cells that differ only by their seed share, as a reader knows it
    seed: int
    words: tuple[str, ...]  # the settings of the run, but for its seed and its folder
    spectrum: bool = False  # measure of which rank the change of the weights is

    @property
    def name(self) -> str:
        """The name of its folder: point and seed; with a hash where the point holds what a folder cannot."""
        told = f"{self.point},seed={self.seed}".strip(",").replace(", ", ",").replace(" ", "-")
        plain = re.sub(r"[^\w.,=+-]+", "_", told)[:80]
        return plain if plain == told else f"{plain}-{hashlib.sha256(told.encode()).hexdigest()[:6]}"

    def facts(self) -> dict[str, Any]:
        """What makes it this cell and no other."""
        return {"verb": self.verb, "words": list(self.words), "seed": self.seed, "spectrum": self.spectrum}


def cells(verb: str, words: Sequence[str], grid: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """Every point of the grid under every seed, seeds innermost; refused where two would be the same."""
    if verb not in VERBS:
        raise ConfigError(f"{verb!r} cannot be swept; use finetune or train.{nearest(verb, VERBS)}")
    axes = [axis(word) for word in grid]
    keys = [key for key, _ in axes]
    given = [word.partition("=")[0] for word in words]
    for key in (*keys, *given):
        if key in SWEPT:
            mend = "--out DIR" if key == "out" else "--seeds 1,2,3"
            raise ConfigError(f"{key} is set by the sweep itself; leave it out, and use {mend}")
    if again := [key for key in keys if keys.count(key) > 1 or key in given]:
        raise ConfigError(f"{again[0]} is set twice; name all its values in one --grid {again[0]}=...")
    short = [key.rpartition(".")[2] for key in keys]
    names = [key if short.count(last) > 1 else last for key, last in zip(keys, short, strict=True)]
    made = []
    for values in product(*(its for _, its in axes)):
        settings = tuple(f"{key}={value}" for key, value in zip(keys, values, strict=True))
        point = ",".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
        made += [Cell(verb, point, seed, (*words, *settings)) for seed in seeds]  # pyrefly: ignore
    return made


def axis(word: str) -> tuple[str, list[str]]:
    """One --grid word as its key and its values: lora.rank=8,16 -> lora.rank, [8, 16]."""
    key, equals, text = word.partition("=")
    values = [value.strip() for value in PIECE.findall(text)]
    if not key or not equals or not all(values) or not values:
        raise ConfigError(f"--grid {word!r} is not a key with values; as in --grid lora.rank=8,16")
    if len(set(values)) < len(values):
        raise ConfigError(f"--grid {word!r} names a value twice; each needs to be there once")
    return key, values


def seeds_of(text: str) -> list[int]:
    """The seeds of a word such as 1,2,3."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise ConfigError(f"--seeds {text!r} is not a list of whole numbers; as in --seeds 1,2,3")
    seeds = [int(part) for part in parts]
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"--seeds {text!r} names a seed twice; a run with the same seed is the same run")
    return seeds
