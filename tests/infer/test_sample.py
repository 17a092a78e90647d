"""The sampler against transformers, against numbers worked by hand, and against its lesson (tests/lessons)."""

from collections import Counter
from itertools import pairwise

import pytest
import torch
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from firsthand.errors import ConfigError, ModelError
from firsthand.infer import sample
from firsthand.infer.sample import Sampler, pick

HISTORY = [3, 7, 3, 12]


def scores(seed: int, V: int = 37) -> torch.Tensor:
    return torch.empty(V, dtype=torch.float64).normal_(0, 3, generator=torch.Generator().manual_seed(seed))


def foreign(sampler: Sampler, logits: torch.Tensor, history: list[int]) -> torch.Tensor:
    """The distribution that transformers makes of the same settings."""
    processors = []
    if sampler.repetition_penalty is not None:
        processors.append(RepetitionPenaltyLogitsProcessor(sampler.repetition_penalty))
    processors.append(TemperatureLogitsWarper(sampler.temperature))
    if sampler.top_k:
        processors.append(TopKLogitsWarper(sampler.top_k))
    if sampler.top_p is not None:
        processors.append(TopPLogitsWarper(sampler.top_p))
    if sampler.min_p is not None:
        processors.append(MinPLogitsWarper(sampler.min_p))
    logits, ids = logits[None].clone(), torch.tensor([history])
    for processor in processors:
        logits = processor(ids, logits)
    return logits[0].softmax(dim=0)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("top_k", [0, 1, 11, 37])
@pytest.mark.parametrize("top_p", [None, 0.1, 0.9])
@pytest.mark.parametrize("min_p", [None, 0.05])
@pytest.mark.parametrize("penalty", [None, 1.3, 0.8])
def test_the_sampler_gives_the_distribution_of_transformers(temperature, top_k, top_p, min_p, penalty):
    sampler = Sampler(temperature, top_k, top_p, min_p, penalty)
    for seed in range(5):
        ours = sampler.distribution(scores(seed), HISTORY)
        theirs = foreign(sampler, scores(seed), HISTORY)
        assert torch.equal(ours > 0, theirs > 0)
        assert (ours - theirs).abs().max() < 1e-10


def test_temperature_and_cuts_worked_by_hand():
    shares = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64)
    logits = shares.log()
    # half the temperature squares the probabilities: 1/4 1/16 1/64 1/64, together 22/64
    assert Sampler(0.5, 0).distribution(logits) == pytest.approx([16 / 22, 4 / 22, 1 / 22, 1 / 22], abs=1e-12)
    assert Sampler(1.0, 2).distribution(logits) == pytest.approx([2 / 3, 1 / 3, 0, 0], abs=1e-12)
    # 0.5 is less than 0.6, 0.5 + 0.25 is enough
    assert Sampler(1.0, 0, top_p=0.6).distribution(logits) == pytest.approx([2 / 3, 1 / 3, 0, 0], abs=1e-12)
    # 0.125 is less than 0.3 times 0.5
    assert Sampler(1.0, 0, min_p=0.3).distribution(logits) == pytest.approx([2 / 3, 1 / 3, 0, 0], abs=1e-12)
    # scores 2, -1 and 1 were seen or not: 2 / 2 = 1, -1 * 2 = -2, 1 stays
    less = sample.repeat_less(torch.tensor([2.0, -1.0, 1.0]), [0, 1, 1], 2.0)
    assert less.tolist() == [1.0, -2.0, 1.0]
    # token 1 occurred twice, token 0 once
    three = torch.tensor([2.0, -1.0, 1.0])
    assert sample.mention_once(three, [1, 0, 1], 0.5).tolist() == [1.5, -1.5, 1.0]
    assert sample.mention_rarely(three, [1, 0, 1], 0.5).tolist() == [1.5, -2.0, 1.0]
    assert sample.mention_rarely(three, [], 0.5).tolist() == [2.0, -1.0, 1.0]


def test_presence_and_frequency_penalties_see_only_the_answer():
    logits, changed = scores(2), scores(2)
    changed[7] -= 0.3 + 2 * 0.6
    changed[1] -= 0.3 + 0.6
    sampler = Sampler(1.0, 0, presence_penalty=0.3, frequency_penalty=0.6)
    assert torch.allclose(sampler.distribution(logits, [3, 3, 9, 7, 1, 7], begin=3), changed.softmax(dim=0), atol=1e-12)
    assert [name for name, _ in sampler.stages()] == ["presence penalty 0.3", "frequency penalty 0.6", "temperature 1"]


def test_a_limit_comes_before_all_other_steps_and_what_it_forbids_stays_forbidden():
    def odd(logits: torch.Tensor) -> torch.Tensor:
        return logits.masked_fill(torch.arange(len(logits)) % 2 == 0, sample.NEVER)

    sampler = Sampler(1.4, 30, 0.99, 0.001, 1.3, -0.5, -0.5)
    steps = sampler.steps(scores(3), HISTORY, 1, ("odd ones", odd))
    assert steps[0].name == "odd ones"
    assert steps[0].kept == 18
    assert all(step.after[::2].sum() == 0 for step in steps)
    drawn = {pick(scores(3), sampler, HISTORY, torch.Generator().manual_seed(s), 1, ("", odd)) for s in range(99)}
    assert {id % 2 for id in drawn} == {1}


def test_greedy_takes_the_likeliest_and_of_equals_the_first():
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([1.0, 5.0, 5.0, 2.0])
    for top_k in (0, 1, 3):
        assert pick(logits, Sampler(0, top_k), [], generator) == 1
    assert pick(logits, Sampler(0, 0, repetition_penalty=2.0), [1], generator) == 2


def test_a_temperature_near_zero_is_greedy_and_does_not_overflow():
    for temperature in (1e-3, 1e-40, 5e-324):
        distribution = Sampler(temperature, 0).distribution(scores(0))
        assert distribution.argmax() == scores(0).argmax()
        assert distribution.max() > 0.999


def test_a_greater_temperature_is_never_surer():
    def entropy(temperature: float) -> float:
        p = Sampler(temperature, 0).distribution(scores(3))
        return float(-(p * p.log()).nan_to_num().sum())

    entropies = [entropy(step / 10) for step in range(1, 21)]
    assert entropies == sorted(entropies)


def test_the_order_of_the_vocabulary_does_not_matter():
    order = torch.randperm(37, generator=torch.Generator().manual_seed(5))
    sampler = Sampler(0.9, 12, 0.8, 0.01, None)
    assert torch.allclose(sampler.distribution(scores(4))[order], sampler.distribution(scores(4)[order]), atol=1e-12)


def test_what_is_drawn_follows_the_distribution():
    sampler, logits, draws = Sampler(1.0, 5), scores(6), 8_000
    generator = torch.Generator().manual_seed(1)
    counts = Counter(pick(logits, sampler, [], generator) for _ in range(draws))
    expected = sampler.distribution(logits)
    assert set(counts) == set(torch.nonzero(expected).flatten().tolist())
    chi2 = sum((counts[id] - draws * p) ** 2 / (draws * p) for id, p in enumerate(expected.tolist()) if p > 0)
    assert chi2 < 18.5  # 4 degrees of freedom: exceeded once in 1,000 seeds


def test_a_token_of_probability_zero_is_never_drawn():
    generator = torch.Generator().manual_seed(2)
    probabilities = torch.tensor([0, 0, 1e-9, 0, 1 - 1e-9, 0], dtype=torch.float64)
    assert {sample.draw(probabilities, generator) for _ in range(2_000)} <= {2, 4}


def test_a_seed_repeats_its_draws_whatever_the_precision_of_the_model():
    def draws(dtype: torch.dtype, seed: int) -> list[int]:
        generator, logits = torch.Generator().manual_seed(seed), scores(7).round().to(dtype)
        return [pick(logits, Sampler(1.2, 20), [], generator) for _ in range(50)]

    assert draws(torch.float64, 3) == draws(torch.float64, 3) == draws(torch.bfloat16, 3)
    assert draws(torch.float64, 3) != draws(torch.float64, 4)


def test_nothing_is_changed_in_place():
    logits = scores(8)
    before = logits.clone()
    Sampler(0.5, 3, 0.5, 0.5, 1.5).steps(logits, HISTORY)
    assert torch.equal(logits, before)


def test_steps_tell_what_each_step_removes():
    logits = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64).log()
    steps = Sampler(1.0, 2, 0.6, repetition_penalty=None).steps(logits)
    assert [step.name for step in steps] == ["temperature 1", "top-k 2", "top-p 0.6"]
    assert [step.removed for step in steps] == pytest.approx([0, 1 / 4, 1 / 3])  # of what is left 2/3 and 1/3, 2/3 do
    assert [step.kept for step in steps] == [4, 2, 1]
    assert steps[-1].after.tolist() == pytest.approx([1, 0, 0, 0])
    assert all(torch.equal(a.after, b.before) for a, b in pairwise(steps))


@pytest.mark.parametrize("sampler", [Sampler(), Sampler(0, 3), Sampler(1.1, 0, 0.7, 0.1, 1.2)])
def test_the_last_step_is_the_distribution_that_is_drawn_from(sampler):
    steps = sampler.steps(scores(9, 53), HISTORY)
    assert torch.equal(steps[-1].after, sampler.distribution(scores(9, 53), HISTORY))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"temperature": -1}, "temperature is -1; it must be between 0 (greedy) and 2. [FH016]"),
        ({"temperature": 2.5}, "temperature is 2.5; it must be between 0 (greedy) and 2. [FH016]"),
        ({"temperature": float("nan")}, "temperature is nan; it must be between 0 (greedy) and 2. [FH016]"),
        ({"top_k": -3}, "top_k is -3; it must be 1 or more, or 0 to turn it off. [FH017]"),
        ({"top_p": 0.0}, "top_p is 0.0; it must be above 0 and at most 1 (1 keeps all)."),
        ({"top_p": 1.01}, "top_p is 1.01; it must be above 0 and at most 1 (1 keeps all)."),
        ({"min_p": -0.1}, "min_p is -0.1; it must be between 0 (keeps all) and 1."),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0; it must be above 0 and at most 10; usual: 1.2."),
        (
            {"presence_penalty": 2.5},
            "presence_penalty is 2.5; it must be between -2 and 2; usual: 0.1 to 1, 0 turns it off.",
        ),
        (
            {"frequency_penalty": -3},
            "frequency_penalty is -3.0; it must be between -2 and 2; usual: 0.1 to 1, 0 turns it off.",
        ),
    ],
)
def test_a_setting_out_of_range_is_refused(settings, message):
    with pytest.raises(ConfigError) as error:
        Sampler(**settings)
    assert str(error.value) == message


def test_a_top_k_beyond_the_vocabulary_is_refused():
    with pytest.raises(ConfigError) as error:
        Sampler(top_k=60_000).check(50_257)
    expected = "top_k is 60000 but the vocabulary has 50,257 tokens. Use 1…50257, or 0 to turn it off. [FH017]"
    assert str(error.value) == expected
    Sampler(top_k=50_257).check(50_257)


@pytest.mark.parametrize("bad", ["nan", "inf", "-inf"])
def test_scores_that_are_no_numbers_are_refused(bad):
    logits = scores(0)
    logits[5] = float(bad)
    with pytest.raises(ModelError, match=f"the model gave the score {bad} to 1 of 37 tokens"):
        pick(logits, Sampler(), [], torch.Generator())
