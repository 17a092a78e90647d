"""data check and data mask: what they print, what they write, and the exit code."""

import json
import re

import pytest

from firsthand.cli import audit as verbs
from firsthand.cli import show
from firsthand.cli.main import main
from firsthand.run import audit as runs
from firsthand.study.audit import audit_chapter, mask_chapter
from firsthand.study.page import page
from firsthand.tokenizer.bpe import Tokenizer

EVIL = "</script><img src=x onerror=alert(1)>\x1b]0;title\x07"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Records of several kinds beside a tokenizer of bytes."""
    folder = tmp_path_factory.mktemp("audit")
    special = {"<|endoftext|>": 256}
    Tokenizer([*(bytes([byte]) for byte in range(256)), b"<|endoftext|>"], [], special_tokens=special).save(
        folder / "t"
    )

    def write(name, rows):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("good.jsonl", [{"prompt": f"Question {at}?", "completion": "Yes."} for at in range(40)])
    write("leaky.jsonl", [{"prompt": "question 7", "completion": "No."}])
    write("evil.jsonl", [{"prompt": EVIL, "completion": EVIL}] * 3)
    write("bad.jsonl", [{"prompt": "a", "completion": "b"}, {"prompt": "a"}])
    write("pairs.jsonl", [{"prompt": f"Q{at}", "chosen": "Yes", "rejected": EVIL} for at in range(40)])
    (folder / "spam.csv").write_text(
        "text,label\n" + "".join(f"text {at},{'ham' if at % 9 else 'spam'}\n" for at in range(60))
    )
    return folder


@pytest.fixture
def run(folder, capsys, monkeypatch):
    """Run a command with that tokenizer in the folder; exit code, stdout, stderr."""
    monkeypatch.chdir(folder)

    def run(*words):
        code = main(["data", *words, "--tokenizer", "t"])
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


def test_a_good_set_is_ready(run):
    code, out, _ = run("check", "good.jsonl")
    assert code == 0 and "ready to learn from" in out
    assert re.search(r"train +32 +32 +0 +0", out) and re.search(r"test +4 +4", out)
    assert "leaks: 0 validation in train, 0 test in train, 0 test in validation" in out


def test_a_leak_ends_with_code_2_and_a_mend_unless_allowed(run):
    code, out, err = run("check", "good.jsonl", "--test", "leaky.jsonl")
    assert code == 2 and "STOP" in out and "ready" not in out
    assert (
        err.count("\n") == 1
        and "1 of 1 questions of the test part stand in train too (leaky.jsonl:1 = good.jsonl:8)" in err
    )
    assert run("check", "good.jsonl", "--test", "leaky.jsonl", "--allow-leakage")[0] == 0


def test_bad_rows_are_listed_with_their_places(run):
    code, out, err = run("check", "bad.jsonl")
    assert code == 2 and "train: 1 dropped, wrong columns" in out and "bad.jsonl:2:1" in out
    assert "1 of 2 rows of the train part are bad" in err or "is empty" in err


def test_json_holds_everything_under_stable_names(run):
    code, out, _ = run("check", "spam.csv", "--json")
    facts = json.loads(out)
    assert code == 0 and facts["kind"] == "label" and facts["ready"]
    assert facts["parts"]["train"]["labels"].keys() == {"ham", "spam"}
    assert {
        "source",
        "style",
        "context_length",
        "duplicates",
        "near",
        "leaks",
        "near_leaks",
        "findings",
    } <= facts.keys()
    code, out, _ = run("mask", "pairs.jsonl", "--count", "2", "--json")
    rows = json.loads(out)["rows"]
    assert code == 0 and [row["answer"] for row in rows] == ["chosen", "rejected"] * 2
    assert rows[0]["tokens"][0].keys() == {"id", "token", "role", "trained", "weight"}


def test_the_mask_marks_what_is_learned_where_there_are_no_colours(run):
    code, out, _ = run("mask", "good.jsonl", "--count", "1")
    assert code == 0
    assert "[Y][e][s][.][<|endoftext|>]" in out and "Q|u|e|s|t|i|o|n|·|0|?|" in out
    assert re.search(r"good.jsonl:1 +5 of \d+ tokens learned, weight 0.2 each", out)


def test_the_mask_has_colours_on_a_terminal(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(show.console, "_force_terminal", True)
    chips = [verbs._chip({"token": "a", "trained": now, "role": "user"}) for now in (True, False)]
    styles = [chip.spans[0].style for chip in chips]
    assert styles[0].underline and styles[0].bgcolor != styles[1].bgcolor and not styles[1].underline


def test_nothing_that_stands_in_the_data_reaches_the_terminal_or_the_page_as_it_is(run, folder):
    for words in (("check", "evil.jsonl", "--out", "check.html"), ("mask", "evil.jsonl", "--out", "mask.html")):
        _, out, _ = run(*words)
        assert "\x1b" not in out and "\x07" not in out
        html = (folder / words[-1]).read_text()
        assert "<img" not in html and "</script>" not in html and "<script" not in html
        assert html.count("<section") == 1


def test_the_page_shows_the_numbers_and_the_mask(folder, monkeypatch):
    monkeypatch.chdir(folder)
    made = runs.check("good.jsonl", tokenizer="t", test="leaky.jsonl")
    html = page("Title", "", [audit_chapter({"source": "good.jsonl", **made.facts()})], "")
    assert "leaky.jsonl:1 = good.jsonl:8" in html and "<svg" in html and "stop" in html
    masked = runs.masked("good.jsonl", tokenizer="t", count=1)
    html = page("Title", "", [mask_chapter(masked)], "")
    assert html.count('class="chip c2 learned"') == 5  # Yes. and the end
    assert 'title="assistant, learned, weight 0.2"' in html


@pytest.mark.parametrize(
    "words, said",
    [
        (("check", "nothing.jsonl"), "the catalog has no 'nothing.jsonl'"),
        (("check", "good.jsonl", "--style", "chatml"), "no special token of this tokenizer"),
        (("check", "good.jsonl", "--style", "chatlm"), "Did you mean 'chatml'?"),
        (("check", "good.jsonl", "--context", "-1"), "--context -1 is no length"),
        (("check", "good.jsonl", "--model", "m"), "leave out --tokenizer t"),
        (("check", "t"), "folder t has no"),
        (("mask", "spam.csv"), "texts with labels: none of their tokens is learned"),
        (("mask", "good.jsonl", "--first", "41"), "--first 41 is not there: 40 examples fit"),
        (("mask", "good.jsonl", "--first", "0"), "Use 1 to 40"),
        (("mask", "good.jsonl", "--context", "3"), "no row of good.jsonl can be used within 3 tokens"),
    ],
)
def test_mistakes_end_in_one_line(run, words, said):
    code, _, err = run(*words)
    assert code == 2 and err.count("\n") == 1 and len(err) <= 290
    assert said in err
