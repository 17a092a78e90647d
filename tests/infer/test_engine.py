"""Many texts on one engine: each is what it would be alone, whoever else reads, writes, waits or leaves."""

from dataclasses import replace

import kit
import pytest
import torch

from firsthand.errors import ModelError
from firsthand.infer.draw import draw
from firsthand.infer.engine import Engine
from firsthand.infer.fast import Fast, available
from firsthand.model.gpt import GPT

pytestmark = pytest.mark.skipif(available() is not None, reason=str(available()))
SHAPE = replace(kit.VARIANTS["llama"], context_length=150, vocab_size=37)


def model() -> GPT:
    """A tiny model whose text does not soon repeat."""
    made = GPT(SHAPE).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.4, generator=generator)
    return made


def likeliest(scores: torch.Tensor) -> int:
    return int(scores.argmax())


def alone(plain: GPT, prompt: list[int], most: int, ends: tuple[int, ...]) -> list[int]:
    """Greedy text of the plain model, without a cache, up to what ends it."""
    ids, drawn = list(prompt), []
    for one in draw(plain, ids, likeliest):
        if one.id in ends:
            break
        drawn.append(one.id)
        if len(drawn) == most:
            break
    return drawn


PROMPTS = [kit.ids(length, vocab_size=37, seed=length).tolist() for length in (1, 70, 5, 33, 32, 2, 100, 8, 64, 31)]


def test_every_text_is_what_it_would_be_alone():
    plain = model()
    engine = Engine(Fast(plain, threads=1, tokens=4 * 160), rows=4)
    most = [3, 40, 20, 1, 9, 30, 12, 25, 2, 15]
    texts = [engine.admit(ids, likeliest, n, (5, 7)) for ids, n in zip(PROMPTS, most, strict=True)]
    ended = list(engine.run())
    assert sorted(map(id, ended)) == sorted(map(id, texts))
    for text, ids, n in zip(texts, PROMPTS, most, strict=True):
        want = alone(plain, ids, n, (5, 7))
        assert text.said == want
        assert text.finish == ("length" if len(want) == n else "end")
    assert engine.cache.lengths.tolist() == [0] * 4 and len(engine.fast.pool.free) == engine.fast.pool.blocks


def test_the_short_do_not_wait_for_the_long():
    engine = Engine(Fast(model(), threads=1, tokens=2 * 160), rows=2)
    long, short, next_one = (engine.admit([1, 2], likeliest, n) for n in (60, 2, 3))
    assert list(engine.run()) == [short, next_one, long]


def test_a_common_beginning_is_read_once():
    plain, common = model(), PROMPTS[6][:96]
    engine = Engine(Fast(plain, threads=1, tokens=4 * 160), rows=2)
    first = engine.admit([*common, 1], likeliest, 30)
    for _ in range(5):
        engine.step()
    second = engine.admit([*common, 2], likeliest, 4)
    engine.step()
    assert engine.cache.rows[1].blocks[:3] == engine.cache.rows[0].blocks[:3]
    assert int(engine.cache.lengths[1]) == 97  # of which one token was read now
    list(engine.run())
    assert (first.said, second.said) == (alone(plain, [*common, 1], 30, ()), alone(plain, [*common, 2], 4, ()))


def test_who_leaves_makes_room_and_changes_nobody():
    plain = model()
    engine = Engine(Fast(plain, threads=1, tokens=2 * 160), rows=2)
    gone, stays, waits, never = (engine.admit(PROMPTS[which], likeliest, 20) for which in (1, 2, 3, 4))
    for _ in range(6):
        engine.step()
    engine.leave(gone)
    engine.leave(never)
    assert set(engine.run()) == {stays, waits}
    assert gone.finish is None and never.said == []
    assert (stays.said, waits.said) == (alone(plain, PROMPTS[2], 20, ()), alone(plain, PROMPTS[3], 20, ()))


def test_few_pages_make_texts_wait_not_fail():
    plain = model()
    engine = Engine(Fast(plain, threads=1, tokens=128), rows=4)  # four pages of 32
    texts = [engine.admit(ids[:20], likeliest, 40) for ids in (PROMPTS[1], PROMPTS[3], PROMPTS[6])]  # two pages each
    engine.step()
    assert [row is not None for row in engine.rows] == [True, True, False, False]
    list(engine.run())
    assert [text.said for text in texts] == [alone(plain, text.ids[:20], 40, ()) for text in texts]


def test_it_refuses_what_could_never_have_room():
    engine = Engine(Fast(model(), threads=1, tokens=64), rows=2)
    for wrong, message in (
        (lambda: engine.admit([], likeliest, 5), "a prompt of 0 tokens and 5 to come"),
        (lambda: engine.admit([1], likeliest, 0), "a prompt of 1 tokens and 0 to come"),
        (lambda: engine.admit([1] * 100, likeliest, 51), "exceed the 150 positions; shorten by 1"),
        (lambda: engine.admit([1] * 60, likeliest, 5), "need 3 pages, and the engine has 2; make it with tokens=96"),
    ):
        with pytest.raises(ModelError, match=message):
            wrong()
    assert not engine.waiting
