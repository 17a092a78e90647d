"""What would go wrong in a fine-tuning run, said before its first step: the preflight of a data set.

Some findings are gates: nothing is learned, or everything; no answer is learned with its end; a question stands in two
parts; a part is empty; too many rows are bad. Then training refuses, and says how to mend it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any, Literal

import numpy as np

from firsthand import files
from firsthand.data import duplicates
from firsthand.data.conversations import Kind
from firsthand.data.examples import TOO_LONG, Example, asked_otherwise, ends_trained, style_of, trained
from firsthand.data.ledger import BLANK, SHOWN, TOLERATED, Counts
from firsthand.errors import DataError
from firsthand.tokenizer.chat import Chat

PROBED = 1_000  # examples of a part whose questions are rendered once more, to compare
HONEST = {BLANK, TOO_LONG}  # reasons to leave a row out that are no fault in it


@dataclass(frozen=True)
class Part:
    """One side of a split: its examples, and what became of all its rows."""

    examples: list[Example]
    counts: Counts


@dataclass(frozen=True)
class Share:
    """What was found in one part."""

    read: int
    kept: int
    truncated: int
    dropped: dict[str, int]
    first: list[str]  # where the first of those were
    rows: int  # of a batch: a pair makes two
    tokens: int
    trained: int  # tokens that are learned
    ends_missing: int  # examples with an answer that is not learned together with its end
    asked_otherwise: int  # examples whose question will be written otherwise when the model answers, of those compared
    compared: int
    lengths: dict[str, int]  # quantiles, in tokens
    histogram: dict[int, int]  # tokens at most -> examples
    labels: dict[str, int]


@dataclass(frozen=True)
class Finding:
    """Something to know before training; a gate stops it."""

    what: str
    mend: str
    gate: bool = False


@dataclass(frozen=True)
class Audit:
    """The preflight of a data set. `refuse` raises the first gate."""

    kind: Kind
    style: str
    context_length: int
    parts: dict[str, Share]
    duplicates: int  # rows that repeat an earlier one of the training set
    duplicate_places: list[str]
    near: int  # pairs of training rows that are nearly the same
    near_places: list[str]
    leaks: dict[str, int]  # "test in train" -> questions of the test part that stand in train too
    leak_places: dict[str, list[str]]
    near_leaks: dict[str, int]  # "test" -> questions of it that are nearly the same as one in train
    findings: list[Finding] = field(default_factory=list)

    @property
    def things(self) -> str:
        """What is compared between parts, in a word."""
        return "texts" if self.kind == "label" else "questions"

    def facts(self) -> dict[str, Any]:
        """All of it as plain numbers and words."""
        gates = sum(finding.gate for finding in self.findings)
        return {**asdict(self), "ready": not gates}

    def refuse(self) -> None:
        """A DataError where training must not begin."""
        for finding in self.findings:
            if finding.gate:
                raise DataError(f"{finding.what}. {finding.mend}")


def audit(
    parts: dict[str, Part],
    kind: Kind,
    chat: Chat,
    context_length: int,
    learn: Literal["answer", "all"] = "answer",
    allow_leakage: bool = False,
) -> Audit:
    """Look at every part of a data set, "train" first; at most about 15 s for 100,000 texts."""
    shares = {name: share(part, chat, kind, learn) for name, part in parts.items()}
    train = parts["train"].examples
    whole = [example.item.text for example in train]
    repeated = [(group[0], other) for group in duplicates.same(whole) for other in group[1:]]
    leaked = {(one, other): leaks(parts[one].examples, parts[other].examples) for one, other in combinations(parts, 2)}
    near, near_leaks = _near({name: part.examples for name, part in parts.items()})
    made = Audit(
        kind=kind,
        style=style_of(chat) or "the model's own template",
        context_length=context_length,
        parts=shares,
        duplicates=len(repeated),
        duplicate_places=_pairs(train, train, repeated),
        near=len(near),
        near_places=_pairs(train, train, near),
        leaks={f"{other} in {one}": len(found) for (one, other), found in leaked.items()},
        leak_places={
            f"{other} in {one}": _pairs(parts[other].examples, parts[one].examples, found)
            for (one, other), found in leaked.items()
        },
        near_leaks=near_leaks,
    )
    made.findings.extend([*_gates(made, learn, allow_leakage), *_remarks(made)])
    return made


def share(part: Part, chat: Chat, kind: Kind, learn: str) -> Share:
    """The numbers of one part."""
    rows = [row for example in part.examples for row in example.rows]
    lengths = [len(ids) for ids, _ in rows]
    talks = [] if kind == "label" else part.examples
    compared = talks[:PROBED]
    return Share(
        read=part.counts.read,
        kept=part.counts.used,
        truncated=sum(example.cut for example in part.examples),
        dropped=dict(part.counts.dropped),
        first=list(part.counts.first),
        rows=len(rows),
        tokens=sum(lengths),
        trained=sum(
            max(length - 1, 0) if learn == "all" else trained(mask)
            for length, (_, mask) in zip(lengths, rows, strict=True)
        ),
        ends_missing=sum(not all(ends_trained(row, chat.ends) for row in example.rows) for example in talks),
        asked_otherwise=asked_otherwise(compared, chat),
        compared=len(compared),
        lengths=quantiles(lengths),
        histogram=histogram(lengths),
        labels=dict(
            Counter(example.item.label for example in part.examples if example.item.label is not None).most_common()
        ),
    )


def quantiles(lengths: Sequence[int]) -> dict[str, int]:
    """Shortest, middle, 95 % and longest."""
    names = {"shortest": 0.0, "median": 0.5, "95 %": 0.95, "longest": 1.0}
    return {name: int(np.quantile(lengths, at, method="higher")) for name, at in names.items()} if lengths else {}


def histogram(lengths: Sequence[int]) -> dict[int, int]:
    """How many are at most 8, 16, 32, ... long, and longer than the number before."""
    edges = Counter(max(8, 1 << (length - 1).bit_length()) for length in lengths)
    return {edge: edges[edge] for edge in sorted(edges)}


def leaks(one: Sequence[Example], other: Sequence[Example]) -> list[tuple[int, int]]:
    """(place in other, place in one) of every question of `other` that stands in `one` too."""
    known = {duplicates.normal(example.item.question): at for at, example in reversed(list(enumerate(one)))}
    asked = [duplicates.normal(example.item.question) for example in other]
    return [(at, known[question]) for at, question in enumerate(asked) if question in known]


def _near(parts: dict[str, list[Example]]) -> tuple[list[tuple[int, int]], dict[str, int]]:
    """Pairs of nearly equal questions within the training set, and how many of each other part have one in it."""
    owners = [name for name, part in parts.items() for _ in part]
    questions = [example.item.question for part in parts.values() for example in part]
    within: list[tuple[int, int]] = []
    touched: dict[str, set[int]] = {name: set() for name in parts if name != "train"}
    for a, b in duplicates.near(questions):  # a < b, and the training set comes first
        if owners[b] == "train":
            within.append((a, b))
        elif owners[a] == "train":
            touched[owners[b]].add(b)
    return within, {name: len(found) for name, found in touched.items()}


def _pairs(left: Sequence[Example], right: Sequence[Example], pairs: Sequence[tuple[int, int]]) -> list[str]:
    """The first few pairs as places."""
    return [f"{left[a].item.place} = {right[b].item.place}" for a, b in pairs[:SHOWN]]


def _gates(made: Audit, learn: str, allow_leakage: bool) -> list[Finding]:
    """Reasons not to begin."""
    found = []
    for name, part in made.parts.items():
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in part.dropped.items())
        faults = sum(count for reason, count in part.dropped.items() if reason not in HONEST)
        place = f"; first: {part.first[0]}" if part.first else ""
        if not part.kept:
            what = f"the {name} part is empty: {part.read:,} rows read{': ' * bool(reasons)}{reasons}{place}"
            found.append(Finding(what, "Give more rows, or a larger share of them", gate=True))
        elif faults > TOLERATED * part.read:
            what = f"{faults:,} of {part.read:,} rows of the {name} part are bad ({reasons}{place}); at most 1 % may be"
            found.append(Finding(what, "Mend them, or take them out of the file", gate=True))
    train = made.parts["train"]
    if made.kind != "label" and train.kept:
        found += _mask_gates(train, learn)
    for names, count in made.leaks.items():
        if count and not allow_leakage:
            other, one = names.split(" in ")
            what = (
                f"{count:,} of {made.parts[other].kept:,} {made.things} of the {other} part stand in {one} too "
                f"({made.leak_places[names][0]})"
            )
            mend = (
                "Take them out, give one file, split without leaks here, or --allow-leakage (data.allow_leakage=true)"
            )
            found.append(Finding(what, mend, gate=True))
    if len(train.labels) == 1:
        what = f"all rows have the label {files.quoted(next(iter(train.labels)))}"
        found.append(Finding(what, "Give rows of another one", gate=True))
    return found


def _mask_gates(train: Share, learn: str) -> list[Finding]:
    """Nothing learned, everything learned, or never an end."""
    possible = train.tokens - train.rows  # nothing can be asked of the first token of a row
    found = []
    if not train.trained:
        found.append(Finding("0 % of the tokens are learned", "Look at the mask: firsthand data mask", gate=True))
    elif train.trained >= possible and learn == "answer":
        what = "100 % of the tokens are learned, the questions too"
        found.append(
            Finding(
                what,
                "Mark the answers in the chat template, or learn all: --learn all (task.learn=all)",
                gate=True,
            )
        )
    if train.ends_missing == train.kept:
        what = "the token that ends an answer is never learned, so the model would never stop"
        found.append(
            Finding(
                what,
                "Choose a style that ends answers with a special token: --style chatml (task.style=chatml)",
                gate=True,
            )
        )
    return found


def _remarks(made: Audit) -> list[Finding]:
    """What does not stop training, and is worth knowing."""
    train, found = made.parts["train"], []
    if 0 < train.ends_missing < train.kept:
        what = f"{train.ends_missing:,} of {train.kept:,} examples learn an answer without its end"
        found.append(Finding(what, "Look at them: firsthand data mask"))
    if train.asked_otherwise:
        what = f"{train.asked_otherwise:,} of {train.compared:,} questions are written otherwise when the model answers"
        found.append(Finding(what, "A style with special tokens around turns keeps them apart: --style chatml"))
    if made.duplicates:
        what = f"{made.duplicates:,} training rows repeat an earlier one ({made.duplicate_places[0]})"
        found.append(Finding(what, "They count twice; take them out if that is not meant"))
    if long := train.dropped.get(TOO_LONG, 0) + train.truncated:
        what = f"{long:,} of {train.read:,} training rows do not fit into the context of {made.context_length:,} tokens"
        found.append(Finding(what, "They are shortened at a turn, or left out; a longer context keeps them"))
    for name, count in made.near_leaks.items():
        if count:
            what = f"{count:,} of {made.parts[name].kept:,} {made.things} of the {name} part are nearly one of train"
            found.append(Finding(what, "Read its numbers with that in mind"))
    if len(train.labels) > 1 and min(train.labels.values()) * 2 < max(train.labels.values()):
        label, count = max(train.labels.items(), key=lambda pair: pair[1])
        what = f"always saying {files.quoted(label)} would be right {count / train.kept:.1%} of the time"
        found.append(Finding(what, "Weigh the labels, and compare with that number"))
    return found
