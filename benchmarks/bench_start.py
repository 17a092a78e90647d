"""How long the command takes to answer, and whether importing the package imports torch: whole processes, ten times.

python benchmarks/bench_start.py
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

from record import record

COMMAND = Path(sys.executable).with_name("firsthand")
CASES = {
    "firsthand --help": [str(COMMAND), "--help"],
    "import firsthand": [sys.executable, "-c", "import firsthand"],
    "import torch, for comparison": [sys.executable, "-c", "import torch"],
}


def seconds(words: list[str]) -> float:
    """The wall time of one process."""
    began = time.perf_counter()
    subprocess.run(words, check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    code = "import sys, firsthand; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)  # checked before anything is timed
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(10):
        for name, words in CASES.items():
            times[name].append(seconds(words))
    for name, found in times.items():
        middle, low, high = statistics.median(found), min(found), max(found)
        numbers = {"case": name, "seconds_median_min_max": [round(number, 3) for number in (middle, low, high)]}
        record("start", "python benchmarks/bench_start.py", numbers)


if __name__ == "__main__":
    main()
