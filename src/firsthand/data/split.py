"""Texts with labels -> training, validation and test, so that nothing of the test was seen in training.

Two texts belong together if they are equal once case, digits and punctuation are folded, or share a run of RUN words
(one template filled in twice). What belongs together stands on one side; validation and test hold one text of each
such group, so that a text sent a hundred times counts once.

The leaky split, for comparison, takes every row for itself, as most courses do.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from firsthand.data.labelled import Text
from firsthand.errors import DataError

RUN = 8  # words in a row that two texts share only if one was made from the other
WORD = re.compile(r"[^\W\d_]+|\d+")

Kind = Literal["leak-free", "leaky"]
Balance = Literal["none", "test", "all"]


@dataclass(frozen=True)
class Split:
    """Which rows are on which side, by their index; and how it came to that."""

    train: list[int]
    validation: list[int]
    test: list[int]
    counts: dict[str, int] = field(default_factory=dict)


def split(
    texts: Sequence[Text],
    labels: Sequence[str],
    kind: Kind = "leak-free",
    balance: Balance = "none",
    test_fraction: float = 0.2,
    validation_fraction: float = 0.1,
    seed: int = 0,
) -> Split:
    """The sides, each label divided by the same shares; the same for the same seed.

    `balance` "test": validation and test hold as many texts of every label, by fractions of the rows of the rarest;
    "all": training too, at the price of what the commoner labels have more.
    """
    generator, groups = np.random.default_rng(seed), alike([text.text for text in texts])
    units = groups if kind == "leak-free" else [[row] for row in range(len(texts))]
    by_label: dict[str, list[list[int]]] = {label: [] for label in labels}
    mixed = [unit for unit in units if len({texts[row].label for row in unit}) > 1]  # they teach, but prove nothing
    for unit in units:
        if len({texts[row].label for row in unit}) == 1:
            by_label[texts[unit[0]].label].append(unit)
    rows = {label: sum(map(len, its)) for label, its in by_label.items()}
    least = min(rows.values())
    train, held = [row for unit in mixed for row in unit], {"validation": [], "test": []}
    left: dict[str, list[int]] = {}
    for label, its in by_label.items():
        order = [its[at] for at in generator.permutation(len(its))]
        base = rows[label] if balance == "none" else least
        for side, share in (("test", test_fraction), ("validation", validation_fraction)):
            count = _count(share, base, len(order), label, side)
            held[side] += [unit[0] for unit in order[:count]]
            order = order[count:]
        left[label] = [row for unit in order for row in unit]
    fewest = min(len(its) for its in left.values())
    for its in left.values():
        kept = generator.permutation(len(its))[: fewest if balance == "all" else None]
        train += [its[at] for at in kept]
    return Split(train, held["validation"], held["test"], _counts(texts, groups, mixed, train, held))


def _count(share: float, base: float, groups: int, label: str, side: str) -> int:
    """How many groups of a label go to a side: at least one, and one must be left."""
    count = round(share * base)
    if 0 < count < groups:
        return count
    if count == 0:
        raise DataError(
            f"data.{side}_fraction {share:g} of {base:.0f} rows with the label {label!r:.40} gives 0 {side} rows. "
            f"Use {side}_fraction={min(1 / base + 0.005, 0.5):.2f} or more, or give more rows",
            code=30,
        )
    raise DataError(
        f"label {label!r:.40} has {groups} different texts left, and {side} alone would take {count}. "
        f"Use a smaller data.{side}_fraction, or give more rows",
        code=30,
    )


def _counts(
    texts: Sequence[Text], groups: list[list[int]], mixed: list, train: list[int], held: dict[str, list[int]]
) -> dict[str, int]:
    """Everything a reader may ask: rows, duplicates, leaks."""
    folded = [fold(text.text) for text in texts]
    group_of = {row: number for number, group in enumerate(groups) for row in group}
    seen, learned = {folded[row] for row in train}, {group_of[row] for row in train}
    used = len(train) + len(held["validation"]) + len(held["test"])
    return {
        "rows": len(texts),
        "train": len(train),
        "validation": len(held["validation"]),
        "test": len(held["test"]),
        "left_out": len(texts) - used,
        "duplicates": len(texts) - len(set(folded)),
        "groups": len(groups),
        "groups_with_several_labels": len(mixed),
        "test_texts_also_in_training": sum(folded[row] in seen for row in held["test"]),
        "test_texts_like_one_in_training": sum(group_of[row] in learned for row in held["test"]),
    }


def fold(text: str) -> str:
    """A text without case, punctuation, and the value of numbers: "WIN £100 now!" -> "win 0 now"."""
    return " ".join("0" if word[0].isdecimal() else word for word in WORD.findall(text.casefold())) or text.strip()


def alike(texts: Sequence[str]) -> list[list[int]]:
    """Groups of rows that belong together, in the order of their first rows."""
    above = list(range(len(texts)))

    def root(row: int) -> int:
        while above[row] != row:
            above[row] = row = above[above[row]]
        return row

    first: dict[str | int, int] = {}
    for row, text in enumerate(texts):
        folded = fold(text)
        words = folded.split()
        runs = {hash(tuple(words[at : at + RUN])) for at in range(len(words) - RUN + 1)}
        for key in (folded, *runs):
            a, b = root(first.setdefault(key, row)), root(row)
            above[max(a, b)] = min(a, b)
    groups: dict[int, list[int]] = {}
    for row in range(len(texts)):
        groups.setdefault(root(row), []).append(row)
    return list(groups.values())
