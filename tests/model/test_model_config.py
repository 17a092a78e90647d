"""A config is checked whole, before anything is built."""

import dataclasses

import pytest
from pydantic import ValidationError

from firsthand.errors import ModelError
from firsthand.model.config import PRESETS, ModelConfig, RopeScaling


def test_heads_that_do_not_divide_the_width_are_refused_with_heads_that_do():
    with pytest.raises(ModelError, match=r"n_head 10 does not divide d_model 768; try n_head = 8 or 12 \[FH031\]"):
        ModelConfig(n_head=10)


def test_all_problems_are_reported_together():
    with pytest.raises(ModelError) as caught:
        ModelConfig(vocab_size=10**9, norm_eps=float("nan"), n_head=10, n_kv_head=4, rope_scaling=RopeScaling(8.0))
    for problem in ("vocab_size 1000000000", "norm_eps nan", "n_head 10", "n_kv_head 4", "rope_scaling needs"):
        assert problem in str(caught.value)


@pytest.mark.parametrize("name", ["vocab_size", "context_length", "n_layer", "n_head", "d_model"])
@pytest.mark.parametrize("value", [0, -3, 10**9])
def test_a_hostile_number_is_refused_before_anything_is_allocated(name, value):
    with pytest.raises(ModelError, match=f"{name} {value} is out of range"):
        ModelConfig(**{name: value})


def test_rotary_positions_need_heads_of_even_width():
    with pytest.raises(ModelError, match=r"d_head 5 is odd.*try d_head = 6"):
        ModelConfig(d_head=5, rope_theta=1e4)


def test_an_unknown_field_is_refused_and_a_config_cannot_change():
    with pytest.raises(ValidationError, match="n_heads"):
        ModelConfig(n_heads=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        ModelConfig().n_head = 3


def test_a_config_has_at_most_eighteen_fields():
    assert len(dataclasses.fields(ModelConfig)) <= 18


def test_what_is_left_out_is_derived():
    config = ModelConfig(n_head=6, d_model=96)
    assert (config.n_kv_head, config.d_head, config.d_ff) == (6, 16, 384)
    gated = ModelConfig(n_head=6, d_model=96, mlp="swiglu")
    assert gated.d_ff == 256  # 8/3 x 96
    assert ModelConfig(**dataclasses.asdict(gated)) == gated


def test_presets_are_known_by_name_and_a_misspelt_one_is_guessed():
    assert {ModelConfig.preset(name).n_layer for name in PRESETS} == {12, 24, 36, 48, 30}
    with pytest.raises(ModelError, match=r"no preset 'gpt2-smal'; known: gpt2-small.* Did you mean 'gpt2-small'\?"):
        ModelConfig.preset("gpt2-smal")


def test_depth_is_one_dial():
    small, large = ModelConfig.depth(4, vocab_size=65, context_length=64), ModelConfig.depth(12)
    assert (small.d_model, small.n_head, small.d_head, small.d_ff) == (256, 8, 32, 1024)
    assert (large.d_model, large.n_head, large.d_head, large.d_ff) == (768, 12, 64, 3072)
    assert (small.vocab_size, small.context_length, small.mlp, small.tied) == (65, 64, "relu2", False)
