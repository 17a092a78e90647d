"""The lesson's detour, its gradient and its merged layer are production's; and a small change needs a small rank."""

import copy

import torch
from kit import gap
from torch import nn

from firsthand.lessons import lora as lesson
from firsthand.lessons.training import AdamW, train
from firsthand.linear import lora


def layer(bias=True):
    torch.manual_seed(0)
    return nn.Linear(7, 5, bias=bias).double()


def pair(bias=True):
    """The same adapter as the lesson and as production have it."""
    slow = lesson.LoraLinear(layer(bias), 3, 6.0, torch.Generator().manual_seed(1)).double()
    slow.B.data.normal_(generator=torch.Generator().manual_seed(2))
    fast = lora.over(layer(bias), {"rank": 3, "alpha": 6.0})
    adapter = fast.adapter("default")
    adapter.a.data, adapter.b.data = slow.A.data.clone(), slow.B.data.clone()
    return slow, fast


X = torch.randn(4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def test_a_detour_worked_by_hand():
    plain = nn.Linear(2, 1, bias=False)
    plain.weight.data = torch.tensor([[1.0, 2.0]])
    detour = lesson.LoraLinear(plain, 1, 2.0, torch.Generator())
    detour.A.data, detour.B.data = torch.tensor([[1.0, -1.0]]), torch.tensor([[3.0]])
    # W x = 5 + 8 = 13; A x = 5 - 4 = 1; 2 * 3 * 1 = 6
    assert detour(torch.tensor([5.0, 4.0])).tolist() == [19.0]
    assert lesson.change(detour).tolist() == [[6.0, -6.0]]
    assert lesson.merge(detour)(torch.tensor([5.0, 4.0])).tolist() == [19.0]


def test_the_detour_and_its_gradient_are_those_of_production():
    for bias in (True, False):
        slow, fast = pair(bias)
        assert gap(slow(X), fast(X)) < 1e-12
        (slow(X) ** 2).sum().backward()
        (fast(X) ** 2).sum().backward()
        adapter = fast.adapter("default")
        assert gap(slow.A.grad, adapter.a.grad) < 1e-10
        assert gap(slow.B.grad, adapter.b.grad) < 1e-10
        assert slow.layer.weight.grad is None and fast.base.weight.grad is None


def test_the_merged_layer_is_that_of_production():
    for bias in (True, False):
        slow, fast = pair(bias)
        assert gap(lesson.merge(slow)(X), slow(X)) < 1e-12
        assert gap(lesson.merge(slow).weight, fast.adapter("default").merged(fast.weight)) < 1e-12
        assert gap(lesson.change(slow), fast.adapter("default").delta()) < 1e-12


def test_a_model_learns_by_its_detours_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(6, 8), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 6))
    ids = torch.arange(6)[None]
    before, frozen = model(ids), [copy.deepcopy(part.state_dict()) for part in (model[0], model[1], model[3])]
    learned = lesson.adapt(model, 4, 8.0, torch.Generator().manual_seed(1))
    assert torch.equal(model(ids), before)  # B is zero: nothing has changed yet
    assert [tuple(weight.shape) for weight in learned] == [(4, 8), (8, 4), (4, 8), (6, 4)]
    losses = train(model, [(ids, ids.flip(1))] * 60, AdamW(learned), lambda step: 0.03)
    assert losses[-1] < 0.5 < 1.5 < losses[0]
    for part, was in zip((model[0], model[1].layer, model[3].layer), frozen, strict=True):
        assert all(torch.equal(part.state_dict()[name], was[name]) for name in was)


def test_what_an_adapter_changed_needs_no_more_than_its_rank():
    slow, _ = pair()
    assert lesson.rank_needed(lesson.change(slow), 1 - 1e-12) == 3
    # squares 9, 4, 1 of 14: two of them hold 13 / 14 = 0.93
    assert lesson.rank_needed(torch.diag(torch.tensor([3.0, 2.0, 1.0])), 0.9) == 2
    assert lesson.rank_needed(torch.diag(torch.tensor([3.0, 2.0, 1.0])), 0.95) == 3
    assert lesson.rank_needed(torch.diag(torch.tensor([3.0, 2.0, 1.0])), 0.6) == 1
