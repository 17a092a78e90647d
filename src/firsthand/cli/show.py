"""How results look: plain text in a pipe, colours on a terminal, JSON where asked. Nothing is computed here.

What a model wrote is printed through `safe`: control characters could move the cursor or set the clipboard.
"""

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from firsthand.errors import DataError

WIDE = 160  # columns where nothing says how wide the reader's screen is
console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDE)
CHIPS = ("#b3d9ff", "#ffd9b3", "#c6f0c2", "#f3c6e8", "#fff1a8", "#d6ccff")


def safe(text: str) -> str:
    """The text with every control character but newline and tab made visible."""
    return "".join(c if (c >= " " and c != "\x7f") or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)


def as_one_object(result: Any) -> None:
    print(json.dumps(result, ensure_ascii=False))


def text_or_stdin(text: str) -> str:
    """The text given, or all of standard input for '-' and for nothing."""
    if text not in ("", "-"):
        return text
    if sys.stdin.isatty():
        raise DataError("there is no text. Give one in quotes, or pipe it in: firsthand tokenize 'Hello'", code=15)
    return sys.stdin.read()


def tokens(result: dict[str, Any], as_json: bool) -> None:
    """Coloured chips, then counts, then ids, then the merges if they are there."""
    if as_json:
        as_one_object(result)
        return
    line = Text()
    for at, token in enumerate(result["tokens"]):
        visible = safe(token).replace("\n", "\\n").replace("\t", "\\t").replace(" ", "·")
        line.append(visible, Style(bgcolor=CHIPS[at % len(CHIPS)], color="black"))
        line.append("" if console.is_terminal else "|")
    console.print(line)
    count = len(result["ids"])
    console.print(
        f"{count} tokens · {result['characters']} characters · {result['bytes']} bytes · "
        f"{result['bytes'] / max(count, 1):.2f} bytes per token · {result['tokenizer']}"
    )
    console.print(" ".join(str(id) for id in result["ids"]))
    for word in result.get("steps", []):
        console.print()
        for at, parts in enumerate(word):
            console.print(f"  {at:>2}  {' '.join(safe(part) for part in parts)}", markup=False)


def table(rows: Iterable[dict[str, Any]]) -> None:
    """Rows that share keys, as a table: words stand left, numbers right."""
    rows = list(rows)
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for name, value in rows[0].items():
        words = isinstance(value, str)
        grid.add_column(name.replace("_", " "), justify="left" if words else "right", no_wrap=not words)
    for row in rows:
        grid.add_row(*(number(value) for value in row.values()))
    console.print(grid)


def number(value: Any) -> str:
    """A value as a reader wants it: 12,345 · 3.142 · 0.01234."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, list):
        return " … ".join(number(part) for part in value)
    return safe(str(value))


def facts(result: dict[str, Any], as_json: bool = False) -> None:
    """One fact a line, names aligned."""
    if as_json:
        as_one_object(result)
        return
    width = max(len(name) for name in result)
    for name, value in result.items():
        console.print(f"{name.replace('_', ' '):<{width}}  {number(value)}", markup=False)


def rows_or_json(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        as_one_object(rows)
    else:
        table(rows)


def windows(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Each row as the model sees it: what it is given, and below each token the one it must predict."""
    if as_json:
        as_one_object(rows)
        return
    for row in rows:
        console.print(f"\nwindow {row['index']}", style="bold")
        grid = Table(box=None, pad_edge=False, show_header=False)
        pairs = list(zip(row["inputs"], row["targets"], strict=True))[:12]
        grid.add_row("given", *(visible(given) for given, _ in pairs), "…")
        grid.add_row("predict", *(visible(wanted) for _, wanted in pairs), "…")
        console.print(grid)


def visible(token: str) -> str:
    return safe(token).replace("\n", "\\n").replace("\t", "\\t").replace(" ", "·")


def written(path: Path) -> None:
    console.print(f"wrote {path}", markup=False)


def paragraph(text: str) -> None:
    console.print(text, markup=False)


def plan(result: dict[str, Any]) -> None:
    """The settings, then what they cost."""
    console.print(result.pop("settings"), markup=False)
    seconds = result.pop("seconds_about")
    facts(result | {"time_about": "unknown" if seconds is None else duration(seconds)})


def forecast(result: dict[str, Any]) -> None:
    """What a run will read and cost, in two lines before it starts; the time follows with the first steps."""
    if first_rank():
        print(f"{result['text']}: {result['split']}", file=sys.stderr)
        size, bytes_ = result["parameters"], result["memory_bytes"] / 1e6
        tokens = result["training_tokens"]
        print(f"{size:,} parameters, about {bytes_:,.0f} MB, {tokens:,} tokens to train on", file=sys.stderr)


def duration(seconds: float) -> str:
    """Seconds in words that a person plans with."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def finished(run: Any) -> None:
    """Where the run lies, how it ended, and what to do with it."""
    steps = len(run.records)
    last = f", last training loss {run.records[-1]['loss']:.4f}" if steps else ""
    console.print(f"{steps:,} steps in {duration(run.seconds)}{last}", markup=False)
    console.print(f"model {run.bundle.path}", markup=False)
    console.print(f"next:  firsthand generate {run.path} 'Once'   firsthand evaluate {run.path}", markup=False)


def stage(name: str, result: dict[str, Any]) -> None:
    """A stage of the journey: its name, what it found, and how long it took."""
    kept = result.get("kept", False)
    console.print(f"\n{name}", style="bold", end="")
    console.print("   (kept from an earlier walk)" if kept else f"   {result['seconds']:.1f} s", style="dim")
    for line in result["lines"]:
        console.print(f"  {safe(line)}", markup=False)


def first_rank() -> bool:
    """Whether this process is the one that speaks, where several train together."""
    return os.environ.get("RANK", "0") == "0"


def launch(count: int, *words: str) -> None:
    """Become torchrun, which starts this command `count` times on this machine, on a private port."""
    runner = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    os.execv(sys.executable, [*runner, "-m", "firsthand", *words])
