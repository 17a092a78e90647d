"""What a fine-tuning run is: the sections of its TOML file; one schema for every task, of which each uses its part.

Where nothing is said, settings follow from the task, and rates also from what learns: `USUAL`. A key of another task
that was set is refused, for it would do nothing.
"""

from collections.abc import Sequence
from dataclasses import field
from typing import Annotated, Any, Literal

import pydantic.dataclasses
from pydantic import Field

from firsthand import config
from firsthand.data.ledger import Reading
from firsthand.errors import ConfigError
from firsthand.model.config import STRICT
from firsthand.training.config import TrainConfig

Fraction = Annotated[float, Field(gt=0, lt=1)]


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class TaskSection:
    """What is learned, and how much of the model learns it."""

    kind: Literal["classify", "instruct", "prefer"] = "classify"
    thaw: Literal["head", "block", "two", "all", "lora"] = "block"
    start: Literal["pretrained", "random"] = "pretrained"  # random: the same model with fresh weights, for comparison
    # classify
    reads: Literal["last", "first"] = "last"  # the token at which a label is read; first: for comparison
    weights: Literal["none", "balanced"] = "none"  # balanced: a rare label counts as much as a common one
    frame: str = "{text}"  # what is read: words around the text, such as a question behind it
    # instruct, prefer
    style: Literal["", "alpaca", "chatml", "llama3", "phi", "plain"] = (
        ""  # how turns are written; "": as the model does
    )
    # instruct
    learn: Literal["answer", "all"] = "answer"  # all: the questions too
    asked: Annotated[int, Field(ge=0)] = 64  # questions of the test part that are answered at the end
    answer_tokens: Annotated[int, Field(ge=1)] = 64  # of such an answer, at most
    solve: Annotated[int, Field(ge=0)] = 0  # tasks that a program can check, asked besides where the data are others
    tested: Annotated[int, Field(ge=0)] = 0  # rows of the test part whose loss is measured, spread evenly; 0: all
    test: Literal["whole", "short"] = "whole"  # short: without the untuned model, and without other text
    # prefer
    loss: Literal["dpo", "ipo", "orpo", "simpo"] = "dpo"
    beta: Annotated[float, Field(gt=0)] | None = None  # None: 0.1, of simpo 2.0
    smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0  # of dpo: the share of pairs that may be labelled wrongly
    margin: Annotated[float, Field(ge=0)] = 0.5  # of simpo

    def __post_init__(self) -> None:
        if self.frame.count("{text}") != 1:
            raise ConfigError(
                f"task.frame is {self.frame[:60]!r}; it must hold {{text}} once, as in '{{text}} Is it spam?'"
            )


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class RowsSection:
    """Which rows a task reads, and how they are divided."""

    source: str = "sms-spam"  # a catalog name, a file, or a folder
    # classify
    text: str = "text"  # the column with the text
    label: str = "label"
    labels: tuple[str, ...] = ()  # those that there may be; (): those that occur
    split: Literal["leak-free", "leaky"] = "leak-free"  # leaky: as most courses divide, for comparison
    balance: Literal["none", "test", "all"] = "none"  # as many rows of every label, on which sides
    # instruct, prefer
    validation: str = ""  # a source of its own; "": a part of the first, by question
    test: str = ""
    allow_leakage: bool = False  # let a question stand in two parts
    general: str = ""  # text that shows what was forgotten; "": what the model's own run held out, or the end of pydocs
    # all
    seed: Annotated[int, Field(ge=0)] = 0  # which rows stand on which side; train.seed is another
    test_fraction: Fraction = 0.2
    validation_fraction: Fraction = 0.1
    longest: Annotated[int, Field(ge=1)] | None = None  # tokens of a text, or of a conversation; None: the context
    pack: bool = True  # the texts of a batch in one row, without padding; false: one a row, for comparison
    reading: Reading = field(default_factory=Reading)


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class LoraSection:
    """The adapters, where task.thaw=lora."""

    patterns: tuple[str, ...] = ("attention.*", "mlp.*")
    rank: Annotated[int, Field(ge=1)] = 8
    alpha: Annotated[float, Field(gt=0)] = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    root: bool = False  # rsLoRA
    dora: bool = False


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class TuneConfig:
    """A whole fine-tuning run: `firsthand finetune` reads it from words, and writes it to the run's config.toml."""

    model: str
    out: str = "runs/tuned"
    task: TaskSection = field(default_factory=TaskSection)
    data: RowsSection = field(default_factory=RowsSection)
    lora: LoraSection = field(default_factory=LoraSection)
    train: TrainConfig = field(default_factory=TrainConfig)


GENTLE = (  # a model that knows much already wants few steps, and small ones
    "train.steps=300",
    "train.batch_size=16",
    "train.learning_rate=3e-4",
    "train.min_learning_rate=3e-5",
    "train.warmup=30",
    "train.eval_every=50",
    "train.save_every=0",
    "train.sample_every=0",
    "train.keep=1",
)


USUAL = {  # by task, then what adapters want otherwise: they begin as nothing
    "classify": (),
    "instruct": (
        "task.thaw=all",
        "data.source=instruction-data",
        "data.test_fraction=0.1",
        "data.reading.on_bad=skip",  # counted and shown; more than 1 % is refused by the preflight
        "train.batch_size=8",
        "train.learning_rate=5e-5",
        "train.min_learning_rate=5e-6",
    ),
    "prefer": (
        "task.thaw=all",
        "data.source=preference-data",
        "data.test_fraction=0.1",
        "data.reading.on_bad=skip",  # counted and shown; more than 1 % is refused by the preflight
        "train.batch_size=8",
        "train.learning_rate=5e-6",
        "train.min_learning_rate=5e-7",
    ),
}
ADAPTERS = {
    "classify": (),
    "instruct": ("train.learning_rate=3e-4", "train.min_learning_rate=3e-5"),
    "prefer": ("train.learning_rate=5e-5", "train.min_learning_rate=5e-6"),
}
ONLY = {  # keys that belong to some tasks
    **{f"task.{name}": ("classify",) for name in ("reads", "weights", "frame")},
    **{f"data.{name}": ("classify",) for name in ("text", "label", "labels", "split", "balance")},
    **{f"data.{name}": ("instruct", "prefer") for name in ("validation", "test", "allow_leakage", "general")},
    "task.style": ("instruct", "prefer"),
    **{f"task.{name}": ("instruct",) for name in ("learn", "asked", "answer_tokens", "solve", "tested", "test")},
    **{f"task.{name}": ("prefer",) for name in ("loss", "beta", "smoothing", "margin")},
}


def read_tuning(words: Sequence[Any]) -> TuneConfig:
    """The settings of a fine-tuning run; where nothing is said, the usual ones of its task."""
    kind = config.read(TuneConfig, [*GENTLE, *words]).task.kind
    usual = [*GENTLE, *USUAL[kind]]
    if config.read(TuneConfig, [*usual, *words]).task.thaw == "lora":
        usual += ADAPTERS[kind]
    settings = config.read(TuneConfig, [*usual, *words])
    _refuse_others(settings, config.read(TuneConfig, [*usual, "model=any"]))
    return settings


def _refuse_others(settings: TuneConfig, untouched: TuneConfig) -> None:
    """A ConfigError where a key of another task was set, or a head is to be learned that there is not."""
    kind = settings.task.kind
    for line in config.differences(untouched, settings):
        key = line.split(":")[0]
        if kind not in ONLY.get(key, (kind,)):
            raise ConfigError(
                f"{key} belongs to task.kind={' and '.join(ONLY[key])}, and the task is {kind}; leave it out"
            )
    if settings.task.margin != untouched.task.margin and settings.task.loss != "simpo":
        raise ConfigError(f"task.margin belongs to task.loss=simpo, and the loss is {settings.task.loss}; leave it out")
    if settings.task.thaw == "head" and kind != "classify":
        raise ConfigError(
            f"task.thaw=head is a new head of labels, for classify; of {kind} use block, two, all or lora"
        )
