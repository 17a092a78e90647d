"""Answers to instructions: the rows of a data set for a fine-tuning run, and what the model is worth afterwards.

OUT/answers.jsonl    of the test questions that were asked: the answer wanted, the model's, the untuned model's
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from firsthand import files
from firsthand.data.tasks import Task, right, tasks
from firsthand.errors import ConfigError
from firsthand.run.text import locate
from firsthand.run.tuning import TuneConfig
from firsthand.run.verdict import AGAINST, amount, gained, lowered, share

if TYPE_CHECKING:
    from firsthand.checkpoint.bundle import Bundle
    from firsthand.data.examples import Example
    from firsthand.objectives.instruct import Instruct

TASKS = "tasks"  # the source whose answers a program can check


class Instructing:
    """The task `instruct`."""

    def __init__(self, settings: TuneConfig):
        self.settings = settings
        for source in filter(None, (settings.data.source, settings.data.validation, settings.data.test)):
            locate(source)  # before a model is loaded
        if settings.task.solve and self._checkable:
            raise ConfigError("task.solve asks tasks besides, and the test part is tasks already; use task.asked")

    def examples(self, bundle: "Bundle") -> dict[str, list[Any]]:
        """The rows of all parts as (ids, mask)."""
        from firsthand.run.talks import Talks

        self.talks = Talks(self.settings, bundle, "instruct", self.settings.task.learn)
        self._fitting(bundle.model.config.context_length)
        return self.talks.rows()

    def _fitting(self, context: int) -> None:
        """The tasks that are asked besides, as the model will read them; refused where they cannot be."""
        from firsthand.tokenizer.chat import Turn

        self.besides = evenly(tasks("test"), self.settings.task.solve)
        self.prompts = [self.talks.chat.prompt([Turn("user", one.question)]) for one in self.besides]
        if (longest := max(map(len, self.prompts), default=0)) > context:
            raise ConfigError(
                f"task.solve={len(self.besides)} asks tasks of up to {longest} tokens, and the context has {context}; "
                "use task.solve=0"
            )

    def facts(self) -> dict[str, Any]:
        """What became of the rows."""
        return self.talks.facts()

    def refuse(self) -> None:
        """A DataError where training must not begin."""
        self.talks.audit.refuse()

    def objective(self) -> "Instruct":
        from firsthand.objectives.instruct import Instruct

        return Instruct(self.settings.task.learn, self.settings.task.thaw, self.settings.data.pack)

    def begin(self, objective: "Instruct", model: Any, rows: Sequence) -> None:
        """Nothing can be wrong that the preflight would not have seen."""

    def speaks(self) -> tuple[str | None, list[int]]:
        """How the model is spoken to from now on, and what ends its answers."""
        return self.talks.chat.jinja, list(self.talks.chat.ends)

    def evaluate(self, objective: "Instruct", model: Any, rows: Sequence) -> dict[str, float]:
        """Loss on the validation part, under the name of the metrics file."""
        from firsthand.training.fit import held_out

        return held_out(objective, self.settings.train.batch_size)(model, rows)

    def report(self, tuned: "Bundle", load: Callable[[], "Bundle"], rows: Sequence) -> dict[str, Any]:
        """The test part, by the model and by the untuned one, and what became of other text."""
        whole = self.settings.task.test == "whole"
        bundles = {"model": tuned} | ({"untuned": load()} if whole else {})
        loss, answers = losses(bundles, evenly(rows, self.settings.task.tested or len(rows))), self._answers(bundles)
        solved = self._tasks(bundles)
        examples = {**loss.pop("examples"), **answers.pop("examples", {}), **solved.pop("examples", {})}
        sizes = {"answer_loss": loss.pop("sizes")}
        return {
            "test": {"answer_loss": loss, **answers, **solved, "examples": examples, "example_sizes": sizes},
            **({"forgetting": self.talks.general.forgotten(tuned, bundles["untuned"])} if whole else {}),
            "preflight": self.talks.audit.facts(),
        }

    def _answers(self, bundles: dict[str, "Bundle"]) -> dict[str, Any]:
        """What each says to some questions of the test part, and how good that is."""
        from firsthand.evaluate.answering import replies
        from firsthand.evaluate.answers import WORD, echoes

        task, chat = self.settings.task, self.talks.chat
        asked = evenly(self.talks.parts["test"].examples, task.asked)
        if not asked:
            return {}
        questions = [last_exchange(example) for example in asked]
        prompts = [chat.prompt(example.turns[:at]) for example, at in zip(asked, questions, strict=True)]
        wanted = [example.turns[at].content for example, at in zip(asked, questions, strict=True)]
        said = {name: replies(bundle, prompts, chat.ends, task.answer_tokens) for name, bundle in bundles.items()}
        told = [
            {"question": example.item.question, "wanted": right, **{name: its[at] for name, its in said.items()}}
            for at, (example, right) in enumerate(zip(asked, wanted, strict=True))
        ]
        lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in told)
        files.write_file(Path(self.settings.out) / "answers.jsonl", lines)
        known: dict[str, Task] = {one.question: one for one in tasks("test")} if self._checkable else {}
        solved = verified([known[example.item.question] for example in asked], said) if known else {}
        near, its = likeness(said, wanted), said["model"]
        asks = [example.item.question for example in asked]
        examples = {
            **solved.pop("examples", {}),
            **near.pop("examples"),
            "words": [len(WORD.findall(one)) for one in its],
            "echo": [int(echoes(*three)) for three in zip(asks, its, wanted, strict=True)],
        }
        return {"asked": len(asked), **near, **solved, "examples": examples}

    @property
    def _checkable(self) -> bool:
        """Whether the test part is made of tasks whose answers a program can check."""
        return self.settings.data.source == TASKS and not self.settings.data.test

    def _tasks(self, bundles: dict[str, "Bundle"]) -> dict[str, Any]:
        """Tasks that a program can check, put to models that learned something else."""
        from firsthand.evaluate.answering import replies

        if not self.besides:
            return {}
        most, ends = self.settings.task.answer_tokens, self.talks.chat.ends
        said = {name: replies(bundle, self.prompts, ends, most) for name, bundle in bundles.items()}
        return verified(self.besides, said)


def evenly(things: Sequence[Any], most: int) -> list[Any]:
    """At most so many of them, spread evenly."""
    count = min(most, len(things))
    return [things[at * len(things) // count] for at in range(count)]


def last_exchange(example: "Example") -> int:
    """Which turn is the last answer."""
    return max(at for at, turn in enumerate(example.turns) if turn.role == "assistant")


def beside(values: dict[str, np.ndarray]) -> dict[str, Any]:
    """The model against the untuned one, where that was asked too."""
    return {AGAINST: gained(values["model"], values["untuned"])} if "untuned" in values else {}


def losses(bundles: dict[str, "Bundle"], rows: Sequence) -> dict[str, Any]:
    """How much the answers wanted surprise each model, in nats per token; of the model also every example's sum."""
    from firsthand.evaluate.answering import answer_loss, less_surprised

    found = {name: answer_loss(bundle.model, rows) for name, bundle in bundles.items()}
    told: dict[str, Any] = {
        name: {"mean": its.loss, "interval_95": list(its.interval), "count": len(rows), "tokens": its.tokens}
        for name, its in found.items()
    }
    if "untuned" in found:
        told[AGAINST] = lowered(less_surprised(found["model"], found["untuned"]))
    its = found["model"]
    return {**told, "examples": {"answer_loss": its.nats.tolist()}, "sizes": its.counts.tolist()}


def likeness(said: dict[str, list[str]], wanted: Sequence[str]) -> dict[str, Any]:
    """How near the answers of each model are to those wanted."""
    from firsthand.evaluate.answers import exact, rouge_l

    pairs = {name: list(zip(its, wanted, strict=True)) for name, its in said.items()}
    same = {name: np.array([exact(*pair) for pair in its], float) for name, its in pairs.items()}
    near = {name: np.array([rouge_l(*pair) for pair in its]) for name, its in pairs.items()}
    return {
        "exact_match": {name: share(its) for name, its in same.items()} | beside(same),
        "rouge_l": {name: amount(its) for name, its in near.items()} | beside(near),
        "examples": {"exact_match": same["model"].astype(int).tolist(), "rouge_l": near["model"].tolist()},
    }


def verified(given: Sequence[Task], said: dict[str, list[str]]) -> dict[str, Any]:
    """How many tasks each model solved, by kind; and which answers hold the right one, whatever else they say."""
    from firsthand.evaluate.tasks import names, score

    scores = {name: score(given, its) for name, its in said.items()}
    solved = {
        name: np.array([right(task, one) for task, one in zip(given, its, strict=True)], float)
        for name, its in said.items()
    }
    told: dict[str, Any] = {
        name: {
            "mean": its[0].share,
            "interval_95": list(its[0].interval),
            "count": its[0].total,
            "named": its[0].named,
            "majority": its[0].majority,
            "kinds": {one.kind: {"right": one.right, "count": one.total, "named": one.named} for one in its[1:]},
        }
        for name, its in scores.items()
    }
    named = [int(names(task, one)) for task, one in zip(given, said["model"], strict=True)]
    examples = {"tasks_solved": solved["model"].astype(int).tolist(), "tasks_named": named}
    return {"tasks_solved": told | beside(solved), "examples": examples}
