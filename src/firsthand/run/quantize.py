"""A model in fewer bits: made and written, or every way to make it measured beside the original."""

import os
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from math import log
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firsthand import files
from firsthand.checkpoint import bundle as bundles
from firsthand.checkpoint.bundle import Bundle
from firsthand.data.tokens import Tokens, windows
from firsthand.errors import CheckpointError, ConfigError, DataError
from firsthand.evaluate.loss import token_losses
from firsthand.evaluate.stats import Interval, bootstrap
from firsthand.files import tensors as stored
from firsthand.infer.draw import Reader, draw
from firsthand.infer.fast import Fast, one_torch_thread, refusal
from firsthand.linear.shrink import described, layers, shrink
from firsthand.model import sizes
from firsthand.model.assemble import weights
from firsthand.model.gpt import GPT
from firsthand.run.source import load
from firsthand.run.text import locate, sample_text

ROW = 256  # tokens of a row that is judged or calibrated on
CALIBRATION = 16_384  # tokens
CORPUS, KEPT = "pydocs", 0.75  # what models without a text of their own are calibrated on; the rest of it judges
WRITTEN = 24  # tokens whose writing is timed
COMPARED = (("int8", "rtn"), ("int8-dynamic", "rtn"), ("nf4", "rtn"), ("int4", "rtn"), ("int4", "gptq"))
Tell = Callable[[str, int, int], None]  # what is going on, steps done, steps in all


def silent(what: str, done: int, total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Recipe:
    """How a model gets fewer bits: which kind, found how; the groups of 4 bits; the text for gptq."""

    to: str = "int4"
    method: str = "rtn"
    group: int = 32
    symmetric: bool = False
    calibration: str = ""

    def __post_init__(self) -> None:
        if self.method == "gptq" and self.to != "int4":
            raise ConfigError(f"gptq rounds to int4 only, not to {self.to}; use --to int4, or --method rtn")

    @property
    def settings(self) -> dict[str, Any]:
        grouped = {"int4": {"group": self.group, "symmetric": self.symmetric}, "nf4": {"group": self.group}}
        return grouped.get(self.to, {})


def quantize(source: str | Path, out: Path, recipe: Recipe, tell: Tell = silent) -> dict[str, Any]:
    """Write a model in fewer bits as a checkpoint, and say what it is; it is loaded like any other."""
    if os.path.lexists(out):  # before the work, not after it
        raise CheckpointError(f"{files.shown(out)} is there already; remove it, or choose another name")
    bundle, begin = load(source), perf_counter()
    tell(f"rounding to {recipe.to}", 0, 1)
    made = shrunk(bundle, source, recipe, tell)
    how = {"from": str(source), "kind": recipe.to, "method": recipe.method, **recipe.settings}
    how |= {"calibrated_on": calibrated_on(source, recipe)} if recipe.method == "gptq" else {}
    path = bundles.save(out, made, bundle.tokenizer, {**bundle.about, "quantized": how}, template=bundle.template)
    worst, error = lost(made, bundle.model)
    return {
        "path": str(path),
        **how,
        "layers": described(layers(made)),
        "file_bytes": (path / "model.safetensors").stat().st_size,
        "bits_per_weight": bits_per_weight(made),
        "worst_layer": worst,
        "worst_error": error,
        "seconds": perf_counter() - begin,
    }


def compare(
    source: str | Path, recipe: Recipe, text: str = "", tokens: int = 4_096, tell: Tell = silent
) -> dict[str, Any]:
    """Every way to fewer bits beside the original, on text that none of them was calibrated on."""
    bundle = load(source)
    ids, bytes_per_token, name = judged(bundle, source, text)
    if name == calibrated_on(source, recipe):
        raise DataError(f"{name} would be judged by what it was calibrated on; give another --text or --calibration")
    rows, per_bit = in_rows(bundle, ids, tokens, 1), log(2) * bytes_per_token
    plain, found = nats(bundle.model, rows) / per_bit, []
    found.append(measured("original", bundle, bundle.model, rows, plain, plain, 0.0))
    for done, (to, method) in enumerate(COMPARED):
        title, begin = f"{to} {method}", perf_counter()
        tell(title, done, len(COMPARED))
        made = shrunk(bundle, source, replace(recipe, to=to, method=method), partial(inside, tell, title, done))
        seconds = perf_counter() - begin
        found.append(measured(title, bundle, made, rows, nats(made, rows) / per_bit, plain, seconds))
    return {
        "model": str(source),
        "text": name,
        "tokens": rows[:, 1:].numel(),
        "calibrated_on": calibrated_on(source, recipe),
        "group": recipe.group,
        "symmetric": recipe.symmetric,
        "rows": [asdict(row) for row in found],
    }


def inside(tell: Tell, title: str, done: int, what: str, block: int, blocks: int) -> None:
    """The progress of one form, as a part of that of all."""
    tell(f"{title}, {what} {block + 1} of {blocks}", done, len(COMPARED))


def shrunk(bundle: Bundle, source: str | Path, recipe: Recipe, tell: Tell) -> GPT:
    """A copy of a model in fewer bits."""
    made, rows = deepcopy(bundle.model), None
    if recipe.method == "gptq":
        rows = in_rows(bundle, calibration(bundle, source, recipe), CALIBRATION, 0)
    shrink(made, recipe.to, recipe.settings, rows, partial(tell, "rounding block"))
    return made


@dataclass(frozen=True)
class Row:
    """One form of a model: what it costs, how good it is, how fast."""

    form: str
    file_bytes: int
    bits_per_weight: float
    bits_per_byte: float
    interval_95: Interval
    difference: float  # in bits per byte, to the original on the same rows
    difference_95: Interval
    worst_layer: str
    worst_error: float  # length of what is lost over length of the weight
    tokens_per_second: float  # of greedy decoding
    seconds: float  # to make it


def measured(
    form: str, bundle: Bundle, made: GPT, rows: Tensor, bits: np.ndarray, plain: np.ndarray, seconds: float
) -> Row:
    """All that is to be known of one form; `bits` of every row, and those of the original."""
    worst, error = lost(made, bundle.model)
    return Row(
        form=form,
        file_bytes=stored.stream(weights(made))[0],
        bits_per_weight=bits_per_weight(made),
        bits_per_byte=float(bits.mean()),
        interval_95=bootstrap(bits),
        difference=float((bits - plain).mean()),
        difference_95=bootstrap(bits - plain),  # both saw the same rows: what is hard for both falls out
        worst_layer=worst,
        worst_error=error,
        tokens_per_second=speed(made, rows[0, : ROW // 4].tolist()),
        seconds=seconds,
    )


def judged(bundle: Bundle, source: str | Path, text: str) -> tuple[np.ndarray, float, str]:
    """Ids of held-out text, its bytes per token, and its name: the text given, else what the run held out."""
    if not text and (shard := own(source, "validation")):
        tokens = Tokens(shard)
        tokens.check(bundle.tokenizer)
        return tokens.ids, tokens.header.text_bytes / max(len(tokens), 1), str(shard)
    content = sample_text([locate(text or CORPUS)])
    content = content[int(KEPT * len(content)) :] if text in ("", CORPUS) else content
    ids = bundle.tokenizer.encode(content)
    return np.asarray(ids), len(content.encode("utf-8")) / max(len(ids), 1), text or f"the end of {CORPUS}"


def calibration(bundle: Bundle, source: str | Path, recipe: Recipe) -> np.ndarray:
    """Ids of text to calibrate on: the one that is named, else what the run was trained on."""
    if not recipe.calibration and (shard := own(source, "train")):
        tokens = Tokens(shard)
        tokens.check(bundle.tokenizer)
        return tokens.ids
    content = sample_text([locate(recipe.calibration or CORPUS)])
    content = content[: int(KEPT * len(content))] if recipe.calibration in ("", CORPUS) else content
    return np.asarray(bundle.tokenizer.encode(content))


def calibrated_on(source: str | Path, recipe: Recipe) -> str:
    """The name of that text."""
    return recipe.calibration or str(own(source, "train") or f"the beginning of {CORPUS}")


def own(source: str | Path, split: str) -> Path | None:
    """The tokens of a run, if the model is one that was trained here."""
    shards = (folder / "data" / f"{split}.tokens" for folder in (Path(source), Path(source).parent))
    return next((path for path in shards if path.exists()), None)


def in_rows(bundle: Bundle, ids: np.ndarray, tokens: int, more: int) -> Tensor:
    """About so many tokens in rows of equal length, evenly spread over a text: -> (R, T + more)."""
    length = min(ROW, bundle.model.config.context_length)
    cut = windows(ids, length)
    chosen = np.unique(np.linspace(0, len(cut) - 1, max(1, tokens // length)).astype(int))
    return torch.from_numpy(np.stack([cut[index][: length + more] for index in chosen]).astype(np.int64))


def nats(model: GPT, rows: Tensor) -> np.ndarray:
    """The mean loss of each row: (R, T + 1) -> R numbers."""
    return torch.cat([token_losses(model, row[None]).double().mean(dim=1) for row in rows]).cpu().numpy()


def lost(made: GPT, original: GPT) -> tuple[str, float]:
    """The layer that differs most from the original, and by which share of its length."""
    errors: dict[str, float] = {}
    for name, layer in layers(made).items():
        weight = original.get_parameter(f"{name}.weight").detach()
        errors[name] = float((layer.weight - weight).norm() / weight.norm())
    worst = max(errors, key=errors.__getitem__, default="")
    return worst, errors.get(worst, 0.0)


def bits_per_weight(model: GPT) -> float:
    """Bits that all weights take in a file, rulers and everything, over their number."""
    return 8 * sum(weight.nbytes for weight in weights(model).values()) / sizes.parameters(model.config)


def speed(model: GPT, prompt: list[int]) -> float:
    """Tokens per second of greedy text once the prompt is read, by the engine that `firsthand generate` would take."""
    prompt = prompt[: max(1, model.config.context_length - WRITTEN - 1)]
    length = min(len(prompt) + WRITTEN + 1, model.config.context_length)
    reader: Reader = model if refusal(model) else Fast(model)
    written = draw(reader, prompt, lambda scores: int(scores.argmax()), reader.new_cache(1, length))
    next(written)
    with nullcontext() if reader is model else one_torch_thread():
        begin = perf_counter()
        return sum(1 for _ in islice(written, length - len(prompt) - 1)) / (perf_counter() - begin)
