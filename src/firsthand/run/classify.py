"""Texts into labels: the rows of a data set for a fine-tuning run, its honest report, and the use of what came out."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from firsthand import files
from firsthand.data.labelled import Columns, read
from firsthand.data.ledger import Counts
from firsthand.data.split import split
from firsthand.errors import CheckpointError, ConfigError
from firsthand.run.text import locate
from firsthand.run.tuning import TuneConfig

if TYPE_CHECKING:
    from firsthand.checkpoint.bundle import Bundle
    from firsthand.evaluate.labels import Classification
    from firsthand.objectives.classify import Classify, Reads

SIDES = ("train", "validation", "test")
READS = ("last", "first")
Example = tuple[list[int], int]


class Labelling:
    """The task `classify`: what is read and divided before a model is loaded, then everything a run asks for."""

    def __init__(self, settings: TuneConfig):
        data = settings.data
        self.settings, self.counts, self.cut = settings, Counts(), 0
        with TemporaryDirectory(prefix="firsthand-") as spool:
            columns = Columns(data.text, data.label, data.labels)
            sources = [locate(data.source)]
            self.texts, self.labels = read(sources, columns, Path(spool), data.reading, self.counts)
        self.split = split(
            self.texts,
            self.labels,
            data.split,
            data.balance,
            data.test_fraction,
            data.validation_fraction,
            data.seed,
        )

    def side(self, name: str) -> tuple[list[str], list[int]]:
        """The texts of a side, and their labels as numbers."""
        chosen = [self.texts[row] for row in getattr(self.split, name)]
        return [text.text for text in chosen], [self.labels.index(text.label) for text in chosen]

    @property
    def weights(self) -> tuple[float, ...]:
        """Of labels, by how rare they are in training; none where all count alike."""
        if self.settings.task.weights == "none":
            return ()
        counts = np.bincount(self.side("train")[1], minlength=len(self.labels))
        return tuple((1 / counts).tolist())

    def facts(self) -> dict[str, Any]:
        """What became of the rows."""
        by_label = {f"{side}_labels": self._by_label(side) for side in SIDES}
        return {"split": self.settings.data.split, **self.split.counts, **by_label, "cut_to_length": self.cut}

    def _by_label(self, side: str) -> dict[str, int]:
        return {self.labels[label]: count for label, count in sorted(Counter(self.side(side)[1]).items())}

    def objective(self) -> "Classify":
        from firsthand.objectives.classify import Classify

        task = self.settings.task
        return Classify(self.labels, task.thaw, self.weights, task.reads, self.settings.data.pack)

    def examples(self, bundle: "Bundle") -> dict[str, list[Example]]:
        """The rows of all sides as (ids, label)."""
        frame, longest = self.settings.task.frame, self.settings.data.longest
        made: dict[str, list[Example]] = {}
        for side in SIDES:
            texts, labels = self.side(side)
            rows = [framed(bundle, text, frame, longest) for text in texts]
            self.cut += sum(cut for _, cut in rows)
            made[side] = [(ids, label) for (ids, _), label in zip(rows, labels, strict=True)]
        return made

    def refuse(self) -> None:
        """What is wrong with the rows was said when they were read."""

    def begin(self, objective: "Classify", model: Any, rows: Sequence) -> None:
        """A new head says nothing yet that could be wrong."""

    def speaks(self) -> tuple[str | None, list[int] | None]:
        """A model of labels does not speak."""
        return None, None

    def evaluate(self, objective: "Classify", model: Any, rows: Sequence[Example]) -> dict[str, float]:
        """Loss and accuracy on the validation side, under the names of the metrics file."""
        from firsthand.evaluate.labels import probabilities

        found = probabilities(model, [ids for ids, _ in rows], objective)
        targets = np.array([label for _, label in rows])
        chances = found[np.arange(len(rows)), targets]
        loss = float(-np.log(np.maximum(chances, 1e-30)).mean())
        return {"eval/loss": loss, "eval/accuracy": float((found.argmax(axis=1) == targets).mean())}

    def report(self, tuned: "Bundle", load: Callable[[], "Bundle"], rows: Sequence[Example]) -> dict[str, Any]:
        """The test side: the model, two baselines of the same run, and whether they can be told apart.

        `examples` holds what every text scored, in the order of the test side: runs of one split can be compared by it.
        """
        from firsthand.evaluate.labels import classification, probabilities
        from firsthand.evaluate.stats import paired
        from firsthand.evaluate.words import BagOfWords, majority

        texts, labels = self.side("train")
        test, wanted = self.side("test")
        targets, count = np.array(wanted), len(self.labels)
        found = {
            "model": probabilities(tuned.model, [ids for ids, _ in rows], self.objective()),
            "bag_of_words": BagOfWords(texts, labels, count, self.weights).probabilities(test),
            "majority": majority(labels, len(test), count),
        }
        right = {name: (its.argmax(axis=1) == targets).astype(float) for name, its in found.items()}
        against = {name: paired(right["model"], right[name]) for name in ("bag_of_words", "majority")}
        test = {
            **{name: described(classification(its, targets, self.labels)) for name, its in found.items()},
            "model_against": {
                name: {
                    "difference": its.mean,
                    "interval_95": list(its.interval),
                    "p_mcnemar": its.p,
                    "verdict": its.verdict,
                }
                for name, its in against.items()
            },
            "examples": {
                "accuracy": right["model"].astype(int).tolist(),
                "loss": (-np.log(np.maximum(found["model"][np.arange(len(targets)), targets], 1e-30))).tolist(),
            },
        }
        return {"test": test}


def described(found: "Classification") -> dict[str, Any]:
    """A classification as plain numbers and words with stable names."""
    tree: dict[str, Any] = asdict(found)
    tree["interval_95"] = list(tree.pop("interval"))
    return tree


def classify(source: str | Path, texts: Sequence[str], device: str = "cpu") -> list[dict[str, Any]]:
    """The label of every text, by a model that was fine-tuned for it, and how likely each label is, likeliest first."""
    from firsthand.evaluate.labels import probabilities
    from firsthand.linear.labels import labels_of
    from firsthand.objectives.classify import Classify
    from firsthand.run.source import load
    from firsthand.training.device import pick

    bundle = load(source, str(pick(device)))
    labels, (frame, longest, reads) = labels_of(bundle.model), _as_taught(bundle)
    rows = [framed(bundle, text, frame, longest) for text in texts]
    found = probabilities(bundle.model, [ids for ids, _ in rows], Classify(labels, reads=reads))
    told = []
    for text, (_, cut), chances in zip(texts, rows, found.tolist(), strict=True):
        likeliest = sorted(zip(labels, chances, strict=True), key=lambda pair: -pair[1])
        told.append({"text": text, "label": likeliest[0][0], "probabilities": dict(likeliest), "cut": cut})
    return told


def _as_taught(bundle: "Bundle") -> tuple[str, int | None, "Reads"]:
    """Frame, longest text and place of reading of the run that taught it, from a file that may be anybody's."""
    frame, longest = bundle.about.get("frame", "{text}"), bundle.about.get("longest")
    reads = bundle.about.get("reads", "last")
    if (
        not isinstance(frame, str)
        or frame.count("{text}") != 1
        or not isinstance(longest, int | None)
        or reads not in READS
    ):
        raise CheckpointError(
            f"{files.shown(bundle.path)} has a frame, length or place of reading that is none; teach the model again"
        )
    return frame, longest, reads


def framed(bundle: "Bundle", text: str, frame: str, longest: int | None) -> tuple[list[int], bool]:
    """The ids of a text in its frame, behind the token that begins every text of the model; and whether it was cut.

    What does not fit is cut off the text, not off the frame: the model reads its answer at the last token.
    """
    most = min(longest or inf, bundle.model.config.context_length)
    begin = [] if bundle.tokenizer.begin is None else [bundle.tokenizer.begin]
    before, behind = frame.split("{text}")
    ids = begin + bundle.tokenizer.encode(before + text + behind).tolist()
    if len(ids) <= most:
        return ids, False
    head, body, tail = (bundle.tokenizer.encode(part).tolist() for part in (before, text, behind))
    room = int(most) - len(begin) - len(head) - len(tail)
    if room < 1:
        raise ConfigError(f"task.frame alone is {int(most) - room} tokens of the {most} that are read; shorten it")
    return begin + head + body[:room] + tail, True
