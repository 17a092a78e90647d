"""A GGUF file becomes the model that llama.cpp makes of it: on tiny random models of every architecture."""

import gguf as llama_gguf
import kit
import numpy as np
import pytest
import torch
from gguf_files import END, SPECIAL, TEMPLATE, TOKENS, TYPES, entries, tensors, write
from llama_cpp import LlamaCpp

from firsthand.errors import FirsthandError
from firsthand.interop import gguf, gguf_config, gguf_names
from firsthand.model.assemble import weights
from firsthand.model.config import ModelConfig, RopeScaling
from firsthand.tokenizer.tokenizer_json import CHARACTERS, visible

PROMPT = [72, 101, 108, 256, 11, 200, 3, 264, 17]
STRETCH = RopeScaling(factor=8.0, original_context_length=100)  # of four pairs one is kept, two are in between
FACTORS = gguf_config.factors(STRETCH, 8, 500.0).numpy()
FILES = {  # architecture, more entries, how the weights are made, more weights
    "llama": ("llama", {}, {}, {}),
    "tied": ("llama", {}, {"head": False}, {}),
    "wide heads": ("llama", {"attention__key_length": 12, "attention__value_length": 12}, {"d_head": 12}, {}),
    "stretched": ("llama", {"rope__dimension_count": 8}, {}, {"rope_freqs.weight": FACTORS}),
    "qwen2": ("qwen2", {}, {}, {}),
    "qwen3": ("qwen3", {"attention__key_length": 6, "attention__value_length": 6}, {"d_head": 6}, {}),
    "gpt2": ("gpt2", {}, {}, {}),
}
TOLERANCE = {"gpt2": 3e-3}  # llama.cpp looks its GELU up in a table of half precision; else both count in float32


@pytest.mark.parametrize("name", FILES)
def test_logits_and_greedy_tokens_are_llama_cpps(name, tmp_path):
    architecture, more, made, extra = FILES[name]
    path = write(tmp_path / "tiny.gguf", entries(architecture, **more), tensors(architecture, **made) | extra)
    foreign = gguf.read(path)
    model = foreign.build(torch.float64)
    assert foreign.config.rope_scaling == (STRETCH if extra else None)
    assert foreign.config.tied == (name == "tied")
    with LlamaCpp(path) as llama, torch.no_grad():
        assert llama.tokenize("hello world<|im_end|>") == [259, 264, END]
        steps = llama.steps(PROMPT, 12, top=len(TOKENS))
        scores = model(torch.tensor([PROMPT + [next(iter(step)) for step in steps]]))[0].log_softmax(-1)
    for row, step in zip(scores[len(PROMPT) - 1 :], steps, strict=False):
        assert row.argmax() == next(iter(step))
        said = torch.tensor([step[token] for token in range(len(TOKENS))])
        assert kit.gap(row, said) < TOLERANCE.get(name, 1e-5)


def test_a_file_brings_its_tokenizer_template_and_ends(tmp_path):
    foreign = gguf.read(write(tmp_path / "tiny.gguf", entries("llama"), tensors("llama")))
    assert foreign.tokenizer.encode("hello world<|im_end|>", allow_special=True).tolist() == [259, 264, END]
    assert foreign.tokenizer.decode([259, 264]) == "hello world"
    assert foreign.template == TEMPLATE
    assert foreign.ends == (END, END - 2)  # what the file names, and <|endoftext|>
    about = foreign.about
    assert (about["format"], about["architecture"], about["ends"]) == ("gguf", "llama", [END, END - 2])
    assert (about["reserved_tokens"], about["kinds"]) == (0, {"F32": 21})


def test_rows_without_a_token_are_kept_and_reserved(tmp_path):
    said = entries("qwen2")
    said["tokenizer.ggml.tokens"] = [*TOKENS, "[PAD268]", "[PAD269]", "[PAD270]"]
    said["tokenizer.ggml.token_type"] = [*TYPES, 5, 5, 5]
    foreign = gguf.read(write(tmp_path / "tiny.gguf", said, tensors("qwen2", rows=271)))
    assert foreign.config.vocab_size == foreign.tokenizer.vocab_size == 271
    assert foreign.about["reserved_tokens"] == 3
    assert foreign.tokenizer.token_bytes(270) == b"<|reserved_2|>"


def test_llama3_takes_pieces_whole_and_begins_every_text(tmp_path):
    foreign = gguf.read(write(tmp_path / "tiny.gguf", entries("llama", pre="llama-bpe"), tensors("llama")))
    assert (foreign.tokenizer.pattern, foreign.tokenizer.whole, foreign.tokenizer.begin) == ("llama3", True, None)
    said = {key: value for key, value in entries("llama", "llama-bpe").items() if "add_bos" not in key}
    again = gguf.read(write(tmp_path / "bos.gguf", said, tensors("llama")))
    assert again.tokenizer.begin == END - 2


@pytest.mark.parametrize("pre", gguf_names.PRE)
def test_every_way_to_cut_text_is_llama_cpps(pre, tmp_path):
    """Any two signs are a token, so wherever one of the two does not cut between them, the ids differ."""
    signs = [*"aZs19 \n\r\t'!.", "é", "ß", "٣", "中", "\u00a0", "👍"]
    shown = [visible(sign.encode()) for sign in signs]
    merges = [f"{sign[:at]} {sign[at]}" for sign in shown for at in range(1, len(sign))]
    merges = [*dict.fromkeys(merges), *(f"{left} {right}" for left in shown for right in shown)]
    tokens = [*CHARACTERS.values(), *(merge.replace(" ", "") for merge in merges), "aZs", *SPECIAL]
    listed = {"tokens": tokens, "token_type": [1] * (len(tokens) - 3) + [3] * 3, "merges": merges}
    said = entries("llama", pre) | {f"tokenizer.ggml.{key}": value for key, value in listed.items()}
    path = write(tmp_path / "cuts.gguf", said, tensors("llama", rows=len(tokens)))
    tokenizer, random = gguf.read(path).tokenizer, np.random.default_rng(4)
    with LlamaCpp(path) as llama:
        for _ in range(200):
            line = "".join(random.choice(signs, size=15))
            assert tokenizer.encode(line).tolist() == llama.tokenize(line), line
        word = tokenizer.encode("aZs").tolist()  # a token that no merge makes
        assert word == llama.tokenize("aZs")
        assert (len(word) == 1) == tokenizer.whole


def test_sentencepieces_tokens_are_llama_cpps(tmp_path):
    words = ["▁the", "th", "▁t", "he", "▁th", "er", "▁▁", "in", "▁a", "the", "▁▁▁▁", "é", "中"]
    letters = sorted({letter for word in words for letter in word} | set("bcdlmnosu.!"))
    words = [word for word in words if len(word) > 1]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words, *letters]
    types = [2, 3, 3, *[6] * 256, *[1] * (len(words) + len(letters))]
    scores = [0.0] * 259 + [-float(at) for at in range(len(words) + len(letters))]
    listed = {"model": "llama", "tokens": pieces, "token_type": types, "scores": scores, "bos_token_id": 1}
    listed |= {"eos_token_id": 2, "add_bos_token": True}
    said = {key: value for key, value in entries("llama").items() if not key.startswith("tokenizer.")}
    said |= {f"tokenizer.ggml.{key}": value for key, value in listed.items()}
    path = write(tmp_path / "pieces.gguf", said, tensors("llama", rows=len(pieces)))
    foreign, random = gguf.read(path), np.random.default_rng(5)
    assert (foreign.tokenizer.begin, foreign.ends, foreign.template) == (1, (2,), None)
    with LlamaCpp(path) as llama:
        for _ in range(200):
            text = "".join(random.choice([*"the in a.!", "é", "中", "👍", "\n"], size=20))
            assert foreign.tokenizer.encode(text).tolist() == llama.tokenize(text), text
        for text in ("the</s>there", "</s> the", "the </s>"):
            assert foreign.tokenizer.encode(text, allow_special=True).tolist() == llama.tokenize(text), text


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_weights_of_every_kind_are_those_of_the_file(kind, tmp_path):
    raw = tensors("qwen2")
    name = "blk.1.ffn_gate.weight"  # rows of 32
    path = write(tmp_path / "tiny.gguf", entries("qwen2"), raw, {name: kind})
    quantized = llama_gguf.quants.quantize(raw[name], llama_gguf.GGMLQuantizationType[kind])
    expected = llama_gguf.quants.dequantize(quantized, llama_gguf.GGMLQuantizationType[kind])
    foreign = gguf.read(path)
    np.testing.assert_array_equal(foreign.tensors["blocks.1.mlp.gate.weight"].float().numpy(), expected)
    assert foreign.about["kinds"][kind] == 1


def test_rows_by_hand():
    # two heads of four: halves 0 1 | 2 3 become neighbours 0 2 1 3
    rows = torch.arange(8.0)
    assert gguf_names.halves_to_neighbours(rows, 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert gguf_names.neighbours_to_halves(gguf_names.halves_to_neighbours(rows, 2), 2).equal(rows)
    matrix = torch.randn(12, 5)
    assert gguf_names.neighbours_to_halves(gguf_names.halves_to_neighbours(matrix, 3), 3).equal(matrix)


@pytest.mark.parametrize("variant", ["gpt2", "llama", "llama3", "qwen2", "qwen3"])
def test_names_and_numbers_go_both_ways(variant):
    config = kit.VARIANTS[variant]
    for name in weights(kit.tiny(variant)):
        assert gguf_names.ours(gguf_names.theirs(name)) == name
    scaling = config.rope_scaling
    factors = None if scaling is None else gguf_config.factors(scaling, config.d_head, config.rope_theta)
    assert gguf_config.config(gguf_config.entries(config), config.vocab_size, config.tied, factors) == config


def test_llama3s_own_stretch_is_found_in_its_factors():
    config = ModelConfig(n_head=8, d_model=512, norm="rmsnorm", mlp="swiglu", bias="none", rope_theta=500_000.0)
    for rule in (RopeScaling(8.0), RopeScaling(32.0)):
        assert gguf_config.scaling(gguf_config.factors(rule, 64, 500_000.0), config) == rule


@pytest.mark.parametrize("variant", ["mistral", "fast"])
def test_what_llama_cpp_cannot_run_has_no_architecture(variant):
    with pytest.raises(FirsthandError, match=r"llama.cpp runs no model with rmsnorm"):
        gguf_config.architecture(kit.VARIANTS[variant])


REFUSED = {
    "architecture 'mamba' is not known here; gpt2, llama, qwen2, qwen3 can be read": {"general.architecture": "mamba"},
    r"'llama.attn_logit_softcapping' is 30.0, which our models cannot do": {"llama.attn_logit_softcapping": 30.0},
    r"'llama.rope.scaling.type' is 'yarn', which our models cannot do": {"llama.rope.scaling.type": "yarn"},
    r"'llama.rope.dimension_count' is 4, which our models cannot do": {"llama.rope.dimension_count": 4},
    r"'llama.expert_count' is 8, which our models cannot do": {"llama.expert_count": 8},
    r"block_count is 'two', which must be one int": {"llama.block_count": "two"},
    r"attention.head_count_kv is array\(\[2, 1\].*, which must be one int": {"llama.attention.head_count_kv": [2, 1]},
    r"n_layer 2000000 is out of range": {"llama.block_count": 2_000_000},
    r"n_kv_head 3 does not divide n_head 4": {"llama.attention.head_count_kv": 3},
    r"'blocks.0.attention.q.weight' is \[32, 32\], .* asks for \[24, 32\]": {"llama.attention.key_length": 6},
    r"'blocks.0.mlp.gate.weight' is \[40, 32\], .* asks for \[41, 32\]": {"llama.feed_forward_length": 41},
    r"is a part of a split file": {"split.count": 3},
    r"tokenizer.ggml.model is 'bert'; gpt2 and llama can be read": {"tokenizer.ggml.model": "bert"},
    r"tokenizer.ggml.scores must be a number for each token": {"tokenizer.ggml.model": "llama"},
    r"tokenizer.ggml.pre is 'default', not gpt-2, smollm": {"tokenizer.ggml.pre": "default"},
    r"token_type must be a number for each token": {"tokenizer.ggml.token_type": [1, 1]},
    r"token_type has a 6; of model gpt2 1 to 5": {"tokenizer.ggml.token_type": [6] * len(TOKENS)},
    r"merge 0 joins 'zz', which is no ordinary token": {"tokenizer.ggml.merges": ["zz h"]},
    r"eos_token_id is 268; there are 268 tokens": {"tokenizer.ggml.eos_token_id": 268},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_expressed_is_refused_by_name(message, tmp_path):
    path = write(tmp_path / "tiny.gguf", entries("llama") | REFUSED[message], tensors("llama"))
    with pytest.raises(FirsthandError, match=message) as caught:
        gguf.read(path)
    assert "tiny.gguf" in str(caught.value)
    assert len(str(caught.value)) <= 240


def test_nan_and_infinity_are_refused_with_the_tensors_name(tmp_path):
    for bad in (np.nan, np.inf):
        broken = tensors("llama")
        broken["blk.1.ffn_up.weight"][3, 5] = bad
        path = write(tmp_path / f"{bad}.gguf", entries("llama"), broken)
        with pytest.raises(FirsthandError, match=r"'blocks.1.mlp.up.weight' holds NaN or infinite numbers"):
            gguf.read(path)


def test_tensors_that_are_missing_or_strange_are_named(tmp_path):
    strange = tensors("llama") | {"blk.0.ssm_a": np.ones(3, np.float32)}
    with pytest.raises(FirsthandError, match=r"tensor 'blk.0.ssm_a' has no place in our models"):
        gguf.read(write(tmp_path / "strange.gguf", entries("llama"), strange))
    missing = {name: tensor for name, tensor in tensors("llama").items() if name != "blk.1.attn_v.weight"}
    with pytest.raises(FirsthandError, match=r"tensor 'blocks.1.attention.v.weight' is missing"):
        gguf.read(write(tmp_path / "missing.gguf", entries("llama"), missing))
    stretched = tensors("llama") | {"rope_freqs.weight": np.array([1, 3, 2, 9], np.float32)}
    with pytest.raises(FirsthandError, match=r"rope_freqs.weight does not follow Llama 3's rule"):
        gguf.read(write(tmp_path / "stretched.gguf", entries("llama"), stretched))
    few = entries("llama")
    few["tokenizer.ggml.tokens"], few["tokenizer.ggml.token_type"] = [*TOKENS, "more"], [*TYPES, 1]
    with pytest.raises(FirsthandError, match=r"tokenizer has 269 tokens but the model has 268 embedding rows"):
        gguf.read(write(tmp_path / "few.gguf", few, tensors("llama")))
