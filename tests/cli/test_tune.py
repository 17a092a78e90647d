"""finetune and classify at the command line: what is said before, shown after, and refused."""

import json
from dataclasses import replace

import pytest

from firsthand.checkpoint import bundle
from firsthand.cli.main import main
from firsthand.model.config import FAST, ModelConfig
from firsthand.model.gpt import GPT
from firsthand.tokenizer.bpe import Tokenizer
from firsthand.tokenizer.chat import STYLES

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


@pytest.fixture(scope="module")
def talks(tmp_path_factory):
    """A tiny model that speaks in turns, answers and pairs."""
    folder = tmp_path_factory.mktemp("talks")
    end = {"<|endoftext|>": 256}
    tokenizer = Tokenizer([*(bytes([i]) for i in range(256)), b"<|endoftext|>"], [], special_tokens=end)
    model = GPT(replace(SHAPE, vocab_size=257, context_length=72))
    model.initialise(0)
    bundle.save(folder / "model", model, tokenizer, {}, template=STYLES["plain"].ending("<|endoftext|>").jinja)
    asked = [
        {"prompt": f"{a} {b}?", "completion": "yes", "chosen": "yes", "rejected": "no"} for a in THINGS for b in THINGS
    ]
    for name in ("completion", "chosen"):
        left = {"completion": ("chosen", "rejected"), "chosen": ("completion",)}[name]
        rows = [{key: value for key, value in row.items() if key not in left} for row in asked]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "bad.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n")
    (folder / "general.txt").write_text(" ".join(THINGS) * 9)
    return folder


@pytest.mark.parametrize(
    ("kind", "source", "words"),
    [
        ("instruct", "completion", ("loss of the answers", "exactly the answer", "ROUGE-L", "bits per byte of other")),
        (
            "prefer",
            "chosen",
            ("loss of the pairs", "pairs in order", "log-probability of rejected answers", "bits per"),
        ),
    ],
)
def test_answers_and_preferences_are_looked_at_before_and_measured_after(talks, kind, source, words, capsys):
    asked = ["finetune", str(talks / "model"), f"task.kind={kind}", f"data.source={talks / source}.jsonl", *WORDS[1:],
             f"data.general={talks / 'general.txt'}", f"out={talks / kind}"]  # fmt: skip
    assert main([*asked, "--dry-run"]) == 0
    planned = capsys.readouterr().out
    assert f'kind = "{kind}"' in planned and "learned share" in planned and "time about" in planned
    assert main(asked) == 0
    said = capsys.readouterr()
    assert "144 rows, by question: train 116; validation 14; test 14; 0 dropped, 0 shortened" in said.err
    assert "0 test questions are in training too" in said.err and "parameters learn" in said.err
    for word in (*words, "untuned", "its interval", f"next:  firsthand chat {talks / kind}"):
        assert word in said.out
    assert main(asked) == 2
    assert "already has 1 checkpoint" in capsys.readouterr().err


def test_rows_are_shown_also_where_they_are_refused(talks, capsys):
    words = [str(talks / "model"), "task.kind=instruct", f"data.source={talks / 'bad.jsonl'}", f"out={talks / 'no'}"]
    assert main(["finetune", *words, f"data.general={talks / 'general.txt'}"]) == 2
    *before, last = capsys.readouterr().err.splitlines()
    assert before[0].startswith("1 rows, by question: train")
    assert last.startswith("firsthand: error: the ") and "part is empty" in last


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
