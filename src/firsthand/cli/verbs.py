"""The verbs: each reads its words, calls one function of run, study or journey, and shows what comes back.

Results go to stdout (`--json`: one JSON object, stable keys), progress to stderr; only verbs that compute import torch.
"""

from pathlib import Path

from cyclopts import App

from firsthand.cli import audit, look, models, quantize, show, speak, study, tune
from firsthand.cli.explanations import EXPLANATIONS
from firsthand.cli.meter import Meter, fetched
from firsthand.errors import ConfigError, nearest

tokenizer = App(name="tokenizer", help="Train a tokenizer on your own text, or compare several on one text.")
data = App(name="data", help="Turn text into token shards, check data for fine-tuning, look at what a model will see.")
data.command(audit.check)
data.command(audit.mask)


def journey(*, out: Path = Path("runs/journey"), fresh: bool = False) -> None:
    """The whole way on this machine: tokenizer, data, attention, GPT, pretraining, generation, report.

    Interrupt it at any time; the same command goes on where it stopped, and is instant where nothing changed.

    Parameters
    ----------
    out
        The folder that holds every result, and report.html at the end.
    fresh
        Forget earlier results (they are moved aside, not deleted) and begin again.
    """
    from firsthand.journey.walk import walk

    show.written(walk(out, fresh=fresh, tell=show.stage))


def get(name: str = "", *, force: bool = False) -> None:
    """Fetch a data set or tokenizer by name, check its SHA-256, and say where it lies; without a name, list them.

    Parameters
    ----------
    name
        A row of the catalog, such as tiny-shakespeare.
    force
        Fetch it again even if it is already here.
    """
    from firsthand.run import text as texts

    if not name:
        show.table(texts.catalog_rows())
        return
    with Meter() as meter:
        fetched = texts.fetch(name, force=force, progress=meter.of)
    show.facts(fetched)


def tokenize(text: str = "", *, tokenizer: str = "", json: bool = False, steps: bool = False) -> None:
    """Show a text as tokens: coloured chips, ids, bytes per token, and with --steps how each word was merged.

    Parameters
    ----------
    text
        The text; '-' or nothing reads standard input.
    tokenizer
        A folder or file with a tokenizer, or a catalog name; by default one trained on the embedded corpus.
    json
        Print {"ids": [...], "tokens": [...]} and nothing else.
    steps
        Show the merges, one line a step.
    """
    from firsthand.run import text as texts

    show.tokens(texts.tokenized(show.text_or_stdin(text), tokenizer, steps=steps), as_json=json)


@tokenizer.command(name="train")
def tokenizer_train(
    *sources: str,
    out: Path = Path("runs/tokenizer"),
    vocab_size: int = 4096,
    pattern: str = "gpt2",
    kind: str = "bpe",
) -> None:
    """Learn a tokenizer from text files, folders, or a catalog name, and write OUT/tokenizer.json.

    Parameters
    ----------
    sources
        Files, folders or catalog names; by default the embedded corpus, pydocs.
    out
        The folder to write.
    vocab_size
        Tokens in the vocabulary, special tokens included.
    pattern
        How text is cut into words first: gpt2, cl100k, llama3, qwen2 or smollm.
    kind
        bpe, word or char.
    """
    from firsthand.run import text as texts

    show.facts(texts.train_tokenizer(sources or ("pydocs",), out, vocab_size, pattern, kind))


@tokenizer.command(name="compare")
def tokenizer_compare(*tokenizers: str, text: str = "pydocs", json: bool = False) -> None:
    """Compare tokenizers on one text: tokens, bytes per token, words kept whole, speed.

    Parameters
    ----------
    tokenizers
        Folders, files or catalog names.
    text
        A text file, folder, or catalog name to tokenize.
    json
        Print the rows as JSON.
    """
    from firsthand.run import text as texts

    show.rows_or_json(texts.compare_tokenizers(tokenizers, text), as_json=json)


@data.command(name="prepare")
def data_prepare(*settings: str, workers: int = 1) -> None:
    """Write the token shards that `firsthand train` with the same settings would read.

    Parameters
    ----------
    settings
        TOML files and section.key=value, merged left to right, such as data.source=my-folder out=runs/mine.
    workers
        Processes that encode side by side.
    """
    from firsthand.run import train as training

    with Meter() as meter:
        prepared = training.prepare(*settings, workers=workers, progress=meter)
    show.facts(prepared)


@data.command(name="show")
def data_show(*settings: str, rows: int = 4, json: bool = False) -> None:
    """Show the rows a model will be trained on: inputs, and the token each position must predict.

    Parameters
    ----------
    settings
        The settings of the run, as for `firsthand train`.
    rows
        How many rows.
    json
        Print the rows as JSON.
    """
    from firsthand.run import train as training

    show.windows(training.shown_windows(*settings, rows=rows), as_json=json)


def train(
    *settings: str,
    resume: bool = False,
    dry_run: bool = False,
    track: str = "none",
    nproc: int = 1,
    report: bool = True,
) -> None:
    """Pretrain a GPT: `firsthand train configs/shakespeare-char-fast.toml train.steps=200`.

    Parameters
    ----------
    settings
        TOML files and section.key=value, merged left to right; the folder is out=runs/NAME.
    resume
        Go on from the newest checkpoint of the folder; the rest of the run is bit for bit what it would have been.
    dry_run
        Print the resolved settings with parameters, memory and time, and stop.
    track
        none, tensorboard, mlflow, or a module shaped like wandb: wandb, trackio, swanlab.
    nproc
        Processes that train together, each on its share of every batch.
    report
        Write report.html into the folder at the end.
    """
    from firsthand.run import train as training

    if dry_run:
        show.plan(training.plan(*settings))
    elif nproc > 1:
        show.launch(nproc, "train", *settings, *["--resume"] * resume, "--track", track)
    else:
        meter = Meter()
        tell = meter.then(show.forecast)
        finished = training.train(*settings, resume=resume, track=track, tell=tell, progress=meter)
        if show.first_rank():
            show.finished(finished)
            if report:
                from firsthand.study import report as pages

                show.written(pages.run_report(finished.path))


def evaluate(source: str, *, data: str = "", json: bool = False) -> None:
    """Loss and bits per byte on held-out text, with a 95 % interval and the baselines beside it.

    Parameters
    ----------
    source
        A run folder, a checkpoint, or any other model that can be loaded.
    data
        A text file, folder, or catalog name; by default the run's own validation split.
    json
        Print the numbers as JSON.
    """
    from firsthand.run import use

    fetched(source)
    show.facts(use.evaluate(source, data), as_json=json)


def info(source: str, *, json: bool = False) -> None:
    """What a model is: shape, parameters, memory, tokenizer, lineage, and whether its hashes hold.

    Parameters
    ----------
    source
        A run folder, a checkpoint, or any other model that can be loaded.
    json
        Print it as JSON.
    """
    from firsthand.run import use

    fetched(source)
    show.facts(use.info(source), as_json=json)


def report(source: Path) -> None:
    """Write report.html into a run folder: curves, samples over time, throughput, settings.

    Parameters
    ----------
    source
        A run folder.
    """
    from firsthand.study import report as pages

    show.written(pages.run_report(source))


def explain(code: str) -> None:
    """Say more about an error: `firsthand explain FH033`.

    Parameters
    ----------
    code
        The number in brackets at the end of an error message.
    """
    text = EXPLANATIONS.get(code.upper())
    if text is None:
        raise ConfigError(f"no error has the number {code!r}.{nearest(code.upper(), EXPLANATIONS)} Example: FH033.")
    show.paragraph(text)


ALL = (
    journey,
    get,
    tokenize,
    tokenizer,
    data,
    train,
    *tune.ALL,
    *study.ALL,
    speak.generate,
    speak.chat,
    evaluate,
    look.prove,
    look.inspect,
    info,
    *models.ALL,
    *quantize.ALL,
    report,
    explain,
)
