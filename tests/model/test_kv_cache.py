"""A cache changes the work, not the logits."""

import kit
import pytest
import torch

from firsthand.errors import ModelError
from firsthand.model.attention import attend_explicit, attend_fused
from firsthand.model.cache import GrowingCache, StaticCache

every_variant = pytest.mark.parametrize("variant", kit.VARIANTS)
CACHES = {"growing": GrowingCache, "static": StaticCache}


def pieces(total: int, seed: int) -> list[int]:
    """`total` cut into random pieces, single tokens and longer ones."""
    cuts = torch.randperm(total - 1, generator=torch.Generator().manual_seed(seed))[:6].add(1).sort().values
    return torch.diff(cuts, prepend=torch.tensor([0]), append=torch.tensor([total])).tolist()


@every_variant
@pytest.mark.parametrize("kind", CACHES)
@pytest.mark.parametrize("form", [attend_explicit, attend_fused])
def test_a_cache_fed_in_pieces_gives_the_logits_of_the_full_forward(variant, kind, form):
    model, ids = kit.tiny(variant), kit.ids(3, 17)
    model.attend = form
    full = model(ids)
    for seed in range(3):
        cache = CACHES[kind](model.config, batch=3)
        parts = [model(piece, cache) for piece in ids.split(pieces(17, seed), dim=1)]
        assert kit.gap(torch.cat(parts, dim=1), full) < 1e-10
        assert cache.lengths.tolist() == [17, 17, 17]


@every_variant
def test_rows_of_different_lengths_share_a_static_cache(variant):
    model, ids = kit.tiny(variant), kit.ids(3, 19)
    full, cache = model(ids), StaticCache(model.config, batch=3)
    generator = torch.Generator().manual_seed(4)
    seen = torch.zeros(3, dtype=torch.long)
    for _ in range(4):
        counts = torch.randint(0, 5, (3,), generator=generator)  # 0: this row rests
        rows = [
            torch.cat([ids[b, seen[b] : seen[b] + n], torch.zeros(4 - n, dtype=torch.long)])
            for b, n in enumerate(counts)
        ]
        logits = model(torch.stack(rows), cache, counts)
        for b, n in enumerate(counts.tolist()):
            assert n == 0 or kit.gap(logits[b, :n], full[b, seen[b] : seen[b] + n]) < 1e-10
        seen += counts
        assert cache.lengths.tolist() == seen.tolist()


def test_the_model_is_the_same_before_and_after_using_a_cache():
    model = kit.tiny("llama")
    before = set(model.state_dict())
    first, second = StaticCache(model.config), StaticCache(model.config)
    model(kit.ids(1, 5), first)
    logits = model(kit.ids(1, 5), second)
    assert set(model.state_dict()) == before
    assert kit.gap(logits, model(kit.ids(1, 5))) < 1e-10


@pytest.mark.parametrize("kind", CACHES)
def test_a_full_cache_refuses_and_stays_as_it_was(kind):
    model, ids = kit.tiny("llama"), kit.ids(1, 19)
    cache = CACHES[kind](model.config)
    model(ids[:, :16], cache)
    with pytest.raises(ModelError, match="5 tokens after 16 cached ones exceed the 19 positions; shorten by 2"):
        model(ids[:, :5], cache)
    assert kit.gap(model(ids[:, 16:], cache), model(ids)[:, 16:]) < 1e-10


def test_a_static_cache_may_be_shorter_than_the_context_but_not_longer():
    model = kit.tiny("llama")
    with pytest.raises(ModelError, match="3 positions; shorten by 1"):
        model(kit.ids(1, 4), StaticCache(model.config, length=3))
    with pytest.raises(ModelError, match="use 1 to 19"):
        StaticCache(model.config, length=20)


def test_a_growing_cache_refuses_rows_of_different_lengths():
    model = kit.tiny("llama")
    with pytest.raises(ModelError, match=r"not by \[4, 2\]; use a StaticCache"):
        model(kit.ids(2, 4), GrowingCache(model.config, batch=2), torch.tensor([4, 2]))


@pytest.mark.parametrize("kind", CACHES)
def test_a_cache_for_another_number_of_rows_is_refused(kind):
    model = kit.tiny("llama")
    with pytest.raises(ModelError, match="ids have 2 rows and the cache 3; make it with batch=2"):
        model(kit.ids(2, 4), CACHES[kind](model.config, batch=3))


@pytest.mark.parametrize("kind", CACHES)
def test_a_rewound_cache_continues_as_if_it_had_never_seen_more(kind):
    model, ids, other = kit.tiny("llama"), kit.ids(2, 19), kit.ids(2, 19, seed=5)
    cache = CACHES[kind](model.config, batch=2)
    model(torch.cat([ids[:, :7], other[:, :9]], dim=1), cache)
    cache.rewind(7)
    assert cache.lengths.tolist() == [7, 7]
    assert kit.gap(model(ids[:, 7:], cache), model(ids)[:, 7:]) < 1e-10


@pytest.mark.parametrize("kind", CACHES)
def test_selected_rows_continue_as_copies_of_the_old_ones(kind):
    model, ids = kit.tiny("llama"), kit.ids(3, 19)
    cache, rows = CACHES[kind](model.config, batch=3), torch.tensor([2, 0, 2, 2])
    model(ids[:, :7], cache)
    cache.select(rows)
    following = kit.ids(4, 12, seed=6)
    whole = torch.cat([ids[rows, :7], following], dim=1)
    assert kit.gap(model(following, cache), model(whole)[:, 7:]) < 1e-10
