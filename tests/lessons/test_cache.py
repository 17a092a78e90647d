"""With a memory and without one: the same numbers, and production's."""

import math

import kit
import torch

from firsthand.lessons import cache as lesson
from firsthand.lessons.attention import causal
from firsthand.model.cache import StaticCache


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


X, MATRICES = draw(7, 12), [draw(5, 12, seed=seed) / 3 for seed in (1, 2, 3)]


def test_the_last_token_again_is_the_last_row_of_causal_attention():
    wq, wk, wv = MATRICES
    for T in range(1, 8):
        assert kit.gap(lesson.last_again(X[:T], *MATRICES), causal(X @ wq.T, X @ wk.T, X @ wv.T)[T - 1]) < 1e-12


def test_the_last_token_remembered_is_the_last_token_again():
    K = V = torch.zeros(0, 5, dtype=torch.float64)
    for T in range(1, 8):
        found, K, V = lesson.last_remembered(X[T - 1], K, V, *MATRICES)
        assert kit.gap(found, lesson.last_again(X[:T], *MATRICES)) < 1e-12
        assert len(K) == len(V) == T


def test_a_memory_of_one_token_by_hand():
    # the memory holds key 0 and value 4; the new token 1 has key log 3 and value 8: shares 1/4 and 3/4
    one = torch.ones(1, dtype=torch.float64)
    found, K, V = lesson.last_remembered(
        one, 0 * one[None], 4 * one[None], one[None], math.log(3) * one[None], 8 * one[None]
    )
    assert abs(found.item() - 7) < 1e-12
    assert V.flatten().tolist() == [4, 8]
    assert K.shape == (2, 1)


def test_steps_give_the_logits_of_production_with_and_without_its_cache():
    production, ids = kit.tiny("gpt2"), kit.ids(1, 19)
    memory = []
    scores = [lesson.step(production.state_dict(), 6, id, memory) for id in ids[0].tolist()]
    assert kit.gap(torch.stack(scores), production(ids)[0]) < 1e-10
    cache = StaticCache(production.config)
    singly = torch.cat([production(one, cache) for one in ids.split(1, dim=1)], dim=1)
    assert kit.gap(torch.stack(scores), singly[0]) < 1e-10
    held = torch.stack([torch.stack(pair) for pair in memory]).view(2, 6, 2, 19, 4)  # layer, head, key or value
    assert kit.gap(held.permute(2, 0, 1, 3, 4), cache.store[:, :, 0]) < 1e-10  # what is stored is production's too


def test_a_text_is_the_same_whether_the_memory_is_kept_or_not():
    weights = kit.tiny("gpt2").state_dict()
    assert lesson.generate(weights, 6, [3, 1, 4], 9) == lesson.generate_again(weights, 6, [3, 1, 4], 9)


def test_the_numbers_of_gpt2_in_the_lesson_are_right():
    assert 2 * 768 * 12 == 18_432
    assert round(18_432 * 4 / 1e3) == 74
    assert round(18_432 * 4 * 1024 / 1e6) == 75
