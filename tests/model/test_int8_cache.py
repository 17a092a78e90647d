"""Bytes for numbers: how far off they may be, worked out from the step, and what of it reaches the logits."""

import math

import kit
import pytest
import torch
from test_kv_cache import feed, pieces

from firsthand.model.attention import attend_explicit, attention_weights
from firsthand.model.cache import StaticCache
from firsthand.model.int8_cache import Int8Cache, quantize
from firsthand.model.paged import PagedCache
from firsthand.model.window_cache import WindowCache


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_a_head_in_bytes_by_hand():
    # the largest is 2.54, so the scale is 0.02: 1.0 is 50 steps, -0.5 is 25, and 0.013 is 0.65 steps, rounded to 1
    numbers, scales = quantize(torch.tensor([2.54, 1.0, -0.5, 0.013], dtype=torch.float64).view(1, 1, 1, 4))
    assert numbers.flatten().tolist() == [127, 50, -25, 1]
    assert numbers.dtype == torch.int8
    assert abs(scales.item() - 0.02) < 1e-8
    assert quantize(torch.zeros(1, 1, 1, 4))[0].tolist() == [[[[0, 0, 0, 0]]]]


def test_what_is_remembered_is_off_by_half_a_step_at_most():
    k, v = draw(2, 3, 7, 4), 50 * draw(2, 3, 7, 4, seed=1)
    cache = Int8Cache(kit.LLAMA, batch=2)
    cache.begin(torch.tensor([7, 7]), 7)
    for exact, kept in zip((k, v), cache.append(1, k, v), strict=True):
        step = exact.abs().amax(dim=-1, keepdim=True) / 127
        assert ((kept - exact).abs() <= step / 2 * (1 + 1e-4)).all()  # 1e-4: the scale itself is a float32


def test_the_drift_of_attention_stays_below_the_bound_worked_out_from_the_step():
    """A key off by e moves a score by |q| e / sqrt(D), summed over D; a share then by a factor of exp(2 of that)."""
    q, k, v = draw(2, 6, 5, 4), draw(2, 3, 5, 4, seed=1), draw(2, 3, 5, 4, seed=2)
    cache = Int8Cache(kit.LLAMA, batch=2)
    cache.begin(torch.tensor([5, 5]), 5)
    kept_k, kept_v = cache.append(0, k, v)
    off_k, off_v = (float(x.abs().max()) / 127 / 2 * (1 + 1e-4) for x in (k, v))
    score = float(q.abs().sum(dim=-1).max()) * off_k / math.sqrt(4)
    bound = off_v + math.expm1(2 * score) * float(v.abs().max())
    drift = kit.gap(attend_explicit(q, kept_k, kept_v), attend_explicit(q, k, v))
    assert 0 < drift < bound < 0.5  # random numbers stay far below the worst case
    shares, exact = attention_weights(q, kept_k), attention_weights(q, k)
    assert (shares <= exact * math.exp(2 * score)).all()


@pytest.mark.parametrize("variant", kit.VARIANTS)
def test_logits_do_not_depend_on_how_a_text_is_cut(variant):
    model, ids = kit.tiny(variant), kit.ids(3, 19)
    whole = model(ids, Int8Cache(model.config, batch=3))
    for seed in range(3):
        cache = Int8Cache(model.config, batch=3)
        parts = [model(piece, cache) for piece in ids.split(pieces(19, seed), dim=1)]
        assert kit.gap(torch.cat(parts, dim=1), whole) < 1e-10
    ragged = Int8Cache(model.config, batch=3)
    feed(model, ragged, ids, [4, 0, 7])
    ragged.rewind(torch.tensor([2, 0, 7]))
    ragged.select(torch.tensor([2, 0, 1]))
    for row, logits in zip([2, 0, 1], feed(model, ragged, ids[[2, 0, 1]], [3, 1, 5]), strict=True):
        start = {2: 7, 0: 2, 1: 0}[row]
        assert kit.gap(logits, whole[row, start : start + len(logits)]) < 1e-10


def test_any_kind_may_hold_the_bytes():
    model, ids = kit.tiny("mistral"), kit.ids(3, 19)
    whole = model(ids, Int8Cache(model.config, batch=3))
    for kind in (WindowCache, PagedCache):
        cache = Int8Cache(model.config, batch=3, kind=kind)
        parts = [model(piece, cache) for piece in ids.split([3, 1, 8, 1, 6], dim=1)]
        assert kit.gap(torch.cat(parts, dim=1), whole) < 1e-10


@pytest.mark.parametrize("variant", kit.VARIANTS)
def test_the_logits_drift_a_little_and_not_nothing(variant):
    """Steps of 1/127 and errors of a third of that, as even noise has, in every key and value: about one part in a
    hundred of the logits' own spread, and no more than a few."""
    model, ids = kit.tiny(variant), kit.ids(3, 19)
    exact = model(ids)
    drift = (model(ids, Int8Cache(model.config, batch=3)) - exact).square().mean().sqrt() / exact.std()
    assert 1e-4 < drift < 0.03


def test_the_bytes_are_those_worked_out_by_hand():
    model = kit.tiny("llama", torch.float32)
    cache, exact = Int8Cache(model.config, batch=2), StaticCache(model.config, batch=2)
    model(kit.ids(2, 7), cache)
    model(kit.ids(2, 7), exact)
    # 2 layers, keys and values, 3 groups: 12 times 4 bytes and a float32 scale; instead of 4 float32
    assert cache.bytes().token == 12 * (4 + 4)
    assert exact.bytes().token == 12 * 16
    assert cache.bytes().total == 2 * 19 * 96
