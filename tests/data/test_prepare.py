"""Shards hold the ids of every document encoded whole, for any chunk size, number of workers, and interruption."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from firsthand.data import prepare as preparing
from firsthand.data.chunks import chunks
from firsthand.data.ledger import Reading, Source
from firsthand.data.prepare import Prepared, prepare
from firsthand.data.tokens import Tokens
from firsthand.errors import CheckpointError, DataError
from firsthand.tokenizer.simple import CharTokenizer, WordTokenizer

LINE_ENDS = ["\n", "\n\n", "\r\n"]
WORDS = ["the", "cat", "sat", "on", "mat", "and", "didn't", "other", "12", "cats.", "a,", "é", "猫", *LINE_ENDS]


def text_of(size: int, seed: int) -> str:
    draw = random.Random(seed)
    return "The " + " ".join(draw.choice(WORDS) for _ in range(size // 4)) + "."


@pytest.fixture
def corpus(tmp_path) -> Path:
    """Forty documents in every kind of file, two of them twins, one large."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for i in range(24):
        (folder / f"{i:02}.txt").write_bytes(text_of(200 + 90 * i, seed=i).encode())
    (folder / "large.md").write_bytes(text_of(60_000, seed=50).encode())
    rows = [text_of(150, seed=100 + i) for i in range(14)]
    rows.append(rows[0])
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return folder


def documents(corpus: Path) -> list[str]:
    """The slow way: every file read whole."""
    whole = [path.read_bytes().decode() for path in [*sorted(corpus.glob("*.txt")), corpus / "large.md"]]
    rows = [json.loads(line)["text"] for line in (corpus / "rows.jsonl").read_text().splitlines()]
    return [text.replace("\r\n", "\n").replace("\r", "\n") for text in whole] + rows


def split_at(ids: np.ndarray, end: int) -> list[list[int]]:
    """The documents of a shard, each with its end-of-text."""
    return [part.tolist() for part in np.split(ids, np.flatnonzero(ids == end) + 1) if len(part)]


def sides(made: Prepared) -> tuple[Tokens, Tokens]:
    assert made.validation is not None
    return Tokens(made.train), Tokens(made.validation)


def test_every_document_is_encoded_whole_ended_and_on_one_side(corpus, tokenizer, tmp_path):
    made = prepare([corpus], tokenizer, tmp_path / "out", chunk_bytes=1000)
    train, validation = sides(made)
    end = tokenizer.special_tokens["<|endoftext|>"]
    found = split_at(train.ids, end) + split_at(validation.ids, end)
    # rows keep their \r\n, which JSON wrote as an escape; line ends of files became \n
    expected = [[*tokenizer.encode(text).tolist(), end] for text in documents(corpus)]
    assert sorted(found) == sorted(expected) and len(found) == 40
    assert made.counts.read == made.counts.used == train.header.documents + validation.header.documents == 40
    assert made.ids == {"train": len(train), "validation": len(validation)}
    written = sum(len(text.encode()) for text in documents(corpus))
    assert train.header.text_bytes + validation.header.text_bytes == written == made.counts.text_bytes
    for tokens in (train, validation):
        tokens.verify()
        tokens.check(tokenizer)


def test_chunks_of_any_size_give_the_same_shards(corpus, tokenizer, tmp_path):
    made = [prepare([corpus], tokenizer, tmp_path / f"out{size}", chunk_bytes=size) for size in (1300, 5001, 1 << 20)]
    assert len({one.train.read_bytes() for one in made}) == 1
    assert len({one.validation.read_bytes() for one in made}) == 1


def test_two_workers_give_the_bytes_of_one(corpus, tokenizer, tmp_path):
    steps = []
    one = prepare([corpus], tokenizer, tmp_path / "one", chunk_bytes=9000)
    two = prepare(
        [corpus], tokenizer, tmp_path / "two", chunk_bytes=9000, workers=2, progress=lambda a, b: steps.append((a, b))
    )
    for name in ("train.tokens", "validation.tokens", "tokenizer.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert one.counts == two.counts
    total = sum(path.stat().st_size for path in corpus.iterdir())
    assert steps == sorted(steps) and steps[-1] == (total, total) and len(steps) > 5


def test_twins_stay_together_and_a_longer_corpus_keeps_old_decisions(corpus, tokenizer, tmp_path):
    end = tokenizer.special_tokens["<|endoftext|>"]
    before = sides(prepare([corpus], tokenizer, tmp_path / "before", validation_fraction=0.3))
    (corpus / "zz.txt").write_text(text_of(500, seed=999))
    after = sides(prepare([corpus], tokenizer, tmp_path / "after", validation_fraction=0.3))
    for old, new in zip(before, after, strict=True):
        kept = [tuple(one) for one in split_at(old.ids, end)]
        assert set(kept) <= {tuple(one) for one in split_at(new.ids, end)}
    assert not {tuple(one) for one in split_at(after[0].ids, end)} & {tuple(one) for one in split_at(after[1].ids, end)}


def test_the_validation_side_has_about_the_share_asked_for(tmp_path, tokenizer):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(3000)))
    validation = sides(prepare([path], tokenizer, tmp_path / "out", validation_fraction=0.2))[1]
    assert abs(validation.header.documents - 600) < 5 * (3000 * 0.2 * 0.8) ** 0.5  # five standard deviations
    other = sides(prepare([path], tokenizer, tmp_path / "other", validation_fraction=0.2, seed=1))[1]
    assert other.ids.tolist() != validation.ids.tolist()


def test_one_text_is_split_by_position_and_says_so(shared, tokenizer, tmp_path):
    path = shared / "tinyshakespeare.txt"
    made = prepare([path], tokenizer, tmp_path / "out", chunk_bytes=50_000)
    train, validation = sides(made)
    whole = [*tokenizer.encode(path.read_text()).tolist(), tokenizer.special_tokens["<|endoftext|>"]]
    assert train.ids.tolist() + validation.ids.tolist() == whole
    assert abs(validation.header.text_bytes - 111_539) < 100 and "the last 10% of the text" in made.split
    assert (train.header.documents, validation.header.documents) == (0, 1)  # it ends in the validation side


def test_a_few_texts_are_split_by_position_too(tmp_path, tokenizer):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(text_of(4000, seed=ord(name)))
    made = prepare([tmp_path], tokenizer, tmp_path / "out", validation_fraction=0.4)
    assert "the last 40% of the text" in made.split and sides(made)[0].header.documents == 1


def test_no_validation_side_where_none_is_asked_for(corpus, tokenizer, tmp_path):
    made = prepare([corpus], tokenizer, tmp_path / "out", validation_fraction=0)
    assert made.validation is None and Tokens(made.train).header.documents == 40


def test_a_tokenizer_without_end_of_text_runs_documents_together(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "ab"}\n{"text": "ba"}\n')
    tokenizer = CharTokenizer.train(["ab"])
    made = prepare([path], tokenizer, tmp_path / "out", validation_fraction=0)
    assert tokenizer.decode(Tokens(made.train).ids) == "abba" and Tokens(made.train).header.end_of_text is None


@pytest.mark.parametrize("kind", ["char", "word"])
def test_simple_tokenizers_give_the_same_ids_in_chunks(corpus, tmp_path, kind):
    simple = CharTokenizer if kind == "char" else WordTokenizer
    tokenizer = simple.train(documents(corpus))
    made = [prepare([corpus], tokenizer, tmp_path / f"{size}", chunk_bytes=size) for size in (5001, 1 << 20)]
    assert made[0].train.read_bytes() == made[1].train.read_bytes()
    train, validation = sides(made[0])
    slow = sum(len(tokenizer.encode(text)) + (tokenizer.end_of_text is not None) for text in documents(corpus))
    assert len(train) + len(validation) == slow


def test_special_tokens_in_the_text_are_only_text(tmp_path, tokenizer):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "an <|endoftext|> inside"}) + "\n")
    ids = Tokens(prepare([path], tokenizer, tmp_path / "out", validation_fraction=0).train).ids
    assert (ids == tokenizer.special_tokens["<|endoftext|>"]).sum() == 1


# ---- refusals ----


def test_an_empty_validation_side_says_which_fraction_works(tmp_path, tokenizer):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(40)))
    with pytest.raises(DataError, match=r"validation_fraction=1e-05 of 40 documents leaves none.*FH030") as caught:
        prepare([path], tokenizer, tmp_path / "out", validation_fraction=1e-5)
    mend = float(str(caught.value).split("data.validation_fraction=")[2].split()[0])
    assert mend < 0.3 and sides(prepare([path], tokenizer, tmp_path / "out", validation_fraction=mend))
    with pytest.raises(DataError, match=r"must be at least 0 and below 1"):
        prepare([path], tokenizer, tmp_path / "out", validation_fraction=1)


def test_a_failure_leaves_nothing_behind(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_bytes(b"na\xefve")
    with pytest.raises(DataError, match=r"a.txt:1:3 is not UTF-8"):
        prepare([tmp_path / "a.txt"], tokenizer, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_the_first_fault_of_the_corpus_is_the_one_reported(tmp_path, tokenizer):
    good = '{"text": "good"}\n' * 300
    path = tmp_path / "a.jsonl"
    path.write_text(good + "first\n" + good + "second\n" + good)
    for workers in (1, 2):
        with pytest.raises(DataError, match=r"a.jsonl:301:1 is not JSON.*FH027"):
            prepare([path], tokenizer, tmp_path / "out", chunk_bytes=1500, workers=workers)


def test_skipped_rows_are_counted_over_all_chunks(tmp_path, tokenizer):
    good = '{"text": "good"}\n' * 300
    path = tmp_path / "a.jsonl"
    path.write_text(good + "first\n\n" + good + "second\n" + good)
    skipping = Reading(on_bad="skip")
    made = prepare([path], tokenizer, tmp_path / "out", chunk_bytes=1500, reading=skipping, validation_fraction=0)
    assert made.counts.read == 903 and made.counts.used == 900 and made.counts.dropped == {"not JSON": 2, "blank": 1}
    assert [place.split("jsonl")[1] for place in made.counts.first] == [":301:1 not JSON", ":603:1 not JSON"]


def test_another_text_in_the_same_folder_is_refused_and_the_same_one_reused(corpus, tokenizer, tmp_path):
    first = prepare([corpus], tokenizer, tmp_path / "out")
    again = prepare([corpus], tokenizer, tmp_path / "out")
    assert again.reused and not first.reused and again.counts == first.counts and again.ids == first.ids
    with pytest.raises(DataError, match=r"already holds something else.*rm -r .*out.*FH025"):
        prepare([corpus], tokenizer, tmp_path / "out", seed=1)
    assert prepare([corpus], tokenizer, tmp_path / "out").reused
    (tmp_path / "out" / "train.tokens").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"train\.tokens"):
        prepare([corpus], tokenizer, tmp_path / "out")


def test_a_file_that_changes_while_it_is_read_is_refused(corpus, tokenizer, tmp_path):
    def touch(done: int, total: int) -> None:
        os.utime(corpus / "00.txt", ns=(1, 1))

    with pytest.raises(DataError, match=r"00.txt was changed while it was read"):
        prepare([corpus], tokenizer, tmp_path / "out", progress=touch)


def test_a_table_cannot_be_split_by_position():
    source = Source(Path("t.csv"), "t.csv", "csv", 0, 100, "", 0)
    with pytest.raises(DataError, match=r"t.csv is a table, which cannot be split by position"):
        list(chunks([source], 10, 0.1))


# ---- interruptions ----


class Interrupted(Exception):
    """Stands for the power switch."""


@pytest.mark.parametrize("after", [1, 3, 7])
def test_a_stopped_prepare_goes_on_and_gives_the_same_bytes(corpus, tokenizer, tmp_path, after):
    expected = prepare([corpus], tokenizer, tmp_path / "whole", chunk_bytes=9000)
    steps = []

    def stop(done: int, total: int) -> None:
        steps.append(done)
        if len(steps) == after:
            raise Interrupted

    with pytest.raises(Interrupted):
        prepare([corpus], tokenizer, tmp_path / "out", chunk_bytes=9000, progress=stop)
    assert not (tmp_path / "out").exists() and (tmp_path / ".out-parts").exists()
    part = tmp_path / ".out-parts" / "000000.ids"
    part.write_bytes(part.read_bytes()[:-1])  # and one part is damaged on top of it: it is made anew
    resumed = []
    made = prepare([corpus], tokenizer, tmp_path / "out", chunk_bytes=9000, progress=lambda a, b: resumed.append(a))
    assert made.train.read_bytes() == expected.train.read_bytes()
    assert len(resumed) == len(list(chunks_of(corpus))) - after + 1  # only what was missing, and the damaged one
    assert not (tmp_path / ".out-parts").exists()


def chunks_of(corpus: Path):
    total = sum(path.stat().st_size for path in corpus.iterdir())
    return chunks([Source(corpus, "", "text", 0, total, "", 0)], 9000, None)


def test_parts_of_another_plan_are_not_used(corpus, tokenizer, tmp_path):
    def stop(done: int, total: int) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        prepare([corpus], tokenizer, tmp_path / "out", chunk_bytes=9000, seed=1, progress=stop)
    made = prepare([corpus], tokenizer, tmp_path / "out", chunk_bytes=9000, seed=2)
    expected = prepare([corpus], tokenizer, tmp_path / "whole", chunk_bytes=9000, seed=2)
    assert made.train.read_bytes() == expected.train.read_bytes()


def test_a_second_process_is_kept_out(corpus, tokenizer, tmp_path):
    def again(done: int, total: int) -> None:
        with pytest.raises(CheckpointError, match=r"pid \d+"):
            prepare([corpus], tokenizer, tmp_path / "out")

    assert prepare([corpus], tokenizer, tmp_path / "out", chunk_bytes=9000, progress=again).train.exists()


PARALLEL = """
import sys; from pathlib import Path
from firsthand.data.prepare import prepare
from firsthand.tokenizer.bpe import Tokenizer
if __name__ == "__main__":
    tokenizer = Tokenizer.load(Path(sys.argv[2]))
    say = lambda a, b: print(a, flush=True)
    prepare([sys.argv[1]], tokenizer, sys.argv[3], chunk_bytes=9000, workers=2, progress=say)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="asks /proc which processes live")
def test_workers_end_with_a_parent_that_was_killed(corpus, tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    (corpus / "larger.txt").write_text(text_of(3_000_000, seed=9))
    (tmp_path / "run.py").write_text(PARALLEL)
    command = [sys.executable, tmp_path / "run.py", corpus, tmp_path / "tokenizer.json", tmp_path / "out"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while living := [worker for worker in workers if Path(f"/proc/{worker}").exists()]:
        assert time.monotonic() < deadline, living
        time.sleep(0.05)
    assert len(workers) >= 2 and not (tmp_path / "out").exists()


KILLED = """
import sys; from pathlib import Path
from firsthand.data.prepare import prepare
from firsthand.tokenizer.bpe import Tokenizer
tokenizer = Tokenizer.load(Path(sys.argv[2]))
prepare([sys.argv[1]], tokenizer, sys.argv[3], chunk_bytes=9000, progress=lambda a, b: print(a, flush=True))
"""


def test_a_killed_prepare_goes_on(corpus, tokenizer, tmp_path):
    expected = prepare([corpus], tokenizer, tmp_path / "whole", chunk_bytes=9000)
    draw = random.Random(20261123)
    command = [sys.executable, "-c", KILLED, str(corpus), str(expected.tokenizer), str(tmp_path / "out")]
    kills = 0
    while not (tmp_path / "out").exists():
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            process.stdout.readline()  # the first new chunk is safe on the disk
            time.sleep(draw.random() * 0.05)
            process.send_signal(signal.SIGKILL)
        kills += 1
        assert kills < 150
    for name in ("train.tokens", "validation.tokens"):
        found, wanted = ((folder / name).read_bytes() for folder in (tmp_path / "out", tmp_path / "whole"))
        assert hashlib.sha256(found).hexdigest() == hashlib.sha256(wanted).hexdigest()
    print(f"{kills} kills, 0 lost")


def test_memory_is_bounded_by_the_chunk_not_by_the_corpus(tokenizer, tmp_path, monkeypatch):
    """Text that passes through one process: the largest piece ever encoded is a chunk and a little."""
    path = tmp_path / "a.txt"
    path.write_text(text_of(4_000_000, seed=3))
    largest = []

    class Watched:
        def __init__(self, inner):
            self.inner = inner
            for name in ("fingerprint", "vocab_size", "end_of_text", "save"):
                setattr(self, name, getattr(inner, name))

        def encode(self, text):
            largest.append(len(text.encode()))
            return self.inner.encode(text)

    prepare([path], Watched(tokenizer), tmp_path / "out", chunk_bytes=100_000)
    assert max(largest) < 101_000 and len(largest) > 35


@pytest.mark.deep
def test_a_corpus_of_a_gigabyte_passes_in_two_hundred_megabytes(tokenizer, tmp_path):
    path = tmp_path / "a.txt"
    block = text_of(1 << 20, seed=3)
    with path.open("w") as file:
        for _ in range(1000):
            file.write(block + "\nNext.\n")
    tokenizer.save(tmp_path / "tokenizer.json")
    peak = """int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])"""
    program = KILLED.replace("chunk_bytes=9000, ", "") + f"\nprint({peak})"
    program = program.replace("prepare([", f"tokenizer.encode('warm'); print({peak})\nprepare([", 1)
    command = [sys.executable, "-c", program, str(path), str(tmp_path / "tokenizer.json"), str(tmp_path / "out")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert int(said[-1]) - int(said[0]) < 200 << 10  # kB above what the tokenizer alone takes
    assert preparing.CHUNK == 4 << 20
