"""AdamW and Muon against torch's own, against slower forms, and by hand."""

import copy
from itertools import chain

import pytest
import torch
from torch import nn

from firsthand.training import optim
from firsthand.training.config import TrainConfig
from firsthand.training.groups import build, by_place, by_shape
from firsthand.training.muon import QUINTIC, Muon, orthogonal
from firsthand.training.optim import AdamW, Group, Pace, update, update_in_one_pass
from tests.kit import gap, tiny

SHAPES = [(5, 3), (7,), (11, 2), (13,)]


def members(dtype, shapes=SHAPES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [(f"w{i}", nn.Parameter(torch.randn(s, generator=generator, dtype=dtype))) for i, s in enumerate(shapes)]


def give_gradients(pairs, turn):
    generator = torch.Generator().manual_seed(100 + turn)
    for pair in zip(*pairs, strict=True):
        slope = torch.randn(pair[0].shape, generator=generator, dtype=pair[0].dtype)
        for parameter in pair:
            parameter.grad = slope.clone()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_adamw_takes_the_steps_of_torch(dtype, tolerance):
    own = members(dtype)
    foreign = copy.deepcopy(own)
    ours = AdamW([Group(own[:2], 1e-2, 0.3), Group(own[2:], 3e-3, 0.0)], betas=(0.9, 0.95), eps=1e-8)
    theirs = torch.optim.AdamW(
        [
            {"params": [w for _, w in foreign[:2]], "lr": 1e-2, "weight_decay": 0.3},
            {"params": [w for _, w in foreign[2:]], "lr": 3e-3, "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    rates = [group["lr"] for group in theirs.param_groups]
    for turn in range(20):
        give_gradients([[w for _, w in own], [w for _, w in foreign]], turn)
        factor = 1 / (1 + turn)
        for group, rate in zip(theirs.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        ours.step(factor)
        theirs.step()
        for (_, a), (_, b) in zip(own, foreign, strict=True):
            assert gap(a.detach(), b.detach()) < tolerance


def test_the_first_step_of_adamw_by_hand():
    weight = nn.Parameter(torch.tensor([2.0, -1.0], dtype=torch.float64))
    weight.grad = torch.tensor([0.5, -8.0], dtype=torch.float64)
    AdamW([Group([("w", weight)], 0.1, 0.5)], eps=0.0).step()
    # after bias correction mean / sqrt(square) is the sign; decay takes 0.1 x 0.5 of the weight
    assert weight.tolist() == pytest.approx([2.0 * 0.95 - 0.1, -1.0 * 0.95 + 0.1], abs=1e-12)


@pytest.mark.parametrize("threads", [1, 2])
def test_one_pass_is_the_same_formula(threads, monkeypatch):
    monkeypatch.setattr(optim, "SLICE", 100)  # so that small tensors are cut, and given to threads
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    generator = torch.Generator().manual_seed(3)
    one = [[torch.rand(n, generator=generator) for n in (7, 350, 101)] for _ in range(4)]
    two = copy.deepcopy(one)
    pace = Pace(rate=1e-2, beta1=0.9, beta2=0.95, keep=0.999, root=0.8, eps=1e-8)
    update(*one, pace)
    update_in_one_pass(*two, pace)
    for a, b in zip(chain(*one), chain(*two), strict=True):
        assert gap(a, b) < 3e-7


def test_one_pass_keeps_a_nan():
    tensors = [[torch.ones(3)] for _ in range(4)]
    tensors[1][0][1] = float("nan")
    update_in_one_pass(*tensors, Pace(1e-2, 0.9, 0.95, 1.0, 1.0, 1e-8))
    assert tensors[0][0].isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("shape", [(3, 5, 9), (2, 8, 4), (1, 6, 6)])
def test_newton_schulz_is_its_polynomial_on_every_singular_value(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    a, b, c = QUINTIC
    for matrix, ours in zip(matrices, orthogonal(matrices, turns=5), strict=True):
        u, s, vt = torch.linalg.svd(matrix / matrix.norm(), full_matrices=False)
        for _ in range(5):
            s = a * s + b * s**3 + c * s**5
        assert gap(ours, u @ s.diag() @ vt) < 1e-10


def test_newton_schulz_makes_every_direction_about_equally_long():
    matrix = torch.randn(1, 16, 24, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    lengths = torch.linalg.svdvals(orthogonal(matrix)[0])
    assert lengths.min() > 0.5 and lengths.max() < 1.3


def test_muon_takes_the_steps_of_torch():
    shapes = [(12, 8), (12, 8), (6, 18), (12, 8)]  # a stack of three, and one alone
    own = members(torch.float32, shapes)
    foreign = copy.deepcopy(own)
    ours = Muon([Group(own, 0.02, 0.1)], momentum=0.95, turns=5, dtype=torch.bfloat16)
    theirs = torch.optim.Muon([w for _, w in foreign], lr=0.02, weight_decay=0.1, momentum=0.95)
    for turn in range(10):
        give_gradients([[w for _, w in own], [w for _, w in foreign]], turn)
        ours.step()
        theirs.step()
    # torch rounds to bfloat16 (1/256) in every product, in another order: ten steps of 0.02 x up to 1.2 x sqrt(12/8)
    for (_, a), (_, b) in zip(own, foreign, strict=True):
        assert gap(a.detach(), b.detach()) < 10 * 0.02 * 1.5 / 64


def test_muon_is_its_formula_one_matrix_at_a_time():
    own = members(torch.float64, [(4, 6), (9, 3), (4, 6)])
    slow = copy.deepcopy(own)
    ours = Muon([Group(own, 0.05, 0.2)], momentum=0.9, turns=3, dtype=torch.float64)
    buffers = [torch.zeros_like(w) for _, w in slow]
    for turn in range(4):
        give_gradients([[w for _, w in own], [w for _, w in slow]], turn)
        ours.step(0.5)
        for (_, weight), buffer in zip(slow, buffers, strict=True):
            buffer.mul_(0.9).add_(weight.grad, alpha=0.1)
            direction = orthogonal((0.1 * weight.grad + 0.9 * buffer)[None], 3)[0]
            tall = max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
            weight.data = weight.data * (1 - 0.025 * 0.2) - 0.025 * tall * direction
    for (_, a), (_, b) in zip(own, slow, strict=True):
        assert gap(a.detach(), b.detach()) < 1e-10


def test_adamw_groups_decay_matrices_and_nothing_else():
    model = tiny("gpt2")
    decayed, kept = by_shape(model, TrainConfig(weight_decay=0.2))
    assert decayed.decay == 0.2 and all(weight.ndim == 2 for _, weight in decayed.members)
    assert kept.decay == 0.0 and all(weight.ndim == 1 for _, weight in kept.members)
    names = [name for group in (decayed, kept) for name, _ in group.members]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())


def test_muon_gets_the_matrices_of_the_blocks_and_no_table_or_head():
    matrices, others = by_place(tiny("fast"), TrainConfig(optimizer="muon", embedding_learning_rate=0.3))
    assert matrices.members and all(name.startswith("blocks.") for name, _ in matrices.members)
    assert [name for name, _ in others[0].members] == ["embed.weight"] and others[0].learning_rate == 0.3
    assert "head.weight" in [name for name, _ in others[1].members]


def test_a_weight_that_is_frozen_is_left_alone():
    model = tiny("gpt2")
    model.embed.weight.requires_grad_(False)
    optimizer = build(model, TrainConfig(optimizer="muon"))
    assert not any(name.startswith("embed") for name in optimizer.tensors())


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_an_optimiser_goes_on_from_its_tensors(kind):
    def trained(*parts):
        model = tiny("llama", torch.float32)
        saved = {}
        for part in parts:
            optimizer = build(model, TrainConfig(optimizer=kind))
            for name, tensor in saved.items():
                optimizer.tensors()[name].copy_(tensor)
            for turn in part:
                give_gradients([list(model.parameters())], turn)
                optimizer.step()
            saved = {name: tensor.clone() for name, tensor in optimizer.tensors().items()}
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(trained(range(3), range(3, 7)), trained(range(6), range(6, 7)))
