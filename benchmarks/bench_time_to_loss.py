"""Tiny Shakespeare, character by character: how long until the loss that everybody knows?

    python benchmarks/bench_time_to_loss.py                               about four minutes; appends to results.jsonl
    python benchmarks/bench_time_to_loss.py --text FILE --seeds 7 8 9 --classic train.dtype=bfloat16

For every seed both settings run in turn, each in a process of its own. Seconds are those of the whole process: start,
imports, tokenizer, shards, training, the loss on the whole validation split, checkpoint; only the drawing of
report.html is left out, of both. `ratio` is classic over fast, seed by seed; `reached` counts the seeds where the fast
run ends at a loss not above the classic one. The recipe was chosen on a part of the training text, never on this split.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from record import record

from firsthand.model import sizes
from firsthand.run.settings import model_config, read_run

CONFIGS = Path(__file__).parents[1] / "configs"
CLASSIC, FAST = CONFIGS / "shakespeare-char-classic.toml", CONFIGS / "shakespeare-char-fast.toml"
CHARACTERS = 65  # different ones in the text
SAME = ("n_layer", "n_head", "n_kv_head", "d_model", "d_head", "d_ff", "context_length")


def assert_same_size() -> tuple[int, int]:
    """Parameters of the classic and the fast model: of one shape, and within 2 % of each other."""
    classic, fast = (model_config(read_run([path]).model, CHARACTERS) for path in (CLASSIC, FAST))
    for name in SAME:
        assert getattr(classic, name) == getattr(fast, name), f"{name} differs: this would compare two model sizes"
    counts = sizes.parameters(classic), sizes.parameters(fast)
    assert abs(counts[1] / counts[0] - 1) <= 0.02, f"{counts[0]:,} and {counts[1]:,} parameters are not one size"
    return counts


def run(words: list[str]) -> tuple[float, float]:
    """One whole process of `firsthand train`: its seconds, and its loss on the whole validation split."""
    with tempfile.TemporaryDirectory(prefix="firsthand-") as folder:
        command = [sys.executable, "-m", "firsthand", "train", *words, f"out={folder}/run", "--no-report"]
        begin = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - begin
        lines = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
    return seconds, next(line["eval/loss"] for line in reversed(lines) if "eval/loss" in line)


def spread(values: list[float]) -> dict[str, float]:
    return {"median": round(median(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", help="tinyshakespeare.txt; otherwise the catalog fetches it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102, 103])
    parser.add_argument("--classic", nargs="*", default=[], help="settings that the classic run gets besides")
    options = parser.parse_args()
    parameters = assert_same_size()
    source = [f"data.source={options.text}"] if options.text else []
    pairs = []
    for seed in options.seeds:
        slow = run([str(CLASSIC), *source, f"train.seed={seed}", *options.classic])
        fast = run([str(FAST), *source, f"train.seed={seed}"])
        pairs.append((slow, fast))
        print(f"seed {seed}: {slow[0]:.1f} s to {slow[1]:.4f}, fast {fast[0]:.1f} s to {fast[1]:.4f}", flush=True)
    record(
        "time_to_loss",
        "python benchmarks/" + " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        {
            "seeds": options.seeds,
            "parameters": parameters,
            "classic_seconds": spread([slow[0] for slow, _ in pairs]),
            "fast_seconds": spread([fast[0] for _, fast in pairs]),
            "ratio": spread([slow[0] / fast[0] for slow, fast in pairs]),
            "classic_loss": spread([slow[1] for slow, _ in pairs]),
            "fast_loss": spread([fast[1] for _, fast in pairs]),
            "reached": sum(fast[1] <= slow[1] for slow, fast in pairs),
        },
    )


if __name__ == "__main__":
    main()
