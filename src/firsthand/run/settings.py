"""What a whole run is: the sections of its TOML file, with ranges and defaults, and the model that they describe."""

from collections.abc import Sequence
from dataclasses import asdict, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic.dataclasses
from pydantic import Field, TypeAdapter

from firsthand import config
from firsthand.data.ledger import Reading
from firsthand.errors import ConfigError
from firsthand.model import sizes
from firsthand.model.config import FAST, PRESETS, STRICT, ModelConfig
from firsthand.training.config import TrainConfig


def _model_section() -> type:
    """[model]: a preset or a depth, and every field of ModelConfig but the vocabulary, which the tokenizer decides."""
    preset = Literal[*PRESETS]  # pyrefly: ignore
    kinds: dict[str, Any] = {"preset": preset, "depth": Annotated[int, Field(ge=1, le=100)]}
    kinds |= {known.name: known.type for known in fields(ModelConfig) if known.name != "vocab_size"}
    body = {"__annotations__": {name: kind | None for name, kind in kinds.items()}, **dict.fromkeys(kinds)}
    return pydantic.dataclasses.dataclass(frozen=True, config=STRICT)(type("ModelSection", (), body))


ModelSection = _model_section()
MICRO = 8192  # tokens of one micro-batch under the one dial: fits in a few GB of any machine
SMALL = {**FAST, "n_layer": 4, "n_head": 4, "d_model": 128, "context_length": 128}  # minutes on two CPU cores


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class TokenizerSection:
    """Which tokenizer a run uses: one that exists, or one learned from the run's own text."""

    source: str | None = None  # a folder, a file or a catalog name; None: learn one
    kind: Literal["bpe", "word", "char"] = "bpe"
    vocab_size: Annotated[int, Field(ge=1, le=4_000_000)] = 4096
    pattern: Literal["gpt2", "cl100k", "llama3", "qwen2", "smollm"] = "gpt2"


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class DataSection:
    """Which text a run reads, and how."""

    source: str = "pydocs"  # a catalog name, a file, or a folder
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    stride: Annotated[int, Field(ge=1)] | None = None  # between windows; None: the context length, no overlap
    reading: Reading = field(default_factory=Reading)


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class SampleSection:
    """What the model is asked to continue while it trains."""

    prompt: str | None = None  # None: the first words of the held-out text
    max_tokens: Annotated[int, Field(ge=1)] | None = None  # None: 48, or what the context leaves
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.8
    top_k: Annotated[int, Field(ge=0)] = 40


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class RunConfig:
    """A whole run: `firsthand train` reads it from TOML files and words, and writes it to the run's config.toml."""

    out: str = "runs/run"
    tokenizer: TokenizerSection = field(default_factory=TokenizerSection)
    data: DataSection = field(default_factory=DataSection)
    model: ModelSection = field(default_factory=ModelSection)  # pyrefly: ignore
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleSection = field(default_factory=SampleSection)


def model_config(section: Any, vocab_size: int) -> ModelConfig:
    """The model that [model] describes: a preset, a depth, or the small fast one; then every field that is set."""
    given = {name: value for name, value in asdict(section).items() if value is not None}
    preset, depth = given.pop("preset", None), given.pop("depth", None)
    if preset and depth:
        raise ConfigError(f"model.preset={preset} and model.depth={depth} are two models. Leave one of them out.")
    if preset:
        given = PRESETS[preset] | given
    elif depth:
        dial = asdict(ModelConfig.depth(depth, vocab_size))
        given = {name: dial[name] for name in ("n_layer", "n_head", "d_model", "d_head", *FAST)} | given
    else:
        given = SMALL | given
    return TypeAdapter(ModelConfig).validate_python(given | {"vocab_size": vocab_size})


def dial(shape: ModelConfig) -> list[str]:
    """The words that belong to a model of one dial: batch, steps and rates, by the rule of model/sizes.py."""
    recipe = sizes.recipe(shape)
    rows = min(recipe.batch_size, max(1, MICRO // shape.context_length))
    return [
        f"train.batch_size={rows}",
        f"train.accumulate={recipe.batch_size // rows}",
        f"train.steps={recipe.steps}",
        f"train.learning_rate={recipe.learning_rate}",
        f"train.min_learning_rate={recipe.learning_rate / 10}",
        "train.optimizer=muon",
    ]


def read_run(words: Sequence[str | Path]) -> RunConfig:
    """The settings of a run. Where [model] gives a depth, batch, rates and steps follow it unless they are given."""
    first = config.read(RunConfig, words)
    if first.model.depth is None:
        return first
    return config.read(RunConfig, [*dial(model_config(first.model, first.tokenizer.vocab_size)), *words])
