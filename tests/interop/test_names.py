"""Names and layouts of weights, there and back."""

import kit
import pytest
import torch

from firsthand.errors import CheckpointError, ModelError
from firsthand.interop import names
from firsthand.model.assemble import assemble, weights

FOREIGN = [variant for variant in kit.VARIANTS if variant != "fast"]


@pytest.mark.parametrize("variant", FOREIGN)
def test_there_and_back_gives_the_same_names_and_numbers(variant):
    model = kit.tiny(variant)
    ours = weights(model)
    back, left_out = names.to_ours(names.to_theirs(ours, model.config), model.config, "here")
    assert back.keys() == ours.keys() and not left_out
    assert all(torch.equal(back[name], ours[name]) for name in ours)


def test_gpt2_is_cut_and_turned_as_worked_by_hand():
    config = kit.VARIANTS["gpt2"]
    fused = torch.arange(24 * 72.0).view(24, 72)  # (in, q k v): input 1 reaches query 2 by number 1 * 72 + 2
    ours, _ = names.to_ours(
        {"h.1.attn.c_attn.weight": fused, "h.1.mlp.c_fc.weight": torch.ones(24, 40)}, config, "here"
    )
    assert ours["blocks.1.attention.q.weight"][2, 1] == 74
    assert ours["blocks.1.attention.v.weight"][0, 3] == 3 * 72 + 48
    assert ours["blocks.1.mlp.up.weight"].shape == (40, 24)
    assert ours["blocks.1.attention.k.weight"].untyped_storage().data_ptr() == fused.untyped_storage().data_ptr()


def test_tables_and_the_tied_head_are_left_out_and_named():
    model = kit.tiny("gpt2")
    theirs = names.to_theirs(weights(model), model.config)
    mask, low = "transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias"
    theirs |= {mask: torch.ones(1, 1, 19, 19), low: torch.tensor(-1e4)}
    theirs["lm_head.weight"] = theirs["transformer.wte.weight"].clone()
    ours, left_out = names.to_ours(theirs, model.config, "here")
    assert list(left_out) == [mask, low, "lm_head.weight"]
    assert assemble(model.config, ours, "here").head.weight is not None
    theirs["lm_head.weight"][0, 0] += 1
    with pytest.raises(CheckpointError, match=r"a head that is not the embedding, and config.json says tie_word"):
        names.to_ours(theirs, model.config, "here")


def test_the_same_weight_under_two_names_is_refused():
    config = kit.VARIANTS["llama"]
    with pytest.raises(CheckpointError, match=r"holds 'norm.weight' twice, once as 'model.norm.weight'"):
        names.to_ours({"norm.weight": torch.ones(24), "model.norm.weight": torch.ones(24)}, config, "here")


@pytest.mark.parametrize("shape", [(), (0,), (5,), (24, 71), (2, 3, 4)])
def test_a_fused_tensor_of_any_shape_is_refused_by_its_shape(shape):
    model = kit.tiny("gpt2")
    theirs = names.to_theirs(weights(model), model.config)
    theirs["transformer.h.0.attn.c_attn.weight"] = torch.zeros(shape)
    ours, _ = names.to_ours(theirs, model.config, "here")
    with pytest.raises(ModelError, match=r"tensor 'blocks.0.attention.[qkv].weight' is \["):
        assemble(model.config, ours, "here")


def test_an_unknown_name_stays_and_is_refused():
    model = kit.tiny("llama")
    theirs = names.to_theirs(weights(model), model.config) | {"model.layers.0.mlp.experts.0.w1.weight": torch.ones(1)}
    ours, _ = names.to_ours(theirs, model.config, "here")
    with pytest.raises(ModelError, match="belongs to no part of this model"):
        assemble(model.config, ours, "here")
