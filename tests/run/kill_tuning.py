"""Kill fine-tuning runs of every task at random instants, and let them go on.

    python tests/run/kill_tuning.py FOLDER --kills 5 --seed 0      prints one line of JSON

Each child is forked from this warm process and calls `finetune` until it is killed by SIGKILL or done. A killed run
that has a checkpoint is resumed, one without begins again. At its end it is compared with a run that was never stopped:
the weights, the optimiser, what every step logged, and the report of the test.
"""

import argparse
import contextlib
import io
import json
import os
import random
import signal
import time
from pathlib import Path

import torch
from talkers import everything, place

from firsthand import files
from firsthand.run.finetune import finetune

WAYS = [
    ("classify", "block"), ("classify", "all"), ("classify", "lora"),
    ("instruct", "block"), ("instruct", "all"), ("instruct", "lora"),
    ("prefer", "all"), ("prefer", "lora"),
]  # fmt: skip
STEPS = 24
MORE = (f"train.steps={STEPS}", "train.save_every=3", "lora.rank=2", "lora.dropout=0.1")


def begin(words: tuple[str, ...], run: Path) -> int:
    """Fork a child that tunes: its process id."""
    if not run.exists():
        place(run)
    child = os.fork()
    if child == 0:
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                finetune(*words, f"out={run}", resume=bool(files.checkpoints(run)))
        except BaseException as error:
            print(said.getvalue(), repr(error), flush=True)
            os._exit(3)
        os._exit(0)
    return child


def fingerprint(run: Path) -> dict:
    """What must be the same at the end of every run."""
    listed = files.verify(run / f"step-{STEPS:06d}")["files"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    log = [{name: value for name, value in line.items() if name != "train/tok_per_sec"} for line in lines]
    report = json.loads((run / "report.json").read_text())
    told = {name: report.get(name) for name in ("test", "forgetting", "rows", "steps", "tokens")}
    return {"weights": listed["model.safetensors"], "optimiser": listed["optim.safetensors"], "log": log, **told}


def killed(words: tuple[str, ...], run: Path, kills: int, chance: random.Random, seconds: float) -> int:
    """Start a run, kill it so many times at most, and let it end by itself: how often it was killed."""
    done = 0
    while True:
        child = begin(words, run)
        if done < kills:
            time.sleep(chance.uniform(0.02, 1.0) * seconds)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, "a start ended badly"
            return done
        done += 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    known, chance, told = everything(asked.folder), random.Random(asked.seed), {}
    for kind, thaw in WAYS:
        name, words = f"{kind}-{thaw}", (*known[kind], *MORE, f"task.thaw={thaw}")
        start = time.monotonic()
        assert os.waitpid(begin(words, asked.folder / f"{name}-whole"), 0)[1] == 0, (
            "the run never stopped must end well"
        )
        seconds = time.monotonic() - start
        kills = killed(words, asked.folder / name, asked.kills, chance, seconds)
        whole, other = (fingerprint(asked.folder / run) for run in (f"{name}-whole", name))
        told[name] = {"kills": kills, "different": [key for key in whole if whole[key] != other[key]]}
    print(json.dumps(told))
