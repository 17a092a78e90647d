"""prove and inspect: what they print, what they write, and the exit code."""

import contextlib
import io
import json
import re
from dataclasses import replace

import kit
import pytest

from firsthand.checkpoint import bundle as bundles
from firsthand.cli import look
from firsthand.cli.main import main
from firsthand.evaluate.forms import FORMS, Form, one_by_one, opened
from firsthand.model.gpt import GPT
from firsthand.run import look as looking
from firsthand.tokenizer.bpe import Tokenizer

TEXT = "the quick brown fox jumps over the lazy dog, and nobody counts how often. " * 9


def tokenizer():
    special = {"<|endoftext|>": 256}
    return Tokenizer([*(bytes([byte]) for byte in range(256)), b"<|endoftext|>"], [], special_tokens=special)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model in a folder, with a text beside it."""
    folder = tmp_path_factory.mktemp("look")
    (folder / "words.txt").write_text(TEXT, encoding="utf-8")
    wide = {
        "d_model": 64,
        "n_head": 4,
        "n_kv_head": 2,
        "d_head": 16,
        "d_ff": 96,
    }  # rows that can be cut into blocks of 32
    made = GPT(replace(kit.VARIANTS["llama"], vocab_size=257, context_length=47, **wide))
    return bundles.save(folder / "model", made, tokenizer(), {})


def words(model, *more):
    return ["prove", str(model), "--text", str(model.parent / "words.txt"), "--tokens", "90", *more]


@pytest.fixture(scope="module")
def proven(model):
    """The whole proof, once."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(words(model, "--json")) == 0
    return json.loads(out.getvalue())


def test_a_proof_as_json_is_one_object_with_everything(proven, model):
    assert proven["exact"] is True and proven["tokens"] == 90
    assert proven["model"] == str(model) and proven["text"].endswith("words.txt")
    assert [row["form"] for row in proven["rows"]] == [form.name for form in FORMS]
    verdicts = {row["form"]: row["verdict"] for row in proven["rows"]}
    assert verdicts["GGUF F32"] == verdicts["Hugging Face"] == verdicts["own file"] == "exact"
    assert verdicts["GGUF Q8_0"] == verdicts["GGUF Q4_0"] == "drift"
    kl = {row["form"]: row["kl"] for row in proven["rows"]}
    assert kl["GGUF Q4_0"] > kl["GGUF Q8_0"] > 0 == kl["own file"]


def test_a_proof_is_a_line_for_each_form_and_ends_with_the_verdict(proven, capsys):
    look.proven(proven)
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert " on 90 tokens of " in lines[0]
    assert re.search(r"^fused attention +exact +\d", out, re.M)
    assert re.search(r"^GGUF Q4_0 +drift +\d", out, re.M)
    assert re.search(r"^window cache +not run", out, re.M)
    assert "window cache: this model looks back at all tokens" in out
    assert re.search(r"^static +512 +1$", out, re.M) and re.search(r"^int8 +160 +0.31$", out, re.M)
    assert re.fullmatch(r"1\d exact forms, all exact; 1\d drift, as measured; \d not run\.", lines[-1])


def test_a_form_that_is_not_exact_ends_with_exit_code_1(model, monkeypatch, capsys):
    def wrong(model, rows):
        return (scores * 1.001 for scores in one_by_one(model, rows))

    monkeypatch.setattr(looking, "FORMS", (*FORMS[:2], Form("wrong", "a thousandth off", True, opened(wrong))))
    assert main(words(model)) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "NOT EXACT: wrong. This is not the same model; please report it."


def test_what_goes_on_is_said_on_stderr_before_it_starts(model, monkeypatch, capsys):
    monkeypatch.setattr(looking, "FORMS", FORMS[:2])
    monkeypatch.setattr(look, "SECONDS", 0.0)
    assert main(words(model)) == 0
    err = capsys.readouterr().err
    assert re.search(r"^0 of 2 forms, next: reference; about \d+ s to go$", err, re.M)
    assert re.search(r"^1 of 2 forms, next: chosen attention; about \d+ s to go$", err, re.M)


def test_a_choice_shows_what_stood_there_and_no_control_character(proven, capsys):
    at = {"row": 0, "position": 6, "before": "a\x1b[2J b", "reference": " is", "form": "\n", "margin": 0.1}
    row = proven["rows"][0] | {"first_other": at | {"probabilities": [0.31, 0.3]}, "same_greedy": 0.9876}
    look.proven(proven | {"rows": [row]})
    out = " ".join(capsys.readouterr().out.split())
    assert "\x1b" not in out and "98.76%" in out
    assert "after “…a\\x1b[2J·b” (row 1, token 7) “\\n” instead of “·is”; to the reference 30.0% and 31.0%" in out


def test_a_report_of_a_model_that_is_no_run_is_a_page_of_its_own(model, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(looking, "FORMS", FORMS[:2])
    monkeypatch.chdir(tmp_path)
    assert main(words(model, "--report")) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "wrote runs/proof-model.html"
    assert "Is every form the same model?" in (tmp_path / "runs/proof-model.html").read_text(encoding="utf-8")


def test_inspect_shows_a_row_for_each_layer_and_json_holds_the_rest(model, capsys):
    assert main(["inspect", str(model), "the fox"]) == 0
    out = capsys.readouterr().out
    assert [len(re.findall(rf"^{name} ", out, re.M)) for name in ("embedding", "layer 1", "layer 2")] == [1, 1, 1]
    assert main(["inspect", str(model), "the fox", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["model"] == str(model) and len(facts["attention"]) == 2 and len(facts["tokens"]) == 7


def test_inspect_draws_a_png(model, tmp_path, capsys):
    assert main(["inspect", str(model), "the fox", "--png", str(tmp_path / "trace.png")]) == 0
    assert (tmp_path / "trace.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert capsys.readouterr().out.split() == ["wrote", str(tmp_path / "trace.png")]
