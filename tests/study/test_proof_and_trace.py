"""The pictures of proofs and traces: harmless whatever the model says, and whole for every shape."""

import json

import numpy as np
import pytest
from test_page import PAYLOADS, assert_harmless, write_run

from firsthand.errors import FirsthandError
from firsthand.study import page, report
from firsthand.study.proof import proof_chapter
from firsthand.study.trace import busy, draw


def row(name, claim="exact", verdict="exact", off=1e-6, **more):
    numbers = {
        "max_delta": 40 * off,
        "of_scale": off,
        "kl": off**2,
        "bits_per_byte": off,
        "interval_95": [0.0, 2 * off],
    }
    rest = {"same_greedy": 1.0, "first_other": None, "note": "", "seconds": 1.0}
    return {"form": name, "about": "what it is", "claim": claim, "verdict": verdict, **numbers, **rest, **more}


def proof(bad=""):
    nothing = dict.fromkeys(("max_delta", "of_scale", "kl", "bits_per_byte", "interval_95", "same_greedy"))
    at = {
        "row": 0,
        "position": 3,
        "before": bad,
        "reference": bad,
        "form": bad,
        "probabilities": [0.6, 0.2],
        "margin": 1,
    }
    rows = [
        row("fused", off=0.0),
        row("cache"),
        row("bfloat16", "drift", "drift", 2e-2, first_other=at, same_greedy=0.97),
        row("broken", "exact", "NOT EXACT", 0.3),
        row("greedy", **(nothing | {"same_greedy": 1.0})),
        row("compiled", verdict="not run", note=bad or "no compiler", **nothing),
    ]
    return {
        "exact": False, "model": bad, "text": bad, "tokens": 1024, "windows": 11, "dtype": "float32", "scale": 40.0,
        "bits_per_byte": 1.26, "tolerance": 1e-4, "seconds": 9.0, "rows": rows,
        "cache_bytes_per_token": {"static": 46_080, "int8": 12_240},
    }  # fmt: skip


@pytest.mark.parametrize("bad", PAYLOADS, ids=range(len(PAYLOADS)))
def test_a_chapter_of_a_proof_shows_hostile_text_as_text(bad):
    assert_harmless(page.page("t", "s", [proof_chapter(proof(bad))], "f"))


def test_a_chapter_says_which_forms_are_exact_and_what_stood_where_one_was_not():
    chapter = proof_chapter(proof())
    words = " ".join(chapter.parts)
    assert chapter.title == "Is every form the same model?"
    assert "<b>3 of 4</b>" in words  # fused, cache and greedy are exact, broken is not, compiled was not run
    assert "<b>4.0e-03</b>" in words  # the bound: 1e-4 of 40
    assert "compiled: no compiler." in words and "46,080" in words
    assert "to the reference they are 20.0% and 60.0% likely" in words


def test_a_proof_becomes_a_part_of_the_report_of_its_run(tmp_path):
    run = tmp_path / "run"
    write_run(run)
    assert "Is every form" not in report.run_report(run).read_text(encoding="utf-8")
    assert report.proof_report(str(run), proof()) == run / "report.html"
    again = report.run_report(run).read_text(encoding="utf-8")
    assert "Is every form the same model?" in again and "Do it again" in again
    assert json.loads((run / "proof.json").read_text(encoding="utf-8")) == proof()


def test_a_damaged_proof_is_refused_in_one_line(tmp_path):
    write_run(tmp_path / "run")
    (tmp_path / "run/proof.json").write_text("{")
    with pytest.raises(FirsthandError, match=r"proof\.json"):
        report.run_report(tmp_path / "run")


def trace(L, H, T, token="a"):
    maps = np.tril(np.ones((L, H, T, T)))
    maps /= maps.sum(axis=-1, keepdims=True)
    best = [{"token": token, "probability": 0.6}, {"token": "b", "probability": 0.1}]
    norms = {name: np.linspace(1, 9, count * T).reshape(count, T).tolist() for name, count in
             (("stream", L + 1), ("attention", L), ("mlp", L))}  # fmt: skip
    return {"tokens": [token] * T, "lens": [[best] * T] * (L + 1), "norms": norms, "attention": maps.tolist()}


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 2), (3, 2, 30)])
def test_a_trace_of_any_shape_is_drawn(tmp_path, shape):
    assert draw(trace(*shape, token=PAYLOADS[11]), tmp_path / "trace.png").stat().st_size > 20_000


def test_heads_that_look_around_worked_by_hand():
    weights = np.zeros((1, 1, 4, 4))
    weights[0, 0, :, 0] = 1.0  # all look at the first token
    weights[0, 0, 2] = [0.2, 0.5, 0.3, 0]  # the third: half at the second
    weights[0, 0, 3] = [0.1, 0.2, 0.4, 0.3]  # the fourth: 0.6 at the second and third
    assert busy(weights)[0, 0] == pytest.approx((0.5 + 0.6) / 2)
    assert busy(weights[..., :2, :2])[0, 0] == 0
