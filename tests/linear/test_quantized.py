import pytest
import torch
import torch.nn.functional as F
from kit import VARIANTS, gap, ids, tiny
from torch import nn

from firsthand.checkpoint import bundle
from firsthand.errors import CheckpointError, FirsthandError, ModelError
from firsthand.infer.draw import last_scores
from firsthand.linear import lora
from firsthand.linear.int4 import Int4, best, even, free, meaning, nearest, pack, unpack
from firsthand.linear.int8 import Dynamic, Int8
from firsthand.linear.kinds import change, replay
from firsthand.linear.lora import Lora, settings_of
from firsthand.linear.nf4 import LEVELS, NF4
from firsthand.linear.quantized import Quantized, Rows
from firsthand.linear.shrink import described, layers, plain, shrink, trainable
from firsthand.model.assemble import weights
from firsthand.model.cache import StaticCache
from firsthand.model.gpt import GPT
from firsthand.objectives.pretrain import Pretrain
from firsthand.tokenizer.simple import CharTokenizer
from firsthand.training.config import TrainConfig
from firsthand.training.groups import build
from firsthand.training.loop import steps

LETTERS = CharTokenizer("abcdefghijk")
KINDS = {  # of a layer, and settings that fit the tiny models
    "int8": ("int8", {}),
    "int8-dynamic": ("int8-dynamic", {}),
    "int4": ("int4", {"group": 4}),
    "int4 symmetric": ("int4", {"group": 4, "symmetric": True}),
    "nf4": ("nf4", {"group": 4}),
    "nf4 double": ("nf4", {"group": 4, "double": True}),
}
MADE = {"int8": Int8, "int8-dynamic": Dynamic, "int4": Int4, "nf4": NF4}
# Dettmers et al. 2023, appendix E, to seven digits
PAPER = (
    "-1.0 -0.6961928 -0.5250731 -0.3949175 -0.2844414 -0.1847734 -0.0910500 0.0 "
    "0.0795803 0.1609302 0.2461123 0.3379152 0.4407098 0.5626170 0.7229568 1.0"
)


def linear(rows=10, width=24, bias=True, dtype=torch.float64, seed=3):
    """A layer of random weights, one group of which is zero and one row of which is large."""
    torch.manual_seed(seed)
    layer = nn.Linear(width, rows, bias, dtype=dtype)
    layer.weight.data[2, :4] = 0.0
    layer.weight.data[5] *= 100
    return layer


def fewer(kind, layer):
    name, settings = KINDS[kind]
    return MADE[name].of(layer, settings)


def shrunk(kind, variant="llama", dtype=torch.float64):
    model = tiny(variant, dtype)
    shrink(model, *KINDS[kind])
    return model


def test_int8_worked_by_hand():
    layer = nn.Linear(3, 2, bias=False)
    layer.weight.data = torch.tensor([[0.5, -1.0, 0.25], [0.0, 0.0, 254.0]])
    made = Int8.of(layer, {})
    # steps 1/127 and 2; 0.5 * 127 = 63.5, to the even 64; 0.25 * 127 = 31.75
    assert made.codes.tolist() == [[64, -127, 32], [0, 0, 127]]
    assert gap(made.weight, torch.tensor([[64 / 127, -1.0, 32 / 127], [0.0, 0.0, 254.0]])) < 1e-7


def test_dynamic_int8_worked_by_hand():
    layer = nn.Linear(2, 1, bias=True)
    layer.weight.data, layer.bias.data = torch.tensor([[127.0, -63.0]]), torch.tensor([0.5])
    # the step of x is 2/127: its codes are 127 and 57.15 -> 57; 127*127 - 57*63 = 12538; times 2/127, and the bias
    x = torch.tensor([2.0, 0.9])
    assert gap(Dynamic.of(layer, {})(x), torch.tensor([12538 * 2 / 127 + 0.5])) < 1e-4


def test_int4_worked_by_hand():
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data = torch.tensor([[-1.0, 0.5, 2.0, 0.1]])  # span 3, a step is 0.2; 1.1 / 0.2 = 5.5 -> 6 or 5
    made = Int4.of(layer, {"group": 4})
    assert made.scales.item() == pytest.approx(0.2, rel=1e-3) and made.lows.item() == -1.0
    codes = unpack(made.codes).flatten().tolist()
    assert codes[:3] == [0, 8, 15] and codes[3] in (5, 6)
    assert made.codes.flatten().tolist() == [int(codes[0]) | 15 << 4, 8 | int(codes[3]) << 4]  # halves, not neighbours
    assert made.bits == 4 + 2 * 16 / 4


def test_a_symmetric_ruler_has_zero_on_mark_eight():
    layer = linear(dtype=torch.float32)
    made = Int4.of(layer, {"group": 4, "symmetric": True})
    assert "lows" not in dict(made.named_buffers())
    assert (made.weight[2, :4] == 0).all()


def test_the_levels_of_nf4_are_those_of_the_paper():
    assert gap(LEVELS, torch.tensor([float(word) for word in PAPER.split()])) < 1e-6


def test_nf4_worked_by_hand():
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data = torch.tensor([[0.0, -2.0, 1.0, 0.9]])  # over 2: 0, -1, 0.5, 0.45; nearest 0.4407098 for both
    assert gap(NF4.of(layer, {"group": 4}).weight, torch.tensor([[0.0, -2.0, 0.8814196, 0.8814196]])) < 1e-6


@pytest.mark.parametrize("group", [32, 64])
def test_bits_per_weight_are_those_of_the_tables(group):
    layer = linear(rows=256, width=128, bias=False)
    assert Int4.of(layer, {"group": group}).bits == 4 + 32 / group
    assert Int4.of(layer, {"group": group, "symmetric": True}).bits == 4 + 16 / group
    assert NF4.of(layer, {"group": group}).bits == 4 + 16 / group
    double = 4 + 8 / group + 32 / 256 / group + 32 / layer.weight.numel()
    assert NF4.of(layer, {"group": group, "double": True}).bits == pytest.approx(double)
    assert Int8.of(layer, {}).bits == 8 + 32 / 128


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_is_within_half_a_step_of_what_it_was(kind):
    layer = linear()
    weight = layer.weight.detach()
    off = (fewer(kind, layer).weight - weight).abs()
    largest = weight.abs().view(10, -1, 24 if "int8" in kind else 4).amax(-1, keepdim=True).expand(-1, -1, 4)
    share = 0.5 / 127 if "int8" in kind else 0.21 if "nf4" in kind else 0.3  # rulers may cut off the furthest weight
    assert (off.view(10, -1, 4) <= share * largest + (float(largest.max()) / 254 if "double" in kind else 1e-6)).all()


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_ruler_is_the_best_of_those_tried(symmetric):
    groups = torch.randn(7, 3, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    rulers = list((even if symmetric else free)(groups))
    errors = torch.stack([(meaning(nearest(groups, *one), *one) - groups).square().sum(-1) for one in rulers])
    chosen = best(groups, iter(rulers))
    error = (meaning(nearest(groups, *chosen), *chosen) - groups).square().sum(-1)
    assert gap(error, errors.min(dim=0).values) < 1e-12
    assert (error < errors[0]).any()


def test_what_was_on_a_ruler_of_16_marks_stays_to_the_bit():
    generator = torch.Generator().manual_seed(5)
    codes = torch.randint(16, (10, 6, 32), generator=generator).float()
    codes[..., :2] = torch.tensor([0.0, 15.0])  # as a Q4_1 file holds it: both ends of the ruler are in use
    scale, low = (torch.rand(10, 6, 1, generator=generator).half().float() for _ in range(2))
    layer = nn.Linear(192, 10, bias=False)
    layer.weight.data = meaning(codes, scale, low).view(10, 192)
    assert torch.equal(Int4.of(layer, {"group": 32}).weight, layer.weight)


def test_two_numbers_of_four_bits_share_a_byte():
    codes = torch.randint(16, (3, 5, 8), generator=torch.Generator().manual_seed(6))
    assert pack(codes).shape == (3, 5, 4)
    assert torch.equal(unpack(pack(codes)), codes.float())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
def test_the_answer_is_that_of_a_linear_layer_with_the_weight_that_is_meant(kind, bias):
    made, x = fewer(kind, linear(bias=bias)), torch.randn(2, 7, 24, dtype=torch.float64)
    if kind == "int8-dynamic":
        steps = x.abs().amax(-1, keepdim=True) / 127
        x = (x / steps).round() * steps
    expected = F.linear(x, made.weight, made.bias)  # whole numbers are multiplied exactly, a weight is made in float32
    assert gap(made(x), expected) < (1e-6 * float(expected.abs().max()) if kind == "int8-dynamic" else 1e-10)
    assert made.weight.dtype == torch.float64 and made(x).shape == (2, 7, 10)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_the_input_is_that_of_a_linear_layer(kind):
    made, x = fewer(kind, linear()), torch.randn(7, 24, dtype=torch.float64, requires_grad=True)
    target = torch.randn(7, 10, dtype=torch.float64)
    (ours,) = torch.autograd.grad((made(x) * target).sum(), x)
    (theirs,) = torch.autograd.grad((F.linear(x, made.weight) * target).sum(), x)
    assert gap(ours, theirs) < 1e-10
    if kind != "int8-dynamic":  # rounding of the input counts as the identity there, which is no derivative
        assert torch.autograd.gradcheck(made, x)


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_learn_around_it_as_around_the_plain_layer(kind):
    made = fewer(kind, linear())
    twin = nn.Linear(24, 10, dtype=torch.float64)
    twin.weight.data, twin.bias = made.weight, made.bias
    x, gradients = torch.randn(7, 24, dtype=torch.float64), []
    if kind == "int8-dynamic":
        steps = x.abs().amax(-1, keepdim=True) / 127
        x = (x / steps).round() * steps
    for layer in (made, twin):
        adapter = lora.over(layer, settings_of(Lora(rank=3))).double()
        generator = torch.Generator().manual_seed(7)
        for parameter in adapter.adapters.parameters():
            parameter.data.normal_(generator=generator)
        adapter(x).square().sum().backward()
        gradients.append([parameter.grad for parameter in adapter.adapters.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        assert gap(ours, theirs) < (1e-6 if kind == "int8-dynamic" else 1e-10) * float(theirs.abs().max())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_saved_and_loaded_in_few_bits(tmp_path, variant, kind):
    model = shrunk(kind, variant)
    loaded = bundle.load(bundle.save(tmp_path / "m", model, LETTERS, {}), dtype=torch.float64).model
    assert torch.equal(loaded(ids(2, 9)), model(ids(2, 9)))
    assert loaded.swaps == model.swaps and len(model.swaps) == 2
    kept = weights(loaded)
    assert all(kept[name].dtype == tensor.dtype for name, tensor in weights(model).items())
    assert {torch.int8} | ({torch.uint8} if "int8" not in kind else set()) <= {one.dtype for one in kept.values()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_copy_is_the_same_function(kind):
    model = shrunk(kind)
    copy = plain(model)
    assert not layers(copy) and copy.swaps == [] and copy.head.weight is copy.embed.weight
    if kind != "int8-dynamic":
        assert gap(copy(ids(2, 9)), model(ids(2, 9))) < 1e-10
    assert layers(model) and isinstance(model.embed, Rows)


def test_head_and_embedding_stay_one_table_and_untied_ones_do_not_become_one():
    tied, apart = shrunk("int4", "llama"), shrunk("int4", "qwen2")
    assert tied.embed.table is tied.head and type(apart.embed) is nn.Embedding
    assert gap(tied.embed(ids(3)), tied.head.weight[ids(3)]) == 0
    stored = weights(tied)
    assert [name for name in stored if "embed" in name or "head" in name] == ["embed.table.codes", "embed.table.scales"]
    assert stored["embed.table.codes"].dtype == torch.int8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_casting_a_model_rounds_nothing_that_is_kept(kind, dtype):
    model = shrunk(kind)
    before = {name: tensor.clone() for name, tensor in weights(model).items() if name.endswith(("codes", "scales"))}
    model.to(dtype)
    assert all(torch.equal(tensor, weights(model)[name]) for name, tensor in before.items())
    assert {parameter.dtype for parameter in model.parameters()} == {dtype} == {model.head.weight.dtype}
    assert model(ids(2, 9)).dtype == dtype
    bound = 1e-3 if dtype == torch.float32 and kind != "int8-dynamic" else 1.0
    assert gap(model(ids(2, 9)), shrunk(kind)(ids(2, 9))) < bound


def test_a_cache_gives_the_same_scores():
    model, row = shrunk("int4"), ids(1, 9)[0].tolist()
    cache = StaticCache(model.config, length=len(row))
    parts = [last_scores(model, row[a:b], b - a, cache) for a, b in ((0, 4), (4, 5), (5, 9))]
    assert gap(torch.cat(parts), model(torch.tensor([row]))[0]) < 1e-10


def test_nothing_of_it_learns():
    model = shrunk("int4", "gpt2")
    model(ids(2, 9)).sum().backward()
    for layer in layers(model).values():
        assert all(parameter.grad is None for parameter in layer.parameters())


def test_a_quantized_model_is_not_trained_by_accident():
    model = shrunk("int4")
    with pytest.raises(ModelError, match=r"quantized \(14 Int4, 1 Int8\) and cannot be trained.*adapters.*\[FH013\]"):
        trainable(model)
    change(model, "lora", ["attention.*"], settings_of(Lora(rank=2)))
    lora.initialise(model, "default", seed=1)
    trainable(model)
    trainable(tiny())
    trainable(plain(shrunk("int4")))


@pytest.mark.parametrize("variant", ["gpt2", "llama", "qwen2"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "int8-dynamic"])
def test_a_step_of_training_moves_the_adapters_alone_and_as_around_plain_layers(kind, variant):
    model = shrunk(kind, variant)
    twins = (model, plain(model))
    for twin in twins:
        change(twin, "lora", ["attention.*", "mlp.*"], settings_of(Lora(rank=2)))
        lora.initialise(twin, "default", seed=1)
        for number, layer in enumerate(lora.adapted(twin)):
            layer.adapter("default").b.data.normal_(generator=torch.Generator().manual_seed(number))
    before = {name: one.clone() for name, one in weights(model).items()}
    batch = Pretrain().collate(list(ids(2, 9).numpy()))
    gradients = []
    for twin in twins:
        Pretrain().loss(twin, batch).total.backward()
        gradients.append({name: one.grad for name, one in twin.named_parameters() if one.grad is not None})
    few, whole = gradients
    assert few
    assert few.keys() == whole.keys() == {name for name in before if name.endswith((".a", ".b"))}
    for name, gradient in few.items():
        assert gap(gradient, whole[name]) < 1e-10 * max(1.0, float(gradient.abs().max()))
    model.zero_grad()
    optimizer = build(model, TrainConfig(learning_rate=0.1, min_learning_rate=0.1))
    next(steps(model, Pretrain(), iter([batch]), optimizer))
    moved = {name for name, one in weights(model).items() if not torch.equal(one, before[name])}
    assert moved == few.keys()


def test_an_adapter_is_not_merged_into_it():
    model = shrunk("int4")
    change(model, "lora", ["mlp.up"], settings_of(Lora(rank=2)))
    with pytest.raises(ModelError, match=r"mlp.up is Int4: an adapter cannot be merged into quantized weights"):
        lora.merge(model, "default")


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda model: shrink(model, "int4", {"group": 32}), "rows of 24 weights cannot be cut into groups of 32"),
        (lambda model: shrink(model, "int4", {"group": 3}), "group is 3; use an even number from 2 to 1,024"),
        (lambda model: shrink(model, "nf4", {"group": 0}), "group is 0; use an even number"),
        (lambda model: [shrink(model, "int8", {}) for _ in "ab"], r"quantized already \(15 Int8\); quantize the orig"),
        (
            lambda model: [change(model, kind, ["mlp.up"], {}) for kind in ("lora", "int8")],
            "Adapted cannot be quantized, only a plain linear layer",
        ),
    ],
)
def test_what_cannot_be_is_refused(act, message):
    with pytest.raises(ModelError, match=message) as caught:
        act(tiny("llama"))
    assert len(str(caught.value)) <= 240


@pytest.mark.parametrize(
    "settings", [{"group": "many"}, {"group": 10**9}, {"group": 4, "class": "os.system"}, {"group": -4}]
)
@pytest.mark.parametrize("kind", ["int4", "nf4", "int8"])
def test_a_file_cannot_ask_for_other_settings(kind, settings):
    with pytest.raises(FirsthandError) as caught:
        replay(GPT(VARIANTS["qwen2"]), [{"kind": kind, "patterns": ["mlp.up"], "settings": settings}])
    assert len(str(caught.value)) <= 240


def test_a_file_of_other_shapes_is_refused(tmp_path):
    model = shrunk("int4", "qwen2")
    saved = bundle.save(tmp_path / "m", model, LETTERS, {})
    model.swaps[0]["settings"] = {"group": 8}  # the file says 8, the tensors lie in fours
    other = bundle.save(tmp_path / "n", model, LETTERS, {})
    bundle.load(saved)
    with pytest.raises((ModelError, CheckpointError), match=r"codes' is \[.*\], its config asks for \["):
        bundle.load(other)


def test_a_layer_without_memory_has_the_shapes_of_the_real_one():
    for kind in KINDS:
        real = fewer(kind, linear())
        with torch.device("meta"):
            hollow = fewer(kind, nn.Linear(24, 10))
        assert isinstance(hollow, Quantized) and described({"a": hollow}) == described({"a": real})
        shapes = [{name: (one.shape, one.dtype) for name, one in made.named_buffers()} for made in (real, hollow)]
        assert shapes[0] == shapes[1]
