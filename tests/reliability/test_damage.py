"""R5 and R6 for checkpoints: every damaged byte is noticed before use, and a hostile file is one clean error."""

import hashlib
import json
import os
import random
import resource
import shutil
import time

import kill_loop
import kit
import mutants
import pytest
import torch
from safetensors.torch import load_file

from firsthand import files
from firsthand.checkpoint import bundle
from firsthand.errors import CheckpointError, FirsthandError
from firsthand.files import tensors
from firsthand.tokenizer.bpe import Tokenizer

TIMES = int(os.environ.get("FIRSTHAND_DEEP", "1"))  # make deep: ten times as many
NAMES = ["model.safetensors", "config.json", "tokenizer.json", "firsthand.json", "optim.safetensors", "state.json"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with two checkpoints of a tiny model."""
    run = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    config = kit.ModelConfig(vocab_size=256, context_length=7, n_layer=1, n_head=2, d_model=6, d_ff=10)
    for step in (1, 2):
        model = kit.GPT(config)
        optim = {name: torch.randn(tensor.shape) for name, tensor in bundle.weights(model).items()}
        tokenizer = Tokenizer([bytes([i]) for i in range(256)], [])
        bundle.save(run / f"step-{step:06d}", model, tokenizer, {"step": step}, optim, {"step": step})
    return run


def damage(folder, kind, chance):
    """Change the files of a checkpoint, and say which."""
    name = chance.choice([*NAMES, files.MANIFEST])
    path = folder / name
    data = path.read_bytes()
    at = chance.randrange(len(data))
    if kind == "a flipped bit":
        new = data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
    elif kind == "a page of zeros":
        page = at // 4096 * 4096
        new = data[:page] + bytes(len(data[page : page + 4096])) + data[page + 4096 :]
    elif kind == "a cut end":
        new = data[:at]
    elif kind == "an empty file":
        new = b""
    elif kind == "more at the end":
        new = data + chance.choice((b"\0", b"\n", b" ", data))
    elif kind == "two files swapped":
        other = folder / chance.choice([each for each in NAMES if each != name])
        new = other.read_bytes()
        other.write_bytes(data)
    else:
        path.unlink()
        return name
    path.write_bytes(new)
    return name


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("a flipped bit", 500),
        ("a page of zeros", 60),
        ("a cut end", 60),
        ("an empty file", 20),
        ("more at the end", 40),
        ("two files swapped", 40),
        ("a lost file", 20),
    ],
)
def test_all_damage_is_noticed_and_the_checkpoint_before_is_used(run, tmp_path, kind, count):
    chance = random.Random(kind)
    good, folder = run / "step-000002", tmp_path / "step-000002"
    shutil.copytree(run / "step-000001", tmp_path / "step-000001")
    for turn in range(count * TIMES):
        shutil.copytree(good, folder)
        name = damage(folder, kind, chance)
        found, damaged = files.newest(tmp_path)
        assert found == tmp_path / "step-000001", (turn, name)
        assert [path for path, _ in damaged] == [folder], (turn, name)
        with pytest.raises(FirsthandError):
            files.verify(folder)
        if turn % 10 == 0:
            with pytest.raises(FirsthandError):
                bundle.load(folder)
            with pytest.raises(FirsthandError):
                bundle.load_training(folder)
        shutil.rmtree(folder)


def test_a_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before(tmp_path, capfd):
    """It says so in one line, keeps the damaged one, and ends with the same bits."""
    whole, hurt = tmp_path / "whole", tmp_path / "hurt"
    for run in (whole, hurt):
        train(run)
    last, before = hurt / "step-000024", hurt / "step-000022"
    path = last / "optim.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert files.newest(hurt) == (before, [(last, "optim.safetensors: sha256 differs")])
    capfd.readouterr()
    train(hurt)
    said = capfd.readouterr().err
    assert "step-000024 is damaged (optim.safetensors: sha256 differs)" in said and "step-000024.bad" in said
    assert kill_loop.fingerprint(hurt) == kill_loop.fingerprint(whole)
    with pytest.raises(CheckpointError):
        files.verify(hurt / "step-000024.bad")


def train(run):
    """The run of the kill loop, here and not in a child."""
    save, threads = bundle.save, torch.get_num_threads()
    report = os.open(os.devnull, os.O_WRONLY)
    torch.set_num_threads(1)
    run.mkdir(exist_ok=True)
    note = {"arithmetic": {"device": "cpu", "dtype": "float32", "route": "none"}}
    (run / "run.json").write_text(json.dumps(note))
    try:
        kill_loop.train("adamw", run, report)
    finally:
        bundle.save = save
        torch.set_num_threads(threads)
        os.close(report)


# ---------------------------------------------------------------- hostile files


def limited(action):
    """Run: the result, or the FirsthandError; anything else, or more than a second, is a failure."""
    start = time.process_time()
    try:
        result = action()
    except FirsthandError as error:
        text = str(error)
        assert "\n" not in text and len(text) <= 300 and text.isprintable(), ascii(text)
        result = None
    assert time.process_time() - start < 1.0
    return result


@pytest.fixture(autouse=True)
def memory():
    """No test of this file may need more than 256 MiB beyond what was there."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 << 10


def with_header(header, data):
    """A safetensors file of a header as JSON and the bytes after it."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_mutants_of_a_safetensors_file_load_or_are_one_error(run, tmp_path):
    good = (run / "step-000002" / "model.safetensors").read_bytes()
    length = int.from_bytes(good[:8], "little")
    header, data = json.loads(good[8 : 8 + length]), good[8 + length :]
    chance, path, loaded = random.Random(61), tmp_path / "model.safetensors", 0
    for turn in range(2000 * TIMES):
        if turn % 2:
            mutant = with_header(mutants.tree_of(header, chance), data)
        else:
            cut = chance.choice((8, 8 + length, len(good)))  # mostly in the header, which is where the danger is
            mutant = mutants.bytes_of(good[:cut], chance) + good[cut:]
        path.write_bytes(mutant)
        guard = limited(lambda: tensors.header(path))
        if guard is not None:
            loaded += 1
            theirs = load_file(path)  # what our check lets through, the library must take too
            ours = tensors.read(path)
            shapes = {name: list(tensor.shape) for name, tensor in ours.items()}
            assert shapes == {name: entry["shape"] for name, entry in guard.items()}
            assert theirs.keys() == ours.keys()
    print(f"{loaded} of {2000 * TIMES} mutants are harmless and load")
    assert 0 < loaded < 1000 * TIMES


def test_mutants_of_a_manifest_are_one_error(run, tmp_path):
    folder = tmp_path / "step-000002"
    shutil.copytree(run / "step-000002", folder)
    good = (folder / files.MANIFEST).read_bytes()
    chance, value = random.Random(62), json.loads(good)
    for turn in range(2000 * TIMES):
        if turn % 3 == 0:
            mutant = mutants.bytes_of(good, chance)
        else:  # with a right seal, as somebody who means harm would write it
            mutant = sealed(mutants.tree_of({key: value[key] for key in ("format", "about", "files")}, chance))
        (folder / files.MANIFEST).write_bytes(mutant)
        found = limited(lambda: files.verify(folder))
        if found is not None:
            assert all(found["files"].get(name) == value["files"][name] for name in found["files"]), turn


def sealed(body):
    """A manifest whose seal is right, whatever it says; written here again, not with the code under test."""
    seal = hashlib.sha256(json.dumps(body, indent=1).encode()).hexdigest()
    body = {**body, "seal": seal} if isinstance(body, dict) else body
    return json.dumps(body, indent=1).encode() + b"\n"


def listing(folder):
    """The manifest that vouches for whatever lies in a folder."""
    found = {}
    for name in NAMES:
        data = (folder / name).read_bytes()
        found[name] = [len(data), hashlib.sha256(data).hexdigest()]
    return sealed({"format": 1, "about": {}, "files": found})


@pytest.mark.parametrize(
    ("name", "count"), [("config.json", 2000), ("firsthand.json", 300), ("state.json", 300), ("tokenizer.json", 300)]
)
def test_mutants_of_the_json_beside_the_weights_load_or_are_one_error(run, tmp_path, name, count):
    folder = tmp_path / "step-000002"
    shutil.copytree(run / "step-000002", folder)
    good = (folder / name).read_bytes()
    chance, value = random.Random(name), json.loads(good)
    for turn in range(count * TIMES):
        by_bytes = turn % 3 == 0
        mutant = mutants.bytes_of(good, chance) if by_bytes else json.dumps(mutants.tree_of(value, chance)).encode()
        (folder / name).write_bytes(mutant)
        (folder / files.MANIFEST).write_bytes(listing(folder))
        load = bundle.load_training if name == "state.json" else bundle.load
        limited(lambda load=load: load(folder))
