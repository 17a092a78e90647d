"""A saved model is the same model, and everything that is not one is refused with a line that helps."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace

import kit
import pytest
import torch
from safetensors.torch import load_file

from firsthand import files
from firsthand.checkpoint import bundle
from firsthand.errors import CheckpointError, FirsthandError, ModelError
from firsthand.tokenizer.bpe import Tokenizer

LETTERS = [bytes([i]) for i in range(256)]


def tokenizer(extra=0):
    """256 bytes, and with `extra` a few special tokens."""
    special = {f"<|{i}|>": 256 + i for i in range(extra)}
    return Tokenizer([*LETTERS, *(name.encode() for name in special)], [], special_tokens=special)


def model(variant="gpt2", dtype=torch.float32, vocab_size=256):
    made = kit.GPT(replace(kit.VARIANTS[variant], vocab_size=vocab_size))
    return made.to(dtype)


def saved(folder, **changes):
    return bundle.save(folder / "step-000003", model(**changes), tokenizer(), {"parent": None, "data": "abc"})


def reseal(folder, **content):
    """Another content of some files, with a manifest that vouches for it: what a stranger could send."""
    old = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != files.MANIFEST}
    shutil.rmtree(folder)
    return files.publish(folder, old | {name.replace("_", "."): data for name, data in content.items()})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("variant", kit.VARIANTS)
def test_a_model_comes_back_bit_for_bit_with_the_same_logits(tmp_path, variant, dtype):
    before = model(variant, dtype)
    path = bundle.save(tmp_path / "m", before, tokenizer(), {})
    after = bundle.load(path)
    old, new = before.state_dict(), after.model.state_dict()
    assert list(old) == list(new)
    assert all(torch.equal(old[name], new[name]) and old[name].dtype == new[name].dtype for name in old)
    assert after.model.config == before.config and not after.model.training and after.path == path
    assert all(parameter.requires_grad for parameter in after.model.parameters())
    if dtype in (torch.float32, torch.float64):
        ids = kit.ids(2, 7)
        assert torch.equal(after.model(ids), before.eval()(ids))


@pytest.mark.parametrize(
    ("template", "message"),
    [(b"{{ \xff }}", r"UTF-8"), (b"x" * 65_537, r"larger than 65\.5 kB")],
)
def test_a_chat_template_that_cannot_be_one_is_refused(tmp_path, template, message):
    path = bundle.save(tmp_path / "m", model(), tokenizer(), {}, template="{{ messages }}")
    assert bundle.load(path).template == "{{ messages }}"
    content = {file.name: file.read_bytes() for file in path.iterdir() if file.name != files.MANIFEST}
    forged = files.publish(tmp_path / "forged", content | {bundle.TEMPLATE: template})
    with pytest.raises(CheckpointError, match=message):
        bundle.load(forged)


def test_a_tied_head_is_stored_once_and_tied_again(tmp_path):
    path = bundle.save(tmp_path / "m", model("gpt2"), tokenizer(), {})
    stored = load_file(path / "model.safetensors")
    assert "embed.weight" in stored and "head.weight" not in stored
    loaded = bundle.load(path).model
    assert loaded.head.weight is loaded.embed.weight
    untied = bundle.save(tmp_path / "u", model("qwen2"), tokenizer(), {})
    assert "head.weight" in load_file(untied / "model.safetensors")


def test_the_directory_says_everything_and_nothing_about_the_person(tmp_path):
    path = saved(tmp_path)
    assert sorted(each.name for each in path.iterdir()) == [
        "MANIFEST.json",
        "config.json",
        "firsthand.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    loaded = bundle.load(path)
    assert json.loads((path / "config.json").read_text()) == asdict(loaded.model.config)
    assert loaded.about["data"] == "abc" and loaded.about["parent"] is None
    assert loaded.about["tokenizer"] == {
        "kind": "bpe",
        "vocab_size": 256,
        "sha256": tokenizer().fingerprint,
    }
    assert loaded.about["made_with"]["torch"] == torch.__version__
    assert loaded.tokenizer.fingerprint == tokenizer().fingerprint
    text = "".join(each.read_text() for each in path.glob("*.json"))
    assert str(tmp_path) not in text and os.uname().nodename not in text


def test_what_training_needs_comes_back_bit_for_bit(tmp_path):
    optim = {"step": torch.tensor(7.0), "exp_avg.embed.weight": torch.randn(3, 4), "random": torch.get_rng_state()}
    state = {"step": 7, "loss": 0.1 + 0.2, "text": "ü", "none": None, "list": [1, [2.5]]}
    path = bundle.save(tmp_path / "m", model(), tokenizer(), {}, optim, state)
    tensors, numbers = bundle.load_training(path)
    assert numbers == state and tensors.keys() == optim.keys()
    assert all(torch.equal(tensors[name], optim[name]) and tensors[name].shape == optim[name].shape for name in optim)
    bundle.load(path)


def test_changing_a_loaded_model_does_not_change_the_file(tmp_path):
    path = saved(tmp_path)
    loaded = bundle.load(path).model
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.add_(1.0)
    files.verify(path)


def test_loading_does_not_start_torch_s_compiler(tmp_path):
    path = saved(tmp_path)
    code = (
        "import sys; from firsthand.checkpoint import bundle\n"
        "bundle.load(sys.argv[1]); print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_weights_that_are_not_drawn_are_all_replaced(tmp_path):
    """No parameter may stay on the device without memory."""
    for variant in kit.VARIANTS:
        loaded = bundle.load(bundle.save(tmp_path / variant, model(variant), tokenizer(), {})).model
        assert {tensor.device.type for tensor in loaded.state_dict().values()} == {"cpu"}


# ---------------------------------------------------------------- refusals


def test_a_tokenizer_of_another_size_is_refused_when_saving_and_when_loading(tmp_path):
    with pytest.raises(
        ModelError, match=r"tokenizer has 259 tokens but the model of .*m has 256 embedding rows"
    ) as error:
        bundle.save(tmp_path / "m", model(), tokenizer(3), {})
    assert error.value.code == 1 and not (tmp_path / "m").exists()
    path = saved(tmp_path)
    tokenizer(3).save(tmp_path / "other.json")
    reseal(path, tokenizer_json=(tmp_path / "other.json").read_bytes())
    with pytest.raises(ModelError, match="Use the tokenizer the model was trained with"):
        bundle.load(path)


def test_a_cut_off_download_is_told_apart_from_a_damaged_one(tmp_path):
    path = saved(tmp_path)
    whole = (path / "model.safetensors").stat().st_size
    os.truncate(path / "model.safetensors", whole - 1)
    with pytest.raises(CheckpointError, match=rf"its header promises .*\({whole - 1:,} of {whole:,} bytes\)") as error:
        bundle.load(path)
    assert error.value.code == 19


def test_a_git_lfs_pointer_is_named(tmp_path):
    path = saved(tmp_path)
    (path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 12\n")
    with pytest.raises(CheckpointError, match=r"is a 65-byte Git LFS pointer, not weights. Run 'git") as error:
        bundle.load(path)
    assert error.value.code == 20


def test_a_changed_byte_is_refused_by_its_hash(tmp_path):
    path = saved(tmp_path)
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-3] ^= 16
    (path / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"is damaged \(model.safetensors: sha256 differs\)") as error:
        bundle.load(path)
    assert error.value.code == 22


class Canary:
    """A pickle that would leave a mark if anything opened it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", ["old.pt", "pytorch_model.bin", "weights", "model.safetensors"])
def test_a_pickle_is_refused_and_never_opened(tmp_path, name, protocol):
    import pickle

    path = saved(tmp_path)
    (tmp_path / "given").mkdir()
    data = pickle.dumps(Canary(tmp_path / "opened"), protocol)
    for target in (tmp_path / name, tmp_path / "given" / name, path / "model.safetensors"):
        target.write_bytes(data)
    for source in (tmp_path / name, tmp_path / "given", path):
        with pytest.raises(FirsthandError):
            bundle.load(source)
    assert not (tmp_path / "opened").exists()


def test_a_pickle_by_name_gets_the_line_about_pickles(tmp_path):
    (tmp_path / "old.pt").write_bytes(b"PK\x03\x04")
    for source in (tmp_path / "old.pt", tmp_path):
        with pytest.raises(
            CheckpointError, match=r"old.pt is a pickle and could run code; it is never opened"
        ) as error:
            bundle.load(source)
        assert error.value.code == 21


def test_what_is_not_a_bundle_says_what_to_give_instead(tmp_path):
    with pytest.raises(CheckpointError, match="none is no finished directory of ours"):
        bundle.load(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"it has no MANIFEST.json"):
        bundle.load(tmp_path / "empty")
    path = saved(tmp_path)
    with pytest.raises(CheckpointError, match=r"is a run. Give a checkpoint of it: .*step-000003"):
        bundle.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"config.json is a file; give the directory it lies in"):
        bundle.load(path / "config.json")
    with pytest.raises(CheckpointError, match=r"has no optim.safetensors and no state.json; it holds model"):
        bundle.load_training(path)
    shards = files.publish(tmp_path / "shards", {"tokens.bin": b"1"})
    with pytest.raises(CheckpointError, match=r"has no model.safetensors and no config.json"):
        bundle.load(shards)


@pytest.mark.parametrize(
    ("change", "error", "why"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, CheckpointError, r"says architecture \['LlamaForCausalLM'\]"),
        ({"n_layr": 2}, CheckpointError, r"'n_layr': .*Did you mean 'n_layer'"),
        ({"norm": "batchnorm"}, CheckpointError, r"'norm': Input should be 'layernorm' or 'rmsnorm'"),
        ({"n_layer": 10**9}, ModelError, r"n_layer 1000000000 is out of range"),
        ({"n_layer": 1000}, ModelError, r"its config says n_layer 1000, the file has 36 tensors"),
        ({"n_layer": 3}, ModelError, r"tensor 'blocks.2.* is missing"),
        ({"n_layer": 1}, ModelError, r"tensor 'blocks.1.* belongs to no part of this model"),
        ({"d_ff": 41}, ModelError, r"tensor 'blocks.0.mlp.up.weight' is \[40, 24\], its config asks for \[41, 24\]"),
        ({"vocab_size": 4_000_001}, ModelError, r"vocab_size 4000001 is out of range"),
        ({"vocab_size": 300}, ModelError, r"tokenizer has 256 tokens but the model"),
        ({"norm_eps": "nan"}, ModelError, r"norm_eps nan is out of range"),
        ({"n_head": 0}, ModelError, r"n_head 0 is out of range"),
    ],
)
def test_a_config_that_does_not_fit_is_one_clear_error(tmp_path, change, error, why):
    path = saved(tmp_path)
    config = json.loads((path / "config.json").read_text())
    reseal(path, config_json=json.dumps(config | change))
    with pytest.raises(error, match=why) as caught:
        bundle.load(path)
    assert len(str(caught.value)) <= 240


def test_state_without_optimiser_is_a_mistake_of_the_caller(tmp_path):
    with pytest.raises(AssertionError):
        bundle.save(tmp_path / "m", model(), tokenizer(), {}, None, {"step": 1})


def test_numbers_that_json_does_not_have_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError):
        bundle.save(tmp_path / "m", model(), tokenizer(), {"best": float("inf")})
    assert not (tmp_path / "m").exists()
