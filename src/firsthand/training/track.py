"""Where a run tells how it goes: metrics.jsonl always, the console, and outside trackers if asked.

Names are those of transformers and nanochat, so that curves lie on top of each other: train/loss, eval/loss, val/bpb.
A tracker must never end a run: a closed terminal or a broken pipe is borne in silence.
"""

import math
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from firsthand import files
from firsthand.errors import ConfigError, nearest

Metrics = dict[str, float]
INTERVAL = 5.0  # seconds between two lines where nothing can be redrawn


class Tracker(Protocol):
    """Whoever listens to a run."""

    def log(self, metrics: Metrics, step: int) -> None:
        """Numbers by name, of one step."""

    def say(self, text: str) -> None:
        """One line for a reader."""

    def close(self) -> None:
        """The run is over."""


class Lines:
    """The run's own record: one JSON object a line, appended, read by the report and by resume."""

    def __init__(self, path: Path):
        self.path = path

    def log(self, metrics: Metrics, step: int) -> None:
        """A number that JSON cannot hold (nan, inf) becomes null."""
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        files.append_line(self.path, {"train/global_step": step, **finite})

    def say(self, text: str) -> None:
        """Words are not numbers."""

    def close(self) -> None:
        """Every line was already on its way to the disk."""


class Plain:
    """The console where nothing can be redrawn: a line every few seconds, every validation, and the last step."""

    def __init__(self, steps: int, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic):
        self.steps, self.stream, self.clock = steps, stream or sys.stderr, clock
        self.pace = Pace(steps, clock)
        self.shown = clock() - INTERVAL

    def log(self, metrics: Metrics, step: int) -> None:
        """At most one line an interval, for a log file is read by people."""
        left = self.pace.left(step)
        due = self.clock() - self.shown >= INTERVAL or step == self.steps or "eval/loss" in metrics
        if due:
            self.shown = self.clock()
            self.say(f"step {step:,}/{self.steps:,}  {in_words(metrics)}  {left}")

    def say(self, text: str) -> None:
        """A closed terminal is no reason to stop."""
        with suppress(OSError, ValueError):
            print(text, file=self.stream, flush=True)

    def close(self) -> None:
        """Nothing is held."""


class Live:
    """The console of a terminal: one bar that moves, with loss, speed and the time that is left."""

    def __init__(self, steps: int):
        columns = (
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
        )
        self.progress = Progress(*columns, console=Console(stderr=True), refresh_per_second=4)
        self.task = self.progress.add_task("", total=steps)
        self.progress.start()

    def log(self, metrics: Metrics, step: int) -> None:
        """Training moves the bar, validation leaves a line above it."""
        with suppress(OSError, ValueError):
            if "eval/loss" in metrics:
                self.progress.print(f"step {step:,}  {in_words(metrics)}", highlight=False)
            else:
                self.progress.update(self.task, completed=step, description=in_words(metrics))

    def say(self, text: str) -> None:
        """A line above the bar, exactly as it is: text of a model may look like markup."""
        with suppress(OSError, ValueError):
            self.progress.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Give the terminal back."""
        with suppress(OSError, ValueError):
            self.progress.stop()


class Pace:
    """How long the rest will take, from the steps of this start."""

    def __init__(self, steps: int, clock: Callable[[], float]):
        self.steps, self.clock = steps, clock
        self.first: tuple[int, float] | None = None

    def left(self, step: int) -> str:
        """In words, or nothing as long as nothing was measured."""
        if self.first is None:
            self.first = (step, self.clock())
        done = step - self.first[0]
        if done == 0:
            return ""
        seconds = (self.clock() - self.first[1]) / done * (self.steps - step)
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s left" if seconds >= 60 else f"{seconds:.0f} s left"


def in_words(metrics: Metrics) -> str:
    """The few numbers a reader wants beside the bar."""
    shown = {
        "train/loss": "loss {:.4f}",
        "eval/loss": "validation loss {:.4f}",
        "val/bpb": "{:.4f} bits per byte",
        "eval/rewards/accuracies": "{:.0%} of pairs in order",
        "eval/logps/chosen": "chosen {:.1f}",
        "eval/logps/rejected": "rejected {:.1f} nats",
        "train/learning_rate": "rate {:.2g}",
        "train/grad_norm": "norm {:.2f}",
        "train/tok_per_sec": "{:,.0f} tokens/s",
    }
    return "  ".join(form.format(metrics[name]) for name, form in shown.items() if name in metrics)


class WandbShaped:
    """wandb, trackio or swanlab: modules that agree on init, log and finish."""

    def __init__(self, module: str, run: Path, settings: dict[str, Any]):
        self.module = import_module(module)
        offline = {"mode": "offline"} if module == "wandb" and not _wandb_key() else {}  # it would ask for a login
        self.module.init(project="firsthand", name=run.name, config=settings, **offline)

    def log(self, metrics: Metrics, step: int) -> None:
        """As their `log`."""
        self.module.log(metrics, step=step)

    def say(self, text: str) -> None:
        """Words stay on the console."""

    def close(self) -> None:
        """Sends what is left."""
        self.module.finish()


class TensorBoard:
    """Event files in the run's folder: `tensorboard --logdir runs`."""

    def __init__(self, run: Path):
        self.writer = import_module("torch.utils.tensorboard").SummaryWriter(str(run / "tensorboard"))

    def log(self, metrics: Metrics, step: int) -> None:
        """One scalar a name."""
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def say(self, text: str) -> None:
        """Words stay on the console."""

    def close(self) -> None:
        """Writes what is left."""
        self.writer.close()


class MLflow:
    """A run of MLflow, in the store that its own environment variables name."""

    def __init__(self, run: Path, settings: dict[str, Any]):
        self.module = import_module("mlflow")
        self.module.start_run(run_name=run.name)
        self.module.log_params(settings)

    def log(self, metrics: Metrics, step: int) -> None:
        """As `mlflow.log_metrics`."""
        self.module.log_metrics(metrics, step=step)

    def say(self, text: str) -> None:
        """Words stay on the console."""

    def close(self) -> None:
        """Marks the run as finished."""
        self.module.end_run()


KINDS = ("none", "tensorboard", "mlflow", "wandb", "trackio", "swanlab")


def trackers(kind: str, run: Path, steps: int, settings: dict[str, Any]) -> list[Tracker]:
    """The run's own file, the console, and the outside tracker that is asked for."""
    if kind not in KINDS:
        raise ConfigError(f"track={kind!r} is not known; use one of {', '.join(KINDS)}.{nearest(kind, KINDS)}", code=34)
    own: list[Tracker] = [Lines(run / "metrics.jsonl"), Live(steps) if sys.stderr.isatty() else Plain(steps)]
    try:
        return [*own, *_outside(kind, run, settings)]
    except ImportError as error:
        own[1].close()
        raise ConfigError(
            f"track={kind} needs a package that is not installed ({error}). Try: pip install {kind}"
        ) from error


def _outside(kind: str, run: Path, settings: dict[str, Any]) -> Iterable[Tracker]:
    if kind == "tensorboard":
        yield TensorBoard(run)
    elif kind == "mlflow":
        yield MLflow(run, settings)
    elif kind != "none":
        yield WandbShaped(kind, run, settings)


def _wandb_key() -> bool:
    """Whether wandb can log in without asking."""
    wandb = import_module("wandb")
    return bool(wandb.api.api_key)
