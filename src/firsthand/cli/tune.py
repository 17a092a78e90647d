"""The verbs that teach a model something, and use what it learned: finetune, classify."""

import sys
from typing import Any

from firsthand.cli import show
from firsthand.cli.meter import Meter, fetched


def finetune(model: str, *settings: str, resume: bool = False, dry_run: bool = False, track: str = "none") -> None:
    """Teach a model labels, answers or preferences, and test it: `firsthand finetune MODEL configs/instruct.toml`.

    The rows are looked at before the first step, and refused where they would teach the wrong thing. The test is of the
    model and of the untuned one, with intervals, and says what was forgotten.

    Parameters
    ----------
    model
        A run folder, a checkpoint, or a model of another program: a name, a folder, a file.
    settings
        TOML files and section.key=value, merged left to right: task.kind=instruct, data.source=FILE, out=runs/NAME.
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
            notes, dropped = planned.pop("notes", []), planned.pop("first_dropped", [])
            show.plan({name: _in_words(value) for name, value in planned.items()})
            for line in [*(f"dropped: {place}" for place in dropped), *(f"note  {note}" for note in notes)]:
                show.paragraph(line)
        else:
            _finished(tuning.finetune(*words, resume=resume, track=track, tell=_said, progress=progress))


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


def _said(what: str, facts: dict[str, Any]) -> None:
    """What became of the rows, what the run costs, and that it is tested now."""
    lines = {"rows": _rows, "cost": _cost, "test": _test}[what](facts)
    print("\n".join(map(show.safe, lines)), file=sys.stderr, flush=True)


def _rows(facts: dict[str, Any]) -> list[str]:
    return _conversations(facts) if "written_as" in facts else _labelled(facts)


def _labelled(facts: dict[str, Any]) -> list[str]:
    sides = "; ".join(
        f"{side} {facts[side]:,} ({_in_words(facts[f'{side}_labels'])})" for side in ("train", "validation", "test")
    )
    return [
        f"{facts['split']} split of {facts['rows']:,} rows: {sides}; {facts['left_out']:,} left out",
        f"{facts['duplicates']:,} duplicates; {facts['test_texts_also_in_training']:,} test texts are in training too",
    ]


def _conversations(facts: dict[str, Any]) -> list[str]:
    sides = "; ".join(f"{side} {facts[side]:,}" for side in ("train", "validation", "test"))
    ends, leaked = facts["answers_without_end"], facts["test_questions_also_in_training"]
    return [
        f"{facts['rows']:,} rows, by question: {sides}; {facts['dropped']:,} dropped, {facts['shortened']:,} shortened",
        f"written as {facts['written_as']}, at most {facts['tokens_at_most']:,} tokens; {facts['learned_share']:.1%} of"
        f" {facts['train_tokens']:,} learned, "
        + (f"{ends:,} answers without their end" if ends else "every answer with its end"),
        f"{facts['duplicates']:,} duplicates, {facts['nearly_the_same']:,} nearly; {leaked:,} test questions are in "
        "training too",
        *(f"      dropped: {place}" for place in facts["first_dropped"]),
        *(f"note  {note}" for note in facts["notes"]),
    ]


def _cost(facts: dict[str, Any]) -> list[str]:
    learned, of = facts["parameters_learned"], facts["parameters"]
    return [f"{learned:,} of {of:,} parameters learn{_trunk_in_words(facts)}{_time_in_words(facts)}"]


def _test(facts: dict[str, Any]) -> list[str]:
    return [f"testing on {facts['rows']:,} rows that were not learned from"]


def _trunk_in_words(facts: dict[str, Any]) -> str:
    tokens, size = facts["trunk_tokens"], facts["trunk_bytes"] / 1e6
    return f"; frozen layers read {tokens:,} tokens once ({size:,.0f} MB on disk)" if tokens else ""


def _time_in_words(facts: dict[str, Any]) -> str:
    seconds = facts["seconds_about"]
    return "" if seconds is None else f"; about {show.duration(seconds)}"


def _finished(done: Any) -> None:
    """The test in tables and sentences, what it cost, and what to do next."""
    labelled = done.report["task"] == "classify"
    (_labels_told if labelled else _talk_told)(done.report)
    show.paragraph(f"{done.report['steps']:,} steps, {show.duration(done.seconds)} in all")
    show.paragraph(f"model {done.bundle.path}   report {done.path / 'report.json'}")
    then = f"classify {done.path} 'You have won a prize'" if labelled else f"chat {done.path}"
    show.paragraph(f"next:  firsthand {then}")


def _labels_told(report: dict[str, Any]) -> None:
    """The test in a table, and the comparison in a sentence."""
    test = report["test"]
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


MEASURES = {  # key of the report -> its name, and how its numbers look
    "answer_loss": ("loss of the answers, nats a token", "{:.3f}", "{:+.3f}"),
    "exact_match": ("exactly the answer", "{:.1%}", "{:+.1%}"),
    "rouge_l": ("ROUGE-L of the answer", "{:.3f}", "{:+.3f}"),
    "tasks_solved": ("tasks solved", "{:.1%}", "{:+.1%}"),
    "loss": ("loss of the pairs", "{:.3f}", "{:+.3f}"),
    "reward_accuracy": ("pairs in order, against the untuned model", "{:.1%}", "{:+.1%}"),
    "reward_margin": ("reward margin", "{:.3f}", "{:+.3f}"),
    "chosen_likelier_per_token": ("chosen answer likelier, a token", "{:.1%}", "{:+.1%}"),
    "logps_chosen": ("log-probability of chosen answers, nats", "{:.1f}", "{:+.1f}"),
    "logps_rejected": ("log-probability of rejected answers, nats", "{:.1f}", "{:+.1f}"),
    "bits_per_byte": ("bits per byte of other text", "{:.4f}", "{:+.4f}"),
}


def _talk_told(report: dict[str, Any]) -> None:
    """Every measure on a line: the model, the untuned one, and whether they can be told apart."""
    found = report["test"] | report.get("forgetting", {})
    show.table([_measure(name, found[name]) for name in MEASURES if name in found])
    if report["test"].get("both_fell"):
        show.paragraph(
            "note  both kinds of answers became less likely; a lower rate, a larger task.beta, or task.loss=orpo holds "
            "the chosen ones up"
        )
    if "forgetting" in report:
        show.paragraph(f"other text: {report['forgetting']['text']}, {report['forgetting']['tokens']:,} tokens")


def _measure(name: str, found: dict[str, Any]) -> dict[str, Any]:
    title, form, signed = MEASURES[name]
    untuned, against = found.get("untuned"), found.get("model_against_untuned")
    return {
        "on the test part": title,
        "n": found["model"]["count"],
        "model": form.format(found["model"]["mean"]),
        "95 % interval": _between(form, found["model"]["interval_95"]),
        "untuned": form.format(untuned["mean"]) if untuned else "-",
        "difference": signed.format(against["difference"]) if against else "-",
        "its interval": _between(signed, against["interval_95"]) if against else "-",
        "the model is": against["verdict"] if against else "-",
    }


def _between(form: str, interval: list[float]) -> str:
    return " … ".join(form.format(end) for end in interval)


ALL = (finetune, classify)
