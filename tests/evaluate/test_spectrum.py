"""The spectrum of a change tells its rank, and how much of it a smaller rank would hold."""

from copy import deepcopy

import pytest
import torch
from kit import tiny

from firsthand.errors import ModelError
from firsthand.evaluate.spectrum import Spectrum, ranks_for, spectra
from firsthand.lessons.lora import rank_needed
from firsthand.linear import lora
from firsthand.linear.kinds import change
from firsthand.linear.lora import Lora, settings_of
from firsthand.linear.swap import linears


def changed(rank, seed=0):
    """A model, and the same with a change of known rank in every feed-forward layer that widens."""
    before = tiny("llama")
    after, generator = deepcopy(before), torch.Generator().manual_seed(seed)
    for block in after.blocks:
        up = block.mlp.up.weight.data
        thin = torch.randn(up.shape[0], rank, dtype=up.dtype, generator=generator)
        up += thin @ torch.randn(rank, up.shape[1], dtype=up.dtype, generator=generator) / 10
    return before, after


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_a_change_of_known_rank_is_found_to_have_that_rank(rank):
    found = spectra(*changed(rank))
    assert [one.name for one in found] == linears(tiny("llama"))
    for one in found:
        wanted = rank if one.name.endswith("mlp.up") else 0
        assert one.rank_for(1.0) == wanted
        assert (one.relative > 0) == (wanted > 0)
        assert one.held(rank) == pytest.approx(1.0, abs=1e-12)
    assert ranks_for(found, 1.0)["mlp.up"] == [rank, rank]
    assert ranks_for(found, 1.0)["attention.q"] == [0, 0]
    assert ranks_for(found, 1.0)["head"] == [0]


def test_shares_and_the_effective_rank_worked_by_hand():
    one = Spectrum("mlp.up", torch.tensor([3.0, 2.0, 1.0]), 0.1)  # squares 9, 4, 1 of 14
    assert one.held(1) == pytest.approx(9 / 14)
    assert [one.rank_for(share) for share in (0.1, 9 / 14, 0.65, 0.9, 0.93, 0.95, 1.0)] == [1, 1, 2, 2, 3, 3, 3]
    assert Spectrum("x", torch.tensor([2.0, 2.0, 2.0, 2.0]), 0.1).effective == pytest.approx(4.0)
    assert Spectrum("x", torch.tensor([5.0, 0.0]), 0.1).effective == pytest.approx(1.0)
    nothing = Spectrum("x", torch.zeros(3), 0.0)
    assert (nothing.rank_for(0.9), nothing.held(1), nothing.effective) == (0, 1.0, 0.0)


def test_no_matrix_of_that_rank_holds_more_and_the_best_one_holds_just_that():
    before, after = changed(7)
    one = next(found for found in spectra(before, after) if found.name == "blocks.1.mlp.up")
    delta = (after.blocks[1].mlp.up.weight - before.blocks[1].mlp.up.weight).detach()
    u, s, v = torch.linalg.svd(delta, full_matrices=False)
    best = u[:, :3] * s[:3] @ v[:3]
    assert 1 - ((delta - best).norm() / delta.norm()).item() ** 2 == pytest.approx(one.held(3), abs=1e-10)
    other = u[:, 1:4] * s[1:4] @ v[1:4]
    assert (delta - other).norm() > (delta - best).norm()


def test_the_lesson_says_the_same():
    before, after = changed(7)
    delta = (after.blocks[0].mlp.up.weight - before.blocks[0].mlp.up.weight).detach()
    one = next(found for found in spectra(before, after) if found.name == "blocks.0.mlp.up")
    for share in (0.3, 0.5, 0.8, 0.9, 0.99):
        assert one.rank_for(share) == rank_needed(delta, share)


def test_an_adapter_that_acts_is_a_change_of_its_own_rank():
    before, after = tiny("qwen2"), tiny("qwen2")
    change(after, "lora", ["attention.*"], settings_of(Lora(rank=2)))
    lora.initialise(after, "default", seed=1)
    for layer in lora.adapted(after):
        layer.adapter("default").b.data.normal_(generator=torch.Generator().manual_seed(2))
    assert ranks_for(spectra(before, after), 1.0)["attention.v"] == [2, 2]
    lora.use(after, None)
    assert ranks_for(spectra(before, after), 1.0)["attention.v"] == [0, 0]


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ModelError, match="have different shapes"):
        spectra(tiny("llama"), tiny("qwen2"))
    with pytest.raises(ModelError, match=r"a share of the change is 1\.5; it must be above 0"):
        Spectrum("x", torch.ones(3), 1.0).rank_for(1.5)
