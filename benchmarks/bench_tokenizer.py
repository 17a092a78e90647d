"""How fast text becomes ids: GPT-2's vocabulary, one thread, against tiktoken's numpy output in the same minute.

    python benchmarks/bench_tokenizer.py [FOLDER with vocab.bpe and encoder.json]      about three minutes

Texts in which nothing repeats by construction:
  python         the modules of this interpreter's standard library, every file once, in a fixed random order
  multilingual   the translations of Django 5.2.8 and Weblate 5.14.3 (fetched from the package index, 84 MB, once):
                 every distinct sentence once, in about 100 languages, in a fixed random order

The two take turns, five rounds; the ratio is the median of the ratios of the rounds. Every call gets a string that was
just made: CPython keeps the UTF-8 of a string it has converted before, which is a gift to whoever reads it again.
"cold" empties our cache of words first, "warm" has seen the text before. Ids are compared in every round.
"""

import gettext
import io
import math
import os
import random
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import tiktoken
from record import record
from tiktoken.load import data_gym_to_mergeable_bpe_ranks

from firsthand.data import catalog
from firsthand.tokenizer.bpe import Tokenizer

COMMAND = "python benchmarks/bench_tokenizer.py"
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
WHEELS = Path(tempfile.gettempdir()) / "firsthand-translations"
ROUNDS = 5
SHARES = {"python": (0.1, 0.3, 1.0), "multilingual": (0.25, 0.5, 1.0)}
START = """
import time
start = time.perf_counter()
from firsthand.tokenizer.bpe import Tokenizer
Tokenizer([bytes([byte]) for byte in range(256)] + [b"ab"], [(97, 98)]).encode("Hello, abacus 42!")
print(time.perf_counter() - start)
"""
WORK = """
import sys, time
from pathlib import Path
from firsthand.tokenizer.bpe import Tokenizer
tokenizer, data = Tokenizer.load(Path(sys.argv[1])), Path(sys.argv[2]).read_bytes()
tokenizer.encode_bytes(data)
print("ready", flush=True)
sys.stdin.readline()
start = time.perf_counter()
for _ in range(20):
    tokenizer.encode_bytes(data)
print(20 * len(data) / (time.perf_counter() - start) / 1e6)
"""


def python_source(most: int = 20_000_000) -> str:
    """Python source, every file once."""
    files = sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py"))
    random.Random(0).shuffle(files)
    texts, total = [], 0
    for path in files:
        data = path.read_bytes()
        if total < most and b"\0" not in data:
            texts.append(data.decode("utf-8", "ignore"))
            total += len(data)
    return "".join(texts)


def translations() -> str:
    """Every distinct sentence of two packages' translations."""
    if not WHEELS.is_dir():
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(WHEELS)]
        subprocess.run([*pip, "django==5.2.8", "weblate==5.14.3"], check=True)
    sentences: dict[str, None] = {}
    for wheel in sorted(WHEELS.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in sorted(name for name in archive.namelist() if name.endswith(".mo")):
                messages = gettext.GNUTranslations(io.BytesIO(archive.read(name)))
                sentences |= dict.fromkeys(str(text) for text in vars(messages)["_catalog"].values())
    mixed = list(sentences)
    random.Random(0).shuffle(mixed)
    return "\n".join(mixed)


def seconds(encode, data: bytes) -> tuple[float, np.ndarray]:
    """The time to encode a string made a moment ago, and the ids."""
    text = data.decode()
    start = time.perf_counter()
    ids = encode(text)
    return time.perf_counter() - start, ids


def compare(name: str, data: bytes, tokenizer: Tokenizer, peer: tiktoken.Encoding) -> float:
    """Ours, cold and warm, and tiktoken's, in turn: -> our cold time."""
    rows = []
    for _ in range(ROUNDS):
        theirs, expected = seconds(lambda text: peer.encode_to_numpy(text, disallowed_special=()), data)
        tokenizer._words.cache[:] = 0
        cold, ids = seconds(tokenizer.encode, data)
        warm, again = seconds(tokenizer.encode, data)
        assert np.array_equal(expected, ids) and np.array_equal(expected, again), "other ids than tiktoken"
        rows.append((theirs, cold, warm))
    speed = [round(len(data) / 1e6 / statistics.median(column), 1) for column in zip(*rows, strict=True)]
    ratios = {
        word: [round(function(row[0] / row[at] for row in rows), 2) for function in (statistics.median, min, max)]
        for at, word in ((1, "cold"), (2, "warm"))
    }
    numbers = {"text": name, "bytes": len(data), "ids": len(expected), "tiktoken_MB_s": speed[0]}
    numbers |= {"cold_MB_s": speed[1], "warm_MB_s": speed[2], "median_min_max_ratio": ratios}
    record("tokenizer.encode", COMMAND, numbers)
    return statistics.median(row[1] for row in rows)


def start_times() -> None:
    """First use after an installation, and later starts: whole processes, import included."""
    with tempfile.TemporaryDirectory() as folder:
        surroundings = {**os.environ, "NUMBA_CACHE_DIR": folder}
        runs = [subprocess.run([sys.executable, "-c", START], env=surroundings, capture_output=True) for _ in range(4)]
    first, *later = [round(float(run.stdout), 2) for run in runs]
    record("tokenizer.start", COMMAND, {"first_seconds": first, "later_seconds": later})


def two_processes(folder: Path, data: bytes) -> None:
    """The throughput of two processes at once over that of one."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        totals = []
        for count in (1, 2, 1, 2):
            command = [sys.executable, "-c", WORK, str(folder), file.name]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            workers = [subprocess.Popen(command, **pipes) for _ in range(count)]
            for worker in workers:
                assert worker.stdout.readline() == "ready\n"
            for worker in workers:
                worker.stdin.write("go\n")
                worker.stdin.flush()
            totals.append(sum(float(worker.communicate()[0]) for worker in workers))
    gain = (totals[1] + totals[3]) / (totals[0] + totals[2])
    record("tokenizer.processes", COMMAND, {"MB_s_1_2_1_2": [round(x, 1) for x in totals], "gain": round(gain, 2)})


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else catalog.get("gpt2-tokenizer")
    tokenizer = Tokenizer.load(folder)
    ranks = data_gym_to_mergeable_bpe_ranks(str(folder / "vocab.bpe"), str(folder / "encoder.json"))
    peer = tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256})
    tokenizer.encode("compiled by now")
    start_times()
    for name, text in {"python": python_source(), "multilingual": translations()}.items():
        times = []
        for share in SHARES[name]:
            data = text[: int(len(text) * share)].encode()
            times.append((math.log(len(data)), math.log(compare(name, data, tokenizer, peer))))
        exponent = (times[-1][1] - times[0][1]) / (times[-1][0] - times[0][0])
        record("tokenizer.exponent", COMMAND, {"text": name, "exponent": round(exponent, 3)})
    two_processes(folder, python_source(4_000_000).encode())


if __name__ == "__main__":
    main()
