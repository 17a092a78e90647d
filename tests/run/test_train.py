"""A run from words to a model that speaks: real text, real training, everything in one folder."""

import json
import os
import subprocess
import sys

import pytest
import torch

import firsthand as fh
from firsthand.errors import ConfigError, DataError, ModelError
from firsthand.run import speak, use
from firsthand.run import train as training

WORDS = (
    "model.n_layer=1",
    "model.n_head=2",
    "model.d_model=16",
    "model.context_length=12",
    "tokenizer.vocab_size=262",
    "train.batch_size=3",
    "train.dtype=float32",
    "train.device=cpu",
    "train.eval_every=4",
    "train.save_every=2",
    "train.sample_every=4",
    "sample.max_tokens=4",
    "sample.prompt=the",
)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "verdict.txt"
    path.write_text(
        "It was not that she was late, it was that the others had not come.\nHe had been the man of the hour.\n" * 60
    )
    return path


@pytest.fixture(scope="module")
def run(text, tmp_path_factory):
    return fh.train(*WORDS, f"data.source={text}", "train.steps=8", f"out={tmp_path_factory.mktemp('runs') / 'a'}")


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_a_run_leaves_settings_data_log_samples_and_checkpoints(run):
    names = {path.name for path in run.path.iterdir()}
    assert {"config.toml", "data", "metrics.jsonl", "samples.jsonl", "run.json", "step-000006", "step-000008"} <= names
    assert [record["step"] for record in run.records] == list(range(1, 9))
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    evaluations = [line for line in lines if "eval/loss" in line]
    assert [line["train/global_step"] for line in evaluations] == [4, 8]
    assert all(line["val/bpb"] > 0 for line in evaluations)


def test_the_run_s_own_settings_make_the_same_model_again(run, tmp_path):
    again = fh.train(run.path / "config.toml", f"out={tmp_path / 'again'}")
    assert same(again.bundle.model, run.bundle.model)


def test_a_run_that_goes_on_ends_where_the_whole_one_ended(run, text, tmp_path, monkeypatch):
    words = (*WORDS, f"data.source={text}", "train.steps=8", f"out={tmp_path / 'b'}")
    from firsthand.training.job import Job

    note = Job.note

    def stop_after_five(job, record):
        note(job, record)
        if record.step == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(Job, "note", stop_after_five)
    with pytest.raises(KeyboardInterrupt):
        fh.train(*words)
    monkeypatch.undo()
    went_on = fh.train(*words, resume=True)
    assert [record["step"] for record in went_on.records] == [5, 6, 7, 8]
    assert same(went_on.bundle.model, run.bundle.model)


def test_generating_evaluating_and_describing_use_the_newest_checkpoint(run):
    bundle = fh.load(run.path)
    assert bundle.path.name == "step-000008"
    said = fh.generate(bundle, "the", max_tokens=5, top_k=20, seed=1)
    assert said == "".join(fh.stream(bundle, "the", max_tokens=5, top_k=20, seed=1))
    found = use.evaluate(run.path)
    low, high = found["interval_95"]
    assert low <= found["loss"] <= high
    assert found["baseline_unigram_loss"] < found["baseline_uniform_loss"]
    facts = use.info(run.path)
    assert facts["parameters"] == sum(parameter.numel() for parameter in bundle.model.parameters())
    assert facts["data.tokens"] == len(training.Tokens(run.path / "data" / "train.tokens"))


def test_evaluating_on_another_text_says_which(run, text):
    found = use.evaluate(run.path, str(text))
    assert found["data"] == str(text)
    assert found["tokens"] > 0


def test_a_checkpoint_that_lies_alone_has_no_validation_text(run, tmp_path):
    alone = tmp_path / "alone"
    subprocess.run(["cp", "-r", str(run.bundle.path), str(alone)], check=True)
    with pytest.raises(DataError, match="no validation split of its own"):
        use.evaluate(alone)


def test_explaining_shows_every_step_of_the_sampler(run):
    steps = speak.explain(run.bundle, "the", speak.Sampling(temperature=0.5, top_k=3))
    assert [step["name"] for step in steps] == ["temperature 0.5", "top-k 3"]
    assert steps[1]["kept"] == 3
    assert sum(row["after"] for row in steps[1]["tokens"]) == pytest.approx(1)


def test_a_plan_costs_nothing_and_counts_what_the_run_would_have(run, text, tmp_path):
    out = tmp_path / "planned"
    planned = training.plan(*WORDS, f"data.source={text}", "train.steps=8", f"out={out}")
    assert planned["parameters"] == use.info(run.path)["parameters"]
    assert planned["training_tokens"] == 8 * 3 * 12
    assert not out.exists()


def test_a_sample_that_cannot_fit_is_refused_before_the_first_step(text, tmp_path):
    out = tmp_path / "long"
    with pytest.raises(ModelError, match=r"sample.prompt is 2 tokens, sample.max_tokens is 48, the context is 12. Use"):
        fh.train(*WORDS, f"data.source={text}", "train.steps=8", f"out={out}", "sample.max_tokens=48")
    assert not list(out.glob("step-*"))


def test_a_run_finds_a_prompt_of_its_own_in_any_alphabet(tmp_path):
    (tmp_path / "t.txt").write_text("その日は雨が降っていた。誰も来なかった。\n" * 90)
    words = [word for word in WORDS if not word.startswith(("sample", "tokenizer"))]
    run = fh.train(
        *words, f"data.source={tmp_path / 't.txt'}", "tokenizer.kind=char", "train.steps=4", f"out={tmp_path / 'r'}"
    )
    (line,) = (run.path / "samples.jsonl").read_text().splitlines()
    assert len(json.loads(line)["text"]) == 12


def test_another_text_in_the_folder_of_a_run_is_refused(run, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("another text " * 200)
    with pytest.raises(ConfigError, match=r"was begun with other settings \(data.source: .*verdict.txt -> "):
        fh.train(*WORDS, f"data.source={other}", "train.steps=8", f"out={run.path}")


def test_two_processes_of_the_command_train_one_model(text, tmp_path):
    out = tmp_path / "two"
    words = [*WORDS, f"data.source={text}", "train.steps=2", f"out={out}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "firsthand", "train", *words, "--nproc", "2", "--no-report"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)
    said = [line for line in done.stderr.splitlines() if line.startswith("firsthand: error")]
    assert done.returncode == 0, said or done.stderr[-2000:]
    assert (out / "step-000002" / "MANIFEST.json").exists()
    first = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
    assert first["train/num_tokens"] == 2 * 3 * 12
