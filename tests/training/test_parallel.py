"""Two processes under torchrun are one: the same gradient, the same loss, one checkpoint."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from firsthand import files
from firsthand.checkpoint import bundle
from firsthand.data.loader import Loader
from firsthand.model.gpt import GPT
from firsthand.objectives.pretrain import Pretrain
from firsthand.tokenizer.bpe import Tokenizer
from firsthand.training import parallel
from firsthand.training.config import TrainConfig
from firsthand.training.fit import fit
from firsthand.training.groups import build
from firsthand.training.loop import steps
from tests.kit import gap, tiny

ROOT = Path(__file__).resolve().parents[2]
DATA = list(np.random.default_rng(1).integers(0, 11, size=(17, 9)))
CONFIG = TrainConfig(
    steps=4, batch_size=2, warmup=1, eval_every=2, sample_every=0, save_every=2, device="cpu", dtype="float32",
    learning_rate=1e-2,
)  # fmt: skip


def torchrun(body: str, folder: Path, processes: int = 2) -> str:
    """Run a few lines in several processes; what the first prints comes back."""
    script = folder / "part.py"
    script.write_text(body)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, str(script)], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def trained(world: int, rank: int, ranks: parallel.Ranks):
    """Three steps of four micro-batches in float64: the losses, the norms, and the weights."""
    model = tiny("llama")
    batches = map(Pretrain().collate, Loader(DATA, 2, seed=5, rank=rank, world=world))
    run = steps(model, Pretrain(), batches, build(model, CONFIG), accumulate=4 // world, ranks=ranks)
    records = [next(run) for _ in range(3)]
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    return [(r.loss, r.norm, r.count, r.position) for r in records], weights


def test_two_processes_give_the_gradient_of_one(tmp_path):
    told, weights = trained(1, 0, parallel.ALONE)
    output = torchrun(
        "import json, torch\n"
        "from firsthand.training import parallel\n"
        "from tests.training.test_parallel import trained\n"
        "torch.set_num_threads(1)\n"
        "ranks = parallel.join()\n"
        "told, weights = trained(2, ranks.rank, ranks)\n"
        "same = weights.clone()\n"
        "ranks.add([same])\n"
        "assert torch.equal(same, 2 * weights), 'ranks differ'\n"
        "if ranks.rank == 0:\n"
        "    print(json.dumps([told, weights.tolist()]))\n"
        "parallel.leave()\n",
        tmp_path,
    )
    told_by_two, weights_of_two = json.loads(output)
    for ours, theirs in zip(told_by_two, told, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-12)
    assert gap(torch.tensor(weights_of_two, dtype=torch.float64), weights) < 1e-12


def whole(folder: Path, config: TrainConfig = CONFIG, start="new"):
    """A run of the same eight rows a step, in as many processes as there are."""
    tokenizer = Tokenizer([bytes([i]) for i in range(256)], [])
    shape = tiny("fast").config
    model = GPT(type(shape)(**{**vars(shape), "vocab_size": 256, "dropout": 0.1}))
    return fit(config, model, tokenizer, Pretrain(), DATA[:12], DATA[12:], folder, start=start)


def test_a_run_of_two_processes_goes_on_in_one(tmp_path):
    torchrun(
        "from dataclasses import replace\n"
        "from pathlib import Path\n"
        "from tests.training.test_parallel import CONFIG, whole\n"
        f"whole(Path({str(tmp_path / 'two')!r}), replace(CONFIG, accumulate=2))\n",
        tmp_path,
    )
    whole(tmp_path / "one", replace(CONFIG, accumulate=4))
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("one", "two")]
    for alone, both in zip(*(map(json.loads, text) for text in lines), strict=True):
        for name in alone.keys() - {"train/tok_per_sec"}:
            assert alone[name] == pytest.approx(both[name], rel=1e-4), name
    assert [path.name for path in files.checkpoints(tmp_path / "two")] == ["step-000002", "step-000004"]
    goes_on = whole(tmp_path / "two", replace(CONFIG, accumulate=4), start="resume")
    assert goes_on.progress.step == 4
    assert bundle.load(goes_on.path).about["tokens"] == 4 * 8 * 8


def test_alone_nothing_is_sent():
    tensor = torch.ones(3)
    parallel.ALONE.add([tensor])
    assert tensor.tolist() == [1, 1, 1] and parallel.ALONE.total(2.0, 3.0) == [2.0, 3.0]
    assert parallel.ALONE.largest(7) == 7 and parallel.join() == parallel.ALONE


def test_tensors_are_sent_in_buckets_of_one_type(monkeypatch):
    monkeypatch.setattr(parallel, "BUCKET", 5)
    tensors = [
        torch.zeros(n, dtype=d)
        for n, d in [(3, torch.float32), (3, torch.float32), (1, torch.float32), (2, torch.float64)]
    ]
    assert [[len(t) for t in bucket] for bucket in parallel._buckets(tensors)] == [[3, 3], [1], [2]]
