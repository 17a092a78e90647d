"""Pages about fine-tuning data: what the preflight found, and the mask of a batch token by token."""

from itertools import groupby
from pathlib import Path
from typing import Any

from firsthand import files
from firsthand.study.canvas import BLUE, SOFT, canvas, note
from firsthand.study.page import (
    Html,
    Picture,
    Row,
    Section,
    Table,
    facts,
    figure,
    heading,
    label,
    number,
    page,
    paragraph,
    table,
    text,
)

Result = dict[str, Any]
GROUNDS = {"system": "c4", "user": "c1", "assistant": "c3", "tool": "c0"}
LEARNED = "c2 learned"


def audit_page(target: Path, result: Result) -> Path:
    """Write the preflight of a data set as a page of its own."""
    footer = f"Made by: firsthand data check {result['source']}"
    subtitle = f"{result['source']}: {result['kind']}, {result['style']}"
    files.write_file(target, page("Before the first step", subtitle, [audit_chapter(result)], footer))
    return target


def mask_page(target: Path, result: Result) -> Path:
    """Write the mask of a batch as a page of its own."""
    footer = f"Made by: firsthand data mask {result['source']}"
    subtitle = f"{result['source']}: {result['kind']}, {result['style']}"
    files.write_file(target, page("What is learned", subtitle, [mask_chapter(result)], footer))
    return target


def audit_chapter(result: Result) -> Section:
    """The preflight of a data set."""
    train = result["parts"]["train"]
    possible = max(train["tokens"] - train["rows"], 1)
    numbers = [
        ("kept", number(train["kept"]), f"of {number(train['read'])} rows read, to learn from"),
        ("learned", f"{train['trained'] / possible:.0%}", f"of {number(train['tokens'])} tokens"),
        ("repeated", number(result["duplicates"]), f"rows; {number(result['near'])} pairs are nearly the same"),
        ("leaked", number(sum(result["leaks"].values())), "questions that stand in two parts"),
    ]
    columns = ("part", "read", "kept", "truncated", "dropped", "tokens", "learned", "ends missing", "asked otherwise")
    parts = [facts(numbers), table(Table(columns, [_part(name, part) for name, part in result["parts"].items()]))]
    if result["findings"]:
        parts.append(heading("What was found"))
        findings: list[Row] = [
            ("stop" if finding["gate"] else "note", finding["what"], finding["mend"]) for finding in result["findings"]
        ]
        parts.append(table(Table(("", "what", "how to mend it"), findings)))
    if train["histogram"]:
        parts.append(figure(length_picture(train["histogram"], result["context_length"])))
    places: list[Row] = [
        ("dropped", f"{name}: {place}") for name, part in result["parts"].items() for place in part["first"]
    ]
    places += [("repeats", place) for place in result["duplicate_places"]]
    places += [("nearly the same", place) for place in result["near_places"]]
    places += [(names, place) for names, found in result["leak_places"].items() for place in found]
    if places:
        parts += [heading("Where"), table(Table(("", "place"), places))]
    if train["labels"]:
        labels: list[Row] = [(name, count) for name, count in train["labels"].items()]
        parts += [heading("Labels"), table(Table(("label", "rows"), labels))]
    lead = (
        "A run cannot be better than its data. Before anything is learned, every row is counted, rendered as the "
        "model will see it, and compared with every other: what is dropped is said with its place and its reason."
    )
    return Section("Is the data what it seems?", lead, parts)


def _part(name: str, part: Result) -> Row:
    learned = f"{part['trained'] / max(part['tokens'] - part['rows'], 1):.1%}"
    counts = (part["read"], part["kept"], part["truncated"], sum(part["dropped"].values()), part["tokens"])
    return (name, *counts, learned, part["ends_missing"], part["asked_otherwise"])


def length_picture(histogram: dict[int, int], context_length: int) -> Picture:
    """How many examples are how long: tokens at most -> examples."""
    edges, heights = list(histogram), list(histogram.values())
    with canvas("example-lengths", 2.6) as drawn:
        axes = drawn.figure.add_subplot(xlabel="tokens of an example, at most", ylabel="examples")
        axes.bar(range(len(edges)), heights, color=BLUE, width=0.72)
        axes.set_xticks(range(len(edges)), [f"{edge:,}" for edge in edges])
        axes.grid(axis="x", visible=False)
        axes.margins(y=0.15)
        for place, height in enumerate(heights):
            note(axes, (place, height), f"{height:,}", SOFT, shift=(0, 7), align="center")
    alt = f"Bar chart: {sum(heights):,} examples by length; the longest have at most {edges[-1]:,} tokens."
    caption = f"The context holds {context_length:,} tokens; what is longer was shortened at a turn, or left out."
    return Picture(drawn.svg, alt, caption, Table(("tokens at most", "examples"), list(histogram.items())))


def mask_chapter(result: Result) -> Section:
    """A batch token by token."""
    parts = [
        paragraph(
            "Green, underlined tokens are learned; the others are only read. Who speaks stands before every turn. "
            "Point at a token to read its role, whether it is learned, and its weight in the loss of the batch."
        )
    ]
    for row in result["rows"]:
        parts += [heading(f"{row['place']} {row['answer']}".strip()), _tokens(row["tokens"])]
    lead = (
        f"{result['learned']:,} of the {result['tokens']:,} tokens of this batch are learned, all with equal weight. "
        "A wrong mask is the most frequent fault of fine-tuning, and the loss does not show it."
    )
    return Section("What is learned, token by token", lead, parts)


def _tokens(tokens: list[Result]) -> Html:
    """Chips, green and underlined where learned; one paragraph for each who speaks."""
    turns = (
        f'<p class="chips"><b>{text(role)}</b> {"".join(_chip(token) for token in said)}</p>'
        for role, said in groupby(tokens, key=lambda token: token["role"])
    )
    return Html("".join(turns))


def _chip(token: Result) -> str:
    look, state = (LEARNED, "learned") if token["trained"] else (GROUNDS[token["role"]], "only read")
    title = f"{token['role']}, {state}, weight {token['weight']:.3g}"
    return f'<span class="chip {look}" title="{text(title)}">{text(label(token["token"]))}</span>'
