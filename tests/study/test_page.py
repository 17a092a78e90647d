"""A report asks for nothing, runs nothing, and shows hostile text as text."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from firsthand.errors import CheckpointError
from firsthand.run import audit as audits
from firsthand.study import chapters, page, plots, report
from firsthand.study.attention import attention_grid, attention_map
from firsthand.study.audit import audit_page, mask_page
from firsthand.study.choices import choices
from firsthand.study.embeddings import embedding_map, neighbours
from firsthand.study.tokens import token_lengths, window_picture
from firsthand.tokenizer.bpe import Tokenizer

PAYLOADS = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"><svg/onload=alert(1)>",
    "' onmouseover='alert(1)",
    "</style><style>*{background:url(https://evil.example)}",
    "</title></textarea></pre></code><iframe src=https://evil.example>",
    "<!-- --><script>alert(1)</script><!--",
    "]]><x:script xmlns:x='http://www.w3.org/1999/xhtml'>alert(1)</x:script>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "<a href=javascript:alert(1)>x</a>",
    "<base href=https://evil.example/><meta http-equiv=refresh content='0;url=https://evil.example'>",
    "$\\frac{1}{0}$ $x$ \\input{/etc/passwd}",
    "\x00\x07\x1b]0;title\x07\u2028\u2029\u202e\ufeff\ud800 \U000e0041",
    "{{7*7}} ${7*7} %s %(x)s",
]  # fmt: skip
TAGS = set(
    re.findall(
        r"\w+",
        """html head meta title style body header h1 h2 h3 p nav ol li a main section figure div figcaption details
        summary table thead tbody tr th td span b i dl dt dd pre code footer svg g path defs clippath rect use
        text image""",
    )
)


class Reader(HTMLParser):
    """Every tag and attribute of a page, as a browser would see them, and its text."""

    def __init__(self, content: str):
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(content)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_data(self, data):
        self.words.append(data)


def assert_harmless(content: str) -> Reader:
    """No tag, attribute, address or id beyond the page's own."""
    read = Reader(content)
    assert read.tags <= TAGS, read.tags - TAGS
    for tag, name, value in read.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("href", "src", "xlink:href"):
            assert value.startswith(("#", "data:image/png;base64,")), value
        elif name not in ("xmlns", "xmlns:xlink", "aria-label"):
            assert "://" not in value, (tag, name, value)
        if name == "style":
            assert not re.search(r"url\((?!#)|@import|expression", value), value
    assert len(read.ids) == len(set(read.ids))
    pointed = set(re.findall(r'(?:url\(#|href="#)([\w.-]+)', content))
    assert pointed <= set(read.ids)
    return read


def hostile_journey(run, bad: str) -> dict:
    """Results of every stage in which each text is the payload."""
    maps = np.tril(np.random.default_rng(0).random((2, 3, 4, 4)))
    maps /= maps.sum(axis=-1, keepdims=True)
    steps = [
        {"name": "temperature 1", "kept": 2, "removed": 0.0, "tokens": [{"token": bad, "before": 0.6, "after": 0.7}]}
    ]
    table = np.random.default_rng(1).normal(size=(9, 5))
    return {
        "tokenizer": {
            "bytes": 1_234,
            "numbers": {"vocabulary": 300, "bytes_per_token": 2.0, "whole_words": 0.5, "megabytes_per_second": 9.0},
            "first_merges": [[bad, "e"]], "token_lengths": {"1": 256, "2": 44}, "sentence": {"tokens": [bad, "x"]},
            "steps": [[[bad, "b"], [bad]]], "longest": [bad], "seconds": 1.0,
        },
        "data": {
            "prepared": {"train_tokens": 9, "validation_tokens": 1, "split": bad,
                         "documents_used": 1, "documents_read": 1},
            "windows": [{"index": 0, "inputs": [bad, "b"], "targets": ["b", bad]}], "count": 1,
        },
        "attention": {"ladder": [{"rung": bad, "new": bad, "max_difference": 1e-16}]},
        "model": {
            "parameters": 7, "gradients": {"with": [1.0, 2.0], "without": [0.1, 1.0]},
            "config": {"n_layer": 2, "d_model": 24, "n_head": 6, "d_head": 4, "context_length": 19, "norm": bad},
        },
        "pretrain": {
            "run": str(run),
            "evaluation": {"loss": 1.0, "interval_95": [0.9, 1.1], "bits_per_byte": None, "perplexity": 2.7,
                           "baseline_uniform_loss": 5.7, "baseline_unigram_loss": 4.0},
        },
        "generate": {
            "prompt": bad, "spoken": [{"temperature": 0.8, "top_k": 4, "text": bad}], "choice": steps,
            "attention": {"tokens": [bad, "b", "c", "d"], "maps": maps.tolist()},
            "neighbours": neighbours(table, [bad, *"abcdefgh"], {bad: 0, "a": 1}, most=2),
        },
        "stage of tomorrow": {"lines": [bad]},
    }  # fmt: skip


@pytest.mark.parametrize("bad", PAYLOADS)
def test_pages_about_data_show_hostile_text_as_text(bad, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    special = {"<|endoftext|>": 256}
    tokens = [*(bytes([byte]) for byte in range(256)), b"<|endoftext|>"]
    Tokenizer(tokens, [], special_tokens=special).save(tmp_path / "t")
    written = re.sub("[\ud800\x00]", "", bad)  # half a character, or none, is refused in a record
    pairs = [{"prompt": f"{written}{at}", "chosen": written, "rejected": f"no {written}"} for at in range(9)]
    name = re.sub("[/\n]", "", written)[:60] + ".jsonl"  # what a file may be called
    (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in pairs * 2))
    facts = audits.masked(name, tokenizer="t", count=2)
    shown = mask_page(tmp_path / "mask.html", facts).read_text(encoding="utf-8")
    read = assert_harmless(shown)
    tokens = [token for row in facts["rows"] for token in row["tokens"]]
    titles = [value for tag, key, value in read.attributes if (tag, key) == ("span", "title")]
    assert titles == [
        f"{one['role']}, {'learned' if one['trained'] else 'only read'}, weight {one['weight']:.3g}" for one in tokens
    ]
    assert [word for word in read.words if word == "assistant"] == ["assistant"] * 4  # two pairs, two answers each
    found = audits.check(name, tokenizer="t", allow_leakage=True)
    checked = audit_page(tmp_path / "check.html", {"source": name, **found.facts()})
    assert_harmless(checked.read_text(encoding="utf-8"))
    labelled = [{"text": f"{written} {at}", "label": written if at % 2 else "ham"} for at in range(20)]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled))
    found = audits.check("labels.jsonl", tokenizer="t", allow_leakage=True)
    checked = audit_page(tmp_path / "labels.html", {"source": "labels.jsonl", **found.facts()})
    assert_harmless(checked.read_text(encoding="utf-8"))


def write_run(run, said: str = "said", prompt: str = "The ") -> None:
    run.mkdir(exist_ok=True)
    records = [
        {"train/global_step": step, "train/loss": 5 / step, "train/learning_rate": 1e-3, "train/grad_norm": 1.0,
         "train/num_tokens": 100 * step, "train/tok_per_sec": 1_000.0}
        for step in range(1, 31)
    ]  # fmt: skip
    records += [{"train/global_step": step, "eval/loss": 5.2 / step, "val/bpb": 3 / step} for step in (10, 20, 30)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (run / "config.toml").write_text(f"out = 'x'\n[sample]\nprompt = {json.dumps(prompt)}\n")
    samples = [{"step": step, "text": prompt + said} for step in (10, 20)]
    (run / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))


@pytest.mark.parametrize("bad", PAYLOADS, ids=range(len(PAYLOADS)))
def test_every_part_of_a_page_shows_hostile_text_as_text(bad):
    table = page.Table((bad,), [(bad,)])
    parts = [
        page.paragraph(bad), page.heading(bad), page.code(bad), page.folded(bad, page.chips([bad])), page.table(table),
        page.facts([(bad, bad, bad)]), page.figure(page.Picture(page.Html("<svg></svg>"), bad, bad, table)),
        page.merges([(bad, bad)]), page.ladder([[bad]]), page.quotes([(bad, bad, bad)]),
    ]  # fmt: skip
    read = assert_harmless(page.page(bad, bad, [page.Section(bad, bad, parts)], bad))
    if bad.isprintable():
        assert "".join(read.words).count(bad) >= 14


@pytest.mark.parametrize("first", [0, 5, 10])
def test_whatever_a_model_says_stays_text_in_a_journey(tmp_path, first):
    bad = "".join(PAYLOADS[first : first + 5])
    write_run(tmp_path / "run", said=bad)
    content = report.journey_report(tmp_path, hostile_journey(tmp_path / "run", bad)).read_text(encoding="utf-8")
    assert_harmless(content)


def test_whatever_a_model_says_stays_text_in_a_run(tmp_path):
    write_run(tmp_path / "run", said="".join(PAYLOADS))
    assert_harmless(report.run_report(tmp_path / "run").read_text(encoding="utf-8"))


def test_the_page_forbids_scripts_and_requests():
    content = page.page("t", "s", [], "f")
    assert (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'" in content
    )
    assert "http://" not in content and "https://" not in content and "@import" not in content


def test_what_cannot_be_seen_is_named():
    assert page.text("a\u202eb\x1b[2J\ud800\n\tc") == "a⟨202e⟩b⟨1b⟩[2J⟨d800⟩\n\tc"
    assert page.label(" a\n\tb\x00") == "·a⏎⇥b⟨0⟩"
    assert page.label("") == "∅"
    assert page.text("<&>\"'") == "&lt;&amp;&gt;&quot;&#x27;"
    assert page.text("日本語 é 🦉") == "日本語 é 🦉"


@pytest.mark.parametrize(
    "value, shown",
    [(0.12345, "0.1235"), (2, "2"), (1_234_567, "1,234,567"), (12.0, "12"), (3e-17, "3.0e-17"), (None, "–"),
     (0.0, "0"), (12345.6, "12,346"), (-0.5, "-0.5")],
)  # fmt: skip
def test_numbers_are_written_for_reading(value, shown):
    assert page.number(value) == shown


PICTURES = {
    "lengths": token_lengths({1: 256, 2: 30, 5: 3}),
    "window": window_picture(["a", " b"], [" b", "c"]),
    "embeddings": embedding_map([{"token": token, "word": "a", "main": True, "x": 0.1, "y": 0.2} for token in "ab"]),
    "attention": attention_grid(np.full((2, 3, 4, 4), 0.25), list("abcd")),
    "head": attention_map(np.eye(4), list("abcd"), "layer 1"),
    "choices": choices([{"name": "top-k 1", "kept": 1, "removed": 0.4, "tokens": [
        {"token": "a", "before": 0.6, "after": 1.0}, {"token": "b", "before": 0.4, "after": 0.0}]}]),
    "gradients": plots.gradients({"with": [1.0, 1.1], "without": [1e-5, 1.0]}),
}  # fmt: skip


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_has_words_and_numbers_beside_it(name):
    picture = PICTURES[name]
    assert len(picture.alt) > 20 and len(picture.caption) > 20
    assert picture.table is not None and picture.table.rows
    assert all(len(row) == len(picture.table.columns) for row in picture.table.rows)
    assert picture.svg.startswith("<svg") and "<!DOCTYPE" not in picture.svg and "<metadata" not in picture.svg


def test_the_same_numbers_make_the_same_picture():
    assert token_lengths({1: 256, 2: 30, 5: 3}) == PICTURES["lengths"]


def test_a_smoothed_line_worked_by_hand():
    assert plots.smooth([1, 2, 6, 3, 4], 3) == pytest.approx([1, 3, 11 / 3, 13 / 3, 4])
    assert plots.smooth([1.0, 5.0], 1) == [1.0, 5.0]


def test_a_long_line_is_thinned_and_keeps_its_ends():
    line = plots.thin(plots.Series(list(range(10_000)), [float(n) for n in range(10_000)]), 100)
    assert len(line.steps) == 100
    assert (line.steps[0], line.steps[-1]) == (0, 9_999)


def test_a_run_that_recorded_a_little_is_still_reported(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"train/global_step": 1, "train/loss": null}\n{"train/glo'
    )  # torn by a crash
    content = report.run_report(tmp_path).read_text()
    assert "no step recorded yet" in content
    (tmp_path / "metrics.jsonl").write_text('{"train/global_step": 1, "train/loss": 2.5}\n')
    assert "1 steps" in report.run_report(tmp_path).read_text()


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"has recorded nothing to report: .* \[FH023\]"):
        report.run_report(tmp_path)


def test_a_damaged_line_in_the_middle_is_refused(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"train/global_step": 1}\nnot json\n{"train/global_step": 2}\n')
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl:2 is not JSON"):
        report.run_report(tmp_path)


def test_the_prompt_is_set_apart_in_the_samples(tmp_path):
    write_run(tmp_path / "run", said="<end>", prompt="Once &")
    content = report.run_report(tmp_path / "run").read_text()
    assert "<b>Once &amp;</b>&lt;end&gt;" in content


def test_many_line_breaks_are_counted():
    shown = page.quotes([("step 1", "", "a\n\nb\n\n\n\nc")])
    assert "<dd><b></b>a\n\nb\n⏎ × 4\nc</dd>" in shown


def test_neighbours_worked_by_hand():
    table = np.array([[1.0, 0, 0], [2, 0.2, 0], [0, 1, 0], [-1, 0, 0], [0, 0.9, 0.1]])
    found = neighbours(table, list("abcde"), {"a": 0, "c": 2}, most=1)
    assert [near["token"] for near in found["near"]["a"]] == ["b"]
    assert found["near"]["a"][0]["cosine"] == pytest.approx(2 / (4.04**0.5))
    assert [near["token"] for near in found["near"]["c"]] == ["e"]
    assert {(point["token"], point["word"]) for point in found["points"]} == {
        ("a", "a"),
        ("b", "a"),
        ("c", "c"),
        ("e", "c"),
    }
    assert {point["token"] for point in found["points"] if point["main"]} == {"a", "c"}
    flat = np.array([[point["x"], point["y"]] for point in found["points"]])
    assert np.allclose(flat.mean(axis=0), 0)  # centred
    assert abs(flat[:, 0] @ flat[:, 1]) < 1e-12  # the two directions share nothing
    assert neighbours(table, list("abcde"), {}) == {"near": {}, "points": []}


def test_a_token_near_two_words_is_drawn_once_and_a_word_keeps_its_own_colour():
    table = np.array([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2]])
    points = neighbours(table, list("abc"), {"a": 0, "c": 2}, most=2)["points"]
    assert [(point["token"], point["word"], point["main"]) for point in points] == [
        ("a", "a", True), ("c", "c", True), ("b", "a", False),
    ]  # fmt: skip


def test_every_stage_of_a_journey_has_its_chapter():
    assert chapters.chapter("new", {"lines": ["a", "b"]}).title == "New"
