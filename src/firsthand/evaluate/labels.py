"""How good a classifier is: every number with its 95 % interval, beside what needs no language model.

E examples, N labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from firsthand.evaluate.stats import Interval, resampled, wilson
from firsthand.infer.draw import evaluating
from firsthand.linear.labels import labels_of
from firsthand.model.gpt import GPT
from firsthand.objectives.classify import Classify

BINS = 10  # of probability, for the calibration


@dataclass(frozen=True)
class LabelScore:
    """One label against the rest."""

    label: str
    count: int  # examples that have it
    precision: float  # of those called so, the share that is so
    precision_interval: Interval
    recall: float  # of those that are so, the share that is called so
    recall_interval: Interval
    f1: float  # harmonic mean of both
    f1_interval: Interval


@dataclass(frozen=True)
class Classification:
    """All that is to be said of predictions on one test set."""

    count: int
    accuracy: float
    interval: Interval
    labels: list[LabelScore]
    confusion: list[list[int]]  # (N, N): how many that are row's label were called column's
    calibration_error: float  # how far stated certainty and the share that is right are apart
    calibration_interval: Interval
    bins: list[tuple[float, float, int]]  # mean certainty, share right, examples; empty ones left out


@torch.inference_mode()
def probabilities(
    model: GPT, rows: Sequence[Sequence[int]], objective: Classify | None = None, batch_size: int = 16
) -> np.ndarray:
    """How likely each label is, for rows of ids: (E, N); computed by length, given back in order.

    An `objective` with a trunk that knows the rows spares the frozen layers.
    """
    objective, device = objective or Classify(labels_of(model)), model.embed.weight.device
    order = sorted(range(len(rows)), key=lambda at: len(rows[at]))
    found = np.zeros((len(rows), len(objective.labels)))
    with evaluating(model):
        for first in range(0, len(rows), batch_size):
            some = order[first : first + batch_size]
            batch = objective.collate([(rows[at], 0) for at in some]).to(device)
            found[some] = objective.scores(model, batch).softmax(dim=1).cpu().numpy()
    return found


def classification(probabilities: np.ndarray, targets: np.ndarray, labels: Sequence[str]) -> Classification:
    """Measure probabilities (E, N) against the true labels (E,)."""
    called, right = probabilities.argmax(axis=1), probabilities.argmax(axis=1) == targets
    certain, count = probabilities.max(axis=1), len(targets)
    confusion = np.zeros((len(labels), len(labels)), dtype=int)
    np.add.at(confusion, (targets, called), 1)
    return Classification(
        count=count,
        accuracy=float(right.mean()),
        interval=wilson(int(right.sum()), count),
        labels=[_label_score(label, at, called, targets) for at, label in enumerate(labels)],
        confusion=confusion.tolist(),
        calibration_error=calibration_error(certain, right),
        calibration_interval=resampled(lambda drawn: calibration_error(certain[drawn], right[drawn]), count),
        bins=[
            (float(certain[inside].mean()), float(right[inside].mean()), int(inside.sum())) for inside in _bins(certain)
        ],
    )


def _label_score(label: str, at: int, called: np.ndarray, targets: np.ndarray) -> LabelScore:
    said, is_so = called == at, targets == at
    both = int((said & is_so).sum())

    def f1(drawn: np.ndarray) -> float:
        return float(2 * (said & is_so)[drawn].sum() / max(1, said[drawn].sum() + is_so[drawn].sum()))

    return LabelScore(
        label=label,
        count=int(is_so.sum()),
        precision=both / max(1, int(said.sum())),
        precision_interval=_share(both, int(said.sum())),
        recall=both / max(1, int(is_so.sum())),
        recall_interval=_share(both, int(is_so.sum())),
        f1=f1(np.arange(len(targets))),
        f1_interval=resampled(f1, len(targets)),
    )


def _share(successes: int, total: int) -> Interval:
    """Wilson's interval; where nothing was counted, nothing is known."""
    return wilson(successes, total) if total else Interval(0.0, 1.0)


def calibration_error(certain: np.ndarray, right: np.ndarray) -> float:
    """The gap between certainty (E,) and share right, averaged over examples, in BINS of certainty.

    0 means that of what is said with 80 % certainty, 80 % is right. Source: Naeini et al. 2015, ECE.
    """
    gaps = [abs(certain[inside].mean() - right[inside].mean()) * inside.mean() for inside in _bins(certain)]
    return float(sum(gaps))


def _bins(certain: np.ndarray) -> list[np.ndarray]:
    """Which examples fall into each bin that is not empty: (E,) of bool."""
    number = np.minimum((certain * BINS).astype(int), BINS - 1)
    return [number == one for one in np.unique(number)]
