"""Adapters against peft itself: what it writes is read here, what is written here opens there, with the same logits."""

import json
import warnings

import hf_folders
import pytest
import torch
from kit import gap
from safetensors.torch import load_file, save_file

from firsthand.errors import CheckpointError, FirsthandError, ModelError
from firsthand.interop import hf_config, names, peft
from firsthand.interop.to_peft import to_peft
from firsthand.linear import lora
from firsthand.linear.kinds import change
from firsthand.linear.lora import Lora, settings_of
from firsthand.model.assemble import assemble
from firsthand.tokenizer.simple import CharTokenizer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import peft as oracle

pytestmark = [pytest.mark.filterwarnings("ignore::FutureWarning"), pytest.mark.filterwarnings("ignore::UserWarning")]
IDS = torch.randint(271, (2, 17), generator=torch.Generator().manual_seed(1))
TOKENS = CharTokenizer([chr(0x4E00 + number) for number in range(271)])
KINDS = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "ranks": {},
}
RANKS = {"gpt2": {"rank_pattern": {"mlp.c_proj": 2}, "alpha_pattern": {"0.attn.c_attn": 7, "c_fc": 7.5}}}
OTHER = {"rank_pattern": {"up_proj": 2}, "alpha_pattern": {"0.self_attn.q_proj": 7, "up_proj": 7.5}}
TARGETS = {"gpt2": ["c_attn", "c_proj", "c_fc"], "llama": "all-linear", "qwen3": ["q_proj", "v_proj", "up_proj"]}


def pair(family, dtype=torch.float64):
    """One model twice: transformers' and ours."""
    theirs = hf_folders.precise(hf_folders.model(family)).to(dtype)
    config, _ = hf_config.read(theirs.config.to_dict(), family)
    tensors, _ = names.to_ours({name: one.clone() for name, one in theirs.state_dict().items()}, config, family)
    return theirs, assemble(config, tensors, family)


def trained(theirs, seed=3, **settings):
    """peft's adapter with numbers that are not zero."""
    config = oracle.LoraConfig(**{"r": 3, "lora_alpha": 5, "task_type": "CAUSAL_LM", **settings})
    model = oracle.get_peft_model(theirs, config).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            noise = torch.empty(weight.shape, dtype=torch.float64).normal_(generator=generator)
            weight.data = weight + noise.to(weight) * (0.3 if weight.dim() == 2 else 0.1)
    return model


def adapted(model, patterns=("attention.*", "mlp.*"), **settings):
    """An adapter of ours with numbers that are not zero."""
    own = Lora(**{"rank": 3, "alpha": 5.0, **settings})
    places = change(model, "lora", patterns, settings_of(own))
    lora.initialise(model, own.name, seed=1)
    generator = torch.Generator().manual_seed(2)
    for place in places:
        adapter = model.get_submodule(place).adapter(own.name)
        adapter.b.data.normal_(generator=generator).mul_(0.2)
        if adapter.lengths is not None:
            adapter.lengths.data.mul_(1.25)
    return model.eval()


@torch.no_grad()
def logits(theirs):
    return theirs(IDS).logits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", TARGETS)
def test_an_adapter_of_peft_gives_its_logits_here(family, kind, tmp_path):
    theirs, ours = pair(family)
    settings = RANKS.get(family, OTHER) if kind == "ranks" else KINDS[kind]
    model = trained(theirs, target_modules=TARGETS[family], fan_in_fan_out=family == "gpt2", **settings)
    model.save_pretrained(tmp_path)
    plain = ours(IDS)
    loaded = peft.put(ours, tmp_path)
    assert gap(ours(IDS), logits(model)) < 1e-9
    assert gap(plain, ours(IDS)) > 1e-2
    assert loaded.matched == loaded.tensors == len(load_file(tmp_path / "adapter_model.safetensors"))
    assert loaded.change > 1e-2
    lora.use(ours, None)
    assert torch.equal(ours(IDS), plain)


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2"])
def test_an_adapter_of_ours_gives_its_logits_in_peft(family, kind, tmp_path):
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        theirs, ours = pair(family, dtype)
        adapted(ours, root=kind == "rslora", dora=kind == "dora")
        done = to_peft(ours, TOKENS, tmp_path / str(dtype))
        opened = oracle.PeftModel.from_pretrained(theirs, done.path).eval()
        scale = ours(IDS).abs().max().item()
        assert gap(ours(IDS), logits(opened)) < tolerance * max(1, scale)


PARTIAL = {
    "q alone": ["attention.q"],
    "q and v": ["attention.q", "attention.v"],
    "one block": ["blocks.1.attention.k", "blocks.1.mlp.up"],
}


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("patterns", PARTIAL)
def test_a_part_of_gpt2s_fused_layer_goes_out_as_blocks_and_comes_back_as_it_was(patterns, dora, tmp_path):
    theirs, ours = pair("gpt2")
    adapted(ours, PARTIAL[patterns], root=True, dora=dora)
    to_peft(ours, TOKENS, tmp_path / "a")
    opened = oracle.PeftModel.from_pretrained(theirs, tmp_path / "a").eval()
    assert gap(ours(IDS), logits(opened)) < 1e-9
    _, again = pair("gpt2")
    peft.put(again, tmp_path / "a")
    assert torch.equal(again(IDS), ours(IDS))
    assert [(name, one.tolist()) for name, one in again.named_parameters()] == [
        (name, one.tolist()) for name, one in ours.named_parameters()
    ]
    assert again.swaps == ours.swaps


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_an_adapter_of_peft_goes_back_with_the_numbers_it_came_with(family, tmp_path):
    theirs, ours = pair(family)
    trained(theirs, target_modules=TARGETS[family], fan_in_fan_out=family == "gpt2").save_pretrained(tmp_path / "in")
    peft.put(ours, tmp_path / "in")
    to_peft(ours, TOKENS, tmp_path / "out")
    came, went = (load_file(tmp_path / side / "adapter_model.safetensors") for side in ("in", "out"))
    assert came.keys() == went.keys()
    assert all(torch.equal(came[name], went[name]) for name in came)


def test_three_adapters_as_blocks_of_one_worked_by_hand():
    ours = adapted(pair("gpt2")[1], ["attention.*"], rank=1, alpha=6.0)
    q, k, v = (ours.get_submodule(f"blocks.0.attention.{letter}").adapter("default") for letter in "qkv")
    x = torch.randn(24, dtype=torch.float64)
    # three of rank 1 become one of rank 3: 18 / 3 is 6 / 1
    a, b = torch.cat([q.a, k.a, v.a]), torch.block_diag(q.b, k.b, v.b)
    assert (a.shape, b.shape) == ((3, 24), (72, 3))
    assert gap(18 / 3 * b @ a @ x, torch.cat([6.0 * one.b @ one.a @ x for one in (q, k, v)])) < 1e-12


def test_an_untied_head_has_an_adapter_and_its_weight_once_more(tmp_path):
    theirs, ours = pair("qwen2")
    ids = IDS
    trained(theirs, target_modules=["lm_head", "q_proj"]).save_pretrained(tmp_path)
    held = load_file(tmp_path / "adapter_model.safetensors")
    assert "base_model.model.lm_head.base_layer.weight" in held
    loaded = peft.put(ours, tmp_path)
    assert (loaded.matched, loaded.tensors) == (len(held) - 1, len(held))
    assert isinstance(ours.head, lora.Adapted)
    held["base_model.model.lm_head.base_layer.weight"][3, 5] += 1
    save_file(held, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="more was trained than adapters"):
        peft.put(ours, tmp_path, "again")
    assert ours(ids).isfinite().all()


def test_two_adapters_stand_side_by_side_and_each_goes_out(tmp_path):
    theirs, ours = pair("llama")
    adapted(ours, ["mlp.*"])
    only = ours(IDS)
    trained(theirs, target_modules=["q_proj", "up_proj"]).save_pretrained(tmp_path / "two")
    peft.put(ours, tmp_path / "two", "two")
    assert lora.names(ours) == ["default", "two"]
    lora.use(ours, "default")
    assert torch.equal(ours(IDS), only)
    to_peft(ours, TOKENS, tmp_path / "out", "two")
    assert lora.names(ours) == ["default", "two"]
    came, went = (load_file(tmp_path / side / "adapter_model.safetensors") for side in ("two", "out"))
    assert came.keys() == went.keys()


@pytest.fixture
def folder(tmp_path):
    theirs, _ = pair("llama")
    trained(theirs, target_modules=["q_proj", "v_proj"]).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def said(folder, **fields):
    """Change what adapter_config.json says."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "IA3"}, r"says peft_type 'IA3'; only 'LORA' can"),
        ({"bias": "all"}, r"says bias 'all'; only None or 'none' can"),
        ({"modules_to_save": ["score"]}, r"says modules_to_save \['score'\]; only None"),
        ({"init_lora_weights": "pissa"}, r"says init_lora_weights 'pissa'; only None or True"),
        ({"layer_replication": [[0, 2]]}, r"says layer_replication \[\[0, 2\]\], which cannot be computed"),
        ({"a_method_of_tomorrow": {"on": True}}, r"says a_method_of_tomorrow .*, which cannot be computed"),
        ({"rank_pattern": {"(a+)+$": 4}}, r"says rank_pattern .*which cannot"),
        ({"rank_pattern": {"q_proj": "4"}}, r"says q_proj '4', must be a whole number"),
        ({"target_modules": 7}, r"says target_modules 7, which cannot"),
        ({"r": 4}, r"'adapter' was made for another model.*lora_A is \[3, 24\], should be \[4, 24\]"),
        ({"r": 10**12}, r"lora_A is \[3, 24\], should be \[1000000000000, 24\]"),
        ({"r": 0}, r"the rank of a LoRA adapter is 0"),
        ({"r": "many"}, r"says r 'many', must be a whole number"),
        ({"lora_alpha": 0}, r"adapter 'default' changes no logit"),
        ({"use_dora": True}, r"it is lora_A.weight and lora_B.weight"),
        ({"lora_dropout": 2}, r"dropout of adapter 'default' is 2"),
        ({"target_modules": ["q_proj", "k_proj"]}, r"k_proj' has no adapter"),
        ({"target_modules": ["q_proj"]}, r"v_proj' has an adapter"),
    ],
)
def test_a_config_that_means_something_else_is_refused(folder, fields, message):
    said(folder, **fields)
    _, ours = pair("llama")
    plain = ours(IDS)
    with pytest.raises(FirsthandError, match=message) as caught:
        peft.put(ours, folder)
    assert len(str(caught.value)) <= 240
    assert torch.equal(ours(IDS), plain)
    assert (lora.names(ours), ours.swaps) == ([], [])


@pytest.mark.parametrize("pattern", ["(a+)+b", r".*\.[qv]_proj"])
def test_a_regular_expression_is_not_run_and_the_tensors_tell(folder, pattern):
    said(folder, target_modules=pattern)
    _, ours = pair("llama")
    assert peft.put(ours, folder).layers == 4


@pytest.mark.parametrize("family", ["gpt2", "llama3", "qwen3"])
def test_another_base_is_refused_in_one_line(family, tmp_path):
    theirs, _ = pair("llama")
    trained(theirs, target_modules="all-linear").save_pretrained(tmp_path / ("a" * 90))
    ours = pair(family)[1]
    if family == "llama3":  # the same family, one layer less
        config = {**theirs.config.to_dict(), "num_hidden_layers": 1}
        ours = assemble(hf_config.read(config, "x")[0], _without_last(pair("llama")[1]), "x")
    with pytest.raises(ModelError, match=r"made for another model, of 2 layers or more") as caught:
        peft.put(ours, tmp_path / ("a" * 90))
    assert caught.value.code == 7
    assert len(str(caught.value)) <= 240


def _without_last(model):
    tensors = {name: one.detach() for name, one in model.state_dict().items() if not name.startswith("blocks.1.")}
    return {name: one for name, one in tensors.items() if name != "head.weight"}


def test_an_adapter_for_fewer_layers_is_refused_where_its_config_lists_layers(tmp_path):
    theirs, ours = pair("llama")
    trained(theirs, target_modules=["q_proj"], layers_to_transform=[0]).save_pretrained(tmp_path)
    assert peft.put(ours, tmp_path, "first").layers == 1  # it says so
    said(tmp_path, layers_to_transform=None)
    with pytest.raises(ModelError, match=r"layers\.1\.self_att.*has no adapter"):
        peft.put(ours, tmp_path)


@pytest.mark.parametrize(
    ("harm", "message", "code"),
    [
        (lambda folder: (folder / "adapter_config.json").unlink(), "has no adapter_config.json", 23),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors", 23),
        (
            lambda folder: (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin"),
            "adapter_model.bin is a pickle and could run code",
            21,
        ),
        (
            lambda folder: (folder / "adapter_model.safetensors").write_bytes(
                (folder / "adapter_model.safetensors").read_bytes()[:-9]
            ),
            "its header promises",
            19,
        ),
        (lambda folder: (folder / "adapter_config.json").write_text('{"r": 3, "r": 4}'), "a key stands twice", None),
        (lambda folder: (folder / "adapter_config.json").write_text("[]"), "must hold a JSON object", None),
        (lambda folder: _linked(folder / "adapter_model.safetensors"), "is not the name of a plain file inside", None),
        (lambda folder: _numbers(folder, float("nan")), "holds NaN or infinite numbers", None),
        (lambda folder: _named(folder, "base_model.model.model.layers.0.mlp.up_proj.lora_E"), "more was trained", None),
        (lambda folder: _named(folder, "base_model.model.score.weight"), "more was trained than adapters", None),
        (lambda folder: _named(folder, "x" * 5000), "more was trained than adapters", None),
        (lambda folder: save_file({}, folder / "adapter_model.safetensors"), "made for another model", 7),
    ],
)
def test_damaged_and_hostile_folders_end_in_one_line(folder, harm, message, code):
    harm(folder)
    _, ours = pair("llama")
    with pytest.raises(FirsthandError, match=message) as caught:
        peft.put(ours, folder)
    assert caught.value.code == code
    assert len(str(caught.value)) <= 240
    assert (lora.names(ours), ours.swaps) == ([], [])


def _linked(path):
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def _numbers(folder, number):
    held = load_file(folder / "adapter_model.safetensors")
    held["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"][:] = number
    save_file(held, folder / "adapter_model.safetensors")


def _named(folder, name):
    held = load_file(folder / "adapter_model.safetensors")
    save_file({**held, name: torch.ones(3)}, folder / "adapter_model.safetensors")


def test_numbers_too_large_for_the_model_are_refused(folder):
    _numbers(folder, 3e300)
    ours = pair("llama", torch.float32)[1]
    with pytest.raises(ModelError, match="adapter 'default' makes logits that are no numbers"):
        peft.put(ours, folder)
    assert lora.names(ours) == []


def test_an_adapter_that_was_never_trained_is_an_error(tmp_path):
    theirs, ours = pair("llama")
    oracle.get_peft_model(theirs, oracle.LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="adapter 'default' changes no logit: it was never trained"):
        peft.put(ours, tmp_path)
    assert lora.names(ours) == []


def test_a_tied_head_has_no_adapter_of_its_own(tmp_path):
    theirs, ours = pair("llama")
    trained(theirs, target_modules=["lm_head"]).save_pretrained(tmp_path / "a")
    with pytest.raises(ModelError, match="adapts lm_head, which in this model is the embedding itself"):
        peft.put(ours, tmp_path / "a")


def test_what_peft_has_no_form_for_is_not_written(tmp_path):
    ours = adapted(pair("gpt2")[1], ["attention.q"])
    change(ours, "lora", ["attention.k"], settings_of(Lora(rank=2)))
    with pytest.raises(ModelError, match="are one layer for PEFT, and have adapters of different settings"):
        to_peft(ours, TOKENS, tmp_path / "out")
    ours = adapted(pair("llama")[1], ["attention.q"])
    change(ours, "lora", ["attention.k"], settings_of(Lora(rank=3, dora=True)))
    with pytest.raises(ModelError, match="in some layers only, and PEFT has no form for that"):
        to_peft(ours, TOKENS, tmp_path / "out")
    with pytest.raises(ModelError, match="has no adapter 'poet'"):
        to_peft(ours, TOKENS, tmp_path / "out", "poet")
    assert not (tmp_path / "out").exists()


def test_an_untrained_adapter_is_not_written_and_what_is_there_stays(tmp_path):
    ours = pair("llama")[1]
    change(ours, "lora", ["attention.q"], settings_of(Lora(rank=3)))
    lora.initialise(ours, "default", seed=1)
    with pytest.raises(CheckpointError, match="not written: read back, adapter 'read_again' changes no logit"):
        to_peft(ours, TOKENS, tmp_path / "out")
    assert lora.names(ours) == ["default"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(CheckpointError, match="is there already"):
        to_peft(ours, TOKENS, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
