"""One line of benchmarks/results.jsonl: what was measured, by which command, at which commit, on what.

record("tokenizer.encode", "python benchmarks/bench_tokenizer.py", {"ratio": 3.1})
"""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULTS = Path(__file__).parent / "results.jsonl"
PACKAGES = ("numpy", "numba", "torch", "tiktoken", "tokenizers", "rustbpe", "transformers", "litgpt", "peft")
PACKAGES += ("trl", "xllamacpp")  # llama.cpp, prebuilt


def processor() -> str:
    """The name of the processor, as the system gives it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str:
    """The commit of the code that ran, with "+" when files of the package were changed since."""
    folder = Path(__file__).parent
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=folder, capture_output=True, text=True)
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "../src"], cwd=folder, capture_output=True)
    return head.stdout.strip() + ("+" if changed.returncode else "")


def versions() -> dict[str, str]:
    """The versions of those packages that matter and are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"python": platform.python_version(), **found}


def record(name: str, command: str, numbers: dict) -> None:
    """Append one measurement, and print it."""
    line = {
        "benchmark": name,
        "command": command,
        **numbers,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "commit": commit(),
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "versions": versions(),
    }
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(name, json.dumps(numbers))
