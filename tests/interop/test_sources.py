"""Any model by one word: what lies there says how it is read; and the verbs that take models in and give them out."""

import json

import gguf_files
import hf_folders
import pytest
import torch
import transformers
from kit import gap

from firsthand import load
from firsthand.cli.main import main
from firsthand.data import hub
from firsthand.errors import FirsthandError
from firsthand.run import source

IDS = torch.tensor([[3, 200, 17, 42, 9, 250, 1]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Hugging Face folder of a tiny Llama, and what transformers makes of it."""
    folder = tmp_path_factory.mktemp("models") / "llama"
    return folder, hf_folders.write("llama", folder, dtype=torch.float32)


def theirs(model):
    with torch.no_grad():
        return model(IDS).logits


def test_a_folder_of_hugging_face_is_a_model(folder):
    path, model = folder
    bundle = load(path)
    assert gap(bundle.model(IDS).detach(), theirs(model)) < 1e-4 * theirs(model).abs().max()
    assert bundle.about["format"] == "huggingface"
    assert next(bundle.model.parameters()).dtype == torch.float32


def test_numbers_come_as_they_are_stored_or_as_asked(folder, tmp_path):
    hf_folders.write("llama", tmp_path / "half", dtype=torch.bfloat16)
    assert load(tmp_path / "half", dtype=None).model.embed.weight.dtype == torch.bfloat16
    assert load(tmp_path / "half").model.embed.weight.dtype == torch.float32


def test_a_gguf_file_is_a_model_and_so_is_the_folder_of_one(tmp_path):
    path = gguf_files.write(tmp_path / "one.gguf", gguf_files.entries("llama"), gguf_files.tensors("llama"))
    one, same = load(path), load(tmp_path)
    assert torch.equal(one.model(IDS[:, -1:] % 9), same.model(IDS[:, -1:] % 9))
    (tmp_path / "two.gguf").write_bytes(path.read_bytes())
    with pytest.raises(FirsthandError, match=r"has 2 GGUF files. Name one: .*one.gguf"):
        load(tmp_path)


def test_a_name_of_the_hub_is_one_only_where_no_folder_could_be_meant(tmp_path, monkeypatch, folder):
    asked = []
    monkeypatch.setattr(hub, "get", lambda name, progress=None: asked.append(name) or folder[0])
    monkeypatch.chdir(tmp_path)
    assert source.locate("owner/model") == folder[0]
    (tmp_path / "runs").mkdir()
    with pytest.raises(FirsthandError, match="there is no model at 'runs/model'"):
        source.locate("runs/model")
    assert asked == ["owner/model"]


def test_a_link_of_the_hubs_own_cache_is_followed(tmp_path, folder):
    (tmp_path / "blobs").mkdir()
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(folder[0].iterdir())):
        (tmp_path / "blobs" / str(number)).write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    assert torch.equal(load(snapshot).model(IDS), load(folder[0]).model(IDS))


def test_a_model_goes_in_and_out_by_the_command_line_and_stays_the_same(folder, tmp_path, capsys):
    path, model = folder
    ours, back = tmp_path / "ours", tmp_path / "back"
    assert main(["import", str(path), "--out", str(ours)]) == 0
    said = capsys.readouterr().out
    assert "every byte agrees with the manifest" in said
    assert "huggingface" in said
    assert torch.equal(load(ours).model(IDS), load(path).model(IDS))
    assert main(["export", str(ours), "--to", "hf", "--out", str(back)]) == 0
    said = capsys.readouterr().out
    assert "every tensor, token and setting is the one meant" in said
    assert "are the same" in said
    assert "runs in" in said
    opened = transformers.AutoModelForCausalLM.from_pretrained(back, dtype=torch.float32)
    assert gap(theirs(opened), theirs(model)) == 0


def test_an_export_tells_as_json_what_it_compared(folder, tmp_path, capsys):
    assert main(["export", str(folder[0]), "--to", "hf", "--type", "bf16", "--out", str(tmp_path / "b"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["path"] == str(tmp_path / "b")
    assert found["kind"] == "BF16"
    assert 0 < found["drift"]["largest"] < found["drift"]["scale"]


def test_what_is_no_model_is_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("hello")
    for given in (str(tmp_path / "notes.txt"), str(tmp_path), str(tmp_path / "nothing"), "pydocs"):
        assert main(["info", given]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert said.startswith("firsthand: error: ")
