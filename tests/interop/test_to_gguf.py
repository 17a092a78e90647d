"""A GGUF file of ours: llama.cpp runs it, the gguf package reads it, and it is the model."""

import json
import urllib.request
from dataclasses import replace

import gguf as oracle
import pytest
import torch
from llama_cpp import LlamaCpp
from outgoing import CHATML, FAMILIES, TEXT, outgoing, trained

from firsthand.errors import CheckpointError, ConfigError, ModelError, TokenizerError
from firsthand.interop import gguf, gguf_quantize
from firsthand.interop.to_gguf import to_gguf
from firsthand.model.config import FAST
from firsthand.tokenizer.chat import Chat
from firsthand.tokenizer.simple import CharTokenizer
from firsthand.tokenizer.styles import STYLES, Turn

PROMPT = [72, 101, 108, 108, 111]
KINDS = ["f32", "f16", "bf16", "q8_0", "q4_0"]


def ours(model, ids, count):
    """What we say comes next: the log-probabilities after the prompt, and so many greedy ids."""
    gpt, ids = model.build(), list(ids)
    with torch.no_grad():
        first = gpt(torch.tensor([ids]))[0, -1].log_softmax(-1)
        for _ in range(count):
            ids.append(int(gpt(torch.tensor([ids]))[0, -1].argmax()))
    return first, ids[-count:]


def theirs(path, ids, count, vocab_size):
    with LlamaCpp(path) as llama:
        first = llama.steps(ids, 1, vocab_size)[0]
        first = torch.tensor([first[token] for token in range(vocab_size)])
        return first, llama.greedy(ids, count), llama.tokenize(TEXT)


@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_runs_every_family_with_the_same_tokens(family, tmp_path):
    model = outgoing(family)
    done = to_gguf(model, tmp_path / "out", "f32")
    assert done.drift.largest == 0 and done.drift.differs_at is None and done.notes == ()
    logs, greedy, ids = theirs(tmp_path / "out" / "model.gguf", PROMPT, 24, 307)
    wanted, said = ours(model, PROMPT, 24)
    ended = next((at + 1 for at, token in enumerate(said) if token in model.ends), 24)
    assert greedy == said[:ended]
    assert (logs - wanted).abs().max() < (5e-3 if family == "gpt2" else 1e-4)  # its GELU is a table in half precision
    assert ids == model.tokenizer.encode(TEXT).tolist()


@pytest.mark.parametrize("template", [CHATML, STYLES["chatml"].jinja], ids=["plain", "with marks for training"])
def test_llama_cpp_writes_a_chat_as_we_do(template, tmp_path):
    model = replace(outgoing("llama"), template=template)
    to_gguf(model, tmp_path / "out", "f32")
    chat, turns = Chat(template, model.tokenizer, model.ends), [Turn("system", "Be brief."), Turn("user", "a\n\nb")]
    with LlamaCpp(tmp_path / "out" / "model.gguf") as llama:
        body = json.dumps({"messages": [turn._asdict() for turn in turns]}).encode()
        asked = urllib.request.Request(f"{llama.server.listening_address}/apply-template", body)
        with urllib.request.urlopen(asked, timeout=60) as answer:
            text = json.load(answer)["prompt"]
        assert text == chat.text(turns)
        assert llama.tokenize(text) == chat.prompt(turns)


@pytest.mark.parametrize("kind, most", [("bf16", 0.1), ("f16", 0.02), ("q8_0", 0.1), ("q4_0", 0.1)])
def test_llama_cpp_runs_every_kind_of_numbers(kind, most, tmp_path):
    """It rounds what flows between the layers too, so its numbers are near ours, not ours."""
    model = outgoing("llama")
    done = to_gguf(model, tmp_path / "out", kind)
    written = gguf.read(tmp_path / "out" / "model.gguf")
    logs, _, _ = theirs(tmp_path / "out" / "model.gguf", PROMPT, 1, 307)
    assert (logs - ours(written, PROMPT, 1)[0]).abs().max() < most
    assert 0 < done.drift.largest < 0.5 * done.drift.scale


@pytest.mark.parametrize("kind", KINDS)
def test_the_gguf_package_reads_what_was_meant(kind, tmp_path):
    model = outgoing("qwen2")
    to_gguf(model, tmp_path / "out", kind)
    reader = oracle.GGUFReader(tmp_path / "out" / "model.gguf")
    found = {tensor.name: tensor for tensor in reader.tensors}
    kept = gguf.read(tmp_path / "out" / "model.gguf").tensors
    for theirs, own in (("blk.1.attn_q.weight", "blocks.1.attention.q.weight"), ("output.weight", "head.weight")):
        values = oracle.quants.dequantize(found[theirs].data, found[theirs].tensor_type)
        assert (values == kept[own].float().numpy()).all()
    assert found["blk.0.attn_q.bias"].tensor_type.name == found["output_norm.weight"].tensor_type.name == "F32"
    assert found["token_embd.weight"].tensor_type.name == kind.upper()
    assert found["output.weight"].tensor_type.name == ("Q8_0" if kind == "q4_0" else kind.upper())
    assert (
        reader.get_field("general.file_type").contents()
        == oracle.LlamaFileType[{"f32": "ALL_F32"}.get(kind, f"MOSTLY_{kind.upper()}")]
    )
    assert reader.get_field("tokenizer.chat_template").contents() == model.template


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_comes_back_to_the_bit(family, tmp_path):
    model = outgoing(family)
    to_gguf(model, tmp_path / "out", "f32")
    found = gguf.read(tmp_path / "out" / "model.gguf")
    assert found.config == model.config
    assert found.tensors.keys() == model.tensors.keys()
    assert all(tensor.equal(found.tensors[name]) for name, tensor in model.tensors.items())
    assert found.tokenizer.fingerprint == model.tokenizer.fingerprint
    assert (found.template, found.ends) == (model.template, model.ends)


def test_rows_that_are_no_whole_blocks_become_f16_and_it_is_said(tmp_path):
    model = outgoing("llama")
    odd = {name: tensor[:, :40] for name, tensor in model.tensors.items() if name.endswith("down.weight")}
    odd |= {name: tensor[:40] for name, tensor in model.tensors.items() if name.endswith(("up.weight", "gate.weight"))}
    model = replace(model, config=replace(model.config, d_ff=40), tensors={**model.tensors, **odd})
    done = to_gguf(model, tmp_path / "out", "q8_0")
    said = "2 matrices are F16: rows of 40 are no whole blocks of 32 (the first: blocks.0.mlp.down.weight)"
    assert done.notes == (said,)
    assert said in (tmp_path / "out" / "README.md").read_text()


def test_a_damaged_writer_leaves_nothing_behind(tmp_path, monkeypatch):
    def flipped(kind, scale, whole):
        data = usual(kind, scale, whole)
        data[0, 7] ^= 1
        return data

    usual = gguf_quantize._packed
    monkeypatch.setattr(gguf_quantize, "_packed", flipped)
    with pytest.raises(CheckpointError, match=r"read back, it is not the model: its tensor embed\.weight came back"):
        to_gguf(outgoing("llama"), tmp_path / "out", "q8_0")
    assert list(tmp_path.iterdir()) == []


def test_what_llama_cpp_cannot_run_is_refused(tmp_path):
    model = outgoing("llama")
    letters = CharTokenizer.train("".join(map(chr, range(300, 607))))
    cl100k = trained("cl100k")
    mute = trained("smollm").__class__(cl100k.tokens, cl100k.merges, "smollm", {})
    refused = {
        "not written with a char tokenizer, only with byte-level BPE": replace(model, tokenizer=letters),
        "no name for how this tokenizer cuts text: as cl100k": replace(model, tokenizer=cl100k),
        "no token of this vocabulary ends a text": replace(model, tokenizer=mute, ends=()),
        "llama.cpp runs no model with rmsnorm, relu2": replace(model, config=replace(model.config, **FAST)),
    }
    for words, given in refused.items():
        with pytest.raises((ModelError, TokenizerError), match=words):
            to_gguf(given, tmp_path / "out", "f32")
    with pytest.raises(ConfigError, match="type 'q4_k' cannot be written; use f32, f16, q4_0, q8_0, bf16"):
        to_gguf(model, tmp_path / "out", "q4_k")
    assert not (tmp_path / "out").exists()


def test_a_number_too_large_for_the_type_is_refused(tmp_path):
    model = outgoing("llama")
    model.tensors["embed.weight"][5, 7] = 70_000.0
    with pytest.raises(ModelError, match=r"tensor embed.weight holds 70000 at \[5, 7\], which cannot be written"):
        to_gguf(model, tmp_path / "out", "f16")
