"""How fast a vocabulary is learned, and in how much memory: against rustbpe, which must give the same merges.

    python benchmarks/bench_bpe_train.py [ROUNDS]      about three minutes

The text: the modules of the standard library and of the installed packages, every file once, and between them the
translations of `bench_tokenizer.py`, every sentence once; in a fixed random order. Both sides get the same list of
documents (str) and may use all processors. Every run is a process of its own, the two take turns; the ratio is the
median of the ratios of the rounds, the memory is the peak of the process while it learned, text included (it lies in
both). Compiled code is on the disk, as at every start but the first; the first is measured apart.
"""

import hashlib
import math
import os
import random
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from bench_tokenizer import translations
from record import record

COMMAND = "python benchmarks/bench_bpe_train.py"
SIZES = (10_000_000, 50_000_000)
VOCABULARIES = (4096, 32768)
DOCUMENT = 50_000  # characters
WORK = """
import hashlib, sys, time
from pathlib import Path
side, path, size = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
documents = path.read_text(encoding="utf-8").split("\\0")
Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far; getrusage would even remember the parent's
if side == "ours":
    from firsthand.tokenizer import learn
    learn.train(["warm up"], 257, special_tokens=())
    start = time.perf_counter()
    tokens = learn.train(documents, size, special_tokens=()).tokens
    seconds = time.perf_counter() - start
else:
    import rustbpe
    from firsthand.tokenizer.split import PATTERNS
    tokenizer = rustbpe.Tokenizer()
    start = time.perf_counter()
    tokenizer.train_from_iterator(iter(documents), size, pattern=PATTERNS["gpt2"])
    seconds = time.perf_counter() - start
    ranks = sorted(tokenizer.get_mergeable_ranks(), key=lambda pair: pair[1])
    tokens = [bytes(token) for token, _ in ranks]
digest = hashlib.sha256(b"".join(len(token).to_bytes(4, "little") + token for token in tokens)).hexdigest()
peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
print(seconds, int(peak) / 1024, digest)
"""
FIRST = """
import time
start = time.perf_counter()
from firsthand.tokenizer import learn
learn.train(["How are tokens made?"], 260)
print(time.perf_counter() - start)
"""


def code() -> list[str]:
    """Python source and text of this installation, every file once."""
    roots = {sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")}
    files = {
        path for root in roots for kind in ("py", "pyi", "rst", "txt", "md") for path in Path(root).rglob(f"*.{kind}")
    }
    seen: dict[bytes, str] = {}
    for path in sorted(files):
        data = path.read_bytes()
        if len(data) < 1_000_000 and b"\0" not in data:
            seen.setdefault(hashlib.sha256(data).digest(), data.decode("utf-8", "ignore"))
    return list(seen.values())


def corpus(folder: Path) -> list[Path]:
    """A file of each size: documents with a zero byte between them."""
    texts = [text[at : at + DOCUMENT] for text in [*code(), translations()] for at in range(0, len(text), DOCUMENT)]
    random.Random(0).shuffle(texts)
    paths = []
    for size in SIZES:
        data = "\0".join(texts).encode()[:size]
        assert len(data) == size, f"this installation has {len(data):,} bytes of text, {size:,} are needed"
        paths.append(folder / f"{size}.txt")
        paths[-1].write_bytes(data.decode("utf-8", "ignore").encode())
    return paths


def run(side: str, path: Path, size: int) -> tuple[float, float, str]:
    """One training in a process of its own: -> (seconds, peak in MiB, digest of all tokens)."""
    done = subprocess.run([sys.executable, "-c", WORK, side, str(path), str(size)], capture_output=True, text=True)
    seconds, peak, digest = done.stdout.split()
    return float(seconds), float(peak), digest


def compare(path: Path, size: int, rounds: int) -> float:
    """Ours and rustbpe in turn: -> our seconds."""
    rows = []
    for _ in range(rounds):
        ours, theirs = run("ours", path, size), run("rustbpe", path, size)
        assert ours[2] == theirs[2], "other tokens than rustbpe"
        rows.append((ours, theirs))
    ratios = [theirs[0] / ours[0] for ours, theirs in rows]
    numbers = {"bytes": path.stat().st_size, "vocab_size": size, "rounds": rounds, "threads": os.cpu_count()}
    for at, side in enumerate(("ours", "rustbpe")):
        numbers[f"{side}_seconds"] = round(statistics.median(row[at][0] for row in rows), 2)
        numbers[f"{side}_MiB"] = round(statistics.median(row[at][1] for row in rows))
    numbers["times_faster_median_min_max"] = [round(f(ratios), 2) for f in (statistics.median, min, max)]
    numbers["memory_ratio"] = round(numbers["ours_MiB"] / numbers["rustbpe_MiB"], 2)
    record("tokenizer.train", COMMAND, numbers)
    return numbers["ours_seconds"]


def first_use() -> None:
    """The first training after an installation, and later ones: whole processes, import included."""
    with tempfile.TemporaryDirectory() as folder:
        surroundings = {**os.environ, "NUMBA_CACHE_DIR": folder}
        runs = [subprocess.run([sys.executable, "-c", FIRST], env=surroundings, capture_output=True) for _ in range(4)]
    first, *later = [round(float(done.stdout), 2) for done in runs]
    record("tokenizer.train.start", COMMAND, {"first_seconds": first, "later_seconds": later})


def main() -> None:
    """Everything, recorded line by line."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    first_use()
    with tempfile.TemporaryDirectory() as folder:
        paths = corpus(Path(folder))
        run("ours", paths[0], 300)  # compiles, if that was not done before
        for size in VOCABULARIES:
            small, large = (compare(path, size, rounds) for path in paths)
            exponent = math.log(large / small) / math.log(SIZES[1] / SIZES[0])
            record(
                "tokenizer.train.growth", COMMAND, {"vocab_size": size, "seconds_grow_as_bytes_to": round(exponent, 2)}
            )


if __name__ == "__main__":
    main()
