"""quantize: what it writes, what it prints, what its result can do, and what is refused."""

import json
from dataclasses import replace

import kit
import pytest
import torch

from firsthand.checkpoint import bundle as bundles
from firsthand.cli.main import main
from firsthand.linear.shrink import layers, plain
from firsthand.model.assemble import weights
from firsthand.run import quantize as quantizing
from firsthand.run.source import load
from firsthand.tokenizer.bpe import Tokenizer

WIDE = {"d_model": 64, "n_head": 4, "n_kv_head": 2, "d_head": 16, "d_ff": 96, "vocab_size": 257, "context_length": 47}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model, and two texts: one to judge on, one to calibrate on."""
    folder = tmp_path_factory.mktemp("quantize")
    (folder / "held-out.txt").write_text("the quick brown fox jumps over the lazy dog, again and again. " * 9)
    (folder / "seen.txt").write_text("a lazy dog and a quick fox: who counts how often they jumped? " * 20)
    tokenizer = Tokenizer(
        [*(bytes([byte]) for byte in range(256)), b"<|endoftext|>"], [], special_tokens={"<|endoftext|>": 256}
    )
    model = kit.GPT(replace(kit.VARIANTS["llama"], **WIDE))
    bundles.save(folder / "model", model, tokenizer, {"ends": [256]})
    return folder


def words(folder, *more):
    texts = ["--text", str(folder / "held-out.txt"), "--calibration", str(folder / "seen.txt")]
    return ["quantize", str(folder / "model"), *texts, *more]


@pytest.mark.parametrize(
    ("name", "more", "bits"),
    [
        ("int8", ["--to", "int8"], 8.4),
        ("dynamic", ["--to", "int8-dynamic"], 8.4),
        ("int4", ["--to", "int4"], 6.1),  # the head, 8 bits, is a quarter of so small a model
        ("even", ["--symmetric"], 5.8),
        ("gptq", ["--method", "gptq", "--group", "16"], 6.9),
        ("nf4", ["--to", "nf4"], 5.8),
    ],
)
def test_what_is_written_is_loaded_and_speaks(folder, capsys, name, more, bits):
    out = folder / name
    assert main(words(folder, *more, "--out", str(out), "--json")) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["path"] == str(out) and said["file_bytes"] == (out / "model.safetensors").stat().st_size
    assert said["bits_per_weight"] == pytest.approx(bits, abs=0.45)
    assert "1 Int8" in said["layers"] or said["kind"] == "int8"
    bundle = load(out)
    assert bundle.about["quantized"]["method"] == ("gptq" if name == "gptq" else "rtn") and bundle.ends == (256,)
    assert len(layers(bundle.model)) == 15
    assert main(["generate", str(out), "the", "--max-tokens", "3"]) == 0
    assert main(["info", str(out)]) == 0


@pytest.mark.parametrize("to", ["int4", "int8-dynamic"])
def test_what_is_written_is_proved_like_any_other_model(folder, capsys, to):
    quantizing.quantize(folder / "model", folder / f"proved-{to}", quantizing.Recipe(to))
    text = str(folder / "held-out.txt")
    assert main(["prove", str(folder / f"proved-{to}"), "--text", text, "--tokens", "60", "--json"]) == 0
    rows = {row["form"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert "quantized already" in rows["int4"]["note"]
    assert rows["own file"]["max_delta"] == 0
    if to == "int4":
        assert rows["Hugging Face"]["verdict"] == rows["GGUF F32"]["verdict"] == "exact"
    else:
        assert "round what enters" in rows["GGUF F32"]["note"] and rows["batch"]["verdict"] == "drift"


def test_every_way_to_fewer_bits_is_a_form_that_drifts(folder, capsys):
    text = str(folder / "held-out.txt")
    assert main(["prove", str(folder / "model"), "--text", text, "--tokens", "60", "--json"]) == 0
    rows = {row["form"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    for name, most in (("int8", 0.02), ("int8-dynamic", 0.03), ("int4", 0.3)):
        assert rows[name]["verdict"] == "drift" and 0 < rows[name]["of_scale"] < most
    assert "cannot be cut into groups of 64" in rows["nf4"]["note"]  # rows of 96 weights are among them


def test_the_table_has_every_form_and_the_original_first(folder, capsys):
    assert main(words(folder, "--compare", "--tokens", "90", "--json")) == 0
    said = json.loads(capsys.readouterr().out)
    rows = {row["form"]: row for row in said["rows"]}
    assert list(rows) == ["original", *(f"{to} {method}" for to, method in quantizing.COMPARED)]
    assert rows["original"]["bits_per_weight"] == 32 and rows["original"]["worst_layer"] == ""
    assert rows["int8 rtn"]["file_bytes"] < rows["original"]["file_bytes"] / 3
    assert rows["int4 rtn"]["file_bytes"] < rows["int8 rtn"]["file_bytes"]
    for row in said["rows"][1:]:
        low, high = row["difference_95"]
        assert low <= row["difference"] <= high
        assert row["difference"] == pytest.approx(row["bits_per_byte"] - rows["original"]["bits_per_byte"])
        assert 0 < row["worst_error"] < 0.5 and row["tokens_per_second"] > 0
        assert row["worst_layer"].startswith("blocks.") or row["worst_layer"] == "head"
    assert said["text"].endswith("held-out.txt") and said["calibrated_on"].endswith("seen.txt")


def test_the_table_for_people_says_what_it_was_made_on(folder, capsys):
    assert main(words(folder, "--compare", "--tokens", "90")) == 0
    said = capsys.readouterr()
    assert "held-out.txt" in said.out and "seen.txt" in said.out
    for word in ("form", "MB", "bits a weight", "bits per byte", "difference", "worst layer", "tokens/s", "int4 gptq"):
        assert word in said.out
    assert "of 5 done, now: " in said.err


def test_the_file_is_as_large_as_the_table_says(folder):
    found = quantizing.quantize(folder / "model", folder / "again", quantizing.Recipe("int8"))
    bundle = load(folder / "again")
    expected = sum(tensor.nbytes for tensor in weights(bundle.model).values())
    assert 0 < found["file_bytes"] - expected < 10_000  # the header


@pytest.mark.parametrize("to", ["hf", "gguf"])
def test_an_export_writes_what_the_numbers_stand_for_and_says_so(folder, tmp_path, capsys, to):
    if not (folder / "small").exists():
        quantizing.quantize(folder / "model", folder / "small", quantizing.Recipe("int4"))
    assert (
        main(["export", str(folder / "small"), "--to", to, "--type", "f32", "--out", str(tmp_path / to), "--json"]) == 0
    )
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert notes[0] == "its quantized layers (14 Int4, 1 Int8) were written as the plain numbers they stand for"
    meant, back = plain(load(folder / "small").model), load(tmp_path / to).model
    assert all(torch.equal(tensor, weights(back)[name]) for name, tensor in weights(meant).items())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "quantize writes a model: say where, --out DIR"),
        (["--out", "there"], "there is there already"),
        (["--out", "new", "--to", "nf4", "--method", "gptq"], "gptq rounds to int4 only, not to nf4"),
        (["--out", "new", "--group", "48"], "rows of 64 weights cannot be cut into groups of 48; here fit: 16, 32, 64"),
    ],
)
def test_what_cannot_be_is_refused_before_the_work(folder, tmp_path, monkeypatch, capsys, more, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    assert main(words(folder, *more)) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "new").exists()


def test_nothing_is_judged_by_what_it_was_calibrated_on(folder, capsys):
    same = str(folder / "seen.txt")
    assert main(["quantize", str(folder / "model"), "--compare", "--text", same, "--calibration", same]) == 2
    assert "would be judged by what it was calibrated on" in " ".join(capsys.readouterr().err.split())


def test_python_documentation_is_divided_between_judging_and_calibrating(folder):
    bundle, recipe = load(folder / "model"), quantizing.Recipe()
    judged, _, name = quantizing.judged(bundle, folder / "model", "")
    seen = quantizing.calibration(bundle, folder / "model", recipe)
    assert name != quantizing.calibrated_on(folder / "model", recipe)
    assert len(seen) == pytest.approx(3 * len(judged), rel=0.05)
    assert bundle.tokenizer.decode(judged[:400].tolist()) not in bundle.tokenizer.decode(seen.tolist())
