"""The study `mask`: shall a model that learns to answer also learn to say the questions?

The same data, seeds and rates; only task.learn differs. Both are measured by the answers of the test part, and by what
the models then say: how near it is to the answer wanted, how long, and how often it repeats the question.
"""

from collections.abc import Sequence
from typing import Any

from firsthand.study.cells import Cell
from firsthand.study.page import Section
from firsthand.study.points import against, points
from firsthand.study.study import Size, Study, nothing_more
from firsthand.study.sweep_page import endings, findings
from firsthand.study.work import Result

ARMS = ("answer", "all")
SIZES: dict[Size, tuple[str, ...]] = {
    "short": (
        "train.steps=8",
        "train.warmup=2",
        "task.asked=8",
        "task.solve=23",
        "task.answer_tokens=16",
        "data.test_fraction=0.05",
        "data.validation_fraction=0.02",
    ),
    "cpu": (
        "train.steps=56",
        "train.warmup=6",
        "task.asked=55",
        "task.solve=92",
        "task.answer_tokens=40",
        "data.test_fraction=0.1",
        "data.validation_fraction=0.05",
    ),
    "gpu": ("train.steps=300", "train.warmup=20", "task.asked=110", "task.solve=368", "task.answer_tokens=128"),
}
ALWAYS = (
    "model=smollm2-135m-instruct",
    "task.kind=instruct",
    "data.source=instruction-data",
    "task.thaw=lora",
    "lora.rank=16",
    "data.longest=128",
    "train.batch_size=8",
    "train.learning_rate=1e-3",
    "train.min_learning_rate=1e-4",
    "train.eval_every=0",
    "task.test=short",
)


def mask(words: Sequence[str] = (), seeds: Sequence[int] = (1, 2, 3), size: Size = "cpu") -> Study:
    """The study; `words` set what both arms share, such as model=..."""
    shared = (*ALWAYS, *SIZES[size], *words)
    cells = [Cell("finetune", arm, seed, (*shared, f"task.learn={arm}")) for seed in seeds for arm in ARMS]
    question = "Shall the questions be learned too?"
    return Study("mask", question, cells, nothing_more, [], conclude, sections)


def conclude(results: Sequence[Result]) -> dict[str, Any]:
    """Learning the answer against learning all, by every score."""
    its = points(results)
    able = {point.name: point for point in its if point.results}
    told: dict[str, Any] = {"points": [point.facts() for point in its], "comparisons": []}
    if set(able) != set(ARMS):
        return {**told, "verdict": "only one of the two ended well, so nothing can be compared; see the errors"}
    answer, both = (able[arm] for arm in ARMS)
    told["comparisons"] = [against(both, answer, score) for score in answer.scores]
    return {**told, "verdict": verdict(told["comparisons"], answer.seeds)}


def verdict(pairs: Sequence[dict[str, Any]], seeds: Sequence[int]) -> str:
    """One sentence over all scores; the loss of the answers decides."""
    first = next(pair for pair in pairs if pair["score"] == "answer_loss")
    low, high = first["interval_95"]
    what = {
        "better": "Learn the questions too",
        "worse": "Learn the answers only",
        "not distinguishable": "It makes no difference that could be measured here",
    }[first["verdict"]]
    others = [
        f"{pair['score'].replace('_', ' ')} {pair['difference']:+.3g} ({pair['verdict']})"
        for pair in pairs
        if pair is not first
    ]
    told = f"; {', '.join(others)}" if others else ""
    count = f"{len(seeds)} seeds" if len(seeds) > 1 else "one seed only"
    return (
        f"{what}: with the questions learned too, the loss of the test answers is {first['difference']:+.4f} "
        f"[{low:+.4f}, {high:+.4f}] nats per token, {first['verdict']}{told}; {count}."
    )


def sections(told: dict[str, Any]) -> list[Section]:
    """The page."""
    return [*findings(told, "Answer or all", "All against answer alone"), *endings(told)]
