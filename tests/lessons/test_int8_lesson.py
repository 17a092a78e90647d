"""The lesson's whole numbers, rulers and compensated columns are production's; and answers suffer less by GPTQ."""

import pytest
import torch
from kit import gap
from torch import nn

from firsthand.lessons import int8 as lesson
from firsthand.linear.gptq import compensated
from firsthand.linear.int4 import Int4, meaning
from firsthand.linear.int8 import Dynamic, Int8

C_OUT, C_IN, GROUP = 5, 48, 8


def layer(seed=0):
    """Weights that half precision's rulers fit badly: one far off, and a group of equal ones."""
    torch.manual_seed(seed)
    made = nn.Linear(C_IN, C_OUT, bias=False)
    made.weight.data[1, 9] = 4.0
    made.weight.data[3, 8:16] = 0.25
    made.weight.data[4] = 0.0
    return made


def met(seed=0, rows=60):
    """Inputs whose columns go together, as those of a language model do."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(C_IN, C_IN, dtype=torch.float64, generator=generator) / C_IN**0.5
    return torch.randn(rows, C_IN, dtype=torch.float64, generator=generator) @ mix


def test_whole_numbers_worked_by_hand():
    codes, step = lesson.whole_numbers(torch.tensor([[0.5, -1.0, 0.25]], dtype=torch.float64))
    # largest 1, step 1/127: 63.5 to the even 64, -127, 31.75 to 32
    assert codes.tolist() == [[64.0, -127.0, 32.0]] and step.item() == pytest.approx(1 / 127)
    # x = 2, 0, -2 in steps of 2/127 is 127, 0, -127; 127 * 64 - 127 * 32 = 4,064 of (2/127) (1/127)
    x = torch.tensor([[2.0, 0.0, -2.0]], dtype=torch.float64)
    assert lesson.integer_layer(x, codes, step).item() == pytest.approx(4064 * 2 / 127**2)


def test_a_ruler_worked_by_hand():
    group = torch.arange(16.0)  # 16 numbers on 16 marks: nothing is lost
    scale, low = lesson.ruler(group)
    assert (scale.item(), low.item()) == (1.0, 0.0)
    assert lesson.nearest(torch.tensor([3.4, 3.6, -9.0, 99.0]), scale, low).tolist() == [3.0, 4.0, 0.0, 15.0]
    assert lesson.nearest(torch.full((3,), 7.0), *lesson.ruler(torch.full((3,), 7.0))).tolist() == [7.0] * 3


@pytest.mark.parametrize("seed", range(4))
def test_rows_of_eight_bits_are_those_of_production(seed):
    plain = layer(seed)
    codes, steps = lesson.whole_numbers(plain.weight.data)
    assert gap(codes * steps, Int8.of(plain, {}).numbers()) == 0
    x = met(seed, 7)
    fast = Dynamic.of(plain, {})
    with torch.no_grad():
        assert gap(lesson.integer_layer(x, fast.codes, fast.scales.double()), fast(x)) < 1e-10


@pytest.mark.parametrize("seed", range(4))
def test_groups_of_four_bits_are_those_of_production(seed):
    plain = layer(seed)
    slow = lesson.in_groups(plain.weight.data, GROUP)
    assert gap(slow, Int4.of(plain, {"group": GROUP}).numbers()) < 1e-6  # sums in float32, in another order
    assert (slow[3, 8:16] == 0.25).all()


@pytest.mark.parametrize("seed", range(4))
def test_compensated_columns_are_those_of_production(seed):
    weight, inputs = layer(seed).weight.data.double(), met(seed)
    made = Int4.empty(layer(seed), {"group": GROUP})
    codes, scales, lows = compensated(weight, inputs.T @ inputs, GROUP, made.fit)
    fast = meaning(codes, scales, lows).view(weight.shape)
    assert gap(lesson.gptq(weight, inputs, GROUP), fast) < 1e-10


@pytest.mark.parametrize("seed", range(4))
def test_answers_suffer_less_where_later_columns_make_up_for_earlier_ones(seed):
    weight, inputs = layer(seed).weight.data.double(), met(seed)
    plain, better = lesson.in_groups(weight, GROUP), lesson.gptq(weight, inputs, GROUP)
    off = [lesson.answer_error(weight, rounded, inputs) for rounded in (plain, better)]
    assert off[1] < 0.7 * off[0]
    assert ((weight - better) ** 2).sum() > ((weight - plain) ** 2).sum()  # the weights do not


def test_finer_rulers_lose_less():
    weight = layer().weight.data.double()
    lost = [((lesson.in_groups(weight, size) - weight) ** 2).sum().item() for size in (4, 8, 24, 48)]
    assert lost == sorted(lost)
    codes, steps = lesson.whole_numbers(weight)
    assert ((codes * steps - weight) ** 2).sum().item() < lost[0]
