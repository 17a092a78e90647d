"""What can be done with a trained model: measure it, describe it."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from firsthand.data.tokens import Tokens, windows
from firsthand.errors import DataError
from firsthand.evaluate.loss import Evaluation, validation_loss
from firsthand.model import sizes
from firsthand.model.assemble import weights
from firsthand.run.source import load
from firsthand.run.text import locate, sample_text


def evaluate(source: str | Path, data: str = "") -> dict[str, Any]:
    """Loss and bits per byte of a model on held-out text, with its interval and two baselines."""
    bundle = load(source)
    context = bundle.model.config.context_length
    if data:
        text = sample_text([locate(data)])
        ids = bundle.tokenizer.encode(text)
        bytes_per_token = len(text.encode("utf-8")) / max(len(ids), 1)
        rows, name = windows(ids, context), data
    else:
        shard = _validation_shard(Path(source))
        shard.check(bundle.tokenizer)
        bytes_per_token = shard.header.text_bytes / max(len(shard), 1)
        rows, name = windows(shard, context), str(shard.path)
    found = validation_loss(bundle.model, rows, bytes_per_token=bytes_per_token)
    return {"model": str(bundle.path), "data": name, **described(found)}


def described(found: Evaluation) -> dict[str, Any]:
    """An evaluation as plain numbers, each beside its interval or baseline."""
    return {
        "loss": found.loss,
        "interval_95": [found.interval.low, found.interval.high],
        "bits_per_byte": found.bits_per_byte,
        "perplexity": found.perplexity,
        "tokens": found.tokens,
        "baseline_unigram_loss": found.unigram,
        "baseline_uniform_loss": found.uniform,
    }


def _validation_shard(source: Path) -> Tokens:
    for run in (source, source.parent):
        if (run / "data" / "validation.tokens").exists():
            return Tokens(run / "data" / "validation.tokens")
    raise DataError(
        f"{source} has no validation split of its own. Give a text: --data FILE, or --data pydocs.", code=30
    )


def info(source: str | Path) -> dict[str, Any]:
    """What a model is; reading a checkpoint of ours checks every hash."""
    bundle = load(source, dtype=None)
    config = bundle.model.config
    shape = {name: value for name, value in asdict(config).items() if value is not None}
    ours = (bundle.path / "firsthand.json").exists()
    return {
        "path": str(bundle.path),
        "hashes": "every byte agrees with the manifest" if ours else "none: it is a file of another program",
        "parameters": sizes.parameters(config),
        "weights_bytes": sum(weight.nbytes for weight in weights(bundle.model).values()),
        "flops_per_token": sizes.flops_per_token(config, config.context_length),
        "cache_bytes_per_token": sizes.cache_bytes(config, 1, 1),
        **shape,
        "tokenizer": f"{bundle.tokenizer.kind}, {bundle.tokenizer.fingerprint[:12]}",
        "speaks": "in turns, by its chat template" if bundle.template else "on and on: it continues text",
        "ends_with": ", ".join(bundle.tokenizer.decode([id]) for id in bundle.ends),
        **_flat({name: value for name, value in bundle.about.items() if name not in ("tokenizer", "settings", "ends")}),
    }


def _flat(tree: dict[str, Any]) -> dict[str, Any]:
    """Nested facts on one level: {"data": {"tokens": 3}} -> {"data.tokens": 3}."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
    return flat
