"""The rows of a study in benchmarks/results.jsonl, from the report that it wrote.

    firsthand study mask --workers 2 --out runs/mask
    python benchmarks/record_study.py runs/mask/report.json [--busy]       --busy: times are left out

One row an arm: every score with its interval, and the first score against the arm that the study compares with.
"""

import json
import sys
from pathlib import Path

from record import record


def rows(told: dict, split: str = "") -> list[dict]:
    """The arms of a study, or of one of its splits."""
    against = {pair["first"]: pair for pair in reversed(told["comparisons"])}  # of each arm the first score stays
    made = []
    for point in told["points"]:
        its = {"split": split} if split else {}
        its |= {"arm": point["point"], "seeds": point["seeds"]}
        for name, score in point.get("scores", {}).items():
            its[name] = round(score["mean"], 4)
            its[f"{name}_95"] = [round(edge, 4) for edge in score["interval_95"]]
        if pair := against.get(point["point"]):
            its |= {"against": pair["second"], "verdict": pair["verdict"]}
            if "difference" in pair:
                its["difference"] = round(pair["difference"], 4)
                its["difference_95"] = [round(edge, 4) for edge in pair["interval_95"]]
        its |= {"parameters_learned": point.get("parameters_learned"), "peak_bytes": point.get("peak_bytes")}
        its["seconds"] = {name: round(value, 1) for name, value in point.get("seconds", {}).items()}
        made.append(its)
    return made


def main() -> None:
    path, busy = Path(sys.argv[1]), "--busy" in sys.argv
    told = json.loads(path.read_text())
    splits = told.get("splits") or {"": told}
    for its in [row for split, part in splits.items() for row in rows(part, split)]:
        if busy:
            its.pop("seconds")
        record(f"study.{told['study']}", told["command"].replace(f" --out {path.parent}", ""), its)


if __name__ == "__main__":
    main()
