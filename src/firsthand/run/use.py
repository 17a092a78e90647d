"""What can be done with a trained model: load it, measure it, describe it."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from firsthand import files
from firsthand.checkpoint import bundle as bundles
from firsthand.checkpoint.bundle import Bundle
from firsthand.data.tokens import Tokens, windows
from firsthand.errors import CheckpointError, DataError
from firsthand.evaluate.loss import Evaluation, validation_loss
from firsthand.model import sizes
from firsthand.run.text import locate, sample_text


def load(source: str | Path, device: str = "cpu") -> Bundle:
    """The model, tokenizer and origin of a checkpoint; of a run folder, its newest checkpoint that is whole."""
    return bundles.load(checkpoint_of(source), device)


def checkpoint_of(source: str | Path) -> Path:
    """The checkpoint that a path means; a damaged newest one of a run is passed over aloud."""
    path = Path(source)
    if not path.exists():
        runs = [str(run) for run in sorted(Path("runs").glob("*")) if files.checkpoints(run)]
        there = f"Trained here: {', '.join(runs[:5])}" if runs else "Train one: firsthand train"
        raise CheckpointError(f"there is no model at {str(path)!r}. {there}.", code=23)
    if not files.checkpoints(path):
        return path
    found, damaged = files.newest(path)
    if found is None:
        raise CheckpointError(f"no checkpoint of {files.shown(path)} is whole: {damaged[0][1]}.", code=22)
    return found


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
    """What a checkpoint is; reading it checks every hash."""
    bundle = load(source)
    config = bundle.model.config
    shape = {name: value for name, value in asdict(config).items() if value is not None}
    return {
        "path": str(bundle.path),
        "hashes": "every byte agrees with the manifest",
        "parameters": sizes.parameters(config),
        "weights_bytes": (bundle.path / "model.safetensors").stat().st_size,
        "flops_per_token": sizes.flops_per_token(config, config.context_length),
        "cache_bytes_per_token": sizes.cache_bytes(config, 1, 1),
        **shape,
        "tokenizer": f"{bundle.tokenizer.kind}, {bundle.tokenizer.fingerprint[:12]}",
        **_flat({name: value for name, value in bundle.about.items() if name not in ("tokenizer", "settings")}),
    }


def _flat(tree: dict[str, Any]) -> dict[str, Any]:
    """Nested facts on one level: {"data": {"tokens": 3}} -> {"data.tokens": 3}."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
    return flat
