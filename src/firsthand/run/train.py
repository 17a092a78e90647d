"""A pretraining run from its settings: text, tokenizer, shards, model, training, all in one folder.

OUT/config.toml    the settings, resolved; give it back to `firsthand train` to do the same again
OUT/data/          token shards and tokenizer
OUT/step-000200/   checkpoints        OUT/metrics.jsonl samples.jsonl run.json    what happened
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firsthand import config as configs
from firsthand import files
from firsthand.data.ledger import Counts, Reading
from firsthand.data.prepare import Prepared, Progress
from firsthand.data.prepare import prepare as encode
from firsthand.data.rows import ROWS
from firsthand.data.tokens import Tokens, show_windows, windows
from firsthand.errors import ConfigError, DataError, ModelError
from firsthand.model import sizes
from firsthand.run.settings import RunConfig, model_config, read_run
from firsthand.run.text import learn, locate
from firsthand.run.tuning import TuneConfig
from firsthand.tokenizer.bpe import Tokenizer

if TYPE_CHECKING:
    from firsthand.checkpoint.bundle import Bundle
    from firsthand.training.fit import Fitted

# What may differ when a run goes on; everything else would make it another run.
MAY_CHANGE = {
    "out", "train.eval_every", "train.save_every", "train.keep", "train.sample_every", "train.device", "train.dtype",
    "train.compile", "train.checkpointing", "train.nonfinite", "train.learning_rate", "train.min_learning_rate",
    "train.clip", "sample.prompt", "sample.max_tokens", "sample.temperature", "sample.top_k",
}  # fmt: skip


SAMPLE = 48  # tokens of a sample, where nothing is said


@dataclass(frozen=True)
class Run:
    """What `train` gives back: the folder, the trained bundle, one record a step, and the time it took."""

    path: Path
    bundle: "Bundle"
    records: list[dict[str, Any]]
    seconds: float


def prepare(*words: str | Path, workers: int = 1, progress: Progress | None = None) -> dict[str, Any]:
    """The shards and tokenizer of a run, made if they are not there: where they lie, and what became of the text."""
    settings = read_run(words)
    prepared, tokenizer = _text(settings, workers, progress)
    return {
        "train": str(prepared.train),
        "validation": str(prepared.validation),
        "tokenizer": f"{tokenizer.kind}, {tokenizer.vocab_size:,} tokens",
        "split": prepared.split,
        "train_tokens": prepared.ids["train"],
        "validation_tokens": prepared.ids["validation"],
        "documents_read": prepared.counts.read,
        "documents_used": prepared.counts.used,
        **{f"dropped_{reason}": count for reason, count in prepared.counts.dropped.items()},
        "reused": prepared.reused,
    }


def shown_windows(*words: str | Path, rows: int = 4) -> list[dict[str, Any]]:
    """The first windows of a run's training text, token by token: what is given, and what must be predicted."""
    settings = read_run(words)
    prepared, tokenizer = _text(settings)
    context = model_config(settings.model, tokenizer.vocab_size).context_length
    seen = windows(Tokens(prepared.train), context, settings.data.stride)
    return [asdict(row) for row in show_windows(seen, tokenizer, range(min(rows, len(seen))))]


def plan(*words: str | Path) -> dict[str, Any]:
    """What a run would be, without doing it: its settings, size, memory, and time by a measured matrix product."""
    from firsthand.training import device

    settings = read_run(words)
    shape = model_config(settings.model, _tokenizer(settings).vocab_size)
    train = settings.train
    arithmetic = device.choose(train.device, train.dtype, train.batch_size * shape.context_length, shape.d_model)
    return {
        "settings": configs.write(settings),
        **costs(settings, shape, arithmetic.gigaflops),
        "arithmetic": str(arithmetic),
    }


def costs(settings: RunConfig, shape: Any, gigaflops: float) -> dict[str, Any]:
    """Parameters, bytes and seconds of a run; the time takes half the measured speed of a product as a whole step's."""
    train = settings.train
    tokens = train.steps * train.batch_size * train.accumulate * shape.context_length
    operations = tokens * sizes.flops_per_token(shape, shape.context_length)
    return {
        "parameters": sizes.parameters(shape),
        "memory_bytes": sizes.memory(shape, train.batch_size, shape.context_length).total,
        "training_tokens": tokens,
        "operations": operations,
        "seconds_about": operations / (0.5e9 * gigaflops) if gigaflops else None,
    }


def train(
    *words: str | Path,
    resume: bool = False,
    track: str = "none",
    tell: Callable[[dict[str, Any]], None] | None = None,
    progress: Progress | None = None,
) -> Run:
    """Train the model that the words describe, and give its last checkpoint as a bundle.

    A folder that holds checkpoints is refused unless `resume`; then the run goes on, bit for bit as if never stopped.
    `tell` hears what the run will cost, and what became of the text, before it starts; `progress` hears (bytes done,
    bytes in all) while the text is encoded.
    """
    from firsthand.checkpoint import bundle
    from firsthand.objectives.pretrain import Pretrain
    from firsthand.training.fit import fit

    began = time.monotonic()
    settings = read_run(words)
    folder = Path(settings.out)
    agree(settings, folder, resume)
    prepared, tokenizer = _text(settings, 1, progress)
    assert prepared.validation is not None  # the fraction is above 0
    training, validation = Tokens(prepared.train), Tokens(prepared.validation)
    shape = model_config(settings.model, tokenizer.vocab_size)
    if tell is not None:
        tell({"text": settings.data.source, "split": prepared.split, **costs(settings, shape, 0)})
    fitted = fit(
        settings.train,
        _model(shape, settings),
        tokenizer,
        Pretrain(),
        windows(training, shape.context_length, settings.data.stride),
        windows(validation, shape.context_length),
        folder,
        start="resume" if resume else "new",
        tracker=track,
        about=_about(settings, training),
        evaluate=_evaluator(validation),
        sample=_sampler(settings, tokenizer, shape.context_length, validation) if settings.train.sample_every else None,
    )
    return Run(folder, bundle.load(fitted.path), _told(fitted), time.monotonic() - began)


def _text(settings: RunConfig, workers: int = 1, progress: Progress | None = None) -> tuple[Prepared, Any]:
    """The shards of a run's text, and their tokenizer; where several processes train, the first makes both."""
    folder = Path(settings.out)
    if os.environ.get("RANK", "0") != "0":
        return _made_by_first_rank(folder / "data")
    tokenizer = _tokenizer(settings)
    prepared = encode(
        [locate(settings.data.source)],
        tokenizer,
        folder / "data",
        reading=reading(settings),
        validation_fraction=settings.data.validation_fraction,
        seed=settings.train.seed,
        workers=workers,
        progress=progress,
    )
    return prepared, tokenizer


def reading(settings: RunConfig) -> Reading:
    """How the text is read; a row of the catalog knows itself what stands between its documents."""
    asked = settings.data.reading
    row = next((row for row in ROWS if row.name == settings.data.source), None)
    return replace(asked, separator=row.separator) if row and row.separator and not asked.separator else asked


def _tokenizer(settings: RunConfig) -> Any:
    """The tokenizer that exists, or one learned from the run's text; the text keeps the one it was encoded with."""
    chosen, made = settings.tokenizer, Path(settings.out) / "data" / "tokenizer.json"
    if chosen.source is not None:
        return Tokenizer.load(locate(chosen.source))
    if made.exists():
        return Tokenizer.load(made)
    return learn(chosen.kind, [locate(settings.data.source)], chosen.vocab_size, chosen.pattern)


def _made_by_first_rank(data: Path, seconds: float = 600) -> tuple[Prepared, Any]:
    """Wait until the first process has published the shards."""
    deadline = time.monotonic() + seconds
    while not (data / files.MANIFEST).exists():
        if time.monotonic() > deadline:
            raise DataError(
                f"rank 0 did not prepare {data} within {seconds:.0f} s. Prepare first: firsthand data prepare"
            )
        time.sleep(0.1)
    made = data / "train.tokens", data / "validation.tokens", data / "tokenizer.json"
    return Prepared(*made, Counts(), "", {}, reused=True), Tokenizer.load(data / "tokenizer.json")


def agree(settings: RunConfig | TuneConfig, folder: Path, resume: bool) -> None:
    """A folder holds one run: its config.toml is written at the start, and later words may change little of it."""
    note = folder / "config.toml"
    begun, text = bool(files.checkpoints(folder)), (folder / "data").exists()
    if note.exists() and (text or begun):
        before = configs.read(type(settings), [note])
        changed = [line for line in configs.differences(before, settings) if _matters(line, begun and resume)]
        if changed:
            raise ConfigError(
                f"{folder} was begun with other settings ({'; '.join(changed)[:120]}). "
                f"Choose another out=, or keep those of {note}",
                code=25,
            )
    if not begun and os.environ.get("RANK", "0") == "0":
        files.write_file(note, configs.write(settings))


def _matters(difference: str, resumed: bool) -> bool:
    """Whether a changed key makes it another run, or before the first checkpoint: another text."""
    key = difference.split(":")[0]
    return key not in MAY_CHANGE if resumed else key.startswith(("tokenizer.", "data."))


def _model(shape: Any, settings: RunConfig) -> Any:
    """The fresh model; its weights follow from the run's seed."""
    from firsthand.model.gpt import GPT

    model = GPT(shape)
    model.initialise(settings.train.seed)
    return model


def _about(settings: RunConfig, training: Tokens) -> dict[str, Any]:
    """What a checkpoint should say of its origin: the text by its hash, the settings as they were."""
    data = {"source": settings.data.source, "sha256": training.header.data_sha256, "tokens": len(training)}
    return {"objective": "pretrain", "data": data, "settings": configs.write(settings)}


def _evaluator(validation: Tokens) -> Any:
    """Held-out loss under the names of the metrics file; the text's bytes make it comparable between tokenizers."""
    from firsthand.evaluate.loss import validation_loss

    bytes_per_token = validation.header.text_bytes / max(1, len(validation))

    def evaluate(model: Any, rows: Sequence) -> dict[str, float]:
        found = validation_loss(model, rows, bytes_per_token=bytes_per_token)
        bits = {} if found.bits_per_byte is None else {"val/bpb": found.bits_per_byte}
        return {"eval/loss": found.loss, "eval/perplexity": found.perplexity, **bits}

    return evaluate


def _sampler(settings: RunConfig, tokenizer: Any, context: int, validation: Tokens) -> Any:
    """What the model continues while it learns, always with the same seed, so that only the model changes.

    Prompt and length are checked now, not at the first sample.
    """
    from firsthand.checkpoint.bundle import Bundle
    from firsthand.infer.generate import generate

    ask = settings.sample
    prompt = tokenizer.decode(validation.ids[: min(4, context // 2)]) if ask.prompt is None else ask.prompt
    room = context - max(1, len(tokenizer.encode(prompt)))
    length = min(SAMPLE, max(room, 1)) if ask.max_tokens is None else ask.max_tokens
    if length > room:
        raise ModelError(
            f"sample.prompt is {context - room} tokens, sample.max_tokens is {length}, the context is {context}. "
            f"Use sample.max_tokens={max(room, 1)} or less, a shorter prompt, or train.sample_every=0.",
            code=2,
        )
    top_k = min(ask.top_k, tokenizer.vocab_size)

    def sample(model: Any) -> str:
        bundle = Bundle(model, tokenizer, {}, Path(settings.out))
        return prompt + generate(bundle, prompt, length, ask.temperature, top_k)

    return sample


def _told(fitted: "Fitted") -> list[dict[str, Any]]:
    return [{"step": r.step, "loss": r.loss, "norm": r.norm, "seconds": r.seconds} for r in fitted.records]
