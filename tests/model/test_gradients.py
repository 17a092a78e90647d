"""The gradients written by hand are those of autograd, and of finite differences."""

import kit
import pytest
import torch
from torch.nn import functional as F

from firsthand.model.gradients import RMSNormalise, SquaredReLU, Turn
from firsthand.model.layers import RMSNorm, rotary


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()


def turn_by_parts(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    (a, b), c, s = x.chunk(2, dim=-1), cosine[..., :2], sine[..., 2:]
    return torch.cat([a * c - b * s, b * c + a * s], dim=-1)


TABLES = [table.double() for table in rotary(torch.arange(5), d_head=4, theta=10.0)]
PARTS = {
    "squared relu": (SquaredReLU.apply, lambda x: F.relu(x).square(), [draw(3, 5, 7)]),
    "rms norm": (
        lambda x, w: RMSNormalise.apply(x, w, 1e-5, torch.float64),
        lambda x, w: F.rms_norm(x, (7,), w, 1e-5),
        [draw(3, 5, 7), draw(7, seed=1)],
    ),
    "turn": (lambda x: Turn.apply(x, *TABLES), lambda x: turn_by_parts(x, *TABLES), [draw(3, 5, 6, 4)]),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_and_its_gradients_are_those_of_autograd(name):
    ours, plain, inputs = PARTS[name]
    y, z = ours(*inputs), plain(*inputs)
    assert kit.gap(y, z) < 1e-12
    upstream = draw(*y.shape, seed=2)
    for a, b in zip(torch.autograd.grad(y, inputs, upstream), torch.autograd.grad(z, inputs, upstream), strict=True):
        assert kit.gap(a, b) < 1e-12


@pytest.mark.parametrize("name", PARTS)
def test_a_part_passes_finite_differences(name):
    ours, _, inputs = PARTS[name]
    assert torch.autograd.gradcheck(ours, inputs)


def test_rms_norm_by_hand():
    norm = RMSNorm(2, eps=0.0).double()
    assert kit.gap(norm(torch.tensor([[7.0, 1.0]], dtype=torch.float64)), torch.tensor([[1.4, 0.2]])) < 1e-7  # / 5


@pytest.mark.parametrize("variant", kit.VARIANTS)
def test_autocast_changes_logits_and_gradients_by_no_more_than_bfloat16_can(variant):
    results = []
    for enabled in (False, True):
        model = kit.tiny(variant, dtype=torch.float32)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = model(kit.ids(3, 17))
        assert logits.dtype == (torch.bfloat16 if enabled else torch.float32)
        logits.float().square().sum().backward()
        results.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
        assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())
    exact, rounded = results
    assert (exact - rounded).norm() < 0.03 * exact.norm()
