"""The lesson's loss and its gradient are production's; a pair is worked by hand; and a model learns a taste."""

import math

import pytest
import torch
from kit import VARIANTS, gap, tiny
from torch import nn

from firsthand.lessons import dpo as lesson
from firsthand.objectives.preference import Preference, answer_logps, dpo_loss

PAIRS = [([1, 2, 3], [4, 5, 6], [7, 8]), ([9, 2], [10, 4], [1, 1, 3, 10, 5])]


def examples():
    return [
        tuple((question + answer, [0] * len(question) + [1] * len(answer)) for answer in answers)
        for question, *answers in PAIRS
    ]


def test_a_pair_worked_by_hand():
    chosen, rejected = torch.tensor([2.0, 0.0, -1.0]), torch.tensor([0.0, 0.0, 1.0])
    # leads 2, 0 and -2: log(1 + e^-2), log 2, 2 + log(1 + e^-2)
    assert lesson.pair_loss(chosen, rejected).tolist() == pytest.approx([0.126928, 0.693147, 2.126928], abs=1e-6)
    assert lesson.pull(chosen, rejected).tolist() == pytest.approx([0.119203, 0.5, 0.880797], abs=1e-6)


def test_an_answer_worked_by_hand():
    # whatever came before, the next token is 0, 1 or 2 with probability 1/2, 1/4, 1/4
    def model(ids):
        return torch.tensor([0.5, 0.25, 0.25]).log().expand(*ids.shape, 3) + 7.0

    said = lesson.answer_log_probability(model, [2, 2], [0, 1, 0])
    assert said.item() == pytest.approx(math.log(1 / 2 * 1 / 4 * 1 / 2), abs=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_answers_are_as_likely_as_production_says(variant):
    model = tiny(variant)
    found = [lesson.answer_log_probability(model, q, a) for side in (1, 2) for q, a in ((p[0], p[side]) for p in PAIRS)]
    assert gap(torch.stack(found).detach(), answer_logps(model, Preference().collate(examples())).detach()) < 1e-10


@pytest.mark.parametrize("variant", ["gpt2", "llama", "qwen2"])
def test_the_loss_and_its_gradient_are_those_of_production(variant):
    model, before, objective = tiny(variant), tiny(variant, seed=4), Preference("dpo", beta=0.3)
    objective.prepare(before)
    slow = lesson.loss(model, before, PAIRS, 0.3)
    fast = objective.loss(model, objective.collate(examples())).total / len(PAIRS)
    assert gap(slow.detach(), fast.detach()) < 1e-10
    weights = list(model.parameters())
    for one, other in zip(torch.autograd.grad(slow, weights), torch.autograd.grad(fast, weights), strict=True):
        assert gap(one, other) < 1e-10


def test_the_pull_is_the_gradient():
    rewards = [3 * torch.randn(9, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    up, down = torch.autograd.grad(lesson.pair_loss(*rewards).sum(), rewards)
    pull = lesson.pull(*rewards).detach()
    assert gap(up, -pull) < 1e-12 and gap(down, pull) < 1e-12
    assert gap(lesson.pair_loss(*rewards).detach(), dpo_loss(*rewards, 1.0).detach()) < 1e-12


def test_rewards_too_far_apart_for_the_exponential_have_a_loss():
    far = torch.tensor([900.0, -900.0], dtype=torch.float64)
    assert lesson.pair_loss(far, -far).tolist() == [0.0, 1800.0]


def test_a_model_learns_a_taste_and_leaves_its_copy_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 11)).double()
    losses, right = lesson.prefer(model, PAIRS, beta=0.5, rate=0.5, steps=40)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-12)
    assert losses[-1] < 0.2 and losses == sorted(losses, reverse=True)
    assert right == 1.0
