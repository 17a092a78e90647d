import math

import pytest
import torch
import torch.nn.functional as F
from kit import gap, tiny

from firsthand.errors import ConfigError, DataError
from firsthand.linear import lora
from firsthand.linear.kinds import change
from firsthand.objectives.preference import (
    Preference,
    answer_logps,
    dpo_loss,
    ipo_loss,
    orpo_loss,
    simpo_loss,
)

KINDS = ["dpo", "ipo", "orpo", "simpo"]
# (prompt 1 2 3, answer 4 5 6) against (prompt 1 2 3, answer 7 8), and a second pair of other lengths
PAIRS = [
    (([1, 2, 3, 4, 5, 6], [0, 0, 0, 1, 1, 1]), ([1, 2, 3, 7, 8], [0, 0, 0, 1, 1])),
    (([9, 2, 10, 4], [0, 0, 1, 1]), ([9, 2, 1, 1, 3, 10, 5], [0, 0, 1, 1, 1, 1, 1])),
]


def drawn(seed=0, size=5):
    generator = torch.Generator().manual_seed(seed)
    return [-4 * torch.rand(size, generator=generator, dtype=torch.float64) for _ in range(2)]


def test_one_pair_by_hand():
    # ratios 2 and -1, beta 0.5: lead 1.5; -log sigmoid(1.5) = log(1 + e^-1.5) = 0.201413
    chosen, rejected = torch.tensor([2.0], dtype=torch.float64), torch.tensor([-1.0], dtype=torch.float64)
    assert dpo_loss(chosen, rejected, 0.5).item() == pytest.approx(0.2014132779827524, abs=1e-12)
    # cDPO with a tenth wrong: 0.9 * 0.201413 + 0.1 * (0.201413 + 1.5)
    assert dpo_loss(chosen, rejected, 0.5, 0.1).item() == pytest.approx(0.3514132779827524, abs=1e-12)
    assert ipo_loss(chosen, rejected, 0.5).item() == pytest.approx((3 - 1) ** 2)
    assert simpo_loss(chosen, rejected, 0.5, 0.5).item() == pytest.approx(math.log(1 + math.exp(-1.0)), abs=1e-12)
    # mean probabilities 1/2 and 1/4: odds 1 and 1/3, their ratio 3; log 2 + 0.5 log(1 + 1/3)
    half, quarter = torch.tensor([0.5], dtype=torch.float64).log(), torch.tensor([0.25], dtype=torch.float64).log()
    expected = math.log(2) + 0.5 * math.log(4 / 3)
    assert orpo_loss(half, quarter, 0.5).item() == pytest.approx(expected, abs=1e-12)


def test_orpo_stays_finite_where_a_probability_is_almost_one_or_none():
    sure, never = torch.tensor([-1e-12], dtype=torch.float64), torch.tensor([-800.0], dtype=torch.float64)
    assert math.isfinite(orpo_loss(sure, never, 0.1).item())
    assert math.isfinite(orpo_loss(never, sure, 0.1).item())


def test_every_loss_falls_when_the_chosen_answer_becomes_likelier():
    chosen, rejected = drawn()
    for better in (lambda c, r: dpo_loss(c, r, 0.1, 0.2), lambda c, r: orpo_loss(c, r, 0.1)):
        assert (better(chosen + 0.01, rejected) < better(chosen, rejected)).all()
    assert (simpo_loss(chosen + 0.01, rejected, 2.0, 0.5) < simpo_loss(chosen, rejected, 2.0, 0.5)).all()


@pytest.mark.parametrize("adapters", [False, True])
def test_the_first_loss_of_dpo_is_log_2_and_every_margin_0(adapters):
    model, objective = tiny("llama"), Preference("dpo")
    if adapters:
        change(model, "lora", ["attention.*"], {"rank": 2})
        lora.initialise(model, "default", seed=0)
    objective.prepare(model)
    loss = objective.loss(model, objective.collate(PAIRS))
    assert loss.total.item() == pytest.approx(2 * math.log(2), abs=1e-10)
    assert loss.metrics["rewards/margins"].item() == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_is_its_formula_on_whole_answers(kind):
    model, reference = tiny("gpt2"), tiny("gpt2", seed=5)
    objective = Preference(kind, beta=0.3)
    objective.prepare(reference)
    loss = objective.loss(model, objective.collate(PAIRS)).total

    def said(speaker, example, mean):
        ids, mask = torch.tensor(example[0]), torch.tensor(example[1], dtype=torch.bool)
        logs = torch.log_softmax(speaker(ids[None])[0, :-1], dim=-1)
        answer = logs.gather(1, ids[1:, None])[:, 0][mask[1:]]
        return answer.mean() if mean else answer.sum()

    expected = torch.zeros(())
    for chosen, rejected in PAIRS:
        mean = kind in ("orpo", "simpo")
        c, r = said(model, chosen, mean), said(model, rejected, mean)
        if not mean:
            c, r = c - said(reference, chosen, mean), r - said(reference, rejected, mean)
        expected = (
            expected
            + {
                "dpo": lambda c=c, r=r: -F.logsigmoid(0.3 * (c - r)),
                "ipo": lambda c=c, r=r: (c - r - 1 / 0.6) ** 2,
                "orpo": lambda c=c, r=r: -c - 0.3 * F.logsigmoid(torch.logit(c.exp()) - torch.logit(r.exp())),
                "simpo": lambda c=c, r=r: -F.logsigmoid(0.3 * (c - r) - 0.5),
            }[kind]()
        )
    assert gap(loss.detach(), expected.detach()) < 1e-10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("adapters", [False, True])
def test_pairs_one_by_one_give_the_gradient_of_all_together(kind, adapters):
    model, objective = tiny("qwen2"), Preference(kind)
    if adapters:
        change(model, "lora", ["attention.q", "mlp.*"], {"rank": 2})
        lora.initialise(model, "default", seed=0)
    objective.prepare(model)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in weights:
        weight.data.add_(0.01)
    whole = torch.autograd.grad(objective.loss(model, objective.collate(PAIRS)).total, weights)
    parts = [torch.autograd.grad(objective.loss(model, objective.collate([pair])).total, weights) for pair in PAIRS]
    for together, *apart in zip(whole, *parts, strict=True):
        assert gap(together, sum(apart)) < 1e-10


def test_the_reference_stays_what_it_was():
    model, objective = tiny("gpt2"), Preference("dpo")
    objective.prepare(model)
    batch = objective.collate(PAIRS)
    before = answer_logps(objective.reference, batch)
    objective.loss(model, batch).total.backward()
    with torch.no_grad():
        for weight in model.parameters():
            weight.sub_(0.1 * weight.grad)
    assert torch.equal(answer_logps(objective.reference, batch), before)
    assert all(weight.grad is None for weight in objective.reference.parameters())
    assert objective.loss(model, batch).metrics["rewards/margins"].item() > 0


def test_a_model_with_adapters_compares_itself_with_itself_without_them_and_comes_back():
    model, objective = tiny("llama"), Preference("dpo")
    plain = answer_logps(tiny("llama"), objective.collate(PAIRS))
    change(model, "lora", ["mlp.*"], {"rank": 2})
    lora.initialise(model, "default", seed=0)
    objective.prepare(model)
    for layer in lora.adapted(model):
        layer.adapter("default").b.data.fill_(0.05)
    adapted = answer_logps(model, objective.collate(PAIRS))
    loss = objective.loss(model, objective.collate(PAIRS))
    lead = (adapted - plain).chunk(2)
    assert loss.total.item() == pytest.approx(dpo_loss(*lead, 0.1).sum().item(), abs=1e-10)
    assert objective.reference is None
    assert gap(answer_logps(model, objective.collate(PAIRS)).detach(), adapted.detach()) == 0


def test_padding_and_the_order_of_pairs_change_nothing():
    model, objective = tiny("llama"), Preference("dpo")
    objective.prepare(tiny("llama", seed=3))
    forth, back = (objective.loss(model, objective.collate(pairs)).total for pairs in (PAIRS, PAIRS[::-1]))
    assert gap(forth.detach(), back.detach()) < 1e-10


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ConfigError, match="beta is 0; it must be above 0"):
        Preference(beta=0)
    with pytest.raises(ConfigError, match=r"smoothing is 0.5, the share of wrong labels"):
        Preference(smoothing=0.5)
    with pytest.raises(ConfigError, match="smoothing belongs to dpo, and the loss is ipo"):
        Preference("ipo", smoothing=0.1)
    with pytest.raises(DataError, match="a pair has the same answer twice"):
        Preference().collate([(PAIRS[0][0], PAIRS[0][0])])
