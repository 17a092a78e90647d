"""Every form there is stands in the list; the exact ones are exact, and a broken one is caught."""

import importlib
import json
import pkgutil
from contextlib import contextmanager
from dataclasses import replace

import kit
import pytest
import torch
from provers import bundle, text

import firsthand.model
from firsthand.errors import CheckpointError, ModelError
from firsthand.evaluate import forms
from firsthand.evaluate.forms import CACHES, FORMS, Form, Greedy, NotHere, one_by_one, opened
from firsthand.evaluate.proof import prove
from firsthand.interop import export, to_gguf
from firsthand.model.attention import attend_explicit, causal

KEYS = {
    *("form", "about", "claim", "verdict", "max_delta", "of_scale", "kl", "bits_per_byte", "interval_95"),
    *("same_greedy", "first_other", "note", "seconds"),
}
QUICK = [form for form in FORMS if not form.slow]


def caches():
    """Every class of the model package that is a cache."""
    for found in pkgutil.iter_modules(firsthand.model.__path__):
        module = importlib.import_module(f"firsthand.model.{found.name}")
        for kind in vars(module).values():
            own = isinstance(kind, type) and kind.__module__ == module.__name__ and not getattr(kind, "_is_protocol", 0)
            if own and {"append", "advance", "rewind"} <= vars(kind).keys():
                yield kind


def test_every_kind_of_cache_has_a_form():
    config = kit.VARIANTS["mistral"]  # a model with a window can use every kind
    made = {type(make(config, 2, 13)) for make, _ in CACHES.values()}
    assert made == set(caches()) and len(made) >= 5
    assert {f"{name} cache" for name in CACHES} <= {form.name for form in FORMS}


def test_every_format_that_can_be_written_has_a_form():
    names = {form.name for form in FORMS}
    assert {f"GGUF {kind}" for kind in to_gguf.FILE_TYPES} <= names
    assert {"hf": "Hugging Face", "gguf": "GGUF F32"}.keys() == set(export.FORMATS) - {"peft"}  # which holds no models
    assert {"Hugging Face", "own file"} <= names


def test_names_are_used_once():
    assert len({form.name for form in FORMS}) == len(FORMS)


@pytest.mark.parametrize("variant", kit.VARIANTS)
def test_every_exact_form_of_every_variant_is_exact_in_float64(variant):
    proof = prove(bundle(variant), text(), strict=True)
    assert proof.exact and {row.claim for row in proof.rows} == {"exact"}
    ran = {row.form for row in proof.rows if row.verdict == "exact"}
    assert {"fused attention", "batch", "growing cache", "static cache", "paged cache", "greedy, guessing"} <= ran
    assert ("window cache" in ran) == (variant == "mistral")
    assert ("Hugging Face" in ran) == (variant != "fast")
    assert all(row.of_scale < 1e-13 for row in proof.rows if row.of_scale is not None)


def test_forms_of_fewer_bits_drift_and_are_not_judged():
    proof = prove(bundle(), text(), QUICK)
    found = {row.form: row for row in proof.rows}
    assert proof.exact and proof.dtype == "float32"
    for name in ("int8 cache", "bfloat16", "float16"):
        assert found[name].verdict == "drift" and found[name].of_scale > 1e-4, name
    assert found["bfloat16"].kl > found["float16"].kl > 0
    assert "char tokenizer" in found["GGUF Q4_0"].note and found["GGUF Q4_0"].verdict == "not run"


def forgetful(model, rows):
    """A cache that has lost the first token by the eleventh."""
    for row in rows:
        scores = model(row[None])[0]
        yield torch.cat([scores[:10], model(row[None, 1:])[0][9:]]) if len(row) > 11 else scores


def one_too_many(q, k, v, mask=None, dropout=0.0):
    """Attention that looks one token ahead, at the second token only."""
    T, S = q.shape[2], k.shape[2]
    mask = causal(T, S, q.device) if mask is None else mask.clone()
    mask[..., 1, 2] = True
    return attend_explicit(q, k, v, mask)


@pytest.mark.parametrize(
    "broken", [Form("broken", "", True, opened(forgetful)), Form("broken", "", True, opened(one_by_one, one_too_many))]
)
def test_a_broken_form_is_caught(broken):
    proof = prove(bundle(), text(), [*QUICK[:2], broken])
    assert [row.verdict for row in proof.rows] == ["exact", "exact", "NOT EXACT"]
    assert not proof.exact and proof.facts()["exact"] is False


def test_greedy_text_that_differs_is_caught():
    def stubborn(model, ids, count):
        return [*ids, *[5] * count]

    row = prove(bundle(), text(), [Greedy("stubborn", "", True, stubborn)]).rows[0]
    assert row.verdict == "NOT EXACT" and row.first_other.form == "f"


def failing(error):
    @contextmanager
    def open(bundle):
        raise error
        yield

    return open


def test_an_exact_form_that_fails_is_not_exact_and_one_that_cannot_be_here_is_not_run():
    errors = {
        "damaged": CheckpointError("read back, it is not the model"),
        "full": CheckpointError("no room", code=12),
        "misfit": NotHere("no such machine"),
        "wrong": ModelError("shapes"),
    }
    proof = prove(bundle(), text(), [Form(name, "", True, failing(error)) for name, error in errors.items()])
    verdicts = {row.form: (row.verdict, row.note) for row in proof.rows}
    assert verdicts["damaged"] == ("NOT EXACT", "read back, it is not the model")
    assert verdicts["wrong"][0] == "NOT EXACT"
    assert verdicts["full"] == ("not run", "no room [FH012]") and verdicts["misfit"] == ("not run", "no such machine")


def test_a_format_that_has_no_place_for_the_model_says_why():
    row = next(row for row in prove(bundle("fast"), text(), QUICK).rows if row.form == "Hugging Face")
    assert row.verdict == "not run" and row.note


def test_the_facts_are_plain_and_keep_their_names():
    facts = prove(bundle(), text(), [Form("ahead", "", False, opened(one_by_one, one_too_many)), *FORMS[-2:]]).facts()
    read = json.loads(json.dumps(facts, allow_nan=False))
    assert {
        *("exact", "model", "text", "tokens", "windows", "dtype", "bits_per_byte", "scale", "tolerance", "seconds"),
        *("rows", "cache_bytes_per_token"),
    } == read.keys()
    assert all(row.keys() == KEYS for row in read["rows"])
    first = read["rows"][0]["first_other"]
    assert first.keys() == {"row", "position", "before", "reference", "form", "probabilities", "margin"}


def test_bytes_of_a_cache_worked_by_hand():
    sizes = prove(bundle("mistral"), text(), []).cache_bytes_per_token
    # 2 of k and v x 2 layers x 3 groups x 4 numbers x 4 bytes = 192; int8: 2 x 2 x 3 x (4 x 1 + 4 of the scale) = 96
    assert sizes == {"growing": 192, "static": 192, "window": 192, "paged": 192, "int8": 96}


def test_the_model_is_as_it_was_and_no_file_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    given = bundle()
    given.model.train()
    before, attend = {name: tensor.clone() for name, tensor in given.model.state_dict().items()}, given.model.attend
    prove(given, text(), QUICK)
    assert given.model.training and given.model.attend is attend
    assert all(torch.equal(tensor, before[name]) for name, tensor in given.model.state_dict().items())
    assert not list(tmp_path.iterdir())


def test_it_says_how_long_it_will_take_before_the_first_form():
    heard = []
    prove(bundle(), text(), QUICK[:3], tell=heard.append)
    assert [(soon.form, soon.done) for soon in heard] == [
        ("reference", 0), *((form.name, at) for at, form in enumerate(QUICK[:3]))
    ]  # fmt: skip
    assert all(soon.total == 3 and soon.seconds > 0 for soon in heard)


def test_what_takes_long_is_run_only_when_asked_for(monkeypatch):
    slow = [form for form in FORMS if form.slow]
    assert {row.note for row in prove(bundle(), text(), slow).rows} == {"takes long; run it with --slow"}
    compiled = next(form for form in slow if form.name == "compiled")
    monkeypatch.setattr(forms.shutil, "which", lambda name: None)
    row = prove(bundle(), text(), [compiled], slow=True).rows[0]
    assert (row.verdict, row.note[:35]) == ("not run", "torch.compile needs a C++ compiler,")


@pytest.mark.deep
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
def test_the_compiled_form_is_exact():
    compiled = replace(next(form for form in FORMS if form.name == "compiled"), slow=False)
    assert prove(bundle(), text(), [compiled]).rows[0].verdict == "exact"
