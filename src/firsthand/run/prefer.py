"""Answers that are preferred to others: pairs for a fine-tuning run, and what the model is worth afterwards."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from firsthand.run.text import locate
from firsthand.run.tuning import TuneConfig
from firsthand.run.verdict import AGAINST, amount, gained, lower, share

if TYPE_CHECKING:
    from firsthand.checkpoint.bundle import Bundle
    from firsthand.objectives.preference import Preference

BATCH = 4  # pairs judged at once


class Preferring:
    """The task `prefer`."""

    def __init__(self, settings: TuneConfig):
        self.settings = settings
        for source in filter(None, (settings.data.source, settings.data.validation, settings.data.test)):
            locate(source)  # before a model is loaded

    def examples(self, bundle: "Bundle") -> dict[str, list[Any]]:
        """The pairs of all parts as (chosen, rejected), each (ids, mask)."""
        from firsthand.run.talks import Talks

        self.talks = Talks(self.settings, bundle, "preference")
        return self.talks.rows()

    def facts(self) -> dict[str, Any]:
        """What became of the rows."""
        return self.talks.facts()

    def refuse(self) -> None:
        """A DataError where training must not begin."""
        self.talks.audit.refuse()

    def objective(self) -> "Preference":
        from firsthand.objectives.preference import Preference

        task = self.settings.task
        return Preference(task.loss, task.beta, task.smoothing, task.margin, task.thaw, self.settings.data.pack)

    def begin(self, objective: "Preference", model: Any, rows: Sequence) -> None:
        """Refuse where the reference is not what it should be."""
        objective.check(model, objective.collate(rows[:BATCH]).to(model.embed.weight.device))

    def speaks(self) -> tuple[str | None, list[int]]:
        """How the model is spoken to from now on, and what ends its answers."""
        return self.talks.chat.jinja, list(self.talks.chat.ends)

    def evaluate(self, objective: "Preference", model: Any, rows: Sequence) -> dict[str, float]:
        """Loss, rewards and log-probabilities on the validation part, under the names of the metrics file."""
        from firsthand.training.fit import held_out

        return held_out(objective, self.settings.train.batch_size)(model, rows)

    def report(self, tuned: "Bundle", load: Callable[[], "Bundle"], rows: Sequence) -> dict[str, Any]:
        """The test part, by the model and by the untuned one, and what became of other text."""
        untuned = load()
        return {
            "test": pairs(self.objective(), tuned, untuned, rows),
            "forgetting": self.talks.general.forgotten(tuned, untuned),
            "preflight": self.talks.audit.facts(),
        }


def pairs(objective: "Preference", tuned: "Bundle", untuned: "Bundle", rows: Sequence) -> dict[str, Any]:
    """How both models order pairs, the untuned one as the reference; nats are of whole answers."""
    from firsthand.objectives.preference import REFERENCE

    (after, tokens), (before, _) = (said(objective, bundle, rows) for bundle in (tuned, untuned))
    rewards = objective.beta * (after - before)  # (2, P): of the chosen answers, of the rejected ones
    margins = rewards[0] - rewards[1]
    base = before if objective.kind in REFERENCE else None
    lost = {name: lossy(objective, its, base, tokens) for name, its in (("model", after), ("untuned", before))}
    likelier = {
        name: np.array(its[0] / tokens[0] > its[1] / tokens[1], float)
        for name, its in (("model", after), ("untuned", before))
    }
    return {
        "loss": {name: amount(its) for name, its in lost.items()} | {AGAINST: lower(lost["model"], lost["untuned"])},
        "reward_accuracy": {"model": share(np.array(margins > 0, float))},
        "reward_margin": {"model": amount(margins)},
        "chosen_likelier_per_token": {name: share(its) for name, its in likelier.items()}
        | {AGAINST: gained(likelier["model"], likelier["untuned"])},
        **{
            f"logps_{name}": {"model": amount(its), "untuned": amount(was), AGAINST: verdict(its, was)}
            for (name, verdict), its, was in zip((("chosen", gained), ("rejected", lower)), after, before, strict=True)
        },
        "examples": {"loss": lost["model"].tolist(), "reward_accuracy": np.array(margins > 0, int).tolist()},
        "both_fell": bool((after.mean(axis=1) < before.mean(axis=1)).all()),
    }


def said(objective: "Preference", bundle: "Bundle", rows: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """The log-probability of every answer, in nats, and its tokens: (2, P) twice, the chosen answers first."""
    import torch

    from firsthand.infer.draw import evaluating
    from firsthand.objectives.preference import answer_logps

    found, tokens = [], []
    with torch.inference_mode(), evaluating(bundle.model):
        for first in range(0, len(rows), BATCH):
            batch = objective.collate(rows[first : first + BATCH]).to(bundle.model.embed.weight.device)
            found.append(answer_logps(bundle.model, batch).double().cpu().view(2, -1))
            tokens.append(batch.learned.cpu().view(2, -1))
    return torch.cat(found, dim=1).numpy(), torch.cat(tokens, dim=1).numpy()


def lossy(objective: "Preference", logps: np.ndarray, base: np.ndarray | None, tokens: np.ndarray) -> np.ndarray:
    """The loss of every pair, from log-probabilities of answers: (2, P) -> (P,)."""
    import torch

    reference = None if base is None else torch.from_numpy(base)
    scores = objective.scores(torch.from_numpy(logps), reference, torch.from_numpy(tokens))
    return objective.each(scores[0], scores[1]).numpy()
