"""Write the pages that are made from the program: docs/cli.md, docs/errors.md, docs/numbers.md.

python tools/docs.py            write them
python tools/docs.py --check    fail when one is not up to date (a test runs this)
"""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results.jsonl"
VERBS = ["", "journey", "get", "tokenize", "tokenizer", "tokenizer train", "tokenizer compare", "data", "data prepare"]
VERBS += ["data show", "train", "generate", "chat", "evaluate", "prove", "inspect", "info", "import", "export"]
VERBS += ["merge", "quantize", "finetune", "classify", "sweep", "study", "data check", "data mask", "report", "explain"]


def cli_page() -> str:
    """Every `--help`, as a terminal of 100 columns shows it."""
    pages = ["# The command line", "Made by `python tools/docs.py`; a test holds it to the program."]
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    for verb in VERBS:
        words = [sys.executable, "-m", "firsthand", *verb.split(), "--help"]
        text = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout
        body = "\n".join(line.rstrip() for line in text.strip().splitlines())
        pages.append(f"## `{' '.join(['firsthand', *verb.split()])}`")
        pages.append(f"```text\n{body}\n```")
    return "\n\n".join(pages) + "\n"


def errors_page() -> str:
    """Every numbered mistake, as `firsthand explain` tells it."""
    from firsthand.cli.explanations import EXPLANATIONS

    head = "# Errors\n\nThe number in brackets at the end of a message; `firsthand explain FH033` prints the same.\n"
    return head + "".join(f"\n## {code}\n\n{text}\n" for code, text in sorted(EXPLANATIONS.items()))


def numbers_page() -> str:
    """The newest row of every measurement, with its command, commit and machine."""
    newest: dict[tuple, dict] = {}
    for line in RESULTS.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        same = IDENTITY + (("command",) if row["benchmark"] == "time_to_loss" else ())
        newest[tuple((name, str(row[name])) for name in same if name in row)] = row
    pages = [
        "# Numbers",
        "Made by `python tools/docs.py` from `benchmarks/results.jsonl`: the newest row of each "
        "measurement. A ratio is paired: both sides ran in turn in the same run; where it has three numbers they are "
        "median, lowest and highest. The machine is shared, so only ratios prove anything; `load` is how busy it was.",
    ]
    for name in dict.fromkeys(row["benchmark"] for row in newest.values()):
        rows = [row for row in newest.values() if row["benchmark"] == name]
        last = rows[-1]
        packages = ", ".join(f"{package} {number}" for package, number in last["versions"].items())
        pages.append(f"## {name}")
        commands = " and ".join(f"`{command}`" for command in dict.fromkeys(row["command"] for row in rows))
        pages.append(f"{commands} · {last['cpu']}, {last['cores']} cores · {packages}")
        pages.append(_table([{key: value for key, value in row.items() if key not in MACHINE} for row in rows]))
    return "\n\n".join(pages) + "\n"


IDENTITY = (
    "benchmark",
    "text",
    "bytes",
    "pair",
    "threads",
    "vocab_size",
    "workers",
    "megabytes",
    "config",
    "case",
    "split",
    "arm",
    "dtype",
)
MACHINE = ("benchmark", "command", "cpu", "cores", "versions")


def _table(rows: list[dict]) -> str:
    """Rows that share most keys, as one Markdown table."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(column, "")) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_cell(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(_cell(inner) for inner in value)
    return str(value)


PAGES = {"cli.md": cli_page, "errors.md": errors_page, "numbers.md": numbers_page}


def main() -> int:
    stale = []
    for name, page in PAGES.items():
        path, text = ROOT / "docs" / name, page()
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
    if stale:
        print(f"not up to date: {', '.join(stale)}; run: python tools/docs.py", file=sys.stderr)
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
