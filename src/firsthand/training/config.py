"""What a training run is: every setting with its range, its default, and one line of help."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from firsthand.errors import ConfigError

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TrainConfig:
    """How a model is trained. One step is one update: accumulate x ranks micro-batches of batch_size rows."""

    steps: Annotated[int, Field(ge=1, description="updates in the whole run")] = 1000
    batch_size: Annotated[int, Field(ge=1, description="rows of one micro-batch")] = 8
    accumulate: Annotated[int, Field(ge=1, description="micro-batches of one update, on each rank")] = 1
    seed: Annotated[int, Field(ge=0, description="decides sample order and dropout")] = 0

    optimizer: Annotated[Literal["adamw", "muon"], Field(description="muon: for matrices, AdamW for the rest")] = (
        "adamw"
    )
    learning_rate: Annotated[Rate, Field(description="AdamW's peak")] = 3e-4
    min_learning_rate: Annotated[float, Field(ge=0, le=1, description="AdamW's at the end; others in proportion")] = (
        3e-5
    )
    embedding_learning_rate: Annotated[
        float | None, Field(gt=0, le=1, description="peak for the embedding under muon; none: learning_rate")
    ] = None
    muon_learning_rate: Annotated[Rate, Field(description="Muon's peak")] = 0.02
    momentum: Annotated[float, Field(ge=0, lt=1, description="Muon's memory of past gradients")] = 0.95
    newton_schulz: Annotated[int, Field(ge=1, le=20, description="Muon's iterations")] = 5
    weight_decay: Annotated[float, Field(ge=0, le=1, description="pull of matrices towards zero")] = 0.1
    betas: Annotated[tuple[float, float], Field(description="AdamW's memory of gradients and of their squares")] = (
        0.9,
        0.95,
    )
    eps: Annotated[float, Field(gt=0, le=1e-2, description="AdamW's smallest divisor")] = 1e-8
    clip: Annotated[float, Field(gt=0, description="longest gradient; a longer one is shortened to it")] = 1.0
    schedule: Annotated[
        Literal["cosine", "stable-decay", "constant"], Field(description="shape of the learning rate")
    ] = "cosine"
    warmup: Annotated[int, Field(ge=0, description="steps until the peak")] = 100
    cooldown: Annotated[float, Field(ge=0, le=1, description="last share of the steps that decay (stable-decay)")] = 0.4

    eval_every: Annotated[int, Field(ge=0, description="steps between validations; 0: only at the end")] = 100
    save_every: Annotated[int, Field(ge=0, description="steps between checkpoints; 0: only at the end")] = 200
    keep: Annotated[int, Field(ge=1, description="newest checkpoints that stay")] = 2
    sample_every: Annotated[int, Field(ge=0, description="steps between samples of text; 0: none")] = 100
    nonfinite: Annotated[
        Literal["stop", "skip"], Field(description="what a loss of nan or inf does; no update in either case")
    ] = "stop"

    device: Annotated[str, Field(description="auto, cpu, cuda, cuda:N or mps")] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        Field(description="arithmetic of matrix products; auto: the fastest, measured, weights stay float32"),
    ] = "auto"
    compile: Annotated[bool, Field(description="translate the model with torch.compile first")] = False
    checkpointing: Annotated[bool, Field(description="less memory, a third more time: compute activations again")] = (
        False
    )

    def __post_init__(self):
        if self.min_learning_rate > self.learning_rate:
            raise ConfigError(
                f"min_learning_rate {self.min_learning_rate} is above learning_rate {self.learning_rate}; "
                f"try train.min_learning_rate={self.learning_rate / 10:g}",
                code=34,
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"betas {self.betas} must lie in [0, 1); usual: 0.9, 0.95", code=34)
