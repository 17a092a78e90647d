"""R1 and R2: kill a real training run at random instants, again and again, and let it go on.

    python tests/reliability/kill_loop.py FOLDER --kills 200 --seed 0      prints one line of JSON

Each child is forked from this warm process (importing torch takes a second) and calls `fit` until it is killed by
SIGKILL or done. After every kill the newest valid checkpoint must be at least the last one reported as saved, nothing
may be damaged, and no step may be lost again. Finished runs are compared with one that was never stopped: weights,
optimiser, what every step logged (loss, norm, rate, place in the data), and what random generators drew.
"""

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from firsthand import files
from firsthand.checkpoint import bundle
from firsthand.model.config import FAST, ModelConfig
from firsthand.model.gpt import GPT
from firsthand.objectives.pretrain import Pretrain
from firsthand.tokenizer.bpe import Tokenizer
from firsthand.training.config import TrainConfig
from firsthand.training.fit import fit

STEPS = 24
SHAPE = {"vocab_size": 256, "context_length": 13, "n_layer": 2, "n_head": 3, "d_model": 24, "d_ff": 40}
RECIPE = {"steps": STEPS, "batch_size": 3, "accumulate": 2, "warmup": 5, "save_every": 2, "keep": 2, "seed": 5}
KINDS = {  # dropout makes the random state matter; the second kind has two optimisers and another shape
    "adamw": (ModelConfig(**SHAPE, dropout=0.1), TrainConfig(**RECIPE, eval_every=8, sample_every=3)),
    "muon": (ModelConfig(**SHAPE, **FAST), TrainConfig(**RECIPE, optimizer="muon", eval_every=7, sample_every=5)),
}
TIMES = ("train/tok_per_sec",)  # the only thing in a log that may differ


def examples() -> list[np.ndarray]:
    """Forty windows of 14 bytes; a run takes 144 of them, so it passes the end three times."""
    return list(np.random.default_rng(3).integers(0, 256, size=(40, 14), dtype=np.uint16))


def train(kind: str, run: Path, report: int) -> None:
    """One start of a run; every save is reported through the pipe `report` after it was acknowledged."""
    model_config, config = KINDS[kind]
    save = bundle.save

    def reported(directory, *rest):
        path = save(directory, *rest)
        os.write(report, f"{path.name[5:]}\n".encode())
        return path

    bundle.save = reported
    torch.manual_seed(1)
    random.seed(2)
    np.random.seed(3)
    tokenizer = Tokenizer([bytes([i]) for i in range(256)], [])
    data = examples()
    fit(config, GPT(model_config), tokenizer, Pretrain(), data[:34], data[34:], run, start="either", sample=drawn)


def drawn(model: GPT) -> str:
    """In place of a text: what the two generators that the loop itself does not use would draw next."""
    return f"{random.random()} {np.random.random()}"


def begin(kind: str, run: Path) -> tuple[int, int]:
    """Fork a child that trains: its process id, and where it reports."""
    run.mkdir(parents=True, exist_ok=True)
    note = {"arithmetic": {"device": "cpu", "dtype": "float32", "route": "none"}}  # not measured anew in each run
    (run / "run.json").write_text(json.dumps(note))
    ear, mouth = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ear)
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                train(kind, run, mouth)
        except BaseException as error:
            print(said.getvalue(), repr(error), file=sys.__stderr__, flush=True)
            os._exit(3)
        os._exit(0)
    os.close(mouth)
    return child, ear


@dataclass
class Tally:
    """What happened."""

    kills: int = 0
    inside_a_save: int = 0
    starts: int = 0
    finished: int = 0
    lost: int = 0
    corrupt: int = 0
    backwards: int = 0
    different: int = 0
    litter: int = 0
    failed: list[str] = field(default_factory=list)


def unfinished(run: Path) -> bool:
    """Whether something lies in the run that was being written or deleted."""
    return any(path.name.startswith((".tmp-", ".trash-")) for path in run.iterdir())


def fingerprint(run: Path) -> dict:
    """What must be the same at the end of every run."""
    last = run / f"step-{STEPS:06d}"
    listed = files.verify(last)["files"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    log = [{name: value for name, value in line.items() if name not in TIMES} for line in lines]
    samples = (run / "samples.jsonl").read_text()
    return {
        "weights": listed["model.safetensors"],
        "optimiser": listed["optim.safetensors"],
        "log": log,
        "samples": samples,
    }


def loop(folder: Path, kills: int, seed: int) -> Tally:
    """Kill until it is enough; three times of four where a save has just begun."""
    chance, tally, reference, seconds = random.Random(seed), Tally(), {}, 0.0
    for kind in KINDS:
        started = time.monotonic()
        child, ear = begin(kind, folder / f"reference-{kind}")
        assert os.waitpid(child, 0)[1] == 0, "the run that is never stopped must end well"
        os.close(ear)
        seconds = time.monotonic() - started
        reference[kind] = fingerprint(folder / f"reference-{kind}")
    while tally.kills < kills:
        kind = list(KINDS)[tally.finished % len(KINDS)]
        run = folder / f"run-{tally.finished}"
        one_run(kind, run, kills, chance, seconds, tally)
        if tally.failed:
            break
        if fingerprint(run) != reference[kind]:
            tally.different += 1
        tally.litter += unfinished(run)
        tally.finished += 1
        shutil.rmtree(run)
    return tally


def one_run(kind: str, run: Path, kills: int, chance: random.Random, seconds: float, tally: Tally) -> None:
    """Start a run, kill it, start it again, until it ends by itself."""
    last = 0
    while True:
        child, ear = begin(kind, run)
        tally.starts += 1
        if tally.kills < kills:
            wait(child, run, chance, seconds)
        status = stop(child) if tally.kills < kills else os.waitpid(child, 0)[1]
        said = os.read(ear, 1 << 16).split()
        os.close(ear)
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status):
                tally.failed.append(f"{run.name}: exit {os.WEXITSTATUS(status)} at start {tally.starts}")
            return
        tally.kills += 1
        tally.inside_a_save += unfinished(run)
        found, damaged = files.newest(run)
        step = int(found.name[5:]) if found else 0
        tally.corrupt += len(damaged)
        tally.lost += step < max([int(word) for word in said], default=0)
        tally.backwards += step < last
        last = max(last, step)


def wait(child: int, run: Path, chance: random.Random, seconds: float) -> None:
    """Until a random instant: anywhere, or, three times of four, within the next save."""
    time.sleep(chance.uniform(0.002, 0.4) * seconds)
    if chance.random() < 0.25:
        return
    until = time.monotonic() + seconds
    while time.monotonic() < until and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if any(name.startswith(".tmp-step") for name in os.listdir(run)):  # noqa: PTH208  as fast as it can be
            time.sleep(chance.uniform(0, 0.009))  # a save takes 10 to 20 ms here
            return


def stop(child: int) -> int:
    """Kill, and how the child ended: it may have been done already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    start = time.monotonic()
    result = loop(chosen.folder, chosen.kills, chosen.seed)
    print(json.dumps({**vars(result), "seed": chosen.seed, "seconds": round(time.monotonic() - start, 1)}))
