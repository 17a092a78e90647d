"""What must hold for every architecture: causality, and the same numbers whichever way they are computed."""

import kit
import pytest
import torch

from firsthand.errors import ModelError
from firsthand.model.attention import attend_explicit, attend_fused, attention_maps
from firsthand.model.config import FAST, ModelConfig
from firsthand.model.gpt import GPT

every_variant = pytest.mark.parametrize("variant", kit.VARIANTS)


@every_variant
@pytest.mark.parametrize("form", [attend_explicit, attend_fused])
def test_no_logit_depends_on_a_later_token(variant, form):
    model = kit.tiny(variant)
    model.attend = form
    stream = {}
    model.dropout.register_forward_hook(lambda module, given, x: stream.update(x=x.requires_grad_()))
    logits = model(kit.ids(1, 13))
    for t in (0, 5, 12):
        (gradient,) = torch.autograd.grad(logits[0, t].square().sum(), stream["x"], retain_graph=True)
        reach = gradient[0].abs().amax(dim=-1)  # (T,)
        assert (reach[t + 1 :] == 0).all()
        assert (reach[max(0, t - 3) : t + 1] > 0).all()


@every_variant
def test_explicit_and_fused_attention_agree_in_logits_and_gradients(variant):
    results = []
    for form in (attend_explicit, attend_fused):
        model = kit.tiny(variant)
        model.attend = form
        logits = model(kit.ids(3, 17))
        logits.square().sum().backward()
        results.append([logits, *(parameter.grad for parameter in model.parameters())])
    for a, b in zip(*results, strict=True):
        assert kit.gap(a, b) < 1e-10 * max(1.0, a.abs().max().item())


@every_variant
def test_padding_on_the_right_changes_nothing(variant):
    model, ids = kit.tiny(variant), kit.ids(3, 7)
    for filler in (0, 10):
        padded = torch.cat([ids, torch.full((3, 5), filler)], dim=1)
        assert kit.gap(model(padded)[:, :7], model(ids)) < 1e-10


@every_variant
def test_the_order_of_rows_changes_nothing(variant):
    model, ids = kit.tiny(variant), kit.ids(5, 7)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert kit.gap(model(ids[order]), model(ids)[order]) < 1e-10


@every_variant
def test_checkpointing_gives_the_same_gradients(variant):
    results = []
    for checkpointing in (False, True):
        model = kit.tiny(variant).train()
        model.checkpointing = checkpointing
        model(kit.ids(3, 17)).square().sum().backward()
        results.append([parameter.grad for parameter in model.parameters()])
    for a, b in zip(*results, strict=True):
        assert kit.gap(a, b) < 1e-10 * max(1.0, a.abs().max().item())


def test_checkpointing_draws_the_same_dropout_again():
    results = []
    for checkpointing in (False, True):
        model = GPT(ModelConfig(11, 19, n_layer=2, n_head=6, d_model=24, dropout=0.3)).double()
        model.checkpointing = checkpointing
        torch.manual_seed(5)
        model(kit.ids(3, 17)).square().sum().backward()
        results.append(model.embed.weight.grad)
    assert kit.gap(*results) < 1e-10


@every_variant
def test_attention_maps_are_causal_and_sum_to_one(variant):
    model = kit.tiny(variant)
    usual = model.attend
    maps = attention_maps(model, kit.ids(1, 13))
    assert maps.shape == (2, 6, 13, 13)
    assert kit.gap(maps.sum(dim=-1), torch.ones(2, 6, 13)) < 1e-10
    assert (maps.triu(1) == 0).all()
    assert model.attend is usual


def test_dropout_is_drawn_in_training_only():
    model = GPT(ModelConfig(11, 19, n_layer=2, n_head=6, d_model=24, dropout=0.3)).double()
    ids = kit.ids(2, 13)
    assert kit.gap(model(ids), model(ids)) > 1e-3
    model.eval()
    assert kit.gap(model(ids), model(ids)) == 0


def test_a_fresh_model_is_the_same_for_the_same_seed_and_expects_every_token_alike():
    config = ModelConfig(vocab_size=11, context_length=19, n_layer=2, n_head=6, d_model=24)
    model, twin = GPT(config), GPT(config)
    assert all((a == b).all() for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    twin.initialise(seed=1)
    assert kit.gap(model.embed.weight, twin.embed.weight) > 0.01
    loss = torch.nn.functional.cross_entropy(model(kit.ids(8, 19)).flatten(0, 1), kit.ids(8 * 19, seed=2))
    assert abs(loss.item() - 2.398) < 0.1  # log 11


def test_what_writes_into_the_stream_starts_smaller_by_the_root_of_twice_the_depth():
    model = GPT(ModelConfig(vocab_size=11, context_length=19, n_layer=8, n_head=6, d_model=120))
    spread = {name: parameter.std().item() for name, parameter in model.named_parameters() if parameter.dim() == 2}
    assert abs(spread["blocks.3.attention.q.weight"] - 0.02) < 0.001
    assert abs(spread["blocks.3.attention.o.weight"] - 0.005) < 0.0003  # 0.02 / sqrt(2 x 8)
    assert abs(spread["blocks.3.mlp.down.weight"] - 0.005) < 0.0003


def test_what_is_not_gpt2_starts_larger_where_that_was_measured_to_help():
    model = GPT(ModelConfig(11, 19, n_layer=2, n_head=6, d_model=192, **FAST))  # heads of 32
    assert abs(model.embed.weight.std().item() - 0.1) < 0.01
    assert abs(model.head.weight.std().item() - 0.02) < 0.002
    assert (model.blocks[1].attention.q_norm.weight == 2).all()  # sqrt(128 / 32)
    assert (model.blocks[1].attention.k_norm.weight == 1).all()
    assert (model.blocks[1].mlp_norm.weight == 1).all()


def test_a_tied_head_is_the_embedding_itself():
    model = kit.tiny("gpt2")
    assert model.head.weight is model.embed.weight
    untied = kit.tiny("fast")
    assert untied.head.weight is not untied.embed.weight
    assert FAST["tied"] is False


def test_a_token_outside_the_vocabulary_is_refused_with_both_numbers():
    with pytest.raises(ModelError, match=r"token id 11 .* vocabulary of 11"):
        kit.tiny("gpt2")(torch.tensor([[3, 11]]))
    with pytest.raises(ModelError, match=r"smallest -1"):
        kit.tiny("gpt2")(torch.tensor([[3, -1]]))


def test_more_tokens_than_positions_are_refused_with_the_excess():
    with pytest.raises(ModelError, match="22 tokens exceed the 19 positions; shorten by 3"):
        kit.tiny("gpt2")(kit.ids(1, 22))


def test_ids_that_are_not_rows_are_refused_with_the_mend():
    with pytest.raises(ModelError, match=r"shape \(5,\); give rows of ids \(B, T\), for one row ids\[None\]"):
        kit.tiny("gpt2")(kit.ids(5))


@pytest.mark.deep
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
@pytest.mark.parametrize("variant", ["gpt2", "fast"])
def test_the_model_compiles_as_one_graph_and_gives_the_same_logits(variant):
    model = kit.tiny(variant, dtype=torch.float32).train()
    assert kit.gap(torch.compile(model, fullgraph=True)(kit.ids(3, 17)), model(kit.ids(3, 17))) < 1e-4
