"""The study `spam`: what must learn, where a text is read, and what pretraining is worth, on two ways to divide rows.

The classic division is by row, so that a message sent a hundred times stands in training and in the test; the other
keeps what is alike on one side. Both are run with the same arms. Rates are fixed for each arm, and not tuned; on a
processor an arm that learns below the upper blocks, and so computes all of them at every step, has fewer steps.
"""

from collections.abc import Sequence
from math import hypot
from typing import Any

from firsthand.study.cells import Cell
from firsthand.study.page import Row, Section, Table, heading, table
from firsthand.study.points import Point, against, best, points
from firsthand.study.study import Size, Study, nothing_more
from firsthand.study.sweep_page import costs, endings, pair_table, scored
from firsthand.study.work import Result

FRAME = "task.frame={text}\nIs this message ham or spam? It is"  # the label is read at the last of these words
SPLITS = ("leak-free", "leaky")
BASE = "last block"
ARMS = {  # what differs from one arm to the next
    "head only": ("task.thaw=head", "train.learning_rate=3e-3", "train.min_learning_rate=3e-4"),
    BASE: ("task.thaw=block",),
    "two blocks": ("task.thaw=two",),
    "everything": ("task.thaw=all", "train.learning_rate=5e-5", "train.min_learning_rate=5e-6"),
    "LoRA 8": ("task.thaw=lora", "lora.rank=8", "train.learning_rate=1e-3", "train.min_learning_rate=1e-4"),
    "LoRA 16": ("task.thaw=lora", "lora.rank=16", "train.learning_rate=1e-3", "train.min_learning_rate=1e-4"),
    "bare text": ("task.thaw=block", "task.frame={text}"),
    "first token": ("task.thaw=block", "task.reads=first"),
    "padded": ("task.thaw=block", "data.pack=false"),
    "random weights": ("task.thaw=all", "task.start=random"),
}
SIZES: dict[Size, tuple[str, ...]] = {
    "short": ("train.steps=40", "train.warmup=4", "data.longest=48", "data.test_fraction=0.15"),
    "cpu": ("train.steps=100", "train.warmup=10", "data.test_fraction=0.25"),
    "gpu": ("train.steps=300", "train.warmup=30", "data.test_fraction=0.25"),
}
FEW = ("train.steps=20", "train.warmup=2")  # on a processor, where no block is frozen
WHOLE = ("everything", "LoRA 8", "LoRA 16", "random weights")
SHORT = (BASE, "head only", "first token")  # arms of the short form: the frozen blocks are computed once for each
ALWAYS = (
    "model=smollm2-135m-instruct",
    "task.kind=classify",
    "data.source=sms-spam",
    "data.balance=all",
    "train.eval_every=0",
    FRAME,
)


def spam(words: Sequence[str] = (), seeds: Sequence[int] = (1, 2, 3), size: Size = "cpu") -> Study:
    """The study; `words` set what the arms share, such as model=..."""
    shared = (*ALWAYS, *SIZES[size])
    cells = [
        Cell(
            "finetune",
            f"{split}, {arm}",
            seed,
            (*shared, *_steps(arm, size), f"data.split={split}", *ARMS[arm], *words),
        )
        for split in SPLITS
        for arm in (SHORT if size == "short" else ARMS)
        for seed in seeds
    ]
    return Study("spam", "What must learn to tell spam from ham?", cells, nothing_more, [], conclude, sections)


def _steps(arm: str, size: Size) -> tuple[str, ...]:
    return FEW if size == "cpu" and arm in WHOLE else ()


def conclude(results: Sequence[Result]) -> dict[str, Any]:
    """Every arm against the usual one on each split, and the splits against each other."""
    sides = {split: _of(split, points(results)) for split in SPLITS}
    told: dict[str, Any] = {"splits": {}}
    for split, its in sides.items():
        able = {point.name: point for point in its if point.results}
        others = [point for name, point in able.items() if name != BASE and BASE in able]
        rows = next(iter(able.values())).results[0]["rows"] if able else {}
        told["splits"][split] = {
            "points": [point.facts() for point in its],
            "best": best(its).name if able else None,
            "comparisons": [against(point, able[BASE], "accuracy") for point in others],
            "test": rows.get("test"),
            "test_texts_also_in_training": rows.get("test_texts_also_in_training"),
            "test_texts_like_one_in_training": rows.get("test_texts_like_one_in_training"),
        }
    told["leak"] = leak(sides)
    return {**told, "verdict": _verdict(told, sides)}


def _of(split: str, its: Sequence[Point]) -> list[Point]:
    """The points of one split, by the names of their arms."""
    head = f"{split}, "
    return [Point(one.name.removeprefix(head), one.results, one.failed) for one in its if one.name.startswith(head)]


def leak(sides: dict[str, list[Point]]) -> dict[str, dict[str, Any]]:
    """How much higher the accuracy is on the leaky split, by arm; the messages are others, so nothing is paired."""
    found = {}
    able = {split: {point.name: point for point in its if point.results} for split, its in sides.items()}
    for arm in able["leak-free"].keys() & able["leaky"].keys():
        (clean, (low, high), _), (leaky, (low2, high2), _) = (able[split][arm].mean("accuracy") for split in SPLITS)
        half = hypot(high - low, high2 - low2) / 2  # of the difference of two independent numbers
        found[arm] = {"difference": leaky - clean, "interval_95": [leaky - clean - half, leaky - clean + half]}
    return {arm: found[arm] for arm in able["leak-free"] if arm in found}


def _verdict(told: dict[str, Any], sides: dict[str, list[Point]]) -> str:
    clean = told["splits"]["leak-free"]
    by_name = {point.name: point for point in sides["leak-free"]}
    if not clean["comparisons"]:
        return f"{BASE} did not end well on the leak-free split, so nothing can be compared; see the errors"
    mean, (low, high), _ = by_name[BASE].mean("accuracy")
    words = []
    for verdict in ("better", "worse", "not distinguishable"):
        if arms := ", ".join(pair["first"] for pair in clean["comparisons"] if pair["verdict"] == verdict):
            words.append(f"{arms}: {verdict}")
    text = f"Leak-free, training the {BASE} reaches {mean:.1%} [{low:.1%}, {high:.1%}]; against it {'; '.join(words)}."
    if BASE in told["leak"]:
        gap = told["leak"][BASE]
        low, high = (100 * edge for edge in gap["interval_95"])
        sure = "distinguishable" if low > 0 or high < 0 else "not distinguishable"
        copies = told["splits"]["leaky"]["test_texts_also_in_training"]
        text += (
            f" The leaky split, with {copies} of its {told['splits']['leaky']['test']} test texts also in training, "
            f"says {100 * gap['difference']:+.1f} points [{low:+.1f}, {high:+.1f}], {sure}."
        )
    seeds = len(by_name[BASE].seeds)
    return text if seeds > 1 else f"{text} One seed: what another would say is unknown."


def sections(told: dict[str, Any]) -> list[Section]:
    """The page."""
    parts, made = [], []
    for split, its in told["splits"].items():
        able = [point for point in its["points"] if point["seeds"]]
        if not able:
            continue
        lead = (
            f"{its['test']} test messages; {its['test_texts_also_in_training']} of them stand in training too, "
            f"{its['test_texts_like_one_in_training']} are alike one there. A small dot is one seed, the large one "
            f"their mean, the line its 95 % interval over messages and seeds."
        )
        pairs = [heading(f"Against “{BASE}”"), pair_table(its["comparisons"])] if its["comparisons"] else []
        made.append(Section(f"The {split} split", lead, [*scored(able, split), *pairs, costs(able)]))
    rows: list[Row] = [
        (arm, 100 * its["difference"], *(100 * e for e in its["interval_95"])) for arm, its in told["leak"].items()
    ]
    if rows:
        lead = "Accuracy on the leaky split minus that on the leak-free one, in points. Other messages: not paired."
        parts.append(
            Section("What the leak is worth", lead, [table(Table(("arm", "points", "95 % from", "to"), rows))])
        )
    arms: list[Row] = [(arm, " ".join(words)) for arm, words in ARMS.items()]
    lead = (
        "Rates are fixed for each arm, not tuned. Padded and packed rows give equal gradients: only time may differ. "
        f"On a processor {', '.join(WHOLE)} have {FEW[0].partition('=')[2]} steps, for each costs a pass through all."
    )
    parts.append(Section("The arms", lead, [table(Table(("arm", "settings"), arms))]))
    return [*made, *parts, *endings(told)]
