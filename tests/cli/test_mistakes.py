"""Everyday mistakes end in one line: what was given, where, what is allowed, how to go on; exit code 2, no traceback.

Each is made through the command line, as its user would make it. The numbers are those of docs/errors.md.
"""

import itertools
import json
import os
from pathlib import Path

import pytest

from firsthand.cli.main import main

TINY = (
    "tokenizer.kind=char",
    "model.n_layer=1",
    "model.n_head=2",
    "model.d_model=8",
    "model.context_length=8",
    "train.steps=2",
    "train.batch_size=2",
    "train.dtype=float32",
    "train.device=cpu",
)
TEXT = "To be, or not to be, that is the question:\nWhether 'tis nobler in the mind to suffer\n" * 8


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a text, and a finished run."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "hamlet.txt").write_text(TEXT)
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["train", *TINY, "data.source=hamlet.txt", "out=runs/a"]) == 0
        yield folder
    finally:
        os.chdir(before)


@pytest.fixture
def told(home, capsys, monkeypatch):
    """Run a command that must fail, and give the one line it says."""
    monkeypatch.chdir(home)

    def run(*words: str, code: int = 2) -> str:
        capsys.readouterr()
        assert main(list(words)) == code
        out = capsys.readouterr()
        lines = [line for line in out.err.splitlines() if line.startswith("firsthand: error: ")]
        assert len(lines) == 1, out.err
        assert "Traceback" not in out.err
        return lines[0]

    return run


NUMBER = itertools.count()


def train(*words: str) -> tuple[str, ...]:
    return ("train", *TINY, f"out=runs/new{next(NUMBER)}", *words)


def has(message: str, *parts: str) -> None:
    missing = [part for part in parts if part not in message]
    assert not missing, f"{missing} not in: {message}"
    assert len(message) <= 260, f"{len(message)} characters: {message}"


def test_e1_a_tokenizer_of_another_size(told, home):
    folder = sorted((home / "runs/a").glob("step-*"))[-1]
    config = json.loads((folder / "config.json").read_text())
    from firsthand import files
    from firsthand.tokenizer.simple import CharTokenizer

    other = home / "other"
    content = {name: (folder / name).read_bytes() for name in ("model.safetensors", "config.json", "firsthand.json")}
    CharTokenizer.train(TEXT + "ßü").save(home / "other-tokenizer")
    content["tokenizer.json"] = (home / "other-tokenizer" / "tokenizer.json").read_bytes()
    files.publish(other, content)
    size = config["vocab_size"]
    has(told("info", "other"), f"tokenizer has {size + 2} tokens", f"{size} embedding rows", "[FH001]")


def test_e2_a_prompt_longer_than_the_context(told):
    message = told("generate", "runs/a", "To be, or not to be", "--max-tokens", "4", "--top-k", "0")
    has(message, "prompt is 19 tokens", "context is 8", "max_tokens is 4", "Shorten the prompt by 15 tokens", "[FH002]")


def test_e8_a_gpu_that_is_not_there(told, home):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    has(told(*train("data.source=hamlet.txt", "train.device=cuda")), "device=cuda", "train.device=cpu", "[FH008]")


def test_e16_a_negative_temperature(told):
    has(
        told("generate", "runs/a", "To", "--temperature=-1"), "temperature is -1", "between 0 (greedy) and 2", "[FH016]"
    )


def test_e17_top_k_above_the_vocabulary(told):
    message = told("generate", "runs/a", "To", "--max-tokens", "2", "--top-k", "60000")
    has(message, "top_k is 60000", "vocabulary has", "0 to turn it off", "[FH017]")


def test_e20_a_pointer_instead_of_weights(told, home):
    folder = home / "pointer"
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    has(told("info", "pointer"), "Git LFS pointer", "git lfs pull", "[FH020]")


def test_e21_a_pickle(told, home):
    (home / "old.pt").write_bytes(b"PK\x03\x04" + bytes(60))
    has(told("info", "old.pt"), "old.pt", "pickle", "[FH021]")


def test_e22_a_damaged_newest_checkpoint_is_passed_over(told, home):
    folder = sorted((home / "runs/a").glob("step-*"))[-1]
    damaged = home / "runs/damaged" / folder.name
    damaged.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    (damaged / "config.json").write_bytes((folder / "config.json").read_bytes().replace(b"1", b"2", 1))
    has(told("info", "runs/damaged"), "config.json", "[FH022]")


def test_e23_nothing_to_resume(told):
    has(told(*train("data.source=hamlet.txt", "out=runs/none"), "--resume"), "runs/none", "--resume", "[FH023]")


def test_e25_a_folder_that_holds_a_run(told):
    message = told("train", *TINY, "data.source=hamlet.txt", "out=runs/a")
    has(message, "runs/a already has 1 checkpoint", "--resume", "out=", "[FH025]")


def test_e25_a_run_that_goes_on_with_other_settings(told):
    message = told("train", *TINY, "data.source=hamlet.txt", "out=runs/a", "train.steps=9", "--resume")
    has(message, "train.steps: 2 -> 9", "runs/a", "[FH025]")


def test_e26_an_empty_text(told, home):
    (home / "empty.txt").write_text("")
    has(told(*train("data.source=empty.txt")), "empty.txt", "[FH026]")


def test_e27_a_line_that_is_not_json(told, home):
    lines = [json.dumps({"text": f"line {n}"}) for n in range(5)] + ['{"text": "a" "b"}']
    (home / "bad.jsonl").write_text("\n".join(lines))
    has(told(*train("data.source=bad.jsonl")), "bad.jsonl:6", "not JSON", "[FH027]")


def test_e28_another_encoding(told, home):
    (home / "latin.txt").write_bytes("Eine schöne Geschichte\n".encode("latin-1") * 9)
    has(told(*train("data.source=latin.txt")), "latin.txt", "0xF6", "latin-1", "[FH028]")


def test_e29_a_text_shorter_than_the_context(told):
    message = told(*train("data.source=hamlet.txt", "model.context_length=1024"))
    has(message, "less than one window of 1,024", "model.context_length=", "[FH029]")


def test_e30_no_room_for_validation(told, home):
    (home / "two.jsonl").write_text(json.dumps({"text": TEXT}) + "\n" + json.dumps({"text": TEXT + "."}))
    message = told(*train("data.source=two.jsonl", "data.validation_fraction=0.01"))
    has(message, "data.validation_fraction=0.01 of 2 documents leaves none for validation", "or more", "[FH030]")


def test_e31_heads_that_do_not_divide_the_width(told):
    message = told(*train("data.source=hamlet.txt", "model.d_model=768", "model.n_head=10"))
    has(message, "n_head 10 does not divide d_model 768", "8 or 12", "[FH031]")


def test_e33_a_key_that_does_not_exist(told, home):
    (home / "c.toml").write_text("[train]\nlearnig_rate = 0.1\n")
    message = told("train", "c.toml")
    has(message, "unknown key 'train.learnig_rate' (c.toml:2)", "Did you mean 'learning_rate'?", "[FH033]")


def test_e34_a_value_out_of_range(told):
    has(told(*train("train.learning_rate=3")), "train.learning_rate is 3", "less than or equal to 1")


def test_a_file_that_does_not_exist(told):
    has(told(*train("data.source=nowhere.txt")), "nowhere.txt")


def test_a_model_that_does_not_exist(told):
    has(told("generate", "runs/zzz", "To"), "runs/zzz", "runs/a")


def test_an_unknown_verb_and_an_unknown_flag_exit_with_2(capsys):
    assert main(["generat"]) == 2
    assert "firsthand: error:" in capsys.readouterr().err
    assert main(["train", "--nonsense", "3"]) == 2


def test_debug_shows_the_traceback(home, capsys, monkeypatch):
    monkeypatch.chdir(home)
    assert main(["info", "runs/zzz", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err
