"""Folders that `transformers` wrote give its logits here; folders that strangers wrote give one line."""

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import hf_folders
import kit
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from firsthand import files
from firsthand.errors import CheckpointError, FirsthandError, ModelError, TokenizerError
from firsthand.interop import huggingface
from firsthand.model.assemble import assemble

TEXT = "The cat sat there, on 1234 mats."


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    """A folder of a Llama-shaped model in float32, to be copied."""
    folder = tmp_path_factory.mktemp("llama") / "llama"
    hf_folders.write("llama-untied", folder, dtype=torch.float32)
    return folder


@pytest.fixture
def folder(llama, tmp_path) -> Path:
    """A copy of that folder, to be damaged."""
    return Path(shutil.copytree(llama, tmp_path / "m"))


def change(path: Path, **keys) -> None:
    """Set keys of a JSON file, which may be new."""
    given = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(given | keys))


def refusal(folder: Path) -> FirsthandError:
    with pytest.raises(FirsthandError) as caught:
        huggingface.read(folder)
    assert len(str(caught.value)) <= 240 and "\n" not in str(caught.value)
    return caught.value


# ---- the same logits ----


@pytest.mark.parametrize("name", hf_folders.CONFIGS)
def test_logits_equal_those_of_transformers(name, tmp_path):
    theirs = hf_folders.precise(hf_folders.write(name, tmp_path))
    foreign = huggingface.read(tmp_path)
    ours, ids = foreign.build(torch.float64), kit.ids(3, 17, vocab_size=hf_folders.TOKENS)
    with torch.no_grad():
        assert kit.gap(ours(ids), theirs(ids).logits) < 1e-9
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
        expected = theirs(ids).logits
        assert kit.gap(foreign.build()(ids), expected) <= 1e-4 * expected.abs().max()
    assert foreign.about["architecture"] == theirs.config.architectures[0]
    assert foreign.about["unread"] == [] and foreign.ends == (0,)


@pytest.mark.parametrize("name", ["gpt2", "llama3", "qwen2"])
def test_shards_give_the_same_model_as_one_file(name, tmp_path):
    hf_folders.write(name, tmp_path / "one")
    hf_folders.write(name, tmp_path / "many", shard="20kB")
    assert len(list((tmp_path / "many").glob("model-*.safetensors"))) > 2
    one, many = (huggingface.read(tmp_path / folder) for folder in ("one", "many"))
    assert one.tensors.keys() == many.tensors.keys()
    assert all(torch.equal(one.tensors[name], many.tensors[name]) for name in one.tensors)


def test_the_oracle_would_notice_a_wrong_rope_scaling(tmp_path):
    hf_folders.write("llama3", tmp_path)
    read, ids = huggingface.read(tmp_path), kit.ids(3, 17)
    plain = assemble(replace(read.config, rope_scaling=None), read.tensors, "here")
    assert kit.gap(plain(ids), read.build(None)(ids)) > 1e-3


def test_half_precision_stays_as_it_is_in_the_file(tmp_path):
    theirs = hf_folders.write("mistral", tmp_path, dtype=torch.bfloat16)
    read = huggingface.read(tmp_path)
    assert {tensor.dtype for tensor in read.tensors.values()} == {torch.bfloat16}
    assert torch.equal(read.build(None).head.weight, theirs.get_output_embeddings().weight)


def test_old_folders_of_gpt2_are_read(tmp_path):
    """Names without `transformer.`, masks among the weights, the head written twice, vocab.json with merges.txt."""
    theirs = hf_folders.write("gpt2", tmp_path)
    tensors = {name.removeprefix("transformer."): t for name, t in load_file(tmp_path / "model.safetensors").items()}
    tensors |= {
        "h.0.attn.bias": torch.ones(1, 1, 19, 19, dtype=torch.uint8),
        "lm_head.weight": tensors["wte.weight"] + 0,
    }
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "tokenizer.json").unlink()
    hf_folders.tokenizer().model.save(str(tmp_path))
    read, ids = huggingface.read(tmp_path), kit.ids(2, 13)
    with torch.no_grad():
        assert kit.gap(read.build(None)(ids), theirs(ids).logits) < 1e-9
    assert list(read.about["left_out"]) == ["h.0.attn.bias", "lm_head.weight"]
    assert read.tokenizer.encode(TEXT).tolist() == hf_folders.tokenizer().encode(TEXT).ids


def test_weights_stay_mapped(folder):
    """The numbers are read from the file when they are used: a changed byte of it is seen."""
    path = folder / "model.safetensors"
    read = huggingface.read(folder)
    last = max(read.tensors.values(), key=lambda tensor: tensor.data_ptr()).flatten()
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\0\0\0\0")
    assert last[-1] == 0


# ---- what comes with the weights ----


def test_rows_without_a_token_get_reserved_ones(tmp_path):
    hf_folders.write("qwen2", tmp_path)
    read = huggingface.read(tmp_path)
    assert (read.about["reserved_tokens"], read.tokenizer.vocab_size, read.config.vocab_size) == (12, 283, 283)
    assert read.tokenizer.encode(TEXT).tolist() == hf_folders.tokenizer("qwen2").encode(TEXT).ids


def test_more_tokens_than_rows_are_refused(folder):
    made = hf_folders.tokenizer("llama3")
    made.add_special_tokens(["<|extra|>"])
    made.save(str(folder / "tokenizer.json"))
    error = refusal(folder)
    assert "tokenizer has 272 tokens but the model of" in str(error) and error.code == 1


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({}, None),
        ({"chat_template": "{{ a }}"}, "{{ a }}"),
        ({"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}, "d"),
        ({"chat_template": [{"name": "tool_use", "template": "t"}]}, None),
        ({"chat_template": 5}, None),
    ],
)
def test_the_chat_template_is_found(folder, written, expected):
    change(folder / "tokenizer_config.json", **written)
    assert huggingface.read(folder).template == expected
    (folder / "chat_template.jinja").write_text("of its own")
    assert huggingface.read(folder).template == "of its own"


@pytest.mark.parametrize(
    ("generation", "config", "ends"),
    [([7, 0], 5, (7, 0)), (7, 5, (7,)), (None, 5, (5,)), (None, None, (0,)), (None, [5, 5], (5,)), ([999, 3], 5, (3,))],
)
def test_the_ids_that_end_an_answer_are_found(folder, generation, config, ends):
    change(folder / "generation_config.json", eos_token_id=generation)
    change(folder / "config.json", eos_token_id=config)
    read = huggingface.read(folder)
    assert read.ends == ends and read.about["ends"] == list(ends)


def test_unknown_keys_are_told(folder):
    change(folder / "config.json", embedding_multiplier=12)
    assert huggingface.read(folder, "some/name").about["unread"] == ["embedding_multiplier"]
    assert huggingface.read(folder, "some/name").about["source"] == "some/name"


def test_a_folder_that_was_fetched_tells_its_name_and_sums(folder, tmp_path):
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    fetched = files.publish(tmp_path / "c0ffee", content, {"hub": "some/model"})
    about = huggingface.read(fetched).about
    assert about["source"] == "some/model@c0ffee" and about["sha256"].keys() == content.keys()
    assert about["sha256"]["config.json"] == hashlib.sha256(content["config.json"]).hexdigest()
    assert "sha256" not in huggingface.read(folder).about


def test_the_cache_of_the_hub_is_read_through_its_links(folder, tmp_path):
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in folder.iterdir():
        path.rename(blobs / f"of-{path.name}")
        (snapshot / path.name).symlink_to(Path("../../blobs") / f"of-{path.name}")
    assert huggingface.read(snapshot).config.vocab_size == hf_folders.TOKENS
    (snapshot / "model.safetensors").unlink()
    (tmp_path / "outside.safetensors").write_bytes(b"x")
    (snapshot / "model.safetensors").symlink_to(tmp_path / "outside.safetensors")
    assert "is not the name of a plain file inside this folder" in str(refusal(snapshot))


# ---- refusals ----


def test_a_pickle_is_never_opened(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    error = refusal(folder)
    assert error.code == 21 and "pytorch_model.bin is a pickle and could run code" in str(error)
    change(folder / "model.safetensors.index.json", weight_map={"lm_head.weight": "pytorch_model.bin"})
    assert refusal(folder).code == 21


def test_a_pointer_of_git_is_no_model(folder):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    (folder / "model.safetensors").write_text(pointer)
    assert refusal(folder).code == 20
    (folder / "config.json").write_text(pointer)
    assert refusal(folder).code == 20


def test_a_file_cut_off_says_how_much_is_missing(folder):
    os.truncate(folder / "model.safetensors", 20_000)
    error = refusal(folder)
    assert error.code == 19 and "its header promises" in str(error)


def test_another_architecture_is_refused_by_name(folder):
    change(folder / "config.json", architectures=["T5ForConditionalGeneration"], model_type="t5")
    error = refusal(folder)
    assert error.code == 18 and "says architecture 'T5ForConditionalGeneration'; this reads GPT2LMHeadModel" in str(
        error
    )


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(folder, number):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][39, 23] = number
    save_file(tensors, folder / "model.safetensors")
    assert "'blocks.1.mlp.up.weight' holds NaN or infinite numbers" in str(refusal(folder))


def test_quantized_weights_are_refused(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"] = torch.ones(40, 24, dtype=torch.int8)
    save_file(tensors, folder / "model.safetensors")
    error = refusal(folder)
    assert error.code == 18 and "'blocks.1.mlp.up.weight' is torch.int8, a quantized form" in str(error)


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("model.layers.0.mlp.up_proj.weight", None, "tensor 'blocks.0.mlp.up.weight' is missing"),
        ("model.layers.0.mlp.up_proj.weight", (24, 40), "is [24, 40], its config asks for [40, 24]"),
        ("model.layers.2.mlp.up_proj.weight", (40, 24), "tensor 'blocks.2.mlp.up.weight' belongs to no part"),
        ("model.layers.0.mlp.experts.weight", (40, 24), "tensor 'model.layers.0.mlp.experts.weight' belongs to no"),
    ],
)
def test_weights_that_do_not_fit_the_config_are_refused(folder, name, shape, said):
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(name, None)
    save_file(tensors if shape is None else tensors | {name: torch.ones(shape)}, folder / "model.safetensors")
    assert said in str(refusal(folder))


def sharded(folder: Path) -> dict[str, str]:
    """Cut the weights into two shards: -> the map of the index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"model-0000{1 + at % 2}-of-00002.safetensors" for at, name in enumerate(sorted(tensors))}
    for place in set(places.values()):
        save_file({name: tensors[name] for name in tensors if places[name] == place}, folder / place)
    change(folder / "model.safetensors.index.json", weight_map=places)
    assert len(huggingface.read(folder).tensors) == len(tensors)
    return places


FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def test_a_shard_that_is_missing_is_named(folder):
    sharded(folder)
    (folder / SECOND).unlink()
    error = refusal(folder)
    assert error.code == 19 and f"{SECOND} is not there" in str(error)


def test_index_and_shards_must_agree(folder):
    places = sharded(folder)
    index = folder / "model.safetensors.index.json"
    change(index, weight_map=places | {"lm_head.weight": SECOND})
    assert f"{FIRST} holds 'lm_head.weight', and model.safetensors.index.json says otherwise" in str(refusal(folder))
    change(index, weight_map=places | {"ghost.weight": FIRST})
    assert f"{FIRST} lacks 'ghost.weight'" in str(refusal(folder))
    change(index, weight_map=places)
    second = load_file(folder / SECOND)
    save_file(second | {"lm_head.weight": torch.ones(2)}, folder / SECOND)  # a second copy
    assert f"{SECOND} holds 'lm_head.weight'" in str(refusal(folder))
    change(index, weight_map=["x"])
    assert "weight_map must say a file for each tensor" in str(refusal(folder))


@pytest.mark.parametrize("name", ["../m2/x.safetensors", "/etc/passwd", "a\\b", "", "..", "x\0y", "C:x", "sub"])
def test_an_index_leads_nowhere_outside_the_folder(folder, name):
    (folder / "sub").mkdir()
    sharded(folder)
    change(folder / "model.safetensors.index.json", weight_map={"lm_head.weight": name})
    assert "is not the name of a plain file inside this folder" in str(refusal(folder))


def test_what_is_missing_is_said_with_a_mend(folder, tmp_path):
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    with pytest.raises(TokenizerError, match=r"no vocab.json with merges.txt \(only tokenizer.model, for SentencePie"):
        huggingface.read(folder)
    (folder / "tokenizer.model").unlink()
    with pytest.raises(TokenizerError, match=r"\(none\). Put the tokenizer.json of this model there"):
        huggingface.read(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"holds no model.safetensors; it holds 'config.json, generation_"):
        huggingface.read(folder)
    with pytest.raises(CheckpointError, match=r"has no config.json; give the folder of a whole model"):
        huggingface.read(tmp_path)


def test_an_end_that_is_no_id_is_refused(folder):
    change(folder / "generation_config.json", eos_token_id="</s>")
    with pytest.raises(ModelError, match="says eos_token_id '</s>'; it must be an id, or several"):
        huggingface.read(folder)
