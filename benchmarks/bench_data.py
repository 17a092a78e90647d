"""How fast text becomes token shards: three sizes, one and two processes, beside the tokenizer alone.

    python benchmarks/bench_data.py            about two minutes; appends to benchmarks/results.jsonl

The text is Python source of this environment, every file once: nothing repeats, so no cache is flattered. `exponent` is
the slope of log(seconds) over log(bytes): 1 means linear. Each measurement is the best of three whole calls of
prepare(), from files on the disk to published shards, fsync included; a new process is started for each, and its peak
memory (of the first process, by /proc) is read when it ends.
"""

import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import record

from firsthand.data import pydocs
from firsthand.tokenizer.bpe import Tokenizer

SIZES = (4, 16, 64)  # MB
REPEATS = 3
COMMAND = "python benchmarks/bench_data.py"

ONE = """
import json, sys, time
from pathlib import Path
from firsthand.data.prepare import prepare
from firsthand.tokenizer.bpe import Tokenizer
if __name__ == "__main__":
    text, saved, out, workers = sys.argv[1:]
    tokenizer = Tokenizer.load(Path(saved))
    tokenizer.encode("def warm(up): pass")
    start = time.perf_counter()
    made = prepare([text], tokenizer, out, workers=int(workers))
    seconds = time.perf_counter() - start
    # not getrusage: its maximum survives exec and would be that of the process that started this one
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    print(json.dumps({"seconds": seconds, "tokens": sum(made.ids.values()), "peak_bytes": peak}))
"""


def source_text(size: int) -> bytes:
    """`size` bytes of Python source, every file once, in a fixed order."""
    roots = [Path(json.__file__).parents[1], Path(sys.prefix)]
    text, seen = bytearray(), set()
    for path in sorted(path for root in roots for path in root.rglob("*.py")):
        data = path.read_bytes()
        if data not in seen and b"\0" not in data and len(data) < 1 << 20 and _is_utf8(data):
            seen.add(data)
            text += data + b"\n"
        if len(text) >= size:
            return bytes(text[:size]).decode(errors="ignore").encode()
    raise SystemExit(f"this environment has only {len(text):,} bytes of Python source; {size:,} are needed")


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def measure(program: Path, text: Path, saved: Path, workers: int) -> dict:
    """The fastest of a few whole runs, each in a process of its own."""
    runs = []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, str(program), str(text), str(saved), f"{folder}/out", str(workers)]
            runs.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    return min(runs, key=lambda run: run["seconds"])


def main() -> None:
    tokenizer = Tokenizer.train(pydocs.corpus().values(), vocab_size=4096)
    with tempfile.TemporaryDirectory() as folder:
        saved, program, text = Path(folder, "tokenizer.json"), Path(folder, "one.py"), Path(folder, "text.txt")
        tokenizer.save(saved)
        program.write_text(ONE)
        whole = source_text(SIZES[-1] * 1_000_000)
        times: dict[int, list[float]] = {1: [], 2: []}
        for size in SIZES:
            data = whole[: size * 1_000_000].decode(errors="ignore").encode()
            text.write_bytes(data)
            tokenizer.encode_bytes(data[:1000])
            start = time.perf_counter()
            tokenizer.encode_bytes(data)
            alone = time.perf_counter() - start
            for workers in times:
                best = measure(program, text, saved, workers)
                times[workers].append(best["seconds"])
                numbers = {
                    "megabytes": size,
                    "workers": workers,
                    **best,
                    "megabytes_per_second": round(len(data) / 1e6 / best["seconds"], 1),
                    "tokenizer_alone_megabytes_per_second": round(len(data) / 1e6 / alone, 1),
                }
                record("data.prepare", COMMAND, numbers)
        for workers, seconds in times.items():
            slope = math.log(seconds[-1] / seconds[0]) / math.log(SIZES[-1] / SIZES[0])
            record("data.prepare.exponent", COMMAND, {"workers": workers, "exponent": round(slope, 3)})


if __name__ == "__main__":
    main()
