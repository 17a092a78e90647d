"""A Hugging Face folder of ours: transformers opens it, and it is the model."""

import io
import json
from dataclasses import replace

import pytest
import torch
import transformers
from outgoing import CHATML, FAMILIES, TEXT, outgoing

from firsthand import files
from firsthand.errors import CheckpointError, ConfigError, ModelError
from firsthand.files import tensors as stored
from firsthand.interop import huggingface, verified
from firsthand.interop.export import export
from firsthand.model.assemble import weights
from firsthand.model.config import FAST
from firsthand.model.gpt import GPT
from firsthand.tokenizer.simple import WordTokenizer

CLASSES = {"gpt2": "GPT2LMHeadModel", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_opens_every_family_with_the_same_tokens(family, tmp_path):
    model = outgoing(family)
    done = export(model, "hf", tmp_path / "out")
    assert (done.kind, done.drift.largest, done.drift.differs_at) == ("F32", 0, None)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert type(theirs).__name__ == CLASSES.get(family, "LlamaForCausalLM")
    ids = torch.tensor([model.tokenizer.encode(TEXT).tolist()])
    with torch.no_grad():
        wanted, found = model.build()(ids), theirs(ids).logits
        assert (wanted - found).abs().max() < 1e-5 * wanted.abs().max()
        theirs.generation_config.eos_token_id = None
        said = theirs.generate(ids[:, :9], max_new_tokens=32, min_new_tokens=32)[0, 9:].tolist()
    assert said == greedy(model, ids[0, :9].tolist(), 32)


def greedy(model, ids, count):
    gpt = model.build()
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(gpt(torch.tensor([ids]))[0, -1].argmax()))
    return ids[-count:]


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_gives_the_same_ids_and_chats(family, tmp_path):
    model = outgoing(family)
    done = export(model, "hf", tmp_path / "out")
    opener = transformers.PreTrainedTokenizerFast if done.notes else transformers.AutoTokenizer
    tokenizer = opener.from_pretrained(tmp_path / "out")
    assert tokenizer(TEXT)["input_ids"] == model.tokenizer.encode(TEXT).tolist()
    assert (tokenizer.eos_token, tokenizer.chat_template) == ("<|im_end|>", CHATML)
    card = (tmp_path / "out" / "README.md").read_text()
    assert ("PreTrainedTokenizerFast.from" in card) == bool(done.notes)
    assert bool(done.notes) == (family == "qwen2")  # transformers applies NFC there, which this tokenizer does not


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_comes_back_to_the_bit(family, tmp_path):
    model = outgoing(family)
    export(model, "hf", tmp_path / "out")
    found = huggingface.read(tmp_path / "out")
    assert found.config == model.config
    assert found.tensors.keys() == model.tensors.keys()
    assert all(tensor.equal(found.tensors[name]) for name, tensor in model.tensors.items())
    assert found.tokenizer.fingerprint == model.tokenizer.fingerprint
    assert (found.template, found.ends) == (model.template, model.ends)


@pytest.mark.parametrize("kind, dtype", [("bf16", torch.bfloat16), ("f16", torch.float16)])
def test_the_type_is_the_one_asked_for_or_the_one_the_weights_have(kind, dtype, tmp_path):
    rounded = export(outgoing("llama"), "hf", tmp_path / "asked", kind)
    assert 0 < rounded.drift.largest < 0.1 * rounded.drift.scale
    same = export(outgoing("llama", dtype), "hf", tmp_path / "kept")
    assert (same.kind, same.drift.largest) == (kind.upper(), 0)
    for folder in ("asked", "kept"):
        assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / folder).dtype == dtype
        assert {tensor.dtype for tensor in huggingface.read(tmp_path / folder).tensors.values()} == {dtype}


def test_a_vocabulary_of_words_goes_out_too(tmp_path):
    words = [f"word{number}" for number in range(305)]
    model = replace(outgoing("llama"), tokenizer=WordTokenizer(words, ["<|unk|>", "<|endoftext|>"]), ends=())
    export(model, "hf", tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("word7 word300 nonsense")["input_ids"] == [7, 300, 305]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["eos_token_id"] == 306


def test_one_flipped_bit_leaves_nothing_behind(tmp_path, monkeypatch):
    def damaged(tensors):
        size, write = usual(tensors)
        buffer = io.BytesIO()
        write(buffer)
        data = bytearray(buffer.getvalue())
        data[-4] ^= 1  # the lowest bit of the last number
        return size, lambda file: file.write(data)

    usual = stored.stream
    monkeypatch.setattr(stored, "stream", damaged)
    with pytest.raises(CheckpointError, match=r"it is not the model: its tensor norm\.weight came back"):
        export(outgoing("llama"), "hf", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name, wrong", [("config.json", b'"rope_theta": 10001.0'), ("tokenizer.json", b'"id": 300')])
def test_a_file_that_says_something_else_leaves_nothing_behind(name, wrong, tmp_path, monkeypatch):
    def changed(target, content, about, expected, accept):
        right = {b'"rope_theta": 10001.0': b'"rope_theta": 10000.0', b'"id": 300': b'"id": 304'}[wrong]
        assert right in content[name]
        return usual(target, content | {name: content[name].replace(right, wrong)}, about, expected, accept)

    usual = files.publish
    monkeypatch.setattr(files, "publish", changed)
    with pytest.raises(CheckpointError, match="read back, it is not the model: "):
        export(outgoing("llama"), "hf", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_never_overwritten_but_an_empty_folder_is_used(tmp_path):
    (tmp_path / "out").mkdir()
    export(outgoing("llama"), "hf", tmp_path / "out")
    files.verify(tmp_path / "out")
    with pytest.raises(CheckpointError, match="is there already; remove it, or choose another --out") as error:
        export(outgoing("llama"), "hf", tmp_path / "out")
    assert error.value.code == 25


def test_a_full_disk_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(files.write, "free_bytes", lambda path: 1000)
    monkeypatch.setattr(verified, "behaviour", None)
    with pytest.raises(CheckpointError, match=r"its disk has 1\.0 kB free") as error:
        export(outgoing("llama"), "hf", tmp_path / "out")
    assert error.value.code == 11


def test_what_nobody_else_can_run_is_refused(tmp_path):
    model = outgoing("llama")
    config = replace(model.config, **FAST)
    fast = replace(model, config=config, tensors=weights(GPT(config)))
    with pytest.raises(ModelError, match="runs in firsthand alone"):
        export(fast, "hf", tmp_path / "out")
    strange = replace(model, tensors={**model.tensors, "blocks.0.mlp.up.codes": torch.zeros(3)})
    with pytest.raises(ModelError, match=r"tensor 'blocks\.0\.mlp\.up\.codes' belongs to no part of this model"):
        export(strange, "gguf", tmp_path / "out")
    with pytest.raises(ModelError, match="random llama has no adapters, and peft holds nothing else"):
        export(model, "peft", tmp_path / "out")
    with pytest.raises(ConfigError, match=r"no format 'ggfu'; use hf, gguf, peft\. Did you mean 'gguf'\?"):
        export(model, "ggfu", tmp_path / "out")
    with pytest.raises(ConfigError, match="of type 'q8_0' cannot be written; use f32, bf16, f16"):
        export(model, "hf", tmp_path / "out", "q8_0")
    assert list(tmp_path.iterdir()) == []


def test_a_number_that_is_none_is_refused(tmp_path):
    model = outgoing("llama")
    model.tensors["embed.weight"][5, 7] = float("nan")
    with pytest.raises(ModelError, match=r"tensor embed.weight holds nan at \[5, 7\], which cannot be written"):
        export(model, "hf", tmp_path / "out")
