"""The verbs that teach a model something, and use what it learned: finetune, classify."""

import sys
from typing import Any

from firsthand.cli import show
from firsthand.cli.meter import Meter, fetched


def finetune(model: str, *settings: str, resume: bool = False, dry_run: bool = False, track: str = "none") -> None:
    """Teach a model to tell labels apart, and test it: `firsthand finetune smollm2-135m-instruct data.source=sms-spam`.

    Parameters
    ----------
    model
        A run folder, a checkpoint, or a model of another program: a name, a folder, a file.
    settings
        TOML files and section.key=value, merged left to right: task.kind=classify, data.source=FILE, out=runs/NAME.
    resume
        Go on from the newest checkpoint of the folder; the rest of the run is bit for bit what it would have been.
    dry_run
        Print the resolved settings, what becomes of the rows, and what the run costs, and stop.
    track
        none, tensorboard, mlflow, or a module shaped like wandb: wandb, trackio, swanlab.
    """
    from firsthand.run import finetune as tuning

    words = [*settings, f"model={model}"]
    with Meter() as meter:

        def progress(what: str, done: int, total: int) -> None:
            meter.of(what, done, total)
            if done == total:
                meter.__exit__()  # the terminal belongs to training from here on

        if dry_run:
            planned = tuning.plan(*words, progress=progress)
            show.plan({name: _in_words(value) for name, value in planned.items()})
        else:
            _finished(tuning.finetune(*words, resume=resume, track=track, tell=_forecast, progress=progress))


def classify(source: str, text: str = "", *, device: str = "cpu", json: bool = False) -> None:
    """Say what a text is, and how likely each label is, with a model that `firsthand finetune` taught.

    Parameters
    ----------
    source
        The run, or a checkpoint of it.
    text
        The text; '-' or nothing reads standard input.
    device
        cpu, cuda or mps.
    json
        Print {"text", "label", "probabilities", "cut"}.
    """
    from firsthand.run import classify as labelling

    text = show.text_or_stdin(text)
    fetched(source)
    (found,) = labelling.classify(source, [text], device)
    if json:
        show.as_one_object(found)
        return
    for label, chance in found["probabilities"].items():
        show.paragraph(f"{chance:>7.2%}  {label}")
    if found["cut"]:
        print("the text is longer than what the model reads; only its beginning was used", file=sys.stderr)


def _in_words(value: Any) -> Any:
    """Counts by label as a phrase: {"ham": 3, "spam": 4} -> "ham 3, spam 4"."""
    return ", ".join(f"{name} {count:,}" for name, count in value.items()) if isinstance(value, dict) else value


def _forecast(facts: dict[str, Any]) -> None:
    """What became of the rows and what the run costs, before it starts."""
    sides = "; ".join(
        f"{side} {facts[side]:,} ({_in_words(facts[f'{side}_labels'])})" for side in ("train", "validation", "test")
    )
    lines = [
        f"{facts['split']} split of {facts['rows']:,} rows: {sides}; {facts['left_out']:,} left out",
        f"{facts['duplicates']:,} duplicates; {facts['test_texts_also_in_training']:,} test texts are in training too",
        f"{facts['parameters_learned']:,} of {facts['parameters']:,} parameters learn"
        f"{_trunk_in_words(facts)}{_time_in_words(facts)}",
    ]
    print("\n".join(lines), file=sys.stderr, flush=True)


def _trunk_in_words(facts: dict[str, Any]) -> str:
    tokens, size = facts["trunk_tokens"], facts["trunk_bytes"] / 1e6
    return f"; frozen layers read {tokens:,} tokens once ({size:,.0f} MB on disk)" if tokens else ""


def _time_in_words(facts: dict[str, Any]) -> str:
    seconds = facts["seconds_about"]
    return "" if seconds is None else f"; about {show.duration(seconds)}"


def _finished(done: Any) -> None:
    """The test in a table, the comparison in a sentence, and what to do next."""
    test = done.report["test"]
    names = {"model": "model", "bag_of_words": "bag of words", "majority": "majority"}
    rows = [
        {
            "tested on": f"{test[key]['count']:,} texts",
            "by": name,
            "accuracy": f"{test[key]['accuracy']:.1%}",
            "95 % interval": "{:.1%} … {:.1%}".format(*test[key]["interval_95"]),
            "calibration error": f"{test[key]['calibration_error']:.3f}",
        }
        for key, name in names.items()
    ]
    show.table(rows)
    show.table(
        {
            "label": score["label"],
            "texts": score["count"],
            "precision": score["precision"],
            "recall": score["recall"],
            "f1": score["f1"],
            "f1 interval": list(score["f1_interval"]),
        }
        for score in test["model"]["labels"]
    )
    other = test["model_against"]["bag_of_words"]
    low, high = other["interval_95"]
    show.paragraph(
        f"model against bag of words: {100 * other['difference']:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}], "
        f"McNemar p {other['p_mcnemar']:.2g}: {other['verdict']}"
    )
    show.paragraph(f"{done.report['steps']:,} steps, {show.duration(done.seconds)} in all")
    show.paragraph(f"model {done.bundle.path}   report {done.path / 'report.json'}")
    show.paragraph(f"next:  firsthand classify {done.path} 'You have won a prize'")


ALL = (finetune, classify)
