"""Two programs beside each other, each in a process of its own, taking one training step in turn: A B A B.

A side is the benchmark's own file, started again with `--serve NAME DTYPE THREADS`. It builds what it needs, then calls
`serve`; between two of its steps it waits while the other computes.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median


def options(about: str, rounds: int, dtypes: tuple[str, ...]) -> argparse.Namespace:
    """What a benchmark of two sides may be told; `serve` is not None where this process is a side."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--only", default="", choices=("", *dtypes))
    parser.add_argument("--dry", action="store_true", help="print, and write no line into results.jsonl")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


class Turns:
    """A side's end of the line: wait for a turn, take it, say seconds, loss, and peak memory in MB."""

    def __init__(self) -> None:
        self.began = 0.0
        print(json.dumps([0, 0, 0]), flush=True)  # ready

    def wait(self) -> bool:
        """Sleep until it is this side's turn; False when the benchmark is over."""
        word = sys.stdin.readline()
        self.began = time.perf_counter()
        return bool(word)

    def done(self, loss: float) -> None:
        seconds = time.perf_counter() - self.began
        print(json.dumps([seconds, loss, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]), flush=True)


def serve(step: Callable[[], float]) -> None:
    """Take one step, which gives its loss, for every line of input."""
    turns = Turns()
    while turns.wait():
        turns.done(step())


class Side:
    """A process that takes a step when it is told to."""

    def __init__(self, file: str, name: str, dtype: str, threads: int):
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", file, "--serve", name, dtype, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.read()

    def read(self) -> list[float]:
        for line in self.process.stdout or ():
            if line.startswith("["):  # a library may have something to say as well
                return json.loads(line)
        raise SystemExit(f"{self.name} ended without a word (exit code {self.process.wait()})")

    def step(self) -> list[float]:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self.read()
        time.sleep(0.3)  # until its threads stop spinning
        return answer

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def compare(file: str, names: tuple[str, str], dtype: str, threads: int, warm: int, rounds: int) -> dict:
    """Both sides in turn: seconds a step, the ratio of each round, and the most memory each ever held.

    The losses of the first steps must be equal, and those of the last nearly so: both did the same all the time.
    """
    sides = [Side(file, name, dtype, threads) for name in names]
    first = [[side.step()[1] for side in sides] for _ in range(warm)]
    tolerance = 1e-4 if dtype == "float32" else 5e-3
    for mine, theirs in first:
        assert abs(mine - theirs) < tolerance * theirs, f"{dtype}: not the same loss, {first}"
    taken = [[side.step() for side in sides] for _ in range(rounds)]
    for side in sides:
        side.close()
    ratios = [theirs[0] / mine[0] for mine, theirs in taken]
    assert all(abs(mine[1] - theirs[1]) < 10 * tolerance * theirs[1] for mine, theirs in taken), taken
    seconds, memory = ([median(one[kind] for one in column) for column in zip(*taken, strict=True)] for kind in (0, 2))
    ours, peer = names
    return {
        "dtype": dtype,
        "threads": threads,
        f"{ours}_seconds": round(seconds[0], 3),
        f"{peer}_seconds": round(seconds[1], 3),
        "ratio": round(median(ratios), 2),
        "ratios": [round(min(ratios), 2), round(max(ratios), 2)],
        f"{ours}_peak_mb": round(memory[0]),
        f"{peer}_peak_mb": round(memory[1]),
        "losses": [first[0], taken[-1][0][1:2] + taken[-1][1][1:2]],
    }
