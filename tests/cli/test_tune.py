"""finetune and classify at the command line: what is said before, shown after, and refused."""

import json

import pytest

from firsthand.checkpoint import bundle
from firsthand.cli.main import main
from firsthand.model.config import FAST, ModelConfig
from firsthand.model.gpt import GPT
from firsthand.tokenizer.bpe import Tokenizer

SHAPE = ModelConfig(**(FAST | {"vocab_size": 256, "context_length": 40, "n_layer": 2, "n_head": 2, "d_model": 16}))
WORDS = (
    "data.test_fraction=0.3", "train.batch_size=6", "train.steps=4", "train.warmup=1", "train.eval_every=0",
    "train.device=cpu", "train.dtype=float32",
)  # fmt: skip
THINGS = ["boat", "coat", "dove", "fern", "gate", "hill", "iron", "jade", "kite", "lamp", "moon", "nest"]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """What names a tiny model, a tiny data set, and a folder."""
    folder = tmp_path_factory.mktemp("tune")
    tokenizer = Tokenizer([bytes([i]) for i in range(256)], [])
    base = bundle.save(folder / "model", GPT(SHAPE), tokenizer, {})
    lines = [f"{a} {b}\t{('loud', 'quiet')[n % 2]}" for n, a in enumerate(THINGS) for b in THINGS[:7]]
    (folder / "rows.tsv").write_text("\n".join(["text\tlabel", *lines]) + "\n")
    return [str(base), f"data.source={folder / 'rows.tsv'}", f"out={folder / 'run'}", *WORDS]


def test_a_run_says_its_rows_and_cost_before_and_its_worth_after_and_classifies(words, capsys):
    assert main(["finetune", *words]) == 0
    said = capsys.readouterr()
    assert "leak-free split of 84 rows: train" in said.err
    assert "0 test texts are in training too" in said.err
    assert "parameters learn; frozen layers read" in said.err
    for word in ("bag of words", "majority", "95 % interval", "McNemar p", "precision", "next:  firsthand classify"):
        assert word in said.out
    folder = words[2].removeprefix("out=")
    assert main(["classify", folder, "boat dove", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["label"] == next(iter(told["probabilities"]))
    assert main(["classify", folder, "boat dove " * 9]) == 0
    shown = capsys.readouterr()
    assert "%  loud" in shown.out and "%  quiet" in shown.out
    assert "longer than what the model reads" in shown.err
    assert main(["finetune", *words]) == 2
    assert "already has 1 checkpoint" in capsys.readouterr().err


def test_a_dry_run_prints_settings_rows_and_cost(words, capsys):
    assert main(["finetune", *words, "out=nowhere", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    for word in ('thaw = "block"', "train labels", "loud", "parameters learned", "trunk bytes", "time about"):
        assert word in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["finetune", "nowhere/at/all", "data.source=rows.tsv"], "has no 'rows.tsv'"),
        (["finetune", "smollm2-135m-instruct", "task.thaw=nothing"], "task.thaw is 'nothing'"),
        (["classify", "nowhere/at/all", "hello"], "there is no model at 'nowhere/at/all'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words, message, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("firsthand: error: ")
    assert message in error
