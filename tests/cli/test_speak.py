"""generate and chat as their user meets them: what goes to stdout, what to stderr, and what is refused before work."""

import io
import json
import re
from dataclasses import replace
from math import exp

import pytest
import torch
from kit import VARIANTS

from firsthand.checkpoint import bundle as bundles
from firsthand.cli import speak
from firsthand.cli.main import main
from firsthand.model.gpt import GPT
from firsthand.tokenizer.bpe import Tokenizer

SPECIAL = {"<|endoftext|>": 256, "<|im_start|>": 257, "<|im_end|>": 258}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models that know nothing: one continues text, one speaks in turns."""
    home = tmp_path_factory.mktemp("models")
    tokenizer = Tokenizer([bytes([b]) for b in range(256)] + [name.encode() for name in SPECIAL], [], "gpt2", SPECIAL)
    torch.manual_seed(0)
    model = GPT(replace(VARIANTS["llama"], vocab_size=259, context_length=700))
    bundles.save(home / "text", model, tokenizer, {})
    bundles.save(home / "turns", model, tokenizer, {"ends": [258]}, template="chatml")
    (home / "schema.json").write_text('{"type": "array", "items": {"enum": [1, "a"]}, "maxItems": 2}')
    (home / "broken.json").write_text('{"type": ')
    return home


@pytest.fixture
def run(models, capsys, monkeypatch):
    """Run a command in the folder of the models; give its exit code, stdout and stderr."""
    monkeypatch.chdir(models)

    def command(*words: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        code = main(list(words))
        out = capsys.readouterr()
        return code, out.out, out.err

    return command


def test_generate_prints_the_text_on_stdout_and_how_it_went_on_stderr(run):
    code, out, err = run("generate", "text", "To be", "--max-tokens", "5", "--seed", "3")
    assert code == 0
    assert out.startswith("To be")
    assert err.startswith("[5 tokens, ")
    assert "a second, cut at --max-tokens; fast engine, float32 weights, float32 activations, " in err
    assert run("generate", "text", "To be", "--max-tokens", "5", "--seed", "3")[1] == out


def test_generate_as_json_is_one_object_with_stable_keys(run):
    code, out, err = run("generate", "text", "To be", "--max-tokens", "4", "--logprobs", "2", "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert list(found) == ["prompt", "text", "finish", "tokens", "seconds", "engine", "lookup"]
    assert (found["prompt"], found["finish"], found["lookup"]) == ("To be", "length", None)
    assert len(found["tokens"]) == 4
    for token in found["tokens"]:
        assert list(token) == ["id", "token", "logprob", "top"]
        assert token["logprob"] <= token["top"][0]["logprob"]
        assert [list(other) for other in token["top"]] == [["id", "token", "logprob"]] * 2


def test_logprobs_are_shown_as_a_line_for_every_token(run):
    words = ("generate", "text", "To be", "--max-tokens", "3", "--logprobs", "2")
    rows = json.loads(run(*words, "--json")[1])["tokens"]
    lines = run(*words)[1].splitlines()[-3:]
    for row, line in zip(rows, lines, strict=True):
        assert f"{exp(row['logprob']):.2%}" in line
        assert f"{exp(row['top'][1]['logprob']):.1%}" in line


def test_lookup_gives_the_same_text_and_counts_its_guesses(run):
    words = ("generate", "text", "abcabcabc", "--max-tokens", "9", "--temperature", "0")
    plain, guessed = run(*words)[1], run(*words, "--lookup", "4")
    assert guessed[1] == plain
    assert " guesses right, " in guessed[2]
    counts = json.loads(run(*words, "--lookup", "4", "--json")[1])["lookup"]
    assert counts["guessed"] >= counts["right"]
    assert counts["passes"] >= 9 - counts["right"]


def test_beams_come_with_their_scores_the_best_first(run):
    words = ("generate", "text", "To be", "--max-tokens", "6", "--temperature", "0", "--beams", "3")
    found = json.loads(run(*words, "--json")[1])
    assert list(found) == ["prompt", "text", "finish", "beams"]
    scores = [beam["score"] for beam in found["beams"]]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(found["beams"][0]["logprob"] / 6)
    code, _, err = run(*words)
    assert code == 0
    assert len(err.splitlines()) == 3


def test_an_answer_under_a_schema_is_json(run):
    for seed in ("1", "2", "3"):
        out = run("generate", "text", "x", "--schema", "schema.json", "--seed", seed, "--json")[1]
        found = json.loads(out)
        assert found["finish"] == "end"
        assert set(json.loads(found["text"])) <= {1, "a"}
    steps = json.loads(run("generate", "text", "x", "--schema", "schema.json", "--explain", "--json")[1])
    assert [step["name"] for step in steps] == ["schema", "temperature 0.8", "top-k 40"]
    assert steps[0]["kept"] == 1


@pytest.mark.parametrize("model", ["text", "turns"])
def test_chat_answers_one_question_and_ends(run, model):
    words = ("chat", model, "Who are you?", "--max-tokens", "6", "--seed", "1")
    code, _, err = run(*words, stdin="never read")
    assert code == 0
    found = json.loads(run(*words, "--json")[1])
    assert list(found) == ["text", "finish", "tokens", "seconds", "engine", "lookup"]
    assert err.startswith(f"[{len(found['tokens'])} tokens, ")


@pytest.mark.parametrize("model", ["text", "turns"])
def test_chat_answers_the_lines_of_a_pipe_one_by_one(run, model):
    words = ("chat", model, "--max-tokens", "4", "--temperature", "0", "--json")
    out = run(*words, stdin="Hello\n\nAnd you?\n")[1]
    first, second = map(json.loads, out.splitlines())
    assert json.loads(run(*words[:2], "Hello", *words[2:])[1])["text"] == first["text"]
    assert second["text"] != "" or second["finish"] == "end"


def test_a_chat_model_is_spoken_to_in_turns_and_another_is_not(run, monkeypatch):
    asked = []
    monkeypatch.setattr(GPT, "hidden", lambda model, ids, cache: asked.append(ids[0].tolist()) or 1 / 0)
    for model in ("text", "turns"):
        run("chat", model, "Hi", "--system", "" if model == "text" else "Be brief", "--engine", "plain")
    assert asked[0] == list(b"Hi")
    text = "system\nBe brief\n|user\nHi\n|assistant\n"
    parts = [list(part.encode()) for part in text.split("|")]
    expected = [257, *parts[0][:-1], 258, 10, 257, *parts[1][:-1], 258, 10, 257, *parts[2]]
    assert asked[1] == expected


def test_the_engine_says_what_plain_torch_says_and_which_of_them_spoke(run):
    words = ("generate", "text", "To be", "--max-tokens", "40", "--temperature", "0", "--json")
    fast, plain = (json.loads(run(*words, "--engine", engine)[1]) for engine in ("fast", "plain"))
    assert fast["text"] == plain["text"]
    assert fast["engine"].startswith("fast engine, float32 weights") and plain["engine"] == "plain torch"
    beams = (*words, "--beams", "3")
    found = [json.loads(run(*beams, "--engine", engine)[1])["beams"] for engine in ("fast", "plain")]
    assert [beam["ids"] for beam in found[0]] == [beam["ids"] for beam in found[1]]
    guessed = json.loads(run(*words, "--lookup", "4")[1])
    assert guessed["text"] == plain["text"] and guessed["lookup"]["guessed"] > 0


def test_an_engine_that_rounds_says_how_far_off_it_is(run):
    words = ("generate", "text", "To be", "--max-tokens", "4", "--weights", "int8", "--activations", "int8")
    code, _, err = run(*words)
    assert code == 0
    found = re.search(
        r"not exact\. On 128 tokens of text (\S+) nats from the model itself, the same likeliest token", err
    )
    assert found and 0 < float(found[1]) < 0.1


def test_what_the_engine_cannot_do_is_said_before_it_starts(run):
    words = ("generate", "text", "To be", "--max-tokens", "4")
    for given, message in (
        (("--engine", "plain", "--weights", "int8"), "--weights belong to the fast engine, and --engine is plain"),
        (("--activations", "int8"), "activations of int8 need weights that are whole numbers, not float32"),
        (("--threads", "0"), "threads is 0; the fast engine takes 1 to 256"),
    ):
        code, out, err = run(*words, *given)
        assert (code, out) == (2, "") and message in err


def test_a_conversation_that_outgrows_the_context_ends_with_the_way_out(run):
    code, _, err = run("chat", "turns", stdin=f"{'long ' * 60}\n")
    assert code == 2
    assert "prompt is " in err and "lower max_tokens to " in err and "[FH002]" in err


def test_a_system_turn_for_a_model_without_turns_is_refused(run):
    code, _, err = run("chat", "text", "Hi", "--system", "Be brief")
    assert code == 2
    assert "this model has no chat template" in err


@pytest.mark.parametrize("one, other, why", speak.CLASHES)
def test_what_makes_no_sense_together_is_refused_before_a_model_is_looked_for(run, one, other, why):
    values = {"explain": [], "stop": ["x"], "schema": ["schema.json"]}
    flags = [
        word
        for name in (one, other)
        for word in (f"--{name}", *values.get(name, ["1.5" if "penalty" in name else "2"]))
    ]
    code, _, err = run("generate", "nowhere", "x", "--temperature", "0", *flags)
    assert code == 2
    assert err == f"firsthand: error: --{one} and --{other} exclude each other: {why}. Leave one out\n"


@pytest.mark.parametrize(
    "words, message",
    [
        (["--beams", "3"], "--beams looks for the likeliest text and draws nothing. Add --temperature 0"),
        (["--length-penalty", "2"], "--length-penalty 2 is for beams, and --beams is 0. Try --beams 4"),
        (["--schema", "nowhere.json"], "nowhere.json"),
        (["--schema", "broken.json"], "broken.json"),
        (["--schema", "schema.json", "--stop", "x"], "a stop text would cut the schema short"),
        (["--presence-penalty", "3"], "presence_penalty is 3.0; it must be between -2 and 2"),
        (["--lookup=-1"], "lookup is -1; it must be 0 or more"),
    ],
)
def test_settings_are_refused_before_a_model_is_looked_for(run, words, message):
    code, _, err = run("generate", "nowhere", "x", *words)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert len(err.splitlines()) == 1


def test_a_search_needs_a_beam_and_a_token(run):
    for words in (["--beams", "2", "--max-tokens", "0"], ["--beams=-2"]):
        code, _, err = run("generate", "text", "x", "--temperature", "0", *words)
        assert code == 2
        assert "a search needs at least 1 of both" in err
