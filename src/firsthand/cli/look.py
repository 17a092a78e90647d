"""The verbs that look closely: `prove` compares every form of a model, `inspect` opens one forward pass."""

import sys
import time
from pathlib import Path
from typing import Any, Self

from rich.style import Style
from rich.table import Table
from rich.text import Text

from firsthand.cli import show
from firsthand.cli.meter import fetched

COLOURS = {"exact": "green", "NOT EXACT": "bold red", "drift": "yellow", "not run": "dim"}
SECONDS = 5.0  # between two lines of progress where there is no terminal


def prove(
    source: str,
    *,
    text: str = "",
    tokens: int = 1_024,
    strict: bool = False,
    slow: bool = False,
    device: str = "cpu",
    json: bool = False,
    report: bool = False,
) -> int:
    """Compare every form of a model with the plain one: is the fast, cached, saved, exported model still the same?

    Exit code 1 if a form that must be exact is not. Example: firsthand prove smollm2-135m-instruct

    Parameters
    ----------
    source
        A run folder, a checkpoint, or any other model that can be loaded.
    text
        A text file, folder, or catalog name; by default what the run held out, else Python's documentation.
    tokens
        How many tokens to compare on.
    strict
        Only the exact forms, in float64, where nothing may differ by more than 1e-10.
    slow
        Also the forms that take minutes, such as compiled.
    device
        cpu, cuda, cuda:1 or auto.
    json
        Print the whole result as one JSON object.
    report
        Also make it a section of the run's report.html; of a model that is no run, a page of its own.
    """
    from firsthand.run import look

    fetched(source)
    with Steps() as steps:
        proof = look.prove(source, text, tokens, device, strict, slow, tell=steps)
    facts = proof.facts()
    if json:
        show.as_one_object(facts)
    else:
        proven(facts)
    if report:
        from firsthand.study import report as pages

        show.written(pages.proof_report(source, facts))
    return 0 if proof.exact else 1


def inspect(source: str, text: str, *, json: bool = False, png: Path | None = None, device: str = "cpu") -> None:
    """Open one forward pass: attention, what each layer adds, and what the model would say after it (logit lens).

    Parameters
    ----------
    source
        A run folder, a checkpoint, or any other model that can be loaded.
    text
        The text to look into.
    json
        Print everything, attention weights included, as one JSON object.
    png
        Draw it into this file instead.
    device
        cpu, cuda, cuda:1 or auto.
    """
    from firsthand.run import look

    fetched(source)
    facts = look.inspect(source, text, device)
    if json:
        show.as_one_object(facts)
    if png is not None:
        from firsthand.study import trace

        show.written(trace.draw(facts, png))
    if not json and png is None:
        opened(facts)


class Steps:
    """What is going on, on stderr: one line that changes on a terminal, else a line every few seconds."""

    def __init__(self) -> None:
        self.begun, self.said = time.monotonic(), 0.0
        self.live = sys.stderr.isatty()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def __call__(self, soon: Any) -> None:
        """Say what comes next, and how long the rest will take."""
        rest = show.duration(soon.seconds)
        self.say(f"{soon.done} of {soon.total} forms, next: {soon.form}; about {rest} to go")

    def say(self, line: str) -> None:
        """Show a line, unless one was shown just now."""
        now = time.monotonic()
        if not self.live and now - self.said < SECONDS:
            return
        self.said = now
        print(f"\r\x1b[K{line}" if self.live else line, end="" if self.live else "\n", file=sys.stderr, flush=True)


def proven(facts: dict[str, Any]) -> None:
    """A table of forms, what stood where they first chose another token, the caches, and the verdict."""
    say = show.console.print
    bits = f"{facts['bits_per_byte']:.4f} bits per byte"
    rows = f"{facts['windows']} row{'s' * (facts['windows'] > 1)}"
    say(f"{facts['model']} on {facts['tokens']:,} tokens of {facts['text']}, {rows}", markup=False)
    say(f"reference: explicit attention, no cache, {facts['dtype']}, one row at a time: {bits}\n", markup=False)
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("form", "verdict"):
        grid.add_column(name)
    for name in ("max |Δ|", "KL, nats", "bits per byte", "95 %", "same greedy"):
        grid.add_column(name, justify="right")
    for row in facts["rows"]:
        grid.add_row(*_cells(row))
    say(grid)
    for row in facts["rows"]:
        for line in _remarks(row):
            say(line, markup=False)
    say("\n" + _tolerance(facts), markup=False)
    say("\nbytes of keys and values per token", style="bold")
    most = max(facts["cache_bytes_per_token"].values())
    sizes = facts["cache_bytes_per_token"].items()
    show.table([{"cache": name, "bytes": size, "share": round(size / most, 2)} for name, size in sizes])
    say("\n" + _verdict(facts), style="bold" if facts["exact"] else COLOURS["NOT EXACT"], markup=False)


def _cells(row: dict[str, Any]) -> list[str | Text]:
    """One form: numbers that it has, with as many digits as mean something."""
    verdict = Text(row["verdict"], COLOURS[row["verdict"]])
    if row["same_greedy"] is None:
        return [row["form"], verdict]
    same = f"{row['same_greedy']:.2%}" if row["same_greedy"] < 1 else "all"
    if row["max_delta"] is None:
        return [row["form"], verdict, "", "", "", "", same]
    low, high = row["interval_95"]
    return [
        row["form"],
        verdict,
        *(f"{row[name]:.1e}" if row[name] else "0" for name in ("max_delta", "kl")),
        _signed(row["bits_per_byte"]),
        f"{_signed(low)} … {_signed(high)}",
        same,
    ]


def _signed(bits: float) -> str:
    """Five digits of a difference; less than half of the last is none."""
    return f"{bits:+.5f}" if abs(bits) >= 5e-6 else "0"


def _remarks(row: dict[str, Any]) -> list[str]:
    """Why a form was not run or failed, and where it first chose another token."""
    lines = [f"  {row['form']}: {show.safe(row['note'])}"] if row["note"] else []
    if at := row["first_other"]:
        chances = at["probabilities"]
        lines.append(
            f"  {row['form']}: after “…{show.visible(at['before'])}” (row {at['row'] + 1}, token {at['position'] + 1}) "
            f"“{show.visible(at['form'])}” instead of “{show.visible(at['reference'])}”; "
            f"to the reference {chances[1]:.1%} and {chances[0]:.1%}"
        )
    return lines


def _tolerance(facts: dict[str, Any]) -> str:
    bound = facts["tolerance"] * facts["scale"]
    return (
        f"exact: no score is off by more than {bound:.1e}, {facts['tolerance']:.0e} of the largest one. "
        f"Rounding in {facts['dtype']} stays far below; a fault does not."
        "\ndrift: not the same in mathematics; how far off is measured, not judged."
    )


def _verdict(facts: dict[str, Any]) -> str:
    """The outcome in one line."""
    count = {verdict: [row["form"] for row in facts["rows"] if row["verdict"] == verdict] for verdict in COLOURS}
    if count["NOT EXACT"]:
        return f"NOT EXACT: {', '.join(count['NOT EXACT'])}. This is not the same model; please report it."
    words = f"{len(count['exact'])} exact forms, all exact"
    words += f"; {len(count['drift'])} drift, as measured" if count["drift"] else ""
    return words + (f"; {len(count['not run'])} not run" if count["not run"] else "") + "."


def opened(facts: dict[str, Any]) -> None:
    """The tokens and how expected each was, the logit lens at the last one, and what the layers add."""
    say = show.console.print
    line = Text()
    for token, chance in zip(facts["tokens"], facts["expected"], strict=True):
        line.append(show.visible(token), Style(bgcolor=_shade(chance), color="black"))
        line.append(" " if chance is None else f" {chance:.0%}  ", "dim")
    say(line)
    say("how likely each token was after those before it; the darker, the likelier\n", style="dim")
    largest = max(norms[-1] for norms in facts["norms"]["stream"])
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for name, where in (
        ("after", "left"),
        ("would say next", "left"),
        ("unsure", "right"),
        ("length of the stream", "left"),
    ):
        grid.add_column(name, justify=where, no_wrap=True)
    grid.add_column("attention adds", justify="right")
    grid.add_column("feed-forward adds", justify="right")
    norms = facts["norms"]
    for layer, (lens, entropy) in enumerate(zip(facts["lens"], facts["entropy"], strict=True)):
        said = "  ".join(f"{show.visible(best['token'])} {best['probability']:.0%}" for best in lens[-1][:3])
        stream = norms["stream"][layer][-1]
        adds = [f"{norms[part][layer - 1][-1]:.1f}" if layer else "" for part in ("attention", "mlp")]
        bar = f"{'█' * max(1, round(24 * stream / largest))} {stream:.1f}"
        grid.add_row(f"layer {layer}" if layer else "embedding", Text(said), f"{entropy[-1]:.2f}", Text(bar), *adds)
    say(grid)
    say("at the last token; unsure: entropy of the next token, in nats", style="dim")


def _shade(chance: float | None) -> str:
    """From paper to blue, the likelier the deeper."""
    if chance is None:
        return "#eeeeee"
    mixed = (round(light + (deep - light) * chance**0.5) for light, deep in ((246, 122), (243, 176), (236, 222)))
    return "#" + "".join(f"{part:02x}" for part in mixed)


ALL = (prove, inspect)
