import pytest
import torch
from kit import VARIANTS, gap, ids, tiny

from firsthand.checkpoint import bundle
from firsthand.errors import ModelError
from firsthand.linear.gptq import DAMPING, calibrated, compensated, followers, met, stopped
from firsthand.linear.int4 import Int4, best, free, meaning, nearest
from firsthand.linear.shrink import layers, shrink
from firsthand.tokenizer.simple import CharTokenizer

C_OUT, C_IN, GROUP = 7, 160, 32  # blocks of 128 columns: a whole one and a part


def fit(groups):
    return best(groups, free(groups))


def problem(seed=0, inputs=200):
    """A weight, and H of inputs whose columns go together, as those of a language model do."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(C_OUT, C_IN, dtype=torch.float64, generator=generator)
    mix = torch.randn(C_IN, C_IN, dtype=torch.float64, generator=generator) / C_IN**0.5
    x = torch.randn(inputs, C_IN, dtype=torch.float64, generator=generator) @ mix
    return weight, x.T @ x


def slow(weight, hessian, group):
    """Column by column with H^-1 itself: eq. 2 for the others, eq. 3 to take a column out of H^-1."""
    weight, count = weight.clone(), weight.shape[1]
    inverse = torch.linalg.inv(hessian + DAMPING * hessian.diagonal().mean() * torch.eye(count, dtype=torch.float64))
    codes = torch.zeros_like(weight)
    for j in range(count):
        if j % group == 0:
            scale, low = fit(weight[:, j : j + group])
        codes[:, j] = nearest(weight[:, j, None], scale, low)[:, 0]
        error = weight[:, j] - meaning(codes[:, j, None], scale, low)[:, 0]
        weight -= torch.outer(error / inverse[j, j], inverse[j])
        inverse = inverse - torch.outer(inverse[:, j], inverse[j]) / inverse[j, j]
        inverse[j], inverse[:, j] = 0, 0
    return codes


def means(weight, hessian, how):
    codes, scales, lows = how(weight, hessian)
    return meaning(codes, scales, lows).view(weight.shape)


def by_gptq(weight, hessian):
    return compensated(weight, hessian, GROUP, fit)


def to_nearest(weight, hessian):
    groups = weight.view(C_OUT, -1, GROUP)
    ruler = fit(groups)
    return nearest(groups, *ruler), *ruler


def strain(weight, meant, hessian):
    off = weight - meant
    return (off @ hessian * off).sum(dim=1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("group", [16, 32, 160])
def test_blocks_of_columns_give_what_column_by_column_gives(seed, group):
    weight, hessian = problem(seed)
    assert torch.equal(compensated(weight, hessian, group, fit)[0].view(C_OUT, C_IN), slow(weight, hessian, group))


def test_two_columns_worked_by_hand():
    # H = [[2, 1], [1, 2]] (damping apart) and w = (0.4, 0.4), marks at whole numbers 0 to 15:
    # column 0 becomes 0, its error is 0.4; the best second column minimises 2 d^2 + 2 * 0.4 d, so d = -0.2:
    # 0.4 is to become 0.4 + 0.2 = 0.6, which is nearer to 1. Rounding to the nearest would give (0, 0).
    weight = torch.tensor([[0.4, 0.4]], dtype=torch.float64)
    hessian = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    ruler = torch.ones(1, 1), torch.zeros(1, 1)
    assert compensated(weight, hessian, 2, lambda groups: ruler)[0].flatten().tolist() == [0.0, 1.0]


def test_inputs_that_have_nothing_to_do_with_each_other_leave_plain_rounding():
    weight, _ = problem()
    for hessian in (torch.eye(C_IN, dtype=torch.float64), torch.diag(torch.rand(C_IN, dtype=torch.float64) + 0.1)):
        assert torch.equal(by_gptq(weight, hessian)[0], to_nearest(weight, hessian)[0])


@pytest.mark.parametrize("inputs", [40, 200, 4000])
def test_answers_are_nearer_than_by_rounding_each_weight_to_the_nearest(inputs):
    for seed in range(5):
        weight, hessian = problem(seed, inputs)
        ours, plain = (strain(weight, means(weight, hessian, how), hessian) for how in (by_gptq, to_nearest))
        assert (ours < plain).all()
        assert ours.sum() < 0.75 * plain.sum()


def test_an_input_that_never_comes_does_no_harm():
    weight, hessian = problem()
    hessian[5], hessian[:, 5] = 0, 0
    meant = means(weight, hessian, by_gptq)
    assert torch.isfinite(meant).all()
    assert (meant[:, 5] - weight[:, 5]).abs().max() < 1


def test_the_factor_is_one_of_the_inverse():
    _, hessian = problem()
    factor = followers(hessian)
    damped = hessian + DAMPING * hessian.diagonal().mean() * torch.eye(C_IN, dtype=torch.float64)
    assert gap(factor.T @ factor @ damped, torch.eye(C_IN, dtype=torch.float64)) < 1e-8
    assert gap(factor.tril(-1), torch.zeros(C_IN, C_IN)) == 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_layer_is_rounded_by_the_inputs_that_reach_it_through_those_before(variant):
    rows, model, inputs = ids(11, 17), tiny(variant), {}
    calibrated(model, rows, {"group": 4})
    for place, layer in layers(model).items():
        layer.register_forward_pre_hook(lambda _, given, place=place: inputs.update({place: given[0]}))
    model(rows)
    original, made = tiny(variant), 0
    for place, layer in layers(model).items():
        made += 1
        x = inputs[place].detach().flatten(0, 1)
        again = Int4.empty(original.get_submodule(place), {"group": 4})
        again.fill(*compensated(original.get_submodule(place).weight.detach().float(), x.T @ x, 4, again.fit))
        assert torch.equal(again.codes, layer.codes), place
    assert made == len(list(model.blocks)) * (7 if "gate" in str(model) else 6)


def test_a_calibrated_model_answers_more_like_the_original_than_a_rounded_one():
    text, held_out = ids(64, 19), ids(32, 19, seed=9)
    model, far = tiny("llama"), {}
    for name, rows in (("gptq", text), ("rtn", None)):
        made = tiny("llama")
        shrink(made, "int4", {"group": 8}, rows)
        far[name] = float((made(held_out) - model(held_out)).detach().square().mean())
    assert far["gptq"] < 0.8 * far["rtn"]


def test_it_is_saved_and_loaded_as_int4_whatever_found_its_numbers(tmp_path):
    model = tiny("qwen2")
    shrink(model, "int4", {"group": 4}, ids(20, 19))
    saved = bundle.save(tmp_path / "m", model, CharTokenizer("abcdefghijk"), {})
    loaded = bundle.load(saved, dtype=torch.float64).model
    assert torch.equal(loaded(ids(2, 9)), model(ids(2, 9)))
    assert [done["kind"] for done in loaded.swaps] == ["int4", "int8"]


def test_progress_is_told_block_by_block():
    heard = []
    shrink(tiny(), "int4", {"group": 4}, ids(4, 9), lambda done, total: heard.append((done, total)))
    assert heard == [(0, 2), (1, 2)]


def test_nothing_is_left_behind_on_the_layers_that_were_watched():
    model = tiny()
    stopped(model.blocks[0], model.hidden, (ids(2, 5),))
    met(model.blocks[0], "mlp.up", [stopped(model.blocks[0], model.hidden, (ids(2, 5),))])
    assert all(not module._forward_pre_hooks for module in model.modules())


def test_a_quantized_model_is_not_calibrated_again():
    model = tiny()
    shrink(model, "int4", {"group": 4}, ids(4, 9))
    with pytest.raises(ModelError, match=r"quantized already \(12 Int4, 1 Int8\)"):
        shrink(model, "int4", {"group": 4}, ids(4, 9))
