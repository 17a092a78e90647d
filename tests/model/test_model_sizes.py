"""The arithmetic of sizes agrees with models that exist."""

from dataclasses import replace

import kit
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from firsthand.model import sizes
from firsthand.model.attention import attend_explicit, attend_fused
from firsthand.model.cache import StaticCache
from firsthand.model.config import PRESETS, ModelConfig
from firsthand.model.gpt import GPT
from firsthand.model.int8_cache import Int8Cache

every_variant = pytest.mark.parametrize("variant", kit.VARIANTS)


@every_variant
def test_parameters_are_counted_exactly(variant):
    model = kit.tiny(variant)
    assert sizes.parameters(model.config) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_parameters_their_papers_say(name):
    known = {
        "gpt2-small": 124_439_808,
        "gpt2-medium": 354_823_168,
        "gpt2-large": 774_030_080,
        "gpt2-xl": 1_557_611_200,
        "smollm2-135m": 134_515_008,
    }
    assert sizes.parameters(ModelConfig.preset(name)) == known[name]


@every_variant
def test_operations_agree_with_the_counter_of_torch(variant):
    model = kit.tiny(variant).train()
    model.attend = attend_explicit
    with FlopCounterMode(display=False) as counter:
        model(kit.ids(3, 17)).sum().backward()
    counted = counter.get_total_flops()
    assert abs(sizes.flops_per_token(model.config, 17) * 3 * 17 - counted) < 0.01 * counted


def test_operations_of_one_token_by_hand():
    config = ModelConfig(vocab_size=11, context_length=19, n_layer=1, n_head=1, d_model=2, d_ff=3)
    # q k v o: 4 x 2 x 2 = 16; up and down: 2 x 2 x 3 = 12; head: 11 x 2 = 22; twice 50 = 100
    # 5 keys: a score and a share of a value each, 2 x 2 x 5 multiplications and additions twice = 40
    assert sizes.forward_flops_per_token(config, context=5) == 140


@every_variant
def test_cache_bytes_are_those_of_a_full_cache(variant):
    model = kit.tiny(variant)
    cache = StaticCache(model.config, batch=3, length=17)
    model(kit.ids(3, 5), cache)
    assert cache.bytes().total == sizes.cache_bytes(model.config, batch=3, length=17, item_bytes=8)
    small = Int8Cache(model.config, batch=3)
    model(kit.ids(3, 5), small)
    assert small.bytes().total == sizes.cache_bytes(model.config, 3, 19, item_bytes=1, scale_bytes=4)


def kept_bytes(model: GPT, ids: torch.Tensor, half: bool) -> int:
    """Bytes that autograd keeps for the way back, parameters and their casts left out, each storage once."""
    shapes = {tuple(p.shape) for p in model.parameters()} | {tuple(p.shape[::-1]) for p in model.parameters()}
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tuple(tensor.shape) not in shapes:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=half),
    ):
        hidden = model.hidden(ids)
    return sum(kept.values()) + hidden.nbytes  # the head keeps its input


@every_variant
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("form", [attend_explicit, attend_fused])
def test_activations_agree_with_what_autograd_keeps(variant, half, form):
    config = replace(kit.VARIANTS[variant], context_length=64, window=None, n_layer=3, d_model=96, d_ff=250, d_head=16)
    model = GPT(config).train()
    model.attend = form
    ids = kit.ids(5, 63)
    told = sizes.memory(config, 5, 63, item_bytes=2 if half else 4, explicit=form is attend_explicit).activations
    kept = kept_bytes(model, ids, half)
    assert abs(told - kept) < 0.01 * kept


def test_checkpointing_keeps_the_stream_of_every_block_and_all_of_one():
    config = ModelConfig(vocab_size=11, context_length=64, n_layer=3, n_head=6, d_model=96)
    model = GPT(config).train()
    model.checkpointing = True
    thrifty = sizes.memory(config, 5, 63, checkpointing=True).activations
    one_block = sizes.memory(config, 5, 63).activations - sizes.memory(replace(config, n_layer=2), 5, 63).activations
    kept = kept_bytes(model, kit.ids(5, 63), half=False)
    assert abs(thrifty - one_block - kept) < 0.01 * kept


def test_memory_of_gpt2_by_hand():
    told = sizes.memory(ModelConfig.preset("gpt2-small"), batch=4, context=256)
    assert told.weights == told.gradients == 497_759_232  # 124,439,808 x 4
    assert told.optimizer == 995_518_464
    assert told.logits == 205_852_672  # 4 x 256 x 50,257 x 4
    assert told.total == sum([told.weights, told.gradients, told.optimizer, told.casts, told.activations, told.logits])


def test_a_recipe_follows_from_depth():
    small, large = (sizes.recipe(ModelConfig.depth(depth)) for depth in (4, 12))
    assert small.steps * small.batch_size * 1_024 >= 20 * sizes.parameters(ModelConfig.depth(4))
    assert small.batch_size < large.batch_size
    assert large.learning_rate == pytest.approx(6e-4)
    assert small.learning_rate == pytest.approx(6e-4 * 3**0.5)
    assert "20 tokens a parameter" in small.rule
