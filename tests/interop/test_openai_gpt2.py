"""OpenAI's files of GPT-2 become our model, equal to the same weights in `transformers`."""

import json

import bundle_writer as writer
import kit
import pytest
import torch
import transformers

from firsthand.errors import CheckpointError, FirsthandError, ModelError, TokenizerError
from firsthand.interop import openai_gpt2
from firsthand.tokenizer import formats
from firsthand.tokenizer.bpe import Tokenizer

ROWS = 260  # 256 bytes, 3 merges, the end of text
SHAPE = {"n_vocab": ROWS, "n_ctx": 19, "n_embd": 24, "n_head": 6, "n_layer": 2}
MERGES = [(116, 104), (256, 101), (32, 257)]  # th, the, " the"
TYPES = {torch.float64: (2, 1e-9), torch.float32: (1, 1e-4)}  # theirs, and the gap allowed, of the logit scale


def theirs(dtype):
    """GPT-2 of `transformers`, tiny, every parameter random."""
    torch.manual_seed(0)
    shape = {"vocab_size": ROWS, "n_positions": 19, "n_embd": 24, "n_layer": 2, "n_head": 6}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.3)
    return model.to(dtype).eval()


def released(model):
    """The tensors under OpenAI's names: (type, shape, bytes)."""
    found = {}
    for name, tensor in model.transformer.state_dict().items():
        part, kind = name.rsplit(".", 1)
        part = part.replace("h.", "h", 1).replace(".", "/")
        letter = "b" if kind == "bias" else "g" if "ln_" in part else "w"
        path = f"model/{part}" if part in ("wte", "wpe") else f"model/{part}/{letter}"
        tensor = tensor[None] if letter == "w" and part not in ("wte", "wpe") else tensor
        found[path] = (TYPES[tensor.dtype][0], tuple(tensor.shape), tensor.numpy().tobytes())
    return found


def release(folder, tensors, shards=1, **shape):
    """A folder as OpenAI publishes it."""
    tokens = [bytes([i]) for i in range(256)] + [b"th", b"the", b" the", b"<|endoftext|>"]
    formats.save(Tokenizer(tokens, MERGES, "gpt2", {"<|endoftext|>": 259}), folder / "vocab.bpe")
    (folder / "hparams.json").write_text(json.dumps({**SHAPE, **shape}))
    (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt"\n')
    (folder / "model.ckpt.meta").write_bytes(b"\n\x00")
    writer.write(folder, *writer.lay_out(tensors, shards))
    return folder


@pytest.mark.parametrize("dtype", TYPES)
def test_logits_equal_those_of_transformers(tmp_path, dtype):
    oracle, ids = theirs(dtype), kit.ids(3, 17, vocab_size=ROWS)
    foreign = openai_gpt2.read(release(tmp_path, released(oracle), shards=2))
    with torch.no_grad():
        expected = oracle(ids).logits
        assert kit.gap(foreign.build(dtype)(ids), expected) <= TYPES[dtype][1] * expected.abs().max().item()


def test_tokenizer_and_origin_come_along(tmp_path):
    foreign = openai_gpt2.read(release(tmp_path, released(theirs(torch.float32))))
    assert foreign.tokenizer.encode("in the the").tolist() == [105, 110, 258, 258]
    assert foreign.ends == (259,)
    assert foreign.about == {
        "format": "openai-gpt2",
        "source": str(tmp_path),
        "architecture": "gpt2",
        "ends": [259],
        "reserved_tokens": 0,
    }
    assert (foreign.config.d_ff, foreign.config.tied, foreign.config.context_length) == (96, True, 19)


def test_queries_keys_and_values_are_the_thirds_of_their_matrix(tmp_path):
    tensors = openai_gpt2.read(release(tmp_path, released(theirs(torch.float64)))).tensors
    fused = theirs(torch.float64).transformer.h[1].attn.c_attn.weight.detach()  # (24, 72): in, out
    for at, letter in enumerate("qkv"):
        assert torch.equal(tensors[f"blocks.1.attention.{letter}.weight"], fused[:, 24 * at : 24 * at + 24].T)


def change(name, new):
    """The tensors with one of them changed, or without it."""

    def changed(tensors):
        old = tensors.pop(name, None)
        return tensors | ({} if new is None else {new[0]: new[1:] if len(new) > 1 else old})

    return changed


NUMBERS = bytes(4 * 24 * 72)
WRONG = {
    "a tensor is missing": (change("model/h1/ln_1/g", None), ["'blocks.1.attention_norm.weight' is missing"]),
    "a tensor too many": (change("x", ["model/h2/ln_1/g", 1, (24,), bytes(96)]), ["belongs to no part"]),
    "a strange tensor": (change("x", ["global_step", 2, (), bytes(8)]), ["'global_step' is not part of a GPT-2"]),
    "a layer in two spellings": (change("x", ["model/h01/ln_1/g", 1, (24,), bytes(96)]), ["is not part of a GPT-2"]),
    "whole numbers": (
        change("model/wpe", ["model/wpe", 9, (19, 24), bytes(8 * 19 * 24)]),
        ["'model/wpe' is torch.int64, a quantized form"],
    ),
    "a number that is none": (
        change("model/ln_f/b", ["model/ln_f/b", 1, (24,), bytes(92) + b"\0\0\xc0\x7f"]),
        ["'model/ln_f/b' holds NaN or infinite numbers"],
    ),
    "a matrix not in a row": (
        change("model/h0/attn/c_attn/w", ["model/h0/attn/c_attn/w", 1, (24, 72), NUMBERS]),
        ["'model/h0/attn/c_attn/w' is [24, 72]; expected is [1, in, out]"],
    ),
    "a matrix of two": (
        change("model/h0/attn/c_attn/w", ["model/h0/attn/c_attn/w", 1, (2, 24, 36), NUMBERS]),
        ["expected is [1, in, out]"],
    ),
    "a matrix on its side": (
        change("model/h0/attn/c_attn/w", ["model/h0/attn/c_attn/w", 1, (1, 72, 24), NUMBERS]),
        ["is [8, 72], its config asks for [24, 24]"],
    ),
    "a bias of two axes": (
        change("model/h0/ln_1/b", ["model/h0/ln_1/b", 1, (24, 1), bytes(96)]),
        ["is [24, 1]; expected is [width]"],
    ),
    "another width": (
        change("model/wpe", ["model/wpe", 1, (19, 23), bytes(4 * 19 * 23)]),
        ["is [19, 23], its config"],
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_weights_that_do_not_fit_are_refused(tmp_path, what):
    changed, words = WRONG[what]
    folder = release(tmp_path, changed(released(theirs(torch.float32))))
    with pytest.raises(ModelError) as caught:
        openai_gpt2.read(folder).build()
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", ["hparams.json: must hold a JSON object"]),
        ('{"n_vocab": 260}', ["hparams.json lacks n_ctx, n_embd, n_head, n_layer"]),
        ('{"n_vocab": 260, "n_vocab": 1}', ["a key stands twice"]),
        ('{"n_vocab": true}', ["'n_vocab' is True; allowed are n_vocab, n_ctx"]),
        ('{"n_vocab": ' + "9" * 3000 + "}", ["'n_vocab' is 9999", "[FH033]"]),
        ('{"dropout": 1}', ["'dropout' is 1; allowed are n_vocab"]),
        (json.dumps(SHAPE | {"n_head": 7}), ["n_head 7 does not divide d_model 24", "[FH031]"]),
        (json.dumps(SHAPE | {"n_layer": 1001}), ["n_layer 1001 is out of range", "[FH034]"]),
        (json.dumps(SHAPE | {"n_vocab": 261}), ["tokenizer has 260 tokens", "has 261 embedding rows", "[FH001]"]),
        (json.dumps(SHAPE | {"n_vocab": 259}), ["tokenizer has 260 tokens", "has 259 embedding rows", "[FH001]"]),
        (json.dumps(SHAPE | {"n_layer": 3}), ["tensor 'blocks.2.attention.k.bias' is missing"]),
    ],
)
def test_a_shape_that_cannot_be_is_refused(tmp_path, text, words):
    folder = release(tmp_path, released(theirs(torch.float32)))
    (folder / "hparams.json").write_text(text)
    with pytest.raises(FirsthandError) as caught:
        openai_gpt2.read(folder).build()
    assert all(word in str(caught.value) for word in words) and len(str(caught.value)) <= 240, caught.value


@pytest.mark.parametrize("names", [[], ["one.index", "two.index"]])
def test_a_folder_holds_one_checkpoint(tmp_path, names):
    folder = release(tmp_path, released(theirs(torch.float32)))
    (folder / "model.ckpt.index").unlink()
    for name in names:
        (folder / name).write_bytes(b"")
    with pytest.raises(
        CheckpointError, match=f"must hold one checkpoint NAME.index; there is: {', '.join(names) or 'none'}"
    ):
        openai_gpt2.read(folder)


def test_a_list_of_merges_that_was_cut_is_refused(tmp_path):
    folder = release(tmp_path, released(theirs(torch.float32)))
    path = folder / "vocab.bpe"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(
        TokenizerError, match=r"1 tokens of encoder\.json are made by no merge, .*the': vocab\.bpe is cut"
    ):
        openai_gpt2.read(folder)


def test_a_place_that_is_no_folder_of_openais_is_one_error(tmp_path):
    with pytest.raises(CheckpointError, match=r"hparams\.json: no such file"):
        openai_gpt2.read(tmp_path)
    with pytest.raises(CheckpointError, match=r"hparams\.json: no such file"):
        openai_gpt2.read(tmp_path / "missing")
