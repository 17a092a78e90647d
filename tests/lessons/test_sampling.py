"""The sampling lesson does what the product does."""

import pytest
import torch

from firsthand.infer.sample import Sampler, pick
from firsthand.infer.speculate import Lookup
from firsthand.lessons import sampling


def scores(seed: int) -> torch.Tensor:
    return torch.empty(29, dtype=torch.float64).normal_(0, 3, generator=torch.Generator().manual_seed(seed))


STEPS = {
    "temperature": (Sampler(0.7, 0), lambda x: sampling.temperature(x, 0.7)),
    "top_k": (Sampler(1.0, 7), lambda x: sampling.top_k(x, 7)),
    "top_p": (Sampler(1.0, 0, top_p=0.8), lambda x: sampling.top_p(x, 0.8)),
    "min_p": (Sampler(1.0, 0, min_p=0.05), lambda x: sampling.min_p(x, 0.05)),
    "penalty": (
        Sampler(1.0, 0, repetition_penalty=1.3),
        lambda x: sampling.repetition_penalty(x, [2, 5, 2, 28], 1.3),
    ),
}


@pytest.mark.parametrize("step", STEPS)
def test_each_step_of_the_lesson_gives_the_distribution_of_the_sampler(step):
    sampler, lesson = STEPS[step]
    for seed in range(20):
        ours = sampler.distribution(scores(seed), [2, 5, 2, 28])
        slow = sampling.softmax(lesson(scores(seed)))
        assert (ours - slow).abs().max() < 1e-10


def test_the_lesson_chooses_the_very_tokens_that_the_sampler_chooses():
    fast, slow = (torch.Generator().manual_seed(11) for _ in range(2))
    for seed in range(200):
        chosen = pick(scores(seed), Sampler(0.9, 12), [], fast)
        assert sampling.next_token(scores(seed), 0.9, 12, slow) == chosen


def test_the_lesson_is_greedy_as_the_sampler_is_at_temperature_zero():
    for seed in range(20):
        assert sampling.greedy(scores(seed)) == pick(scores(seed), Sampler(0, 0), [], torch.Generator())
    assert sampling.greedy(torch.tensor([1.0, 3.0, 3.0])) == 1


def test_the_numbers_of_the_lesson():
    two = torch.tensor([2.0, 0.0], dtype=torch.float64)
    ratios = [sampling.softmax(sampling.temperature(two, T)) for T in (1.0, 0.5)]
    assert [round(float(p[0] / p[1]), 1) for p in ratios] == [7.4, 54.6]
    assert [sampling.draw(torch.tensor([0.5, 0.25, 0.25]), u) for u in (0.0, 0.49, 0.5, 0.74, 0.75, 0.99)] == [
        0, 0, 1, 1, 2, 2,
    ]  # fmt: skip


def test_the_lesson_guesses_what_the_product_guesses():
    for seed in range(40):
        ids = torch.randint(4, (3 + seed,), generator=torch.Generator().manual_seed(seed)).tolist()
        lookup = Lookup(6)
        lookup.size = 6
        slow, fast = sampling.look_up(ids, 6), lookup.guess(ids)
        assert fast[: len(slow)] == slow  # the product goes on where the text repeats up to its end
        assert bool(fast) == bool(slow)


def test_the_lesson_keeps_right_guesses_and_one_token_more():
    assert sampling.accept([5, 6, 7], [5, 6, 9, 2]) == [5, 6, 9]
    assert sampling.accept([5, 6, 7], [5, 6, 7, 2]) == [5, 6, 7, 2]
    assert sampling.accept([], [4]) == [4]
