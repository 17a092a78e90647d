"""Adapters as their user meets them: given out, put on again, merged; each from the command line, and compared."""

import json
from dataclasses import replace

import pytest
import torch
from kit import VARIANTS, gap

from firsthand.checkpoint import bundle as bundles
from firsthand.cli.main import main
from firsthand.linear import lora
from firsthand.linear.kinds import change
from firsthand.linear.lora import Lora, settings_of
from firsthand.model.gpt import GPT
from firsthand.run.source import load
from firsthand.tokenizer.bpe import Tokenizer

IDS = torch.randint(259, (2, 17), generator=torch.Generator().manual_seed(1))
SPECIAL = {"<|endoftext|>": 256, "<|im_start|>": 257, "<|im_end|>": 258}


def trained(model, name, patterns, seed):
    """Put an adapter on a model, with numbers that are not zero."""
    change(model, "lora", patterns, settings_of(Lora(name, rank=3, alpha=5.0)))
    lora.initialise(model, name, seed)
    for layer in lora.adapted(model):
        if name in layer.adapters:
            layer.adapter(name).b.data.normal_(generator=torch.Generator().manual_seed(seed)).mul_(0.3)


@pytest.fixture
def home(tmp_path, monkeypatch, capsys):
    """A base, the same with two adapters of which `poet` acts, and the same in bfloat16."""
    tokenizer = Tokenizer([bytes([b]) for b in range(256)] + [name.encode() for name in SPECIAL], [], "gpt2", SPECIAL)
    model = GPT(replace(VARIANTS["llama"], vocab_size=259, context_length=120))
    model.initialise(3)
    bundles.save(tmp_path / "base", model, tokenizer, {"source": "somebody/base@main"}, template="chatml")
    trained(model, "clerk", ["attention.*"], 4)
    trained(model, "poet", ["mlp.*", "attention.q"], 5)
    bundles.save(tmp_path / "tuned", model, tokenizer, {"source": "somebody/base@main"}, template="chatml")
    bundles.save(tmp_path / "halved", model.to(torch.bfloat16), tokenizer, {})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys, *words):
    """What a command prints as JSON."""
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def scores(name):
    return load(name).model(IDS)


@torch.no_grad()
def test_an_adapter_goes_out_and_onto_the_base_again(home, capsys):
    found = said(capsys, "export", "tuned", "--to", "peft", "--out", "folder")
    assert (found["kind"], found["drift"]["differs_at"]) == ("adapter", None)
    config = json.loads((home / "folder" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "somebody/base"
    assert config["target_modules"] == ["self_attn.q_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    facts = said(capsys, "import", "base", "--adapter", "folder", "--out", "again")
    assert facts["matched"] == "16 of 16 tensors, in 8 layers"
    assert facts["output_changed_by"] > 1e-3
    assert torch.equal(scores("again"), scores("tuned"))
    assert load("again").about["adapters"]["default"]["source"] == "folder"
    facts = said(capsys, "import", "again", "--adapter", "folder", "--out", "twice")
    assert facts["adapters"] == "adapter_2, default"
    assert torch.equal(scores("twice"), scores("tuned"))


@torch.no_grad()
@pytest.mark.parametrize("name", ["poet", "clerk"])
def test_a_merged_model_says_what_the_adapter_said(home, capsys, name):
    found = said(capsys, "merge", "tuned", "--adapter", name, "--out", "merged")
    tuned, merged = load("tuned"), load("merged")
    lora.use(tuned.model, name)
    assert gap(merged.model(IDS), tuned.model(IDS)) < 1e-5
    assert gap(merged.model(IDS), scores("base")) > 1e-3
    assert (merged.model.swaps, "swaps" in merged.about, merged.template) == ([], False, "chatml")
    assert merged.about["merged"] == {"source": "tuned", "adapter": name}
    assert found["largest_change_of_a_logit"] < 1e-5
    assert found["greedy_tokens_alike"] == found["greedy_tokens"] == 32
    assert found["left_out"] == ({"poet", "clerk"} - {name}).pop()


def test_a_merged_model_keeps_the_type_of_its_weights_and_says_what_rounding_costs(home, capsys):
    found = said(capsys, "merge", "halved", "--out", "merged")
    assert {weight.dtype for weight in load("merged", dtype=None).model.parameters()} == {torch.bfloat16}
    assert 1e-4 < found["largest_change_of_a_logit"] < 0.1


def test_of_several_adapters_the_last_acts_and_others_wait(home):
    model = load("tuned").model
    assert (lora.names(model), lora.active(model)) == (["clerk", "poet"], "poet")
    assert {layer.active for layer in lora.adapted(model)} == {"poet", None}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["merge", "base", "--out", "x"], "base has no adapters, so there is nothing to merge"),
        (["merge", "tuned", "--adapter", "cook", "--out", "x"], "has no adapter 'cook'; it has: clerk, poet"),
        (["merge", "tuned", "--out", "base"], "is there already"),
        (["export", "base", "--to", "peft", "--out", "x"], "base has no adapters, and peft holds nothing else"),
        (["export", "tuned", "--to", "peft", "--type", "f16", "--out", "x"], "leave --type out"),
        (["export", "tuned", "--to", "hf", "--out", "x"], "merge them first: firsthand merge tuned --out DIR"),
        (["import", "base", "--adapter", "base", "--out", "x"], "has no adapter_config.json"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_and_nothing_is_written(home, capsys, words, message):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert message in err.replace("\n", " ")
    assert out == ""
    assert not (home / "x").exists()


def test_a_folder_of_an_adapter_alone_is_no_model_and_says_what_to_do(home, capsys):
    said(capsys, "export", "tuned", "--to", "peft", "--out", "folder")
    assert main(["info", "folder"]) == 2
    assert "firsthand import BASE --adapter folder --out DIR" in capsys.readouterr().err.replace("\n", " ")
