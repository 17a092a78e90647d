"""A whole run: it resumes to the bit, stops when asked, refuses what would be another run, and says what it does."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from firsthand import files
from firsthand.checkpoint import bundle
from firsthand.errors import CheckpointError, ModelError, TrainingError
from firsthand.linear import lora
from firsthand.linear.kinds import change
from firsthand.linear.shrink import shrink
from firsthand.model.assemble import weights
from firsthand.model.config import FAST, ModelConfig
from firsthand.model.gpt import GPT
from firsthand.objectives.base import Loss
from firsthand.objectives.pretrain import Pretrain
from firsthand.tokenizer.bpe import Tokenizer
from firsthand.training.config import TrainConfig
from firsthand.training.fit import fit
from firsthand.training.signals import Interrupted

SHAPE = ModelConfig(vocab_size=256, context_length=7, n_layer=2, n_head=3, d_model=24, d_ff=40, dropout=0.2)
CONFIG = TrainConfig(
    steps=12, batch_size=3, accumulate=2, warmup=3, eval_every=5, save_every=4, sample_every=0, keep=9, seed=3,
    device="cpu", dtype="float32", learning_rate=1e-2, min_learning_rate=1e-3,
)  # fmt: skip
DATA = list(np.random.default_rng(0).integers(0, 256, size=(29, 8), dtype=np.uint16))


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer([bytes([i]) for i in range(256)], [])


class StopsAt:
    """The objective, and a signal to this very process during some step."""

    def __init__(self, step=0, number=signal.SIGINT, fault=1.0):
        self.left, self.number, self.fault = step * CONFIG.accumulate, number, fault

    def prepare(self, model):
        pass

    def collate(self, examples):
        return Pretrain().collate(examples)

    def loss(self, model, batch):
        self.left -= model.training
        now = self.left == 0 and model.training
        if now and self.fault == 1.0:
            os.kill(os.getpid(), self.number)
        loss = Pretrain().loss(model, batch)
        return Loss(loss.total * self.fault) if now else loss


def run(folder, tokenizer, config=CONFIG, shape=SHAPE, objective=None, **settings):
    torch.manual_seed(9)
    objective = objective or Pretrain()
    return fit(config, GPT(shape), tokenizer, objective, DATA[:23], DATA[23:], folder, **settings)


def stored(folder):
    """Every byte of the last checkpoint that a run may not change, and every logged number but the times."""
    last = files.checkpoints(folder)[-1]
    tensors, state = bundle.load_training(last)
    state["progress"].pop("seconds")
    weights = (last / "model.safetensors").read_bytes()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("train/tok_per_sec", None)
    return last.name, weights, {name: t.numpy().tobytes() for name, t in tensors.items()}, state, lines


KINDS = {
    "float32": (CONFIG, SHAPE),
    "bfloat16": (replace(CONFIG, dtype="bfloat16"), SHAPE),
    "muon": (replace(CONFIG, optimizer="muon", schedule="stable-decay"), replace(SHAPE, **FAST, d_ff=40)),
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, tokenizer):
    """One whole run of each kind, made when it is first asked for."""
    made = {}

    def of(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            run(folder, tokenizer, *KINDS[kind])
            made[kind] = stored(folder)
        return made[kind]

    return of


@pytest.mark.parametrize("step", [1, 4, 5, 7, 11])  # the first; at a save; at a validation; between; the last but one
@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_and_resumed_run_ends_with_the_same_bits(kind, step, tmp_path, tokenizer, uninterrupted):
    with pytest.raises(Interrupted):
        run(tmp_path, tokenizer, *KINDS[kind], objective=StopsAt(step))
    run(tmp_path, tokenizer, *KINDS[kind], start="resume")
    for ours, theirs in zip(stored(tmp_path), uninterrupted(kind), strict=True):
        assert ours == theirs


def test_a_run_that_lost_its_newest_checkpoint_still_ends_with_the_same_bits(
    tmp_path, tokenizer, uninterrupted, capsys
):
    with pytest.raises(Interrupted):
        run(tmp_path, tokenizer, objective=StopsAt(9))
    weights = tmp_path / "step-000009" / "model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-5] ^= 4
    weights.write_bytes(damaged)
    run(tmp_path, tokenizer, start="resume")
    said = capsys.readouterr().err
    assert "step-000009 is damaged (model.safetensors" in said and "now called step-000009.bad [FH022]" in said
    assert "going on from step-000008" in said
    for ours, theirs in zip(stored(tmp_path), uninterrupted("float32"), strict=True):
        assert ours == theirs


def test_a_complete_run_is_not_trained_again(tmp_path, tokenizer):
    first = run(tmp_path, tokenizer)
    before = stored(tmp_path)
    again = run(tmp_path, tokenizer, start="resume")
    assert again.path == first.path and again.records == [] and len(first.records) == 12
    assert stored(tmp_path) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_ends_with_the_code_of_the_shell(number, code, tmp_path, tokenizer):
    usual = signal.getsignal(number)
    with pytest.raises(Interrupted, match=r"after step 6; saved as .*step-000006. Go on by the same command") as caught:
        run(tmp_path, tokenizer, objective=StopsAt(6, number))
    assert caught.value.exit_code == code
    assert files.newest(tmp_path)[0] == tmp_path / "step-000006"
    assert signal.getsignal(number) is usual


def test_a_hangup_is_borne(tmp_path, tokenizer):
    assert run(tmp_path, tokenizer, objective=StopsAt(6, signal.SIGHUP)).progress.step == 12


def test_a_second_signal_ends_at_once():
    code = (
        "import os, signal\nfrom firsthand.training.signals import Signals\n"
        "with Signals():\n    os.kill(os.getpid(), signal.SIGINT)\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "    raise SystemExit(0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 130


def test_a_nan_stops_the_run_and_keeps_the_facts(tmp_path, tokenizer):
    with pytest.raises(TrainingError) as caught:
        run(tmp_path, tokenizer, objective=StopsAt(7, fault=float("nan")))
    message = str(caught.value)
    facts = json.loads((tmp_path / "nonfinite-step-7.json").read_text())
    assert facts["samples"] == [36, 42] and len(facts["ids"]) == 2 and facts["loss"] == "nan"
    assert "loss became nan at step 7" in message and "nonfinite-step-7.json" in message and "[FH037]" in message
    assert "--resume train.learning_rate=0.001" in message
    assert files.newest(tmp_path)[0] == tmp_path / "step-000004"


def test_a_nan_may_be_skipped(tmp_path, tokenizer, capsys):
    config = replace(CONFIG, nonfinite="skip")
    fitted = run(tmp_path, tokenizer, config, objective=StopsAt(7, fault=float("inf")))
    assert fitted.progress.step == 12
    assert "step 7 refused, nothing updated" in capsys.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["train/global_step"] for line in lines if line.get("train/loss", 0) is None] == [7]


def test_a_folder_with_checkpoints_is_not_begun_anew(tmp_path, tokenizer):
    run(tmp_path, tokenizer)
    with pytest.raises(CheckpointError, match=r"already has 3 checkpoints. Go on with --resume, .* \[FH025\]"):
        run(tmp_path, tokenizer)


def test_nothing_to_resume_is_said(tmp_path, tokenizer):
    with pytest.raises(CheckpointError, match=r"no checkpoint to resume in .*\(0 valid, 0 damaged\).*\[FH023\]"):
        run(tmp_path, tokenizer, start="resume")


def test_another_model_or_other_data_cannot_go_on(tmp_path, tokenizer):
    run(tmp_path, tokenizer)
    with pytest.raises(CheckpointError, match=r"cannot go on with other settings \(model.n_layer: 2 -> 3"):
        run(tmp_path, tokenizer, shape=replace(SHAPE, n_layer=3), start="resume")
    with pytest.raises(CheckpointError, match=r"train\.seed: 3 -> 4"):
        run(tmp_path, tokenizer, replace(CONFIG, seed=4), start="resume")
    with pytest.raises(CheckpointError, match="data: 23 examples"):
        fit(CONFIG, GPT(SHAPE), tokenizer, Pretrain(), DATA[1:24], DATA[23:], tmp_path, start="resume")


def test_a_change_that_only_moves_bits_is_one_line(tmp_path, tokenizer, capsys):
    with pytest.raises(Interrupted):
        run(tmp_path, tokenizer, objective=StopsAt(6))
    run(tmp_path, tokenizer, replace(CONFIG, batch_size=2, accumulate=3), start="resume")
    said = capsys.readouterr().err
    assert "exact in mathematics, not in bits, because train.batch_size: 3 -> 2; train.accumulate: 2 -> 3" in said


def test_old_checkpoints_go_and_the_newest_stay(tmp_path, tokenizer):
    run(tmp_path, tokenizer, replace(CONFIG, save_every=2, keep=3))
    assert [path.name for path in files.checkpoints(tmp_path)] == ["step-000008", "step-000010", "step-000012"]


def test_what_was_saved_is_the_model_that_was_trained(tmp_path, tokenizer):
    model = GPT(SHAPE)
    fitted = fit(CONFIG, model, tokenizer, Pretrain(), DATA[:23], DATA[23:], tmp_path)
    loaded = bundle.load(fitted.path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.model.parameters(), strict=True))
    assert loaded.about["step"] == 12 and loaded.about["tokens"] == 12 * 6 * 7


def test_the_log_has_the_names_of_the_field_and_the_model_writes(tmp_path, tokenizer):
    texts = iter(["first", "second"])
    run(tmp_path, tokenizer, replace(CONFIG, sample_every=6), sample=lambda model: next(texts))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert set(lines[0]) == {
        "train/global_step", "train/loss", "train/learning_rate", "train/grad_norm", "train/num_tokens",
        "train/epoch", "train/tok_per_sec",
    }  # fmt: skip
    assert [line["train/global_step"] for line in lines if "eval/loss" in line] == [5, 10, 12]
    assert lines[0]["train/learning_rate"] == pytest.approx(1e-2 / 4) and lines[0]["train/num_tokens"] == 42
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert samples == [{"step": 6, "text": "first"}, {"step": 12, "text": "second"}]


def test_validation_is_the_mean_over_all_tokens(tmp_path, tokenizer):
    model = GPT(replace(SHAPE, dropout=0.0))
    fit(CONFIG, model, tokenizer, Pretrain(), DATA[:23], DATA[23:], tmp_path)
    rows = torch.from_numpy(np.stack(DATA[23:]).astype(np.int64))
    scores = model.eval()(rows[:, :-1]).flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(scores, rows[:, 1:].flatten()).item()
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["eval/loss"] == pytest.approx(expected, rel=1e-5)


def test_the_arithmetic_is_measured_once_a_run(tmp_path, tokenizer, capsys):
    with pytest.raises(Interrupted):
        run(tmp_path, tokenizer, replace(CONFIG, dtype="auto"), objective=StopsAt(2))
    note = json.loads((tmp_path / "run.json").read_text())["arithmetic"]
    other = {"device": "cpu", "dtype": "bfloat16" if note["dtype"] == "float32" else "float32", "route": "none"}
    (tmp_path / "run.json").write_text(json.dumps({"arithmetic": other}))
    run(tmp_path, tokenizer, replace(CONFIG, dtype="auto"), start="resume")
    assert f"dtype: {note['dtype']} -> {other['dtype']}" in capsys.readouterr().err


def test_a_quantized_model_is_not_trained_but_adapters_on_top_of_it_are(tmp_path, tokenizer):
    model, config = GPT(SHAPE), replace(CONFIG, steps=2)
    shrink(model, "int4", {"group": 8})
    with pytest.raises(ModelError, match=r"quantized \(12 Int4, 1 Int8\) and cannot be trained"):
        fit(config, model, tokenizer, Pretrain(), DATA[:23], DATA[23:], tmp_path / "no")
    change(model, "lora", ["attention.*"], {"rank": 2})
    lora.initialise(model, "default", seed=1)
    before = {name: tensor.clone() for name, tensor in weights(model).items()}
    fit(config, model, tokenizer, Pretrain(), DATA[:23], DATA[23:], tmp_path / "yes")
    changed = {name for name, tensor in weights(model).items() if not torch.equal(tensor, before[name])}
    assert changed and all(".adapters." in name for name in changed)
