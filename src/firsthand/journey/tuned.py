"""The stages that teach the real model: labels, answers, how small an adapter may be, what to learn, what to prefer.

Each works on a few rows, written to OUT/tuned, so that two CPU cores need about a minute; the full runs are in
configs/. Turns are written plainly, for a template would be most of what is read. Checkpoints go when a stage is done.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from firsthand import files
from firsthand.data.tasks import Part, Task, right, tasks
from firsthand.errors import DownloadError
from firsthand.run.finetune import finetune
from firsthand.run.text import locate, sample_text
from firsthand.run.verdict import AGAINST, gained, share
from firsthand.study.lora_rank import lora_rank
from firsthand.study.mask import mask
from firsthand.study.runs import read_lines
from firsthand.study.spam import FRAME
from firsthand.study.study import Study, carry_out

MESSAGES, PREFERRED, GENERAL = "sms-spam", "preference-data", "pydocs"
EVERY = 4  # of the messages one in so many
LETTERS = 4_000  # of general text, on which is measured what was forgotten
PLAIN = ("task.style=plain", "train.batch_size=8", "train.eval_every=0")
ADAPTERS = ("task.thaw=lora", "lora.rank=8", "train.warmup=2")

SPAM = (
    "task.kind=classify",
    "task.thaw=block",
    FRAME,
    "data.split=leak-free",
    "data.balance=all",
    "data.test_fraction=0.3",
    "data.longest=48",
    "train.steps=40",
    "train.warmup=4",
    "train.eval_every=0",
)
ANSWERS = (
    "task.kind=instruct",
    *PLAIN,
    *ADAPTERS,
    "task.asked=23",
    "task.answer_tokens=12",
    "train.steps=10",
    "train.learning_rate=1e-3",
    "train.min_learning_rate=1e-4",
)
RANKS: tuple[str, ...] = ("task.tested=46",)
MASK: tuple[str, ...] = ("task.style=plain", "task.tested=46")
PAIRS = (
    "task.kind=prefer",
    *PLAIN,
    *ADAPTERS,
    "data.longest=96",
    "train.steps=16",
    "train.learning_rate=3e-4",
    "train.min_learning_rate=3e-5",
)
PAIR_COUNTS: dict[Part, int] = {"train": 64, "validation": 8, "test": 24}
TASK_COUNTS: dict[Part, int] = {"train": 24, "validation": 1, "test": 4}  # of every kind


def classify(out: Path) -> dict[str, Any]:
    """The real model learns to tell spam from ham, beside a bag of words that learned from the same messages."""
    lines = files.read_text(_file(MESSAGES)).splitlines(keepends=True)
    some = out / "tuned" / "messages.tsv"
    files.write_file(some, "".join([lines[0], *lines[1::EVERY]]))
    report, folder = taught(out, "classify", (*SPAM, f"data.source={some}"))
    test = report["test"]
    test.pop("examples")
    names = {"model": "the model", "bag_of_words": "a bag of words", "majority": "always the commoner label"}
    said = [
        f"{name:<26} {test[key]['accuracy']:.1%} right {_interval(test[key]['interval_95'], '.1%')}"
        for key, name in names.items()
    ]
    against = test["model_against"]["bag_of_words"]
    return {
        "lines": [
            f"{report['rows']['train']} messages to learn from, {report['rows']['test']} to test: one in {EVERY} "
            "of the real ones, as many of each label",
            *said,
            f"against the bag of words {against['difference']:+.1%} {_interval(against['interval_95'], '+.1%')}, "
            f"McNemar p = {against['p_mcnemar']:.2g}: {against['verdict']}",
        ],
        "names": names,
        "test": test,
        "records": read_lines(folder / "metrics.jsonl"),
    }


def instruct(out: Path) -> dict[str, Any]:
    """Adapters learn to answer tasks that a program can check; the untuned model is asked the same."""
    words = (*ANSWERS, f"data.source={_some_tasks(out)}", f"data.general={_general(out)}")
    report, folder = taught(out, "instruct", words)
    asked, known = read_lines(folder / "answers.jsonl"), {task.question: task for task in tasks("test")}
    solved = {
        who: np.array([right(known[one["question"]], one[who]) for one in asked], float) for who in ("model", "untuned")
    }
    loss = report["test"]["answer_loss"]
    scores = {
        "answer_loss": {who: loss[who] for who in solved} | {AGAINST: loss[AGAINST]},
        "tasks_solved": {who: share(its) for who, its in solved.items()} | {AGAINST: gained(*solved.values())},
    }
    shown = [one | {"solved": bool(good)} for one, good in zip(asked, solved["model"], strict=True)]
    said = [
        f"{name.replace('_', ' ')}: {its['untuned']['mean']:.3f} untuned, {its['model']['mean']:.3f} tuned, difference "
        f"{its[AGAINST]['difference']:+.3f} {_interval(its[AGAINST]['interval_95'], '+.3f')}, {its[AGAINST]['verdict']}"
        for name, its in scores.items()
    ]
    return {
        "lines": [
            f"{report['cost']['parameters_learned']:,} numbers learn, in {report['steps']} steps; "
            f"{len(asked)} tasks are asked that no training row resembles",
            *said,
        ],
        "scores": scores,
        "asked": shown,
        "learned": report["cost"]["parameters_learned"],
        "records": read_lines(folder / "metrics.jsonl"),
    }


def ranks(out: Path) -> dict[str, Any]:
    """How many ranks an adapter needs: the short form of the study lora-rank."""
    words = (f"model={out / 'real'}", f"data.source={_some_tasks(out)}", *RANKS)
    return _studied(out, "ranks", words, lora_rank(words, [1], "short"))


def masked(out: Path) -> dict[str, Any]:
    """Whether the questions shall be learned too: the short form of the study mask."""
    words = (f"model={out / 'real'}", f"data.source={_some_tasks(out)}", *MASK)
    return _studied(out, "mask", words, mask(words, [1], "short"))


def preferences(out: Path) -> dict[str, Any]:
    """Of two answers the model learns to find one likelier than the other, by DPO."""
    folder, what = _pairs(out)
    words = (*PAIRS, f"data.source={folder}", f"data.general={_general(out)}")
    report, run = taught(out, "preferences", words)
    test = report["test"]
    accuracy, margin = test["reward_accuracy"]["model"], test["reward_margin"]["model"]
    return {
        "lines": [
            f"{report['rows']['train']} pairs to learn from, {report['rows']['test']} to test: {what}",
            f"the chosen answer gained more in {accuracy['mean']:.1%} of the test pairs "
            f"{_interval(accuracy['interval_95'], '.1%')}; margin {margin['mean']:.3f} "
            f"{_interval(margin['interval_95'], '.3f')}, nothing before",
            *(
                f"log-probability of the {name} answers: {its['untuned']['mean']:.2f} before, "
                f"{its['model']['mean']:.2f} after"
                for name, its in (("chosen", test["logps_chosen"]), ("rejected", test["logps_rejected"]))
            ),
        ],
        "pairs": what,
        "accuracy": accuracy,
        "margin": margin,
        "records": read_lines(run / "metrics.jsonl"),
    }


def _interval(ends: Sequence[float], how: str) -> str:
    return f"[{ends[0]:{how}}, {ends[1]:{how}}]"


def _folder(out: Path, name: str, words: Sequence[str]) -> Path:
    """Where a stage works: one folder for its settings; one that ended before is begun anew."""
    made = out / "tuned" / f"{name}-{hashlib.sha256(repr(words).encode()).hexdigest()[:8]}"
    if (made / "report.json").exists():
        files.discard(made)
    return made


def taught(out: Path, name: str, words: Sequence[str]) -> tuple[dict[str, Any], Path]:
    """The report of a run and its folder, gone on with if it was stopped; of its files the checkpoints go."""
    folder = _folder(out, name, words)
    resume = files.newest(folder)[0] is not None
    report = finetune(f"model={out / 'real'}", f"out={folder}", *words, resume=resume).report
    for checkpoint in files.checkpoints(folder):
        files.discard(checkpoint)
    return json.loads(json.dumps(report)), folder


def _studied(out: Path, name: str, words: Sequence[str], study: Study) -> dict[str, Any]:
    """A ready study in its short form; its cells delete their own checkpoints."""
    command = f"firsthand study {study.name} --size short --seeds 1 {' '.join(words)}"
    _, told = carry_out(study, _folder(out, name, words), command)
    return {"lines": [told["verdict"]], "question": study.question, "told": told}


def _file(name: str) -> Path:
    """The one file of a source."""
    path = locate(name)
    return path if path.is_file() else next(file for file in sorted(path.iterdir()) if file.name != files.MANIFEST)


def _general(out: Path) -> Path:
    """The end of a text that nothing is learned from."""
    path = out / "tuned" / "general.txt"
    files.write_file(path, sample_text([locate(GENERAL)])[-LETTERS:])
    return path


def _some_tasks(out: Path) -> Path:
    """A folder with tasks of every kind; the parts are those of the catalog, only shorter."""
    folder = out / "tuned" / "tasks"
    for part, count in TASK_COUNTS.items():
        rows = [{"instruction": task.question, "input": "", "output": task.answer} for task in _some(part, count)]
        _write(folder / f"{part}.jsonl", rows)
    return folder


@cache
def _some(part: Part, count: int) -> list[Task]:
    """So many tasks of every kind."""
    by_kind: dict[str, list[Task]] = {}
    for task in tasks(part):
        by_kind.setdefault(task.kind, []).append(task)
    return [task for its in by_kind.values() for task in its[:count]]


def _pairs(out: Path) -> tuple[Path, str]:
    """A folder with pairs, and what they are: short ones of the catalog, or made of tasks where it has none to give."""
    folder = out / "tuned" / "pairs"
    try:
        found = json.loads(files.read_text(_file(PREFERRED)))
        rows, what = _short_pairs(found), f"the shortest of {PREFERRED}, a polite answer and a rude one"
    except DownloadError as error:
        rows = {part: made_pairs(part, count) for part, count in PAIR_COUNTS.items()}
        reason = str(error).partition(". ")[0]
        what = f"made of tasks, the right answer and that of another task of its kind ({PREFERRED}: {reason})"
    for part, its in rows.items():
        _write(folder / f"{part}.jsonl", its)
    return folder, what


def _short_pairs(found: list[dict[str, str]]) -> dict[Part, list[dict[str, str]]]:
    """The shortest pairs with different questions, every part from all lengths."""
    keys = ("instruction", "input", "chosen", "rejected")
    by_question = {(row["instruction"], row["input"]): {key: row[key] for key in keys} for row in found}
    able = [row for row in by_question.values() if row["chosen"] != row["rejected"]]
    able = sorted(able, key=lambda row: sum(map(len, row.values())))[: sum(PAIR_COUNTS.values())]
    order, parts, first = np.random.default_rng(0).permutation(len(able)), {}, 0
    for part, count in PAIR_COUNTS.items():
        parts[part] = [able[at] for at in order[first : first + count]]
        first += count
    return parts


def made_pairs(part: Part, count: int) -> list[dict[str, str]]:
    """Pairs of tasks: chosen is the right answer, rejected that of another task of the same kind, never equal to it."""
    made = []
    for task in tasks(part):
        others = [one for one in tasks(part) if one.kind == task.kind and not right(task, one.answer)]
        if others:
            wrong = others[len(made) % len(others)]
            made.append({"prompt": task.question, "chosen": task.answer, "rejected": wrong.answer})
    return [made[at * len(made) // count] for at in range(count)]


def _write(path: Path, rows: Sequence[dict[str, str]]) -> None:
    files.write_file(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
