import pytest
import torch
import torch.nn.functional as F
from kit import VARIANTS, gap, ids, tiny
from torch import nn

from firsthand.checkpoint import bundle
from firsthand.errors import FirsthandError, ModelError
from firsthand.linear import lora
from firsthand.linear.kinds import change, replay
from firsthand.linear.lora import Adapted, Lora, settings_of
from firsthand.linear.swap import linears, matching
from firsthand.model.gpt import GPT
from firsthand.tokenizer.simple import CharTokenizer

EVERYWHERE = ("attention.*", "mlp.*")


def with_adapter(variant="llama", settings=None, patterns=EVERYWHERE, trained=True):
    """A tiny model in float64 with an adapter; a trained one has a B that is not zero."""
    settings = settings or Lora(rank=3, alpha=5.0)
    model = tiny(variant)
    change(model, "lora", patterns, settings_of(settings))
    lora.initialise(model, settings.name, seed=1)
    if trained:
        generator = torch.Generator().manual_seed(2)
        for layer in lora.adapted(model):
            adapter = layer.adapter(settings.name)
            adapter.b.data.normal_(generator=generator).mul_(0.1)
            if adapter.lengths is not None:
                adapter.lengths.data.mul_(1.25)
    return model.eval()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dora", [False, True])
def test_a_fresh_adapter_changes_nothing(variant, dora):
    plain = tiny(variant).eval()
    adapted = with_adapter(variant, Lora(rank=3, dora=dora), trained=False)
    assert gap(adapted(ids(2, 9)), plain(ids(2, 9))) < 1e-12


def test_a_detour_worked_by_hand():
    layer = nn.Linear(2, 2, bias=True)
    layer.weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    layer.bias.data = torch.tensor([10.0, 20.0])
    adapted = lora.over(layer, {"rank": 1, "alpha": 4.0})
    adapter = adapted.adapter("default")
    adapter.a.data, adapter.b.data = torch.tensor([[1.0, -1.0]]), torch.tensor([[0.5], [2.0]])
    # W x + b = (1+4+10, 3+8+20) = (15, 31); A x = 1 - 2 = -1; scale 4/1: 4 * (0.5, 2) * -1 = (-2, -8)
    assert adapted(torch.tensor([1.0, 2.0])).tolist() == [13.0, 23.0]


def test_the_scale_is_alpha_over_rank_or_over_its_root():
    assert Lora(rank=16, alpha=8.0).scale == 0.5
    assert Lora(rank=16, alpha=8.0, root=True).scale == 2.0


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("settings", [Lora(rank=3), Lora(rank=2, root=True), Lora(rank=3, dora=True)], ids=str)
def test_merged_equals_unmerged(variant, settings):
    model = with_adapter(variant, settings)
    before = model(ids(2, 9))
    assert gap(before, tiny(variant).eval()(ids(2, 9))) > 1e-3  # the adapter does something
    lora.merge(model, "default")
    assert gap(model(ids(2, 9)), before) < 1e-10
    assert not lora.adapted(model)
    assert model.swaps == []


def test_dora_is_the_formula_of_the_paper():
    model = with_adapter("gpt2", Lora(rank=3, alpha=5.0, dora=True))
    layer = model.blocks[1].mlp.up
    adapter, x = layer.adapter("default"), torch.randn(7, layer.weight.shape[1], dtype=torch.float64)
    whole = layer.weight + 5.0 / 3 * adapter.b @ adapter.a
    expected = F.linear(x, adapter.lengths[:, None] * whole / whole.norm(dim=1, keepdim=True), layer.bias)
    assert gap(layer(x), expected) < 1e-10


def test_only_the_adapter_learns():
    model = with_adapter("qwen2")
    names = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert names
    assert all(".adapters.default." in name for name in names)
    model(ids(2, 9)).sum().backward()
    assert all(weight.grad is not None for name, weight in model.named_parameters() if ".adapters." in name)
    assert all(weight.grad is None for name, weight in model.named_parameters() if ".adapters." not in name)


def test_adapters_are_switched_at_run_time_and_off_means_the_base_model():
    model = with_adapter("llama", Lora(name="one", rank=3))
    only_one = model(ids(2, 9))
    change(model, "lora", ["attention.q"], settings_of(Lora(name="two", rank=2)))
    lora.initialise(model, "two", seed=3)
    plain = tiny("llama").eval()(ids(2, 9))
    assert lora.names(model) == ["one", "two"]
    lora.use(model, "two")  # fresh: zero, and what only "one" adapts is plain
    assert gap(model(ids(2, 9)), plain) < 1e-12
    lora.use(model, "one")
    assert torch.equal(model(ids(2, 9)), only_one)
    lora.use(model, None)
    assert gap(model(ids(2, 9)), plain) < 1e-12
    lora.use(model, "one")
    lora.merge(model, "one")
    assert lora.names(model) == ["two"]


def test_the_same_seed_gives_the_same_adapter_and_layers_differ():
    first, again = with_adapter(trained=False), with_adapter(trained=False)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    q, o = (first.blocks[0].attention.get_submodule(name).adapter("default").a.detach() for name in "qo")
    assert not torch.equal(q[:, :4], o[:, :4])
    bound = q.shape[1] ** -0.5
    assert -bound <= float(q.min()) < float(q.max()) <= bound


def test_dropout_acts_on_the_detour_alone_and_only_in_training():
    model = with_adapter("gpt2", Lora(rank=3, dropout=0.5))
    still = model(ids(2, 9))
    assert torch.equal(model(ids(2, 9)), still)
    model.train()
    assert not torch.equal(model(ids(2, 9)), still)
    lora.use(model, None)
    assert gap(model(ids(2, 9)), tiny("gpt2").train()(ids(2, 9))) < 1e-12


def test_a_list_of_changes_makes_the_same_model_again():
    model = with_adapter("fast")
    again = GPT(model.config)
    replay(again, model.swaps)
    assert again.swaps == model.swaps
    assert [name for name, _ in again.named_parameters()] == [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("variant", ["qwen2", "llama"])  # a head of its own, and one that is the embedding
def test_a_model_with_adapters_is_saved_and_loaded_with_them(tmp_path, variant, dora):
    model = with_adapter(variant, Lora(rank=3, dora=dora, dropout=0.1), patterns=["attention.*", "head"])
    tokenizer = CharTokenizer("abcdefghijk")
    loaded = bundle.load(bundle.save(tmp_path / "m", model, tokenizer, {})).model
    assert torch.equal(loaded(ids(2, 9)), model(ids(2, 9)))
    assert lora.names(loaded) == ["default"]


@pytest.mark.parametrize(
    "swaps",
    [
        [{"kind": "pickle", "patterns": ["head"], "settings": {}}],
        [{"kind": "lora", "patterns": ["head"]}],
        [{"kind": "lora", "patterns": ["head"], "settings": {"rank": "many"}}],
        [{"kind": "lora", "patterns": ["head"], "settings": {"rank": 10**9}}],
        [{"kind": "lora", "patterns": ["head"], "settings": {}, "class": "os.system"}],
        {"kind": "lora"},
        ["lora"],
    ],
)
def test_a_checkpoint_cannot_ask_for_something_else(tmp_path, swaps):
    saved = bundle.save(tmp_path / "m", tiny("qwen2"), CharTokenizer("abcdefghijk"), {"swaps": swaps})
    with pytest.raises(FirsthandError) as caught:
        bundle.load(saved)
    assert len(str(caught.value)) <= 240


def test_patterns_mean_layers_by_whole_name_or_by_name_in_a_block():
    model = tiny("llama")
    assert matching(model, ["mlp.up"]) == [f"blocks.{layer}.mlp.up" for layer in range(model.config.n_layer)]
    assert matching(model, ["blocks.1.attention.[qv]"]) == ["blocks.1.attention.q", "blocks.1.attention.v"]
    assert matching(model, ["*"]) == linears(model)
    assert linears(model)[-1] == "head"
    assert len(linears(model)) == 7 * model.config.n_layer + 1
    assert len(linears(tiny("gpt2"))) == 6 * tiny("gpt2").config.n_layer + 1


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda model: matching(model, ["q_proj"]),
            "pattern 'q_proj' matches 0 of .* layers. Layers here: ",
        ),
        (lambda model: change(model, "lora", ["head"], {"rank": 0}), "rank of a LoRA adapter is 0; it must be 1"),
        (lambda model: change(model, "lora", ["mlp.up"], {"rank": 99}), "rank 99 is above 24, the smaller side"),
        (lambda model: change(model, "ladder", ["head"], {}), "kind 'ladder' is unknown here; known: lora"),
        (lambda model: lora.use(model, "poet"), "has no adapter 'poet'; it has: none"),
        (lambda model: [change(model, "lora", ["head"], {}) for _ in "ab"], "already has an adapter 'default'"),
    ],
)
def test_what_cannot_be_is_refused(act, message):
    with pytest.raises(ModelError, match=message):
        act(tiny("llama"))


def test_an_adapter_around_a_head_that_is_the_embedding_is_not_merged():
    model = with_adapter("llama", patterns=["head"])
    with pytest.raises(ModelError, match="head is also the embedding of this model"):
        lora.merge(model, "default")


def test_an_adapter_around_something_else_than_a_linear_is_not_merged():
    class Rounded(nn.Linear):
        pass

    model = tiny("llama")
    model.blocks[0].mlp.up = Rounded(model.config.d_model, model.config.d_ff, bias=False)
    change(model, "lora", ["mlp.up"], {"rank": 2})
    with pytest.raises(ModelError, match=r"blocks.0.mlp.up is Rounded: an adapter cannot be merged"):
        lora.merge(model, "default")
    assert isinstance(model.blocks[1].mlp.up, Adapted)
