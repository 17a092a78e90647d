"""What a fine-tuning run is: the sections of its TOML file; one schema for every task, of which each uses its part."""

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

    kind: Literal["classify"] = "classify"
    thaw: Literal["head", "block", "two", "all", "lora"] = "block"
    start: Literal["pretrained", "random"] = "pretrained"  # random: the same model with fresh weights, for comparison
    reads: Literal["last", "first"] = "last"  # the token at which a label is read; first: for comparison
    weights: Literal["none", "balanced"] = "none"  # balanced: a rare label counts as much as a common one
    frame: str = "{text}"  # what is read: words around the text, such as a question behind it

    def __post_init__(self) -> None:
        if self.frame.count("{text}") != 1:
            raise ConfigError(
                f"task.frame is {self.frame[:60]!r}; it must hold {{text}} once, as in '{{text}} Is it spam?'"
            )


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class RowsSection:
    """Which rows a task reads, and how they are divided."""

    source: str = "sms-spam"  # a catalog name, a file, or a folder
    text: str = "text"  # the column with the text
    label: str = "label"
    labels: tuple[str, ...] = ()  # those that there may be; (): those that occur
    split: Literal["leak-free", "leaky"] = "leak-free"  # leaky: as most courses divide, for comparison
    balance: Literal["none", "test", "all"] = "none"  # as many rows of every label, on which sides
    seed: Annotated[int, Field(ge=0)] = 0  # which rows stand on which side; train.seed is another
    test_fraction: Fraction = 0.2
    validation_fraction: Fraction = 0.1
    longest: Annotated[int, Field(ge=1)] | None = None  # tokens of a text, cut at the end; None: the context
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


def read_tuning(words: Sequence[Any]) -> TuneConfig:
    """The settings of a fine-tuning run; where nothing is said, the gentle ones."""
    return config.read(TuneConfig, [*GENTLE, *words])
