"""What a run holds while it goes, and what it does between two steps: tell, evaluate, let the model write, save."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from firsthand import files
from firsthand.checkpoint import bundle
from firsthand.objectives.base import Objective
from firsthand.training import state, track
from firsthand.training.config import TrainConfig
from firsthand.training.device import Arithmetic
from firsthand.training.loop import LossScale, Record
from firsthand.training.optim import Optimizer
from firsthand.training.parallel import Ranks

Evaluate = Callable[[Any, Sequence], dict[str, float]]  # model, validation data -> metrics, among them "eval/loss"
Sample = Callable[[Any], str]  # model -> a text it wrote


@dataclass
class Job:
    """One run, from its first start to its last step."""

    config: TrainConfig
    model: Any
    tokenizer: Any
    objective: Objective
    data: Sequence
    validation: Sequence
    folder: Path
    arithmetic: Arithmetic
    ranks: Ranks
    optimizer: Optimizer
    scale: LossScale
    evaluate: Evaluate
    sample: Sample | None
    about: dict  # of the caller: goes into firsthand.json
    template: str | None  # how turns of a chat become text, if the model shall be spoken to
    trackers: list[track.Tracker]
    facts: dict = field(default_factory=dict)  # what is compared on resume
    progress: state.Progress = field(default_factory=state.Progress)
    saved: Path | None = None

    def __post_init__(self):
        self.facts = state.facts(self.config, self.model.config, self.tokenizer, self.data, self.arithmetic, self.ranks)

    def say(self, text: str) -> None:
        """One line to every tracker."""
        for tracker in self.trackers:
            tracker.say(text)

    def log(self, metrics: dict[str, float]) -> None:
        """Numbers of the present step to every tracker."""
        for tracker in self.trackers:
            tracker.log(metrics, self.progress.step)

    def note(self, record: Record) -> None:
        """Count the step, and tell everybody."""
        progress = self.progress
        progress.step, progress.position = record.step, record.position
        progress.tokens += record.tokens
        progress.seconds += record.seconds
        if record.refused is not None:
            self.say(f"step {record.step} refused, nothing updated: {self.keep_facts(record.refused)}")
        self.log(
            {
                "train/loss": record.loss,
                "train/learning_rate": record.factor * self.config.learning_rate,
                "train/grad_norm": record.norm,
                "train/num_tokens": progress.tokens,
                "train/epoch": record.position / len(self.data),
                "train/tok_per_sec": record.tokens / record.seconds,
                **{f"train/{name}": value for name, value in record.metrics.items()},
            }
        )

    def look(self) -> None:
        """Evaluate on data that is not learned from; every rank does, so that none waits for another."""
        self.model.eval()
        with torch.no_grad(), self.arithmetic.autocast():
            metrics = self.evaluate(self.model, self.validation)
        loss = metrics["eval/loss"]
        if self.progress.best is None or loss < self.progress.best:
            self.progress.best = loss
        self.log(metrics)

    def write(self) -> None:
        """Let the model write a text, as far as the caller said how."""
        if self.sample is None or self.ranks.rank:
            return
        self.model.eval()
        with torch.no_grad():
            text = self.sample(self.model)
        files.append_line(self.folder / "samples.jsonl", {"step": self.progress.step, "text": text})
        self.say(text)

    def save(self) -> Path:
        """A checkpoint that is whole or not there; older ones go once it stands."""
        target = self.folder / f"step-{self.progress.step:06d}"
        if self.ranks.rank == 0:
            tensors, numbers = state.capture(self.progress, self.optimizer, self.scale, self.facts)
            about = {**self.about, "step": self.progress.step, "tokens": self.progress.tokens}
            bundle.save(target, self.model, self.tokenizer, about, tensors, numbers, self.template)
            files.retire(self.folder, self.config.keep)
        self.ranks.wait()  # no rank may read, or end with, a checkpoint that the first is still writing
        self.saved = target
        return target

    def keep_facts(self, facts: dict) -> Path:
        """What there is to know about a step that was refused, as a file."""
        path = self.folder / f"nonfinite-step-{facts['step']}.json"
        if self.ranks.rank == 0:
            files.write_file(path, json.dumps(facts) + "\n")
        return path
