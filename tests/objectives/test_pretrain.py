"""The next-token objective: its batch, its loss against the plain form, and its gradient."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from firsthand.errors import DataError
from firsthand.linear import lora
from firsthand.linear.kinds import change
from firsthand.objectives.base import IGNORE, Batch
from firsthand.objectives.pretrain import CrossEntropy, Pretrain, token_loss
from tests.kit import gap, ids, tiny


def plain(hidden, weight, targets):
    """The sum over learned targets, as everybody writes it."""
    return F.cross_entropy((hidden @ weight.T).flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum")


def drawn(B=3, T=5, C=7, V=11, dtype=torch.float64):
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(B, T, C, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(V, C, generator=generator, dtype=dtype).requires_grad_()
    targets = torch.randint(V, (B, T), generator=generator)
    targets[1, 2:] = IGNORE
    return hidden, weight, targets


def test_windows_become_inputs_and_the_same_one_token_later():
    batch = Pretrain().collate([np.array([5, 6, 7, 8], dtype=np.uint16), np.array([1, 2, 3, 4], dtype=np.uint16)])
    assert batch.inputs.tolist() == [[5, 6, 7], [1, 2, 3]]
    assert batch.targets.tolist() == [[6, 7, 8], [2, 3, 4]]
    assert batch.lengths.tolist() == [3, 3]
    assert batch.count == 6
    assert batch.inputs.dtype == torch.int64


def test_windows_of_unequal_length_are_refused():
    with pytest.raises(DataError, match=r"windows of \[3, 4\] tokens cannot stand in one batch"):
        Pretrain().collate([np.arange(3), np.arange(4)])


def test_one_loss_by_hand():
    scores = torch.tensor([[0.0, math.log(3.0)]], dtype=torch.float64, requires_grad=True)  # softmax: 1/4, 3/4
    total = CrossEntropy.apply(scores.clone(), torch.tensor([0]))
    total.backward()
    assert total.item() == pytest.approx(math.log(4.0), abs=1e-12)
    assert scores.grad.tolist()[0] == pytest.approx([0.25 - 1.0, 0.75], abs=1e-12)


def head(weight):
    return partial(F.linear, weight=weight)


@pytest.mark.parametrize("rows", [2**30, 1, 2, 5])
def test_the_loss_is_that_of_the_plain_form_however_it_is_cut(rows):
    hidden, weight, targets = drawn()
    ours = token_loss(hidden, head(weight), targets, rows)
    expected = plain(hidden, weight, targets)
    assert gap(ours.detach(), expected.detach()) < 1e-10
    for mine, theirs in zip(
        torch.autograd.grad(3 * ours, [hidden, weight]),
        torch.autograd.grad(3 * expected, [hidden, weight]),
        strict=True,
    ):
        assert gap(mine, theirs) < 1e-10


def test_the_gradient_is_that_of_finite_differences():
    hidden, weight, targets = drawn(B=2, T=2, C=3, V=5)
    assert gradcheck(lambda h, w: token_loss(h, head(w), targets), [hidden, weight])


def test_scores_of_any_size_give_a_finite_loss():
    scores = torch.tensor([[3e4, -3e4, 0.0], [-1e30, 1e30, 0.0]])
    total = CrossEntropy.apply(scores, torch.tensor([1, 1]))
    assert total.item() == pytest.approx(6e4)


def test_a_nan_in_the_scores_is_not_hidden():
    scores = torch.tensor([[0.0, float("nan"), 1.0]])
    assert math.isnan(CrossEntropy.apply(scores, torch.tensor([0])).item())


def test_in_bfloat16_only_the_scores_are_rounded():
    hidden, weight, targets = drawn(B=4, T=32, C=48, V=211, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        ours = token_loss(hidden, head(weight), targets)
        scores = F.linear(hidden, weight).flatten(0, 1)
    expected = F.cross_entropy(scores.float(), targets.flatten(), ignore_index=IGNORE, reduction="sum")
    assert ours.dtype == torch.float32
    assert ours.item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_loss_of_a_model_is_that_of_its_logits():
    model, batch = tiny("fast"), Pretrain().collate(list(ids(3, 8).numpy()))
    loss = Pretrain().loss(model, batch)
    expected = F.cross_entropy(model(batch.inputs).flatten(0, 1), batch.targets.flatten(), reduction="sum")
    assert gap(loss.total.detach(), expected.detach()) < 1e-10


def test_whatever_stands_as_the_head_is_what_learns():
    model, batch = tiny("llama"), Pretrain().collate(list(ids(3, 8).numpy()))
    change(model, "lora", ["head"], {"rank": 2})
    lora.initialise(model, "default", seed=0)
    model.head.adapter("default").b.data.fill_(0.1)
    loss = Pretrain().loss(model, batch).total
    expected = F.cross_entropy(model(batch.inputs).flatten(0, 1), batch.targets.flatten(), reduction="sum")
    assert gap(loss.detach(), expected.detach()) < 1e-10
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    for a, b in zip(torch.autograd.grad(loss, learned), torch.autograd.grad(expected, learned), strict=True):
        assert gap(a, b) < 1e-10


def test_a_row_that_is_ignored_changes_neither_loss_nor_gradient():
    model = tiny("llama")
    inputs, targets = ids(3, 7), ids(3, 7, seed=4)
    masked = targets.clone()
    masked[2] = IGNORE
    lengths = torch.tensor([7, 7, 7])
    two = Pretrain().loss(model, Batch(inputs[:2], targets[:2], lengths[:2], 14)).total
    three = Pretrain().loss(model, Batch(inputs, masked, lengths, 14)).total
    assert gap(two.detach(), three.detach()) < 1e-10
    weights = list(model.parameters())
    for a, b in zip(torch.autograd.grad(two, weights), torch.autograd.grad(three, weights), strict=True):
        assert gap(a, b) < 1e-10


def test_evaluation_needs_no_gradient():
    hidden, weight, targets = drawn()
    with torch.no_grad():
        assert not token_loss(hidden, head(weight), targets).requires_grad
