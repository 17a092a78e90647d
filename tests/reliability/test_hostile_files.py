"""R6: thousands of hostile files of every format, and each is read to a model, or refused in one line."""

import os
import random
import resource
import traceback

import pytest
import specimens
import torch
from watching import limited

from firsthand.interop.foreign import Foreign

TIMES = int(os.environ.get("FIRSTHAND_DEEP", "1"))  # make deep: ten times as many
FORMATS = [*specimens.MAKE]


def used(found):
    """The same, after what anybody does with it: a forward pass, a few ids."""
    if isinstance(found, dict):
        return found
    tokenizer = getattr(found, "tokenizer", found)
    assert isinstance(tokenizer.decode(tokenizer.encode("in the end")), str)
    if tokenizer is not found:
        model = found.build() if isinstance(found, Foreign) else found.model
        with torch.no_grad():
            logits = model(torch.zeros(1, 1, dtype=torch.long))
        assert logits.shape == (1, 1, tokenizer.vocab_size)
    return found


@pytest.fixture(autouse=True)
def memory():
    """No test of this file may need more than 256 MiB beyond what was there."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 << 10


@pytest.fixture
def place(tmp_path):
    """An empty folder inside another one, in which nothing else may appear."""
    folder = tmp_path / "inside" / "model"
    folder.mkdir(parents=True)
    return folder


def lay_out(files, folder):
    for name, data in files.items():
        (folder / name).write_bytes(data)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_mutant_is_read_or_is_one_error(place, tmp_path, kind):
    (tmp_path / "make").mkdir()
    files = specimens.MAKE[kind](tmp_path / "make")
    lay_out(files, place)
    read, chance, harmless, faults = specimens.READ[kind], random.Random(kind), 0, {}
    assert used(read(place))
    for turn in range(2000 * TIMES):
        changed = specimens.MUTATE[kind](files, chance)
        lay_out(changed, place)
        try:
            harmless += limited(lambda: used(read(place))) is not None
        except Exception as error:  # all kinds of faults are collected, since one hides the next
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{type(error).__name__} at {last.filename}:{last.lineno} {str(error)[-60:-15]}"
            faults.setdefault(where, f"mutant {turn}: {error!s:.300} of {changed!r:.400}")
        lay_out({name: files[name] for name in changed}, place)
    assert not faults, "\n".join(f"{where}: {what}" for where, what in faults.items())
    assert {path.name for path in place.iterdir()} == files.keys()
    assert [path.name for path in place.parent.iterdir()] == ["model"]
    print(f"{kind}: {harmless} of {2000 * TIMES} mutants are harmless and load")
    assert 0 < harmless < 1400 * TIMES  # the mutants are neither all absurd nor all tame


ODD = {  # what lies in place of a file
    "nothing": lambda path: None,
    "an empty file": lambda path: path.touch(),
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to("gone"),
    "a link that leads outside": lambda path: path.symlink_to("/etc/passwd"),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a terabyte of zeros": lambda path: path.touch() or os.truncate(path, 1 << 40),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_no_file_is_one_error_or_not_needed(place, tmp_path, kind, odd):
    (tmp_path / "make").mkdir()
    files = specimens.MAKE[kind](tmp_path / "make")
    lay_out(files, place)
    read, without = specimens.READ[kind], []
    used(read(place))
    for name, data in files.items():
        (place / name).unlink()
        ODD[odd](place / name)
        if limited(lambda: used(read(place))) is not None:
            without.append(name)
        (place / name).rmdir() if odd == "a folder" else (place / name).unlink(missing_ok=True)
        (place / name).write_bytes(data)
    spare = {"generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "model.ckpt.meta"}
    assert spare.issuperset(without)  # `special_tokens_map.json` and TensorFlow's graph are never opened
