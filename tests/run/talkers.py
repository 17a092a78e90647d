"""Tiny models that are to learn to answer, the words that name them, and data for them."""

import json

import torch

from firsthand.checkpoint import bundle
from firsthand.model.config import FAST, ModelConfig
from firsthand.model.gpt import GPT
from firsthand.tokenizer.bpe import Tokenizer
from firsthand.tokenizer.chat import STYLES

END = "<|endoftext|>"
SHAPE = ModelConfig(
    **(FAST | {"vocab_size": 257, "context_length": 72, "n_layer": 3, "n_head": 2, "d_model": 16, "d_ff": 24})
)
THINGS = ["boat", "coat", "dove", "fern", "gate", "hill", "iron", "jade", "kite", "lamp", "moon", "nest", "oven"]
QUIET = ("train.eval_every=5", "train.save_every=4", "train.dtype=float32", "train.device=cpu", "train.warmup=2")
WORDS = (*QUIET, "train.batch_size=6", "train.steps=12", "train.learning_rate=0.01", "train.min_learning_rate=0.001")


def speaker(folder, template=None, seed=3, **shape):
    """A model that was never trained, of bytes and a token that ends a text, as a checkpoint."""
    model = GPT(ModelConfig(**({name: getattr(SHAPE, name) for name in SHAPE.__dataclass_fields__} | shape)))
    model.initialise(seed)
    tokens = [*(bytes([byte]) for byte in range(256)), END.encode()]
    tokenizer = Tokenizer(tokens, [], special_tokens={END: 256})
    return bundle.save(folder, model, tokenizer, {}, template=template or STYLES["plain"].ending(END).jinja)


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def answers(path):
    """Questions about two things; the answer is the first of them."""
    return jsonl(path, [{"prompt": f"{a} {b}?", "completion": a[:2]} for a in THINGS for b in THINGS[:7]])


def pairs(path):
    """The same questions; "yes" is preferred to "no"."""
    return jsonl(path, [{"prompt": f"{a} {b}?", "chosen": "yes", "rejected": "no"} for a in THINGS for b in THINGS[:7]])


def table(path):
    """Texts with labels."""
    lines = [f"{a} {b},{('loud', 'quiet')[(n + m) % 2]}" for n, a in enumerate(THINGS) for m, b in enumerate(THINGS)]
    path.write_text("\n".join(["text,label", *lines]) + "\n")
    return path


def text(path):
    """General text, of which a model may forget something."""
    path.write_text("\n".join(f"The {a} is not the {b}." for a in THINGS for b in THINGS))
    return path


def everything(folder):
    """The words of a run by task, without a folder to write to."""
    base, general = speaker(folder / "model"), text(folder / "general.txt")
    talks = (f"model={base}", f"data.general={general}")
    return {
        "classify": (*WORDS, f"model={base}", f"data.source={table(folder / 'rows.csv')}"),
        "instruct": (*WORDS, *talks, "task.kind=instruct", f"data.source={answers(folder / 'answers.jsonl')}",
                     "task.asked=5", "task.answer_tokens=4"),
        "prefer": (*WORDS, *talks, "task.kind=prefer", f"data.source={pairs(folder / 'pairs.jsonl')}"),
    }  # fmt: skip


def place(folder):
    """A folder for a run, in which the arithmetic is known and need not be measured: out=..."""
    folder.mkdir(parents=True)
    note = {"arithmetic": {"device": "cpu", "dtype": "float32", "route": "none"}}
    (folder / "run.json").write_text(json.dumps(note))
    return f"out={folder}"


def same(a, b):
    """Whether two models hold the same bits."""
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
