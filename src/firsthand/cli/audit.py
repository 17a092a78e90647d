"""Verbs that look at fine-tuning data before anything is learned from it: `data check` and `data mask`."""

from pathlib import Path
from typing import Any, Literal

from rich.style import Style
from rich.text import Text

from firsthand.cli import show

Kind = Literal["instruct", "preference", "label"]
ROLES = {"system": "#e3e0d8", "user": "#f5e6d3", "assistant": "#bfe3c6", "tool": "#e8e3f3"}
LEARNED = "#6fcf7f"


def check(
    source: str,
    *,
    model: str = "",
    tokenizer: str = "",
    style: str = "",
    kind: Kind | None = None,
    validation: str = "",
    test: str = "",
    context: int = 0,
    learn: Literal["answer", "all"] = "answer",
    allow_leakage: bool = False,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Check a fine-tuning data set before it is learned: rows, mask, ends, duplicates, leaks, labels.

    Exit code 2 where training must not begin, with the reason and how to mend it.

    Parameters
    ----------
    source
        A file of records (.jsonl, .json, .csv, .tsv), a catalog name, or a folder with train.jsonl and test.jsonl.
    model
        The model that will learn: its tokenizer, chat template and context.
    tokenizer
        Instead of a model: a tokenizer.
    style
        How turns are written: chatml, llama3, phi, alpaca, plain; by default the model's own template.
    kind
        instruct, preference or label; by default what the first record is.
    validation
        Records to watch the loss on; one source alone is split into train, validation and test without leaks.
    test
        Records to measure at the end.
    context
        Tokens that fit; by default what the model can see.
    learn
        Learn the answer, or all of the conversation.
    allow_leakage
        Let a question stand in two parts.
    out
        A page to write: report.html.
    json
        Print everything as JSON.
    """
    from firsthand.run import audit

    made = audit.check(
        source, model, tokenizer, style, kind, validation, test, context, learn, allow_leakage=allow_leakage
    )
    facts = {"source": source, **made.facts()}
    if json:
        show.as_one_object(facts)
    else:
        checked(facts)
    if out:
        from firsthand.study.audit import audit_page

        show.written(audit_page(out, facts))
    made.refuse()


def mask(
    source: str,
    *,
    model: str = "",
    tokenizer: str = "",
    style: str = "",
    kind: Kind | None = None,
    context: int = 0,
    first: int = 1,
    count: int = 4,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """The mask under a microscope: a batch token by token, who says it, whether it is learned, its weight.

    Parameters
    ----------
    source
        A file of records, a catalog name, or a folder with train.jsonl.
    model
        The model that will learn: its tokenizer, chat template and context.
    tokenizer
        Instead of a model: a tokenizer.
    style
        How turns are written: chatml, llama3, phi, alpaca, plain; by default the model's own template.
    kind
        instruct or preference; by default what the first record is.
    context
        Tokens that fit; by default what the model can see.
    first
        The example to begin with, counted from 1.
    count
        Examples in the batch.
    out
        A page to write: mask.html.
    json
        Print every token as JSON.
    """
    from firsthand.run import audit

    facts = audit.masked(source, model, tokenizer, style, kind, context, first, count)
    if json:
        show.as_one_object(facts)
    else:
        microscope(facts)
    if out:
        from firsthand.study.audit import mask_page

        show.written(mask_page(out, facts))


def checked(facts: dict[str, Any]) -> None:
    """A table of the parts, the lengths as bars, then what was found."""
    say = show.console.print
    say(f"{facts['source']}: {facts['kind']}, {facts['style']}, context {facts['context_length']:,}\n", markup=False)
    show.table([_part(name, part, facts["kind"]) for name, part in facts["parts"].items()])
    for name, part in facts["parts"].items():
        for reason, number in part["dropped"].items():
            say(f"  {name}: {number:,} dropped, {reason}", markup=False)
        for place in part["first"]:
            say(f"    {show.safe(place)}", style="dim", markup=False)
    bars(facts["parts"]["train"]["histogram"])
    for name, part in facts["parts"].items():
        if part["labels"]:
            counted = ", ".join(f"{show.safe(label)} {number:,}" for label, number in part["labels"].items())
            say(f"labels of {name}: {counted}", markup=False)
    train = f"{facts['duplicates']:,} rows repeat another, {facts['near']:,} pairs are nearly the same"
    say(f"in train: {train}", markup=False)
    for place in facts["duplicate_places"][:3] + facts["near_places"][:3]:
        say(f"    {show.safe(place)}", style="dim", markup=False)
    leaked = ", ".join(f"{number:,} {names}" for names, number in facts["leaks"].items())
    say(f"leaks: {leaked or 'none possible, there is one part'}", markup=False)
    for finding in facts["findings"]:
        style = "bold red" if finding["gate"] else "yellow"
        say(Text.assemble(("STOP  " if finding["gate"] else "note  ", style), f"{finding['what']}. {finding['mend']}"))
    if facts["ready"]:
        say("ready to learn from", style="bold green")


def _part(name: str, part: dict[str, Any], kind: str) -> dict[str, Any]:
    row = {"part": name, "read": part["read"], "kept": part["kept"], "truncated": part["truncated"]}
    row |= {"dropped": sum(part["dropped"].values()), "tokens": part["tokens"]}
    if kind == "label":
        return row
    share = f"{part['trained'] / max(part['tokens'] - part['rows'], 1):.1%}"
    ends = "all" if not part["ends_missing"] else f"all but {part['ends_missing']:,}"
    asked = part["compared"] - part["asked_otherwise"]
    return row | {"learned": share, "ends learned": ends, "asked as rendered": f"{asked:,} of {part['compared']:,}"}


def bars(histogram: dict[int, int]) -> None:
    """How many examples are how long, as bars of letters."""
    if histogram:
        most = max(histogram.values())
        show.console.print("\ntokens", style="bold")
        for edge, number in histogram.items():
            show.console.print(f"{'≤ ' + format(edge, ','):>8} {'█' * max(1, round(40 * number / most))} {number:,}")
        show.console.print()


def microscope(facts: dict[str, Any]) -> None:
    """Every token on the ground of its role, learned ones green and underlined; in a pipe, learned ones in [ ]."""
    say = show.console.print
    for row in facts["rows"]:
        learned = sum(token["trained"] for token in row["tokens"])
        weight = max((token["weight"] for token in row["tokens"]), default=0.0)
        title = f"\n{row['place']} {row['answer']}".rstrip()
        say(title, style="bold", markup=False, end="")
        say(f"   {learned} of {len(row['tokens'])} tokens learned, weight {weight:.3g} each", style="dim")
        said = ""
        line = Text()
        for token in row["tokens"]:
            if token["role"] != said:
                said = token["role"]
                line.append(f"{'' if not line else chr(10)}{said:>9}  ", "dim")
            line.append_text(_chip(token))
        say(line)
    say(
        f"\n{facts['style']}: {facts['learned']:,} of {facts['tokens']:,} tokens of this batch are learned",
        markup=False,
    )


def _chip(token: dict[str, Any]) -> Text:
    visible = show.visible(token["token"])
    if not show.console.is_terminal:
        return Text(f"[{visible}]" if token["trained"] else f"{visible}|")
    ground = LEARNED if token["trained"] else ROLES[token["role"]]
    return Text.assemble((visible, Style(bgcolor=ground, color="black", underline=token["trained"])), " ")
