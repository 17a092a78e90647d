"""The fast engine gives the scores of GPT.forward with the same rounded weights, for every shape of model."""

import gc
import signal
import threading
from dataclasses import replace

import kit
import pytest
import torch

from firsthand.errors import ConfigError, ModelError
from firsthand.infer.fast import Fast, available, rounded
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
KINDS = ("float32", "bfloat16", "int8", "int4")


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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SHAPES)
def test_scores_are_those_of_the_plain_model_with_the_same_weights(name, kind):
    model = model_of(name)
    ids, engine = text_for(model), Fast(model, kind, threads=1)
    want = expected(rounded(model, kind), ids)
    first = len(ids) // 3
    got = [engine.scores(ids[:first])] + [engine.scores([id]) for id in ids[first:]]
    assert kit.gap(torch.stack(got), want[first - 1 :]) < bound(want)
    engine.rewind(0, 0)
    assert kit.gap(engine.scores(ids), want[-1]) < bound(want), "a prompt of several chunks"


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_whole_activations_stay_near(kind):
    model = model_of("odd")
    ids, engine = text_for(model), Fast(model, kind, "int8", threads=1)
    want = expected(rounded(model, kind), ids)
    got = torch.stack([engine.scores([id]) for id in ids])
    drift = (got - want).pow(2).mean().sqrt() / want.pow(2).mean().sqrt()
    assert 1e-4 < drift < 0.03  # a number is off by 1 / 254 of the largest of 32 neighbours at most


@pytest.mark.parametrize("name", ["llama", "gpt2", "odd"])
def test_without_the_integer_instruction_the_scores_are_the_same(name, monkeypatch):
    model = model_of(name)
    ids = text_for(model)
    with_it = Fast(model, "int8", threads=1).scores(ids)
    monkeypatch.setattr("firsthand.infer.load.native", lambda: False)
    assert kit.gap(Fast(model, "int8", threads=1).scores(ids), with_it) < bound(with_it)


def test_greedy_text_is_that_of_the_plain_model():
    model = model_of("wide window")
    engine, plain = Fast(model, "int8", threads=1), rounded(model, "int8").double()
    said = kit.ids(5, vocab_size=11).tolist()
    scores = engine.scores(said)
    for _ in range(64):
        want = expected(plain, said)[-1]
        assert int(scores.argmax()) == int(want.argmax()), said
        said.append(int(want.argmax()))
        scores = engine.scores(said[-1:])


def test_rows_of_different_lengths_go_together_as_they_would_alone():
    model = model_of("odd")
    engine, plain = Fast(model, "int8", threads=2, batch=9), rounded(model, "int8")
    texts = [text_for(model, seed)[: 5 * seed + 3] for seed in range(9)]
    want = [expected(plain, text) for text in texts]
    for slot, text in enumerate(texts):
        engine.scores(text[:-2], slot)
    for slots in ([8, 0, 3], [1], list(range(9)), [2, 4, 5, 6, 7, 1]):  # tiles of four, one, nine and eight
        slots = [slot for slot in slots if engine.lengths[slot] < len(texts[slot])]
        now = engine.lengths.tolist()
        got = engine.step([texts[slot][now[slot]] for slot in slots], slots)
        for row, slot in enumerate(slots):
            assert kit.gap(got[row], want[slot][now[slot]]) < bound(want[slot]), (slots, slot)


def test_a_slot_is_used_again_and_knows_nothing_of_before():
    model = model_of("odd")
    engine, ids, other = Fast(model, "int4", threads=1), text_for(model), text_for(model, 2)
    fresh = Fast(model, "int4", threads=1).scores(other[:40])
    engine.scores(ids)
    engine.room.values[0, :, :, :, 50:] = float("nan")  # what a broken text might leave behind
    engine.release(0)
    assert engine.lengths.tolist() == [0]
    assert torch.equal(engine.scores(other[:40]), fresh)
    engine.rewind(0, 30)
    assert kit.gap(engine.scores(other[30:40]), fresh) < bound(fresh)


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
    assert engine.scores([0]).tolist() == pytest.approx([1.0, -1.0, 4.0])
    assert engine.scores([1]).tolist() == pytest.approx([-1.0, 1.0, -4.0])


def test_more_threads_than_cores_or_than_work_give_the_same():
    model = model_of("llama")
    ids = text_for(model)
    alone, crowd = Fast(model, "int8", threads=1).scores(ids), Fast(model, "int8", threads=5)
    assert kit.gap(crowd.scores(ids), alone) < bound(alone)


def test_two_engines_and_two_callers_in_one_process():
    model = model_of("llama")
    ids, engines = text_for(model), [Fast(model, "int8", threads=2, batch=2) for _ in range(2)]
    want, got = Fast(model, "int8", threads=1).scores(ids), {}

    def read(caller: int) -> None:
        for id in ids:
            got[caller] = engines[caller // 2].scores([id], caller % 2)

    callers = [threading.Thread(target=read, args=(caller,)) for caller in range(4)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(60)
    assert all(kit.gap(got[caller], want) < bound(want) for caller in range(4))


def test_an_interrupt_leaves_a_usable_engine():
    model = model_of("odd")
    engine, ids = Fast(model, "int8", threads=2), text_for(model)
    want = Fast(model, "int8", threads=1).scores(ids)
    threading.Timer(0.05, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        while True:
            engine.rewind(0, 0)
            engine.scores(ids)
    held = int(engine.lengths[0])
    assert kit.gap(engine.scores(ids[held:] if held < len(ids) else _last(engine, ids)), want) < bound(want)


def _last(engine: Fast, ids: list[int]) -> list[int]:
    engine.rewind(0, len(ids) - 1)
    return ids[-1:]


def test_helpers_park_and_come_back_and_end_with_the_engine():
    model = model_of("llama")
    engine, ids = Fast(model, "int8", threads=2), text_for(model)
    want = engine.scores(ids)
    helper = next(thread for thread in threading.enumerate() if thread.name == f"firsthand-{id(engine.team)}-1")
    helper.join(0.3)  # long enough to park
    engine.rewind(0, 0)
    assert torch.equal(engine.scores(ids), want)
    del engine
    gc.collect()
    helper.join(10)
    assert not helper.is_alive()


def test_it_says_what_it_cannot_do():
    model = model_of("llama")
    engine = Fast(model, "int8", threads=1, batch=2, length=7)
    for wrong, message in (
        (lambda: Fast(model, "int5"), "weights 'int5' are unknown; use int8, int4, bfloat16, float32. Did you mean"),
        (lambda: Fast(model, "float32", "int8"), "need integer weights"),
        (lambda: Fast(model, threads=0), "threads is 0; the fast engine takes 1 to 256"),
        (lambda: Fast(model, length=20), "length is 20; the fast engine takes 1 to 19"),
    ):
        with pytest.raises(ConfigError, match=message):
            wrong()
    for wrong, message in (
        (lambda: engine.scores([11]), "token id 11 .smallest 11. is not in the model's vocabulary of 11"),
        (lambda: engine.scores([]), "no ids were given"),
        (lambda: engine.scores([1] * 8), "8 tokens exceed the 7 positions; shorten by 1"),
        (lambda: engine.scores([1], 2), "slots .2. are not all there; this engine has 0 to 1"),
        (lambda: engine.step([1, 2], [0, 0]), "give one for each, each slot once"),
        (lambda: engine.rewind(0, 1), "slot 0 cannot be rewound to 1; it holds 0 tokens"),
    ):
        with pytest.raises(ModelError, match=message):
            wrong()
    assert engine.lengths.tolist() == [0, 0]


def test_its_memory_is_known():
    engine = Fast(model_of("llama"), "int8", threads=1, batch=3)
    # two layers, three groups; keys 32 x 32 positions, values 16 x 32 positions, 4 bytes each
    assert engine.bytes().total == 3 * 2 * 3 * (32 * 32 + 16 * 32) * 4
    assert 24 * (24 + 2 * 12 + 24 + 3 * 40) * 2 < engine.weight_bytes < 40_000
