"""A tiny model and a tiny data set for sweeps: every cell takes a second, beside the start of its process."""

import json
import os
from dataclasses import replace
from pathlib import Path

from firsthand.checkpoint import bundle
from firsthand.model.config import FAST, ModelConfig
from firsthand.model.gpt import GPT
from firsthand.tokenizer.bpe import Tokenizer
from firsthand.tokenizer.chat import STYLES

SHAPE = ModelConfig(**(FAST | {"vocab_size": 256, "context_length": 40, "n_layer": 2, "n_head": 2, "d_model": 16}))
THINGS = ["boat", "coat", "dove", "fern", "gate", "hill", "iron", "jade", "kite", "lamp", "moon", "nest"]
WORDS = (
    "data.test_fraction=0.3", "train.batch_size=6", "train.steps=6", "train.warmup=1", "train.eval_every=0",
    "train.learning_rate=0.01", "train.min_learning_rate=0.001", "train.device=cpu", "train.dtype=float32",
)  # fmt: skip


def tiny_words(folder: Path) -> list[str]:
    """What `finetune` takes: a model that was never trained, and a table whose label stands at the end of a text."""
    model = GPT(SHAPE)
    model.initialise(3)
    base = bundle.save(folder / "model", model, Tokenizer([bytes([i]) for i in range(256)], []), {})
    pairs = [(a, b) for a in range(len(THINGS)) for b in range(9)]
    lines = [f"{THINGS[a]} {THINGS[b]} {('wow,loud', 'hm,quiet')[(a + b) % 2]}" for a, b in pairs]
    (folder / "rows.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    return [f"model={base}", f"data.source={folder / 'rows.csv'}", *WORDS]


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder, with its inode and the time of its last change."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z" and not os.kill(pid, 0)
    except OSError:
        return False


def talking_words(folder: Path) -> list[str]:
    """What a study of answers takes in place of its own: an untrained model of bytes, and easy questions."""
    model = GPT(replace(SHAPE, vocab_size=257, context_length=200))
    model.initialise(3)
    tokenizer = Tokenizer([*(bytes([i]) for i in range(256)), b"<|end|>"], [], special_tokens={"<|end|>": 256})
    template = STYLES["plain"].ending("<|end|>").jinja
    base = bundle.save(folder / "talker", model, tokenizer, {"ends": [256]}, template=template)
    lines = [json.dumps({"prompt": f"{a} {b}?", "completion": a[:2]}) for a in THINGS for b in THINGS[:7]]
    (folder / "answers.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "general.txt").write_text("\n".join(f"The {a} is not the {b}." for a in THINGS for b in THINGS))
    return [
        f"model={base}", f"data.source={folder / 'answers.jsonl'}", f"data.general={folder / 'general.txt'}",
        "task.style=", "train.steps=5", "train.device=cpu", "train.dtype=float32", "data.test_fraction=0.2",
        "data.validation_fraction=0.1", "task.asked=4", "task.answer_tokens=3", "lora.rank=2",
    ]  # fmt: skip
