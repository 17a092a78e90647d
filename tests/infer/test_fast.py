"""The fast engine gives the scores of GPT.forward with the same rounded weights, for every shape of model."""

import gc
import signal
import threading
from dataclasses import replace

import kit
import pytest
import torch

from firsthand.errors import ConfigError, ModelError
from firsthand.infer.codes import FORMS, own, rounding
from firsthand.infer.draw import draw
from firsthand.infer.fast import Fast, available, rounded
from firsthand.infer.team import LINE, PARKED, RUNG, STATE
from firsthand.linear import lora
from firsthand.linear.kinds import change
from firsthand.linear.shrink import shrink
from firsthand.model.cache import StaticCache
from firsthand.model.gpt import GPT

pytestmark = pytest.mark.skipif(available() is not None, reason=str(available()))
ODD = {  # widths that fill no block of 16 or 32, and more than one
    "odd": replace(
        kit.VARIANTS["qwen3"], d_model=51, n_head=10, n_kv_head=1, d_head=18, d_ff=77, vocab_size=101, context_length=83
    ),
    "odd gpt2": replace(
        kit.SMALL, d_model=45, n_head=5, n_kv_head=5, d_head=9, d_ff=70, vocab_size=37, context_length=67
    ),
    "wide window": replace(kit.VARIANTS["mistral"], d_model=48, d_head=40, window=37, context_length=90, d_ff=96),
}
SHAPES = kit.VARIANTS | ODD
KINDS = ("float32", "bfloat16", "int8", "int8-groups", "int4", "int4-lows")


def model_of(name: str) -> GPT:
    """A float32 model of a shape, every parameter random."""
    if name in kit.VARIANTS:
        return kit.tiny(name, torch.float32)
    model = GPT(SHAPES[name]).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.empty(parameter.shape).normal_(generator=generator)
            parameter.copy_(1 + noise / 4 if parameter.dim() == 1 else noise / parameter.shape[-1] ** 0.5)
    return model


def text_for(model: GPT, seed: int = 1) -> list[int]:
    """As many ids as the context holds."""
    return kit.ids(model.config.context_length, vocab_size=model.config.vocab_size, seed=seed).tolist()


@torch.no_grad()
def expected(model: GPT, ids: list[int]) -> torch.Tensor:
    """Scores after every id, by the plain model in float64: (T, V)."""
    return model.double()(torch.tensor([ids]))[0]


def bound(want: torch.Tensor) -> float:
    """A hundredth of what issue 4 asks for: 1e-3 of the largest score."""
    return 1e-5 * want.abs().max().item()


def after(engine: Fast, ids: list[int], cache=None) -> torch.Tensor:
    """Scores after the last of these ids: (V,)."""
    return engine.last(torch.tensor([ids]), 1, cache)[0, 0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SHAPES)
def test_scores_are_those_of_the_plain_model_with_the_same_weights(name, kind):
    model = model_of(name)
    ids, engine = text_for(model), Fast(model, kind, threads=1)
    want, cache = expected(rounded(model, kind), ids), engine.new_cache()
    first = len(ids) // 3
    got = [engine(torch.tensor([ids[:first]]), cache)[0]] + [after(engine, [id], cache)[None] for id in ids[first:]]
    assert kit.gap(torch.cat(got), want) < bound(want)
    assert kit.gap(engine(torch.tensor([ids]))[0], want) < bound(want), "a prompt of several steps, without a cache"


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_whole_activations_stay_near(kind):
    model = model_of("odd")
    ids, engine = text_for(model), Fast(model, kind, "int8", threads=1)
    want = expected(rounded(model, kind), ids)
    drift = (engine(torch.tensor([ids]))[0] - want).pow(2).mean().sqrt() / want.pow(2).mean().sqrt()
    assert 1e-4 < drift < 0.03  # a number is off by 1 / 254 of the largest of 32 neighbours at most


@pytest.mark.parametrize("name", ["llama", "gpt2", "odd"])
def test_without_the_integer_instruction_the_scores_are_the_same(name, monkeypatch):
    model = model_of(name)
    ids = text_for(model)
    with_it = after(Fast(model, "int8", threads=1), ids)
    monkeypatch.setattr("firsthand.infer.load.native", lambda: False)
    assert kit.gap(after(Fast(model, "int8", threads=1), ids), with_it) < bound(with_it)


QUANTIZED = {
    "int8": {},
    "int4": {"group": 32},
    "nf4": {"group": 32},
    "int4 even": {"group": 32, "symmetric": True},
    "int4 wide": {"group": 64},
    "int4 narrow": {"group": 16},  # no form of the engine: it takes what the numbers stand for
}


@pytest.mark.parametrize("name", QUANTIZED)
def test_a_quantized_model_is_taken_with_its_own_codes(name):
    shape = replace(kit.VARIANTS["llama"], d_model=64, d_ff=128, n_head=4, n_kv_head=2, d_head=32, vocab_size=51)
    model = GPT(shape).eval()
    shrink(model, name.split()[0], QUANTIZED[name])
    ids, engine = text_for(model), Fast(model, threads=1)
    with torch.no_grad():
        want = model(torch.tensor([ids]))[0]
    assert kit.gap(engine(torch.tensor([ids]))[0], want) < bound(want)
    forms = {"int8": "int8", "int4": "int4-lows", "int4 even": "int4", "int4 wide": "int4-lows"}
    assert engine.forms == (forms.get(name, "float32"), "int8")


@pytest.mark.parametrize("form", FORMS)
def test_a_matrix_is_kept_in_the_fewest_bytes_that_hold_it(form):
    generator = torch.Generator().manual_seed(0)
    weight = torch.empty(48, 96).normal_(generator=generator)
    made = rounding(weight, form).meant()
    layer = torch.nn.Linear(96, 48, bias=False)
    layer.weight.data = torch.from_numpy(made.copy())
    found = own(layer)
    assert found.form == form and (found.meant() == made).all()
    spoilt = made.copy()
    spoilt[47, 95] = float("nan")
    layer.weight.data = torch.from_numpy(spoilt)
    assert own(layer).form == "float32"


def test_a_code_by_hand():
    """0.5 and -1.0 at a scale of 0.25 are codes 10 and 4 around 8; above a low of -1, they are 6 and 0."""
    row = torch.zeros(1, 32)
    row[0, :3] = torch.tensor([0.5, -1.0, -2.0])
    even = rounding(row, "int4")
    assert (even.numbers[0, :4].tolist(), even.scales.tolist()) == ([10, 4, 0, 8], [[0.25]])
    row[0, :3] = torch.tensor([0.5, -1.0, 2.75])
    lows = rounding(row, "int4-lows")
    assert (lows.numbers[0, :4].tolist(), lows.scales.tolist(), lows.lows.tolist()) == ([6, 0, 15, 4], [[0.25]], [[-1]])


def test_greedy_text_is_that_of_the_plain_model():
    model = model_of("wide window")
    engine, plain = Fast(model, "int8", threads=1), rounded(model, "int8").double()
    said = kit.ids(5, vocab_size=11).tolist()
    cache = engine.new_cache()
    scores = after(engine, said, cache)
    for _ in range(64):
        want = expected(plain, said)[-1]
        assert int(scores.argmax()) == int(want.argmax()), said
        said.append(int(want.argmax()))
        scores = after(engine, said[-1:], cache)


def test_the_loop_that_writes_takes_either():
    model = model_of("llama")
    said = [[3, 1, 4] for _ in range(3)]
    caches = (None, StaticCache(model.config), Fast(model, threads=1))
    for ids, one in zip(said, caches, strict=True):
        reader, cache = (one, one.new_cache()) if isinstance(one, Fast) else (model, one)
        drawn = draw(reader, ids, lambda scores: int(scores.argmax()), cache)
        for _ in range(model.config.context_length - 3):
            next(drawn)
    assert said[0] == said[1] == said[2]


def test_rows_of_different_lengths_go_together_as_they_would_alone():
    model = model_of("odd")
    engine, plain = Fast(model, "int8", threads=2, tokens=9 * 83), rounded(model, "int8")
    texts = [text_for(model, seed)[: 5 * seed + 3] for seed in range(9)]
    want = [expected(plain, text) for text in texts]
    cache, seen = engine.new_cache(9), [[] for _ in texts]
    while any(len(scores) < len(text) for scores, text in zip(seen, texts, strict=True)):
        new = [
            text[len(scores) : len(scores) + 7 - row % 3]
            for row, (scores, text) in enumerate(zip(seen, texts, strict=True))
        ]
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(one, dtype=torch.long) for one in new], batch_first=True)
        counts = torch.tensor([len(one) for one in new])
        for scores, found, count in zip(seen, engine(ids, cache, counts), counts, strict=True):
            scores.extend(found[:count])
    for row, scores in enumerate(seen):
        assert kit.gap(torch.stack(scores), want[row]) < bound(want[row]), row


def test_some_rows_go_on_while_others_rest():
    model = model_of("odd")
    engine, ids = Fast(model, "int8", threads=1, tokens=4 * 83), text_for(model)
    cache = engine.new_cache(3)
    engine(torch.tensor([ids[:40]] * 3), cache)
    alone = [after(engine, ids[: 41 + row]) for row in range(3)]
    for row in (2, 0):
        some = cache.at([row])
        got = engine.last(torch.tensor([ids[40 : 41 + row]]), 1, some)[0, 0]
        assert kit.gap(got, alone[row]) < bound(alone[row])
    assert cache.lengths.tolist() == [41, 40, 43]


def test_texts_that_begin_alike_share_pages_and_none_writes_into_anothers():
    model = model_of("odd")
    engine, ids, other = Fast(model, "int8", threads=1, tokens=8 * 83), text_for(model), text_for(model, 2)
    texts = [ids[:70] + other[:5], ids[:70] + other[5:13], ids[:40] + other[:20]]
    want, cache = [after(engine, text) for text in texts], engine.new_cache(3)
    for row, text in enumerate(texts):
        there = cache.admit(row, text)
        assert there == (0, 64, 32)[row]  # whole pages of 32
        got = engine.last(torch.tensor([text[there:]]), 1, cache.at([row]))[0, 0]
        assert kit.gap(got, want[row]) < bound(want[row])
    rows = cache.rows
    assert rows[0].blocks[:2] == rows[1].blocks[:2] and rows[0].blocks[0] == rows[2].blocks[0]
    cache.select(torch.tensor([0, 0, 1]))  # two rows hold the same text now, its last page too
    for row, id in ((0, 7), (1, 9)):
        got = engine.last(torch.tensor([[id]]), 1, cache.at([row]))[0, 0]
        fresh = after(engine, [*texts[0], id])
        assert kit.gap(got, fresh) < bound(fresh)


def test_a_page_is_used_again_and_knows_nothing_of_before():
    model = model_of("odd")
    engine, ids, other = Fast(model, "int4", threads=1), text_for(model), text_for(model, 2)
    fresh = after(Fast(model, "int4", threads=1), other[:40])
    cache = engine.new_cache()
    after(engine, ids, cache)
    engine.pool.values[:] = float("nan")  # what a broken text might leave behind
    cache.release(0)
    assert torch.equal(after(engine, other[:40], cache), fresh)
    engine.pool.values[cache.rows[0].blocks[1], ..., 5:, :] = float("nan")
    cache.rewind(37)
    assert kit.gap(after(engine, other[37:40], cache), fresh) < bound(fresh)


def test_a_cache_that_is_gone_gives_its_pages_back():
    model = model_of("odd")
    engine, ids = Fast(model, "int8", threads=1, tokens=83), text_for(model)
    for _ in range(3):  # the engine holds one context
        after(engine, ids)
    held, cache = engine.new_cache(), engine.new_cache()
    after(engine, ids[:40], held)
    with pytest.raises(ModelError, match="more blocks of 32, and 1 of 3 are free"):
        after(engine, ids, cache)
    assert cache.lengths.tolist() == [0] and held.lengths.tolist() == [40]


def test_a_first_token_by_hand():
    """One layer that adds nothing: the scores are head times the normed embedding, and that is [1, -1] times a sign."""
    config = replace(
        kit.LLAMA, vocab_size=3, d_model=2, n_head=1, n_kv_head=1, n_layer=1, d_ff=5, tied=False, norm_eps=1e-12
    )
    model = GPT(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0 if parameter.dim() == 1 else 0.0)
        model.embed.weight.copy_(torch.tensor([[3.0, -3.0], [-5.0, 5.0], [0.0, 0.0]]))
        model.head.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, -2.0]]))
    engine = Fast(model, "float32", threads=1)
    assert after(engine, [0]).tolist() == pytest.approx([1.0, -1.0, 4.0])
    assert after(engine, [1]).tolist() == pytest.approx([-1.0, 1.0, -4.0])


def test_more_threads_than_cores_or_than_work_give_the_same():
    model = model_of("llama")
    ids = text_for(model)
    alone, crowd = after(Fast(model, "int8", threads=1), ids), Fast(model, "int8", threads=5)
    assert kit.gap(after(crowd, ids), alone) < bound(alone)


def test_two_engines_and_two_callers_in_one_process():
    model = model_of("llama")
    ids, engines = text_for(model), [Fast(model, "int8", threads=2, tokens=200) for _ in range(2)]
    want, got = after(Fast(model, "int8", threads=1), ids), {}

    def read(caller: int) -> None:
        cache = engines[caller // 2].new_cache()
        for id in ids:
            got[caller] = after(engines[caller // 2], [id], cache)

    callers = [threading.Thread(target=read, args=(caller,)) for caller in range(4)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(60)
    assert all(kit.gap(got[caller], want) < bound(want) for caller in range(4))


def test_an_interrupt_leaves_a_usable_engine():
    model = model_of("odd")
    engine, ids = Fast(model, "int8", threads=2), text_for(model)
    want, cache = after(Fast(model, "int8", threads=1), ids), engine.new_cache()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    threading.Timer(0.05, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        while True:
            cache.rewind(0)
            after(engine, ids, cache)
    signal.signal(signal.SIGINT, before)
    cache.rewind(min(int(cache.lengths[0]), len(ids) - 1))
    assert kit.gap(after(engine, ids[int(cache.lengths[0]) :], cache), want) < bound(want)


def test_helpers_park_and_come_back_and_end_with_the_engine():
    model = model_of("llama")
    engine, ids = Fast(model, "int8", threads=2), text_for(model)
    want = after(engine, ids)
    helper = next(thread for thread in threading.enumerate() if thread.name == f"firsthand-{id(engine.team)}-1")
    helper.join(0.3)  # long enough to park
    assert torch.equal(after(engine, ids), want)
    helper.join(0.3)
    assert engine.team.lines[LINE + STATE] == PARKED
    engine.team.lines[LINE + STATE] = RUNG  # an interrupt came between the claim and the bell
    assert torch.equal(after(engine, ids), want)
    del engine
    gc.collect()
    helper.join(10)
    assert not helper.is_alive()


def test_it_says_what_it_cannot_do():
    model = model_of("llama")
    engine, adapted, labelled, dynamic = (Fast(model, "int8", threads=1), *(model_of("llama") for _ in range(3)))
    change(adapted, "lora", ["attention.*"], lora.settings_of(lora.Lora(rank=2)))
    change(labelled, "labels", ["head"], {"labels": ["a", "b"]})
    shrink(dynamic, "int8-dynamic", {})
    for wrong, message in (
        (lambda: Fast(model, "int5"), "weights 'int5' are unknown; use own, int8, .*, float32. Did you mean"),
        (lambda: Fast(model, "float32", "int8"), "need weights that are whole numbers, not float32"),
        (lambda: Fast(model, threads=0), "threads is 0; the fast engine takes 1 to 256"),
        (lambda: Fast(model, tokens=0), "tokens is 0; the fast engine takes 1 to"),
        (lambda: Fast(adapted), "it has adapters; merge them first: firsthand merge"),
        (lambda: Fast(labelled), "it tells labels apart and continues no text"),
        (lambda: Fast(dynamic), "also round what enters them"),
        (lambda: Fast(GPT(model.config).to("meta")), "the model is on meta"),
    ):
        with pytest.raises(ConfigError, match=message):
            wrong()
    cache = engine.new_cache(2)
    for wrong, message in (
        (lambda: after(engine, [11]), "token id 11 .smallest 11. is not in the model's vocabulary of 11"),
        (lambda: after(engine, []), "no ids were given"),
        (lambda: after(engine, [1] * 20), "20 tokens exceed the 19 positions; shorten by 1"),
        (lambda: after(engine, [1], cache), "ids have 1 rows and the cache 2"),
        (lambda: after(engine, [1], Fast(model, threads=1).new_cache()), "not one of this engine"),
        (lambda: engine(torch.tensor([[1], [2]]), cache, torch.tensor([1, 2])), "give 2 numbers from 0 to 1"),
        (lambda: engine(torch.tensor([1, 2])), "give rows of ids"),
    ):
        with pytest.raises(ModelError, match=message):
            wrong()
    assert cache.lengths.tolist() == [0, 0]


def test_its_memory_is_known():
    engine = Fast(model_of("llama"), "int8", threads=1)
    cache = engine.new_cache(2)
    engine(torch.tensor([[1, 2], [3, 4]]), cache.at([0, 1]))
    # a page: two layers, three groups; keys 32 x 32 positions, values 16 x 32 positions, 4 bytes each
    assert cache.bytes() == (2 * 2 * 3 * (32 * 32 + 16 * 32) * 4, 2 * 3 * (32 + 16) * 4)
    assert 24 * (24 + 2 * 12 + 24 + 3 * 40) * 2 < engine.weight_bytes < 40_000
