"""A fine-tuning run from words to a report: resumable to the bit, with baselines, and used by `classify`."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import firsthand as fh
from firsthand import files
from firsthand.checkpoint import bundle
from firsthand.cli.main import main
from firsthand.errors import CheckpointError, ConfigError, DataError, FirsthandError, ModelError
from firsthand.evaluate.labels import probabilities
from firsthand.model.config import FAST, ModelConfig
from firsthand.model.gpt import GPT
from firsthand.run import finetune as tuning
from firsthand.run import use
from firsthand.run.classify import classify, framed
from firsthand.run.tuning import read_tuning
from firsthand.tokenizer.bpe import Tokenizer
from firsthand.training.job import Job

SHAPE = ModelConfig(**(FAST | {"vocab_size": 256, "context_length": 40, "n_layer": 3, "n_head": 2, "d_model": 16}))
WORDS = (
    "data.test_fraction=0.3", "data.validation_fraction=0.1", "train.batch_size=6", "train.steps=12",
    "train.learning_rate=0.01", "train.min_learning_rate=0.001", "train.warmup=2", "train.eval_every=5",
    "train.save_every=4", "train.dtype=float32", "train.device=cpu",
)  # fmt: skip
LONGER = ("train.steps=60", "train.save_every=15", "train.eval_every=30")
THINGS = ["boat", "coat", "dove", "fern", "gate", "hill", "iron", "jade", "kite", "lamp", "moon", "nest", "oven"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny model that was never trained, as a checkpoint."""
    model = GPT(SHAPE)
    model.initialise(3)
    return bundle.save(
        tmp_path_factory.mktemp("base") / "model", model, Tokenizer([bytes([i]) for i in range(256)], []), {}
    )


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A table whose labels stand at the end of every text."""
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    pairs = [(a, b) for a in range(len(THINGS)) for b in range(11)]
    lines = [f"{THINGS[a]} {THINGS[b]} {('wow,loud', 'hm,quiet')[(a + b) % 2]}" for a, b in pairs]
    path.write_text("\n".join(["text,label", *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def run(base, rows, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "a"
    return tuning.finetune(*WORDS, *LONGER, f"model={base}", f"data.source={rows}", f"out={out}")


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_it_learns_and_the_report_holds_every_number_with_its_interval_and_baselines(run):
    report = json.loads((run.path / "report.json").read_text())
    assert report == json.loads(json.dumps(run.report))
    test = report["test"]
    for name in ("model", "bag_of_words", "majority"):
        low, high = test[name]["interval_95"]
        assert low <= test[name]["accuracy"] <= high
        assert test[name]["count"] == report["rows"]["test"] == sum(map(sum, test[name]["confusion"]))
    assert test["model"]["accuracy"] > 0.9 > test["majority"]["accuracy"]
    assert test["model_against"]["majority"]["verdict"] == "better"
    assert test["model_against"]["bag_of_words"]["verdict"] in ("not distinguishable", "worse", "better")
    assert report["rows"]["test_texts_also_in_training"] == 0
    assert report["cost"]["seconds"]["all"] >= report["cost"]["seconds"]["training"] > 0


def test_a_run_leaves_settings_log_report_and_a_model_and_no_trunk(run, base):
    names = {path.name for path in run.path.iterdir()}
    assert {"config.toml", "metrics.jsonl", "report.json", "run.json", "step-000060"} <= names
    assert not [name for name in names if name.startswith("trunk")]
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["train/global_step"] for line in lines if "eval/accuracy" in line][-1] == 60
    assert run.bundle.about["parent"] == {"model": str(base)}
    assert run.bundle.about["objective"] == "classify"


def test_only_what_thawed_was_changed(run, base):
    before, after = bundle.load(base).model, run.bundle.model
    assert same(before.embed, after.embed) and same(before.blocks[0], after.blocks[0])
    assert same(before.blocks[1], after.blocks[1]) and not same(before.blocks[2], after.blocks[2])


@pytest.mark.parametrize("words", [["prove"], ["inspect", "a text"], ["generate", "a text"], ["evaluate"]], ids=str)
def test_a_verb_for_models_that_speak_refuses_one_that_tells_labels(run, rows, words, capsys):
    text = {"prove": ["--text", str(rows)], "evaluate": ["--data", str(rows)]}.get(words[0], [])
    assert main([words[0], str(run.path), *words[1:], *text]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("firsthand: error: this model tells labels apart")
    assert said.endswith("Use: firsthand classify")


def test_classify_says_labels_with_probabilities(run):
    loud, quiet = classify(run.path, ["boat coat wow", "hill gate hm"])
    assert (loud["label"], quiet["label"]) == ("loud", "quiet")
    assert list(loud["probabilities"]) == ["loud", "quiet"]
    assert sum(loud["probabilities"].values()) == pytest.approx(1)
    assert not loud["cut"]
    (long,) = classify(run.path, ["boat " * 30 + "wow"])
    assert long["cut"]


def test_a_classifier_does_not_pretend_to_speak(run):
    for act in (lambda: fh.generate(run.bundle, "hello"), lambda: use.evaluate(run.path, "pydocs")):
        with pytest.raises(ModelError, match=r"tells labels apart \(loud, quiet\) and continues no text"):
            act()


@pytest.mark.parametrize("about", [{"frame": 7}, {"frame": "no place"}, {"longest": "9"}, {"reads": "all"}])
def test_a_checkpoint_with_a_senseless_frame_is_refused(run, tmp_path, about):
    saved = bundle.save(tmp_path / "m", run.bundle.model, run.bundle.tokenizer, about)
    with pytest.raises(CheckpointError, match="has a frame, length or place of reading that is none"):
        classify(saved, ["hello"])


def test_a_model_that_continues_text_is_no_classifier(base):
    with pytest.raises(ModelError, match=r"continues text and knows no labels. Make it a classifier"):
        classify(base, ["hello"])


@pytest.mark.parametrize("thaw", ["head", "block", "all", "lora"])
def test_a_stopped_run_goes_on_to_the_same_bits(base, rows, tmp_path, monkeypatch, thaw):
    words = (*WORDS, f"model={base}", f"data.source={rows}", f"task.thaw={thaw}", "lora.rank=3")
    whole = tuning.finetune(*words, f"out={tmp_path / 'whole'}")
    note = Job.note

    def stop_after_seven(job, record):
        note(job, record)
        if record.step == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(Job, "note", stop_after_seven)
    with pytest.raises(KeyboardInterrupt):
        tuning.finetune(*words, f"out={tmp_path / 'b'}")
    monkeypatch.undo()
    assert bool(list((tmp_path / "b").glob("trunk-*.bin"))) == (thaw in ("head", "block"))
    went_on = tuning.finetune(*words, f"out={tmp_path / 'b'}", resume=True)
    assert same(went_on.bundle.model, whole.bundle.model)
    assert went_on.report["test"] == whole.report["test"]


def test_a_killed_run_goes_on_to_the_same_bits(run, base, rows, tmp_path):
    words = [*WORDS, *LONGER, f"model={base}", f"data.source={rows}", f"out={tmp_path / 'killed'}"]
    code = f"from firsthand.run.finetune import finetune; finetune(*{words!r})"
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    while child.poll() is None and not files.checkpoints(tmp_path / "killed"):
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    newest, _ = files.newest(tmp_path / "killed")
    assert newest is not None
    assert newest.name != "step-000060"
    went_on = tuning.finetune(*words, resume=True)
    assert same(went_on.bundle.model, run.bundle.model)


def test_the_run_s_own_settings_make_the_same_model_again(run, tmp_path):
    again = tuning.finetune(run.path / "config.toml", f"out={tmp_path / 'again'}")
    assert same(again.bundle.model, run.bundle.model)


def test_a_plan_says_what_becomes_of_the_rows_and_writes_nothing(run, base, rows, tmp_path):
    out = tmp_path / "planned"
    planned = tuning.plan(*WORDS, *LONGER, f"model={base}", f"data.source={rows}", f"out={out}")
    for key in ("train", "test", "train_labels", "parameters_learned", "trunk_tokens", "training_tokens"):
        assert planned[key] == (run.report["rows"] | run.report["cost"])[key]
    assert planned["seconds_about"] > 0
    assert not out.exists()


def test_texts_are_cut_to_what_is_read_and_counted(base, rows, tmp_path):
    words = (
        *WORDS,
        "train.steps=1",
        "data.longest=12",
        f"model={base}",
        f"data.source={rows}",
        f"out={tmp_path / 'a'}",
    )
    cut = tuning.finetune(*words)
    texts = [line.split(",")[0] for line in rows.read_text().splitlines()[1:]]
    assert cut.report["rows"]["cut_to_length"] == sum(len(text) > 12 for text in texts)
    assert classify(cut.path, ["0123456789abc"])[0]["cut"]


def test_a_frame_stands_around_every_text_and_is_never_cut(base, rows, tmp_path):
    frame = "Say: {text} - so?"
    words = ("train.steps=1", "data.longest=22", f"task.frame={frame}", f"model={base}", f"data.source={rows}")
    run = tuning.finetune(*WORDS, *words, f"out={tmp_path / 'a'}")
    assert run.bundle.about["frame"] == frame
    assert bytes(framed(run.bundle, "boat dove", frame, 22)[0]) == b"Say: boat dove - so?"
    ids, cut = framed(run.bundle, "boat dove wow", frame, 22)
    assert bytes(ids) == b"Say: boat dove w - so?"
    assert cut
    assert run.report["rows"]["cut_to_length"] == 143  # every text is 12 or 13 bytes, and 11 would fit
    plain = probabilities(run.bundle.model, [ids])[0]
    assert classify(run.path, ["boat dove wow"])[0]["probabilities"]["loud"] == pytest.approx(plain[0])


def test_the_leaky_split_and_balanced_weights_are_there_for_comparison(base, rows, tmp_path):
    words = ("train.steps=1", "data.split=leaky", "task.weights=balanced", f"model={base}", f"data.source={rows}")
    leaky = tuning.finetune(*WORDS, *words, f"out={tmp_path / 'a'}")
    assert leaky.report["rows"]["split"] == "leaky"
    assert leaky.report["rows"]["left_out"] == 0


def test_a_label_read_at_the_first_token_knows_nothing_of_the_rest(base, rows, tmp_path):
    words = (*WORDS, "task.reads=first", f"model={base}", f"data.source={rows}", f"out={tmp_path / 'a'}")
    run = tuning.finetune(*words)
    assert run.bundle.about["reads"] == "first"
    loud, quiet, other = classify(run.path, ["boat coat wow", "boat hm", "dove hm"])
    assert loud["probabilities"] == pytest.approx(quiet["probabilities"], abs=1e-6)
    assert abs(loud["probabilities"]["loud"] - other["probabilities"]["loud"]) > 1e-6


def test_a_random_start_is_the_same_model_with_fresh_weights_of_the_seed(base, rows, tmp_path):
    words = (*WORDS, "task.start=random", "train.steps=1", "train.seed=5", f"model={base}", f"data.source={rows}")
    run = tuning.finetune(*words, f"out={tmp_path / 'a'}")
    fresh = GPT(SHAPE)
    fresh.initialise(5)
    assert torch.equal(run.bundle.model.blocks[0].mlp.up.weight, fresh.blocks[0].mlp.up.weight)
    with pytest.raises(ConfigError, match=r"has layers replaced, so task.start=random has no meaning"):
        tuning.finetune(*words, f"model={run.path}", f"out={tmp_path / 'b'}")


def test_the_seed_of_training_does_not_move_rows_from_side_to_side(base, rows, tmp_path):
    words = (*WORDS, "train.steps=1", f"model={base}", f"data.source={rows}")
    first = tuning.finetune(*words, "train.seed=1", f"out={tmp_path / 'a'}").report["test"]
    second = tuning.finetune(*words, "train.seed=2", f"out={tmp_path / 'b'}").report["test"]
    third = tuning.finetune(*words, "data.seed=3", f"out={tmp_path / 'c'}").report["test"]
    assert first["bag_of_words"] == second["bag_of_words"] != third["bag_of_words"]


def test_the_report_keeps_what_every_example_scored(run):
    test = run.report["test"]
    right, loss = test["examples"]["accuracy"], test["examples"]["loss"]
    assert len(right) == len(loss) == test["model"]["count"]
    assert sum(right) == pytest.approx(test["model"]["accuracy"] * len(right))
    assert all((its < 0.6931) == bool(one) for one, its in zip(right, loss, strict=True))  # two labels: ln 2


def test_a_classifier_can_be_taught_further(run, rows, tmp_path):
    words = (*WORDS, "train.steps=1", f"model={run.path}", f"data.source={rows}", f"out={tmp_path / 'a'}")
    further = tuning.finetune(*words)
    assert len(further.bundle.model.swaps) == 1
    assert further.report["test"]["model"]["accuracy"] > 0.9


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (["data.label=kind"], DataError, r"needs 'text' and 'kind'. Map them: data.label=label"),
        (['data.labels=["loud"]'], DataError, r"has the label 'quiet', which is not in \[loud\]"),
        (["data.validation_fraction=0.001"], DataError, "gives 0 validation rows"),
        (["task.kind=poetry"], ConfigError, "task.kind is 'poetry'"),
        (["task.thaw=bloc"], ConfigError, "Did you mean 'block'?"),
        (["task.frame=Is it?"], ConfigError, r"it must hold \{text\} once"),
        (["task.frame={text} Is this loud?", "data.longest=9"], ConfigError, "task.frame alone is 14 tokens of the 9"),
        (["data.colum=a"], ConfigError, "unknown key 'data.colum'"),
        (["task.thaw=lora", 'lora.patterns=["q_proj"]'], ModelError, "pattern 'q_proj' matches 0"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(base, rows, tmp_path, words, kind, message):
    out = tmp_path / "a"
    with pytest.raises(kind, match=message):
        tuning.finetune(*WORDS, f"model={base}", f"data.source={rows}", *words, f"out={out}")
    assert not list(out.glob("step-*"))


def test_a_folder_holds_one_run(run, base, rows):
    words = [*WORDS, *LONGER, f"model={base}", f"data.source={rows}", f"out={run.path}"]
    with pytest.raises(CheckpointError, match=r"already has .* checkpoint\. Go on with --resume"):
        tuning.finetune(*words)
    with pytest.raises(ConfigError, match=r"was begun with other settings \(task.thaw: block -> head\)"):
        tuning.finetune(*words, "task.thaw=head", resume=True)


def test_the_settings_for_the_real_messages_can_be_read():
    settings = read_tuning([Path(__file__).parents[2] / "configs" / "spam.toml", "model=any"])
    assert (settings.data.source, settings.data.split, settings.task.thaw) == ("sms-spam", "leak-free", "block")
    assert settings.train.steps == 100
    assert settings.train.learning_rate == 3e-4  # where nothing is said, the gentle settings


def test_a_model_must_be_named():
    with pytest.raises(FirsthandError, match="'model' is needed and has no default"):
        read_tuning([])
