"""The chapters of a model that is taught more: labels, answers, adapters, what to learn, and what to prefer."""

from collections.abc import Callable, Sequence
from typing import Any

from firsthand.study import plots
from firsthand.study.canvas import BLUE, RUST, SOFT, canvas, note
from firsthand.study.lora_rank import held
from firsthand.study.page import (
    Html,
    Picture,
    Row,
    Section,
    Table,
    code,
    facts,
    figure,
    folded,
    heading,
    number,
    paragraph,
    quotes,
    table,
)
from firsthand.study.sweep_page import costs, dots, pair_table, scored

Result = dict[str, Any]
SHOWN = 6  # answers before and after


def classify(result: Result) -> Section:
    """Spam or ham."""
    test, names = result["test"], result["names"]
    against = test["model_against"]["bag_of_words"]
    low, high = against["interval_95"]
    labels = [one["label"] for one in test["model"]["labels"]]
    rows: list[Row] = [
        (f"is {label}", *counts) for label, counts in zip(labels, test["model"]["confusion"], strict=True)
    ]
    both = {name: (test[key]["accuracy"], test[key]["interval_95"]) for key, name in names.items()}
    lead = (
        "Only the last block and a new head of two labels learn; what the frozen blocks make of a message is computed "
        "once. A bag of words, which only counts them, learned from the same messages: is the large model worth it?"
    )
    parts = [
        figure(dots(_points("accuracy", both), "accuracy", "classify")),
        paragraph(
            f"Against the bag of words {against['difference']:+.1%}, 95 % [{low:+.1%}, {high:+.1%}], by McNemar's "
            f"test p = {against['p_mcnemar']:.2g}: {against['verdict']}."
        ),
        heading("What the model called what"),
        table(Table(("", *(f"called {label}" for label in labels)), rows)),
    ]
    return Section("The model learns labels", lead, parts)


def instruct(result: Result) -> Section:
    """Answers before and after."""
    names = {"untuned": "before", "model": "after"}
    pictures = []
    for score, its in result["scores"].items():
        both = {name: (its[who]["mean"], its[who]["interval_95"]) for who, name in names.items()}
        pictures.append(figure(dots(_points(score, both), score, "instruct")))
    said = [
        (name, f"{one['question']}  ({one['wanted']})\n", one[who])
        for one in _telling(result["asked"])
        for who, name in names.items()
    ]
    lead = (
        f"Around every layer an adapter of {number(result['learned'])} numbers in all learns, and nothing else. The "
        "tasks have one right answer each, which a program checks; the test words them as no training row does. Turns "
        "are written plainly, before and after, not by the template that the model was tuned with."
    )
    return Section("The model learns to answer", lead, [*pictures, heading("Before and after"), quotes(said)])


def _telling(asked: Sequence[Result]) -> list[Result]:
    """Some answers that changed, solved ones first, then some that are still wrong."""
    changed = [one for one in asked if one["model"] != one["untuned"]] or list(asked)
    solved, wrong = ([one for one in changed if one["solved"] == good] for good in (True, False))
    return [*solved[: SHOWN - 2], *wrong[:2]]


def ranks(result: Result) -> Section:
    """How small an adapter may be."""
    lead = (
        "An adapter adds to a layer a product of two thin matrices; their width is its rank. Adapters of two ranks "
        "beside full fine-tuning, on the same rows."
    )
    found = result["told"]["spectrum"]
    more = [heading("What full fine-tuning changed"), figure(held(found))] if found else []
    return Section("How small an adapter may be", lead, [*_studied("ranks", result["told"]), *more])


def mask(result: Result) -> Section:
    """What shall be learned of a conversation."""
    lead = (
        "A conversation is a question and an answer. The loss may count the tokens of both, or mask the question, "
        "which the model will never have to say. Same rows, same steps; only the mask differs."
    )
    return Section("What shall be learned", lead, _studied("mask", result["told"]))


def _studied(name: str, told: Result) -> list[Html]:
    """The verdict of a study, its scores with their intervals, and what each arm cost."""
    able = [point for point in told["points"] if point["seeds"]]
    shown = scored(able, name) if able else []
    pairs = [pair_table(told["comparisons"])] if told["comparisons"] else []
    spent = [folded("What it costs", costs(able))] if able else []
    again = folded("Do it again, or in full with --size cpu", code(told["command"]))
    return [paragraph(told["verdict"]), *shown, *pairs, *spent, again]


def preferences(result: Result) -> Section:
    """What is preferred to what."""
    accuracy, margin = result["accuracy"], result["margin"]
    numbers = [
        ("in order", f"{accuracy['mean']:.0%}", f"of {accuracy['count']} test pairs; a coin would give half"),
        ("margin", f"{margin['mean']:.3f}", "nats times beta, on average; 0 before"),
    ]
    lead = (
        "No answer is right here, but one is preferred to another. DPO raises the chosen answer against the rejected "
        "one, each measured from where the model stood: that is their reward. The pairs are "
        f"{result['pairs']}."
    )
    return Section("The model learns a preference", lead, [facts(numbers), figure(rewards(result["records"]))])


def rewards(records: plots.Records) -> Picture:
    """Rewards of chosen and rejected answers by step; the space between them is the margin."""
    lines = {name: plots.series(records, f"train/rewards/{name}") for name in ("chosen", "rejected")}
    steps = lines["chosen"].steps
    with canvas("rewards", 3.2) as drawn:
        axes = drawn.figure.add_subplot(xlabel="step", ylabel="reward")
        axes.axhline(0, color=SOFT, linewidth=0.9, linestyle=(0, (4, 3)))
        for (name, line), colour in zip(lines.items(), (BLUE, RUST), strict=True):
            axes.plot(line.steps, line.values, color=colour, marker="o", markersize=3)
            note(axes, line.last, f"{name} {line.last[1]:+.2f}", colour)
        axes.fill_between(steps, lines["chosen"].values, lines["rejected"].values, color=BLUE, alpha=0.08)
        axes.set_xlim(0, max(1, steps[-1] * 1.15))
    rows: list[Row] = [(step, *(line.values[at] for line in lines.values())) for at, step in enumerate(steps)]
    alt = "Line chart: the rewards of chosen and rejected answers by step."
    caption = "Each step sees other pairs, so the lines are rough. The ground between them is the margin."
    return Picture(drawn.svg, alt, caption, Table(("step", *lines), rows))


def _points(score: str, scored: dict[str, tuple[float, Sequence[float]]]) -> list[Result]:
    """Means with their intervals, as a dot chart takes them."""
    return [
        {"point": name, "scores": {score: {"mean": mean, "interval_95": ends, "by_seed": [mean]}}}
        for name, (mean, ends) in scored.items()
    ]


def _unless_left_out(title: str, make: Callable[[Result], Section]) -> Callable[[Result], Section]:
    """The chapter of a stage, or of one that was left out the line that says why."""

    def chapter(result: Result) -> Section:
        return Section(title, "", [code("\n".join(result["lines"]))]) if "left_out" in result else make(result)

    return chapter


MAKERS = {
    "classify": _unless_left_out("The model learns labels", classify),
    "instruct": _unless_left_out("The model learns to answer", instruct),
    "ranks": _unless_left_out("How small an adapter may be", ranks),
    "mask": _unless_left_out("What shall be learned", mask),
    "preferences": _unless_left_out("The model learns a preference", preferences),
}
