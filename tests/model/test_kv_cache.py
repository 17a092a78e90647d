"""A cache changes the work, not the logits: what all exact kinds have in common."""

from dataclasses import replace
from functools import partial

import kit
import pytest
import torch

from firsthand.errors import ModelError
from firsthand.model.attention import attend_explicit, attend_fused
from firsthand.model.cache import Cache, GrowingCache, StaticCache
from firsthand.model.gpt import GPT
from firsthand.model.paged import PagedCache, Pool
from firsthand.model.window_cache import WindowCache

every_variant = pytest.mark.parametrize("variant", kit.VARIANTS)


def window(config, batch=1) -> WindowCache:
    """As short as it may be and still be exact, with room to take three tokens back."""
    return WindowCache(config, batch, window=config.window or config.context_length, spare=3)


def paged(config, batch=1) -> PagedCache:
    """Blocks of 3 tokens; 7 of them hold the 19 tokens of a row, and a few are left over."""
    return PagedCache(config, batch, Pool(config, blocks=9 * batch, size=3))


RAGGED = {"static": StaticCache, "window": window, "paged": paged}
CACHES = {"growing": GrowingCache, **RAGGED}
every_kind = pytest.mark.parametrize("kind", CACHES)
every_ragged_kind = pytest.mark.parametrize("kind", RAGGED)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def pieces(total: int, seed: int) -> list[int]:
    """`total` cut into random pieces, single tokens and longer ones."""
    cuts = torch.randperm(total - 1, generator=torch.Generator().manual_seed(seed))[:6].add(1).sort().values
    return torch.diff(cuts, prepend=torch.tensor([0]), append=torch.tensor([total])).tolist()


def feed(model: GPT, cache: Cache, ids: torch.Tensor, counts: list[int], padding: int = 0) -> list[torch.Tensor]:
    """The next `counts` ids of every row, padded on the right; their logits, a row each."""
    T, held = max(1, *counts), cache.lengths.tolist()
    rows = torch.full((len(counts), T), padding)
    for row, start, count in zip(range(len(counts)), held, counts, strict=True):
        rows[row, :count] = ids[row, start : start + count]
    logits = model(rows, cache, torch.tensor(counts))
    assert cache.lengths.tolist() == [start + count for start, count in zip(held, counts, strict=True)]
    return [logits[row, :count] for row, count in enumerate(counts)]


@every_variant
@every_kind
@pytest.mark.parametrize("form", [attend_explicit, attend_fused])
def test_a_cache_fed_in_pieces_gives_the_logits_of_the_full_forward(variant, kind, form):
    model, ids = kit.tiny(variant), kit.ids(3, 19)
    model.attend = form
    full = model(ids)
    for seed in range(3):
        cache = CACHES[kind](model.config, batch=3)
        parts = [model(piece, cache) for piece in ids.split(pieces(19, seed), dim=1)]
        assert kit.gap(torch.cat(parts, dim=1), full) < 1e-10
        assert cache.lengths.tolist() == [19, 19, 19]


@every_variant
@every_ragged_kind
@pytest.mark.parametrize("form", [attend_explicit, attend_fused])
def test_rows_of_different_lengths_share_a_cache(variant, kind, form):
    model, ids = kit.tiny(variant), kit.ids(3, 19)
    model.attend = form
    full, cache = model(ids), RAGGED[kind](model.config, batch=3)
    generator = torch.Generator().manual_seed(4)
    while cache.lengths.min() < 19:  # up to the last position of the context; 0 new tokens: this row rests
        most = int(torch.randint(1, 6, (), generator=generator))
        counts = torch.randint(0, most + 1, (3,), generator=generator).minimum(19 - cache.lengths).tolist()
        held = cache.lengths.tolist()
        for row, logits in enumerate(feed(model, cache, ids, counts)):
            assert counts[row] == 0 or kit.gap(logits, full[row, held[row] :][: counts[row]]) < 1e-10


@every_ragged_kind
def test_padding_that_is_not_a_number_does_not_leak(kind):
    model, ids = kit.tiny("qwen2"), kit.ids(3, 19, vocab_size=10)
    full, cache = model(ids), RAGGED[kind](model.config, batch=3)
    model.embed.weight[10] = torch.nan
    for counts in ([2, 5, 0], [4, 0, 1], [1, 1, 0], [1, 3, 6]):
        held = cache.lengths.tolist()
        for row, logits in enumerate(feed(model, cache, ids, counts, padding=10)):
            assert counts[row] == 0 or kit.gap(logits, full[row, held[row] :][: counts[row]]) < 1e-10


@every_ragged_kind
def test_a_text_that_ran_into_not_a_number_leaves_nothing_of_it_to_the_next(kind):
    model, ids = kit.tiny("qwen2"), kit.ids(3, 19, vocab_size=10)
    full, cache = model(ids), RAGGED[kind](model.config, batch=3)
    model.embed.weight[10] = torch.nan
    broken = ids.clone()
    broken[1] = 10
    feed(model, cache, broken, [9, 7, 3])
    cache.rewind(torch.tensor([9, 0, 3]))
    for counts in ([1, 2, 1], [4, 3, 4]):
        held = cache.lengths.tolist()
        for row, logits in enumerate(feed(model, cache, ids, counts)):
            assert kit.gap(logits, full[row, held[row] :][: counts[row]]) < 1e-10


@every_kind
def test_padding_may_reach_beyond_the_context(kind):
    model, ids = kit.tiny("gpt2"), kit.ids(2, 19)
    full, cache = model(ids), CACHES[kind](model.config, batch=2)
    model(ids[:, :7], cache)
    logits = model(torch.cat([ids[:, 7:], ids[:, :7]], dim=1), cache, torch.tensor([12, 12]))
    assert kit.gap(logits[:, :12], full[:, 7:]) < 1e-10


@every_ragged_kind
@pytest.mark.parametrize("variant", ["gpt2", "mistral"])
def test_a_row_is_used_again_for_another_text_while_the_others_go_on(kind, variant):
    model, ids, other = kit.tiny(variant), kit.ids(3, 19), kit.ids(3, 19, seed=8)
    cache = RAGGED[kind](model.config, batch=3)
    feed(model, cache, ids, [7, 9, 4])
    cache.rewind(torch.tensor([7, 0, 4]))
    ids[1] = other[1]
    full = model(ids)
    for counts in ([2, 5, 0], [1, 1, 1], [3, 4, 6]):
        held = cache.lengths.tolist()
        for row, logits in enumerate(feed(model, cache, ids, counts)):
            assert counts[row] == 0 or kit.gap(logits, full[row, held[row] :][: counts[row]]) < 1e-10


@every_kind
@pytest.mark.parametrize("variant", ["gpt2", "llama", "mistral"])
def test_a_rewound_cache_continues_as_if_it_had_never_seen_more(kind, variant):
    model, ids, other = kit.tiny(variant), kit.ids(2, 19), kit.ids(2, 19, seed=5)
    full = model(ids)
    for together in (True, False):
        cache = CACHES[kind](model.config, batch=2)
        model(ids[:, :7], cache)
        for piece in [other[:, :4]] if together else other[:, :4].split(1, dim=1):
            model(piece, cache)
        cache.rewind(8)
        cache.rewind(torch.tensor([7, 7]))
        assert cache.lengths.tolist() == [7, 7]
        assert kit.gap(model(ids[:, 7:8], cache), full[:, 7:8]) < 1e-10
        assert kit.gap(model(ids[:, 8:], cache), full[:, 8:]) < 1e-10


@every_ragged_kind
def test_rows_are_rewound_each_as_far_as_it_must(kind):
    model, ids, other = kit.tiny("llama"), kit.ids(3, 19), kit.ids(3, 19, seed=5)
    full, cache = model(ids), RAGGED[kind](model.config, batch=3)
    feed(model, cache, ids, [5, 7, 6])
    model(other[:, :4], cache)
    cache.rewind(torch.tensor([5, 7, 6]))
    for row, logits in enumerate(feed(model, cache, ids, [2, 1, 3])):
        start = [5, 7, 6][row]
        assert kit.gap(logits, full[row, start : start + len(logits)]) < 1e-10


@every_kind
@pytest.mark.parametrize("variant", ["gpt2", "mistral"])
@pytest.mark.parametrize("rows", [[2, 0, 2, 2], [1], [0, 1, 2], [2, 1, 0]])
def test_selected_rows_continue_as_copies_of_the_old_ones(kind, variant, rows):
    model, ids = kit.tiny(variant), kit.ids(3, 19)
    cache = CACHES[kind](model.config, batch=3)
    model(ids[:, :7], cache)
    cache.select(torch.tensor(rows))
    following = kit.ids(len(rows), 12, seed=6)
    full = model(torch.cat([ids[rows, :7], following], dim=1))
    assert kit.gap(model(following[:, :1], cache), full[:, 7:8]) < 1e-10
    assert kit.gap(model(following[:, 1:], cache), full[:, 8:]) < 1e-10


@every_kind
def test_a_cache_made_in_inference_mode_can_be_rewound_outside(kind):
    model, ids = kit.tiny("llama"), kit.ids(2, 19)
    cache = CACHES[kind](model.config, batch=2)
    with torch.inference_mode():
        model(ids[:, :9], cache)
    cache.rewind(7)
    cache.select(torch.tensor([1, 0]))
    with torch.inference_mode():
        assert kit.gap(model(ids[:, 7:].flip(0), cache), model(ids)[:, 7:].flip(0)) < 1e-10


@every_kind
def test_a_forward_that_was_interrupted_never_happened(kind):
    model, ids = kit.tiny("llama"), kit.ids(2, 19)
    full, cache = model(ids), CACHES[kind](model.config, batch=2)
    model(ids[:, :6], cache)

    def interrupt(*_):
        raise KeyboardInterrupt

    handle = model.blocks[1].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        model(kit.ids(2, 3, seed=9), cache)
    handle.remove()
    assert cache.lengths.tolist() == [6, 6]
    assert kit.gap(model(ids[:, 6:], cache), full[:, 6:]) < 1e-10


def test_the_model_is_the_same_before_and_after_using_a_cache():
    model = kit.tiny("llama")
    before = set(model.state_dict())
    first, second = StaticCache(model.config), StaticCache(model.config)
    model(kit.ids(1, 5), first)
    logits = model(kit.ids(1, 5), second)
    assert set(model.state_dict()) == before
    assert kit.gap(logits, model(kit.ids(1, 5))) < 1e-10


@every_kind
def test_a_full_cache_refuses_and_stays_as_it_was(kind):
    model, ids = kit.tiny("llama"), kit.ids(1, 19)
    cache = CACHES[kind](model.config)
    model(ids[:, :16], cache)
    with pytest.raises(ModelError, match="5 tokens after 16 cached ones exceed the 19 positions; shorten by 2"):
        model(ids[:, :5], cache)
    assert kit.gap(model(ids[:, 16:], cache), model(ids)[:, 16:]) < 1e-10


@every_kind
def test_a_cache_for_another_number_of_rows_is_refused(kind):
    model = kit.tiny("llama")
    with pytest.raises(ModelError, match="ids have 2 rows and the cache 3; make it with batch=2"):
        model(kit.ids(2, 4), CACHES[kind](model.config, batch=3))


@every_kind
def test_what_cannot_be_rewound_or_selected_is_refused(kind):
    model = kit.tiny("llama")
    cache = CACHES[kind](model.config, batch=2)
    model(kit.ids(2, 4), cache)
    with pytest.raises(ModelError, match=r"cannot be rewound to \[5, 5\]; its rows hold \[4, 4\] tokens"):
        cache.rewind(5)
    with pytest.raises(ModelError, match=r"cannot be rewound to \[4, -1\]"):
        cache.rewind(torch.tensor([4, -1]))
    with pytest.raises(ModelError, match=r"cannot be rewound to \[4\]; its rows hold"):
        cache.rewind(torch.tensor([4]))
    with pytest.raises(ModelError, match=r"rows \[0, 2\] cannot be selected of a cache of 2; name some of 0 to 1"):
        cache.select(torch.tensor([0, 2]))
    with pytest.raises(ModelError, match=r"rows \[\] cannot be selected"):
        cache.select(torch.tensor([], dtype=torch.long))
    assert cache.lengths.tolist() == [4, 4]


@pytest.mark.parametrize("lengths", [[5, 4], [-1, 4], [4]])
def test_lengths_that_are_not_those_of_the_rows_are_refused(lengths):
    model = kit.tiny("llama")
    with pytest.raises(ModelError, match=r"lengths are .*; give 2 numbers from 0 to 4, the real ids of each row"):
        model(kit.ids(2, 4), StaticCache(model.config, batch=2), torch.tensor(lengths))


def test_a_growing_cache_refuses_rows_of_different_lengths():
    model = kit.tiny("llama")
    cache = GrowingCache(model.config, batch=2)
    with pytest.raises(ModelError, match=r"grows all rows alike, not by \[4, 2\]; use a StaticCache"):
        model(kit.ids(2, 4), cache, torch.tensor([4, 2]))
    model(kit.ids(2, 4), cache)
    with pytest.raises(ModelError, match=r"shortens all rows alike, not by \[1, 2\]; use a StaticCache"):
        cache.rewind(torch.tensor([3, 2]))


def test_a_growing_cache_leaves_out_padding_that_all_rows_have():
    model, ids = kit.tiny("gpt2"), kit.ids(2, 9)
    cache = GrowingCache(model.config, batch=2)
    model(ids[:, :5], cache, torch.tensor([3, 3]))
    assert kit.gap(model(ids[:, 3:], cache), model(ids)[:, 3:]) < 1e-10


def test_a_static_cache_may_be_shorter_than_the_context_but_not_longer():
    model = kit.tiny("llama")
    with pytest.raises(ModelError, match="3 positions; shorten by 1"):
        model(kit.ids(1, 4), StaticCache(model.config, length=3))
    with pytest.raises(ModelError, match="use 1 to 19"):
        StaticCache(model.config, length=20)


@pytest.mark.parametrize(
    "kind, total",
    [
        # keys and values of 2 layers, 3 groups of width 4, float64: 2 x 2 x 3 x 4 x 8 = 384 bytes a token
        (GrowingCache, 2 * 7 * 384),  # 2 rows of the 7 tokens there are
        (StaticCache, 2 * 19 * 384),  # 2 rows of the 19 tokens there may be
        (partial(StaticCache, length=10), 2 * 10 * 384),
        (partial(WindowCache, window=4, spare=1), 2 * 5 * 384),
        (paged, 2 * 9 * 384),  # 2 rows of 3 blocks of 3
    ],
)
def test_the_bytes_of_a_cache_are_those_worked_out_by_hand(kind, total):
    model = kit.tiny("llama")
    cache = kind(model.config, batch=2)
    assert cache.bytes() == (0, 0)
    model(kit.ids(2, 7), cache)
    assert cache.bytes() == (total, 384)


def test_a_window_cache_is_the_model_with_that_window():
    """Of a model that looks back at everything it makes another one, the same however the text is cut."""
    model, ids = kit.tiny("llama"), kit.ids(3, 19)
    short = GPT(replace(model.config, window=6)).double()
    short.load_state_dict(model.state_dict())
    full = short.eval()(ids)
    for seed in range(3):
        cache = WindowCache(model.config, batch=3, window=6)
        parts = [model(piece, cache) for piece in ids.split(pieces(19, seed), dim=1)]
        assert kit.gap(torch.cat(parts, dim=1), full) < 1e-10
    assert kit.gap(full[:, :6], model(ids)[:, :6]) < 1e-10
    assert kit.gap(full[:, 6:], model(ids)[:, 6:]) > 1e-3


@pytest.mark.parametrize("spare", [0, 1, 3])
def test_a_window_cache_goes_back_as_far_as_it_remembers_and_refuses_more(spare):
    model, ids = kit.tiny("mistral"), kit.ids(2, 19)  # it looks back at 5 tokens, itself included
    full = model(ids)
    cache = WindowCache(model.config, batch=2, spare=spare)
    model(ids[:, :14], cache)
    # token m needs the 4 before it; the last 5 + spare of 14 are held: m - 4 >= 14 - 5 - spare
    nearest = 13 - spare
    with pytest.raises(
        ModelError, match=f"cannot go back from 14 to {nearest - 1} tokens: it remembers {5 + spare}; .*={spare + 1} or"
    ):
        cache.rewind(nearest - 1)
    cache.rewind(nearest)
    assert kit.gap(model(ids[:, nearest:], cache), full[:, nearest:]) < 1e-10
    cache.rewind(0)
    model(ids[:, :5], cache)
    cache.rewind(2)  # another text: nothing of it is forgotten yet
    assert kit.gap(model(ids[:, 2:], cache), full[:, 2:]) < 1e-10


def test_a_window_that_is_not_said_or_cannot_be_is_refused():
    with pytest.raises(ModelError, match="say how many to remember, for example window=256"):
        WindowCache(kit.LLAMA)
    with pytest.raises(ModelError, match="a window of 4 and -1 spare tokens cannot be"):
        WindowCache(kit.LLAMA, window=4, spare=-1)


def test_a_padding_token_of_a_resting_row_has_finite_scores():
    model, ids = kit.tiny("mistral"), kit.ids(2, 19)
    for kind in RAGGED.values():
        cache = kind(model.config, batch=2)
        for counts in ([3, 0], [1, 0], [2, 4]):
            assert model(ids[:, : max(counts)], cache, torch.tensor(counts)).isfinite().all()
