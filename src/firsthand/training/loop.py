"""The training loop: one step a turn, and a record of it. There is no other loop in this house.

It knows nothing of files, screens, or when to stop: whoever iterates decides, with plain `if`s between two turns.
"""

import hashlib
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from firsthand.errors import TrainingError
from firsthand.objectives.base import Batch, Objective
from firsthand.training.device import PLAIN, Arithmetic, out_of_memory
from firsthand.training.optim import Optimizer
from firsthand.training.parallel import ALONE, Ranks

PATIENCE = 5  # refused updates in a row, after which skipping ends


@dataclass(frozen=True)
class Record:
    """What one step did. `refused` holds the facts if its update was not applied."""

    step: int  # updates done, this one included
    loss: float  # nats, mean over `count`
    factor: float  # of the peak learning rates
    norm: float  # of the whole gradient, before clipping
    count: int  # tokens, rows or pairs that the loss was about, all ranks
    tokens: int  # real ones that were read, all ranks
    position: int  # samples taken since the run began, all ranks
    seconds: float
    metrics: dict[str, float] = field(default_factory=dict)
    refused: dict[str, Any] | None = None


class NonFinite(TrainingError):
    """The loss or the gradient was not a number; nothing was updated. `facts` is what there is to know."""

    def __init__(self, message: str, facts: dict[str, Any]):
        super().__init__(message, code=37)
        self.facts = facts


class LossScale:
    """Lifts a float16 loss so that small gradients do not become zero: halved when they overflow, else doubled slowly.

    Source: Micikevicius et al. 2018, arXiv:1710.03740, section 3.2. For other types it stays 1.
    """

    PATIENCE = 2000

    def __init__(self, dtype: str):
        self.value, self.fine = (2.0**16, 0) if dtype == "float16" else (1.0, 0)
        self.moves = dtype == "float16"

    def overflowed(self, loss: float, norm: float) -> bool:
        """Whether only the scale was too large: a finite loss with an infinite gradient."""
        return self.moves and math.isfinite(loss) and not math.isfinite(norm) and self.value > 1

    def adapt(self, finite: bool) -> None:
        """After a step: one overflow halves, 2,000 fine steps in a row double."""
        if not self.moves:
            return
        self.fine = self.fine + 1 if finite else 0
        if not finite:
            self.value /= 2
        elif self.fine == self.PATIENCE:
            self.value, self.fine = self.value * 2, 0


def steps(
    model: nn.Module,
    objective: Objective,
    batches: Iterator[Batch],
    optimizer: Optimizer,
    *,
    schedule: Callable[[int], float] = lambda step: 1.0,
    accumulate: int = 1,
    clip: float = 1.0,
    start: int = 0,
    position: int = 0,
    seed: int = 0,
    nonfinite: str = "stop",
    arithmetic: Arithmetic = PLAIN,
    scale: LossScale | None = None,
    ranks: Ranks = ALONE,
) -> Iterator[Record]:
    """Train for ever, one update a turn, from update number `start` and sample number `position` on.

    Raises NonFinite before an update that a NaN or an infinity would poison (`nonfinite` "skip": only after five in a
    row), and TrainingError when memory runs out; in both cases the weights are those of the last whole step.
    """
    scale = scale or LossScale(arithmetic.dtype)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    in_a_row = 0
    for step in itertools.count(start):
        begin = time.monotonic()
        model.train()  # every turn: the caller may have evaluated in between
        micro = [next(batches) for _ in range(accumulate)]
        first = position
        try:
            count, tokens, loss, metrics = _backward(model, objective, micro, arithmetic, scale, ranks, seed, first)
            norm = _gradient_norm(weights, scale, ranks)
            fine = math.isfinite(loss) and math.isfinite(norm)
            if fine:
                _clip(weights, norm, clip)
                optimizer.step(schedule(step))
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise _knobs(error, micro) from error
        finally:
            model.zero_grad(set_to_none=True)
        position = first + sum(batch.examples for batch in micro) * ranks.world
        seconds = time.monotonic() - begin
        overflowed = scale.overflowed(loss, norm)
        scale.adapt(fine)
        in_a_row = 0 if fine or overflowed else in_a_row + 1
        facts = None if fine else _facts(step + 1, loss, norm, schedule(step), micro, (first, position))
        if in_a_row and (nonfinite == "stop" or in_a_row > PATIENCE):
            raise NonFinite(_refusal(facts or {}, in_a_row), facts or {})
        yield Record(step + 1, loss, schedule(step), norm, count, tokens, position, seconds, metrics, facts)


def _backward(
    model: nn.Module,
    objective: Objective,
    micro: list[Batch],
    arithmetic: Arithmetic,
    scale: LossScale,
    ranks: Ranks,
    seed: int,
    first: int,
) -> tuple[int, int, float, dict[str, float]]:
    """The gradient of all micro-batches, added up: a sum over all of them and all ranks, divided once by its count."""
    read = float(sum(int(batch.lengths.sum()) for batch in micro))
    count, tokens = ranks.total(float(sum(batch.count for batch in micro)), read)
    total = torch.zeros((), dtype=torch.float64)
    sums: dict[str, Tensor] = {}
    device = next(model.parameters()).device
    with arithmetic.autocast():  # around all of them: a weight is rounded once a step, not once a micro-batch
        for m, batch in enumerate(micro):
            torch.manual_seed(dropout_seed(seed, first + (m * ranks.world + ranks.rank) * batch.examples))
            loss = objective.loss(model, batch.to(device))
            with arithmetic.autocast(enabled=False):
                (loss.total * (scale.value / count)).backward()
            total += loss.total.detach().cpu()
            for name, value in loss.metrics.items():
                sums[name] = sums.get(name, torch.zeros(())) + value.detach().cpu()
    names = sorted(sums)
    loss_total, *others = ranks.total(float(total), *(float(sums[name]) for name in names))
    return (
        int(count),
        int(tokens),
        loss_total / count,
        {name: value / count for name, value in zip(names, others, strict=True)},
    )


def dropout_seed(seed: int, sample: int) -> int:
    """What dropout draws from in the micro-batch that begins at global sample `sample`, on whatever rank."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {sample}".encode(), digest_size=7).digest(), "big")


def _gradient_norm(weights: list[nn.Parameter], scale: LossScale, ranks: Ranks) -> float:
    """The length of the gradient as one long vector, after ranks were added up and the loss scale was taken out."""
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    ranks.add(gradients)
    if scale.value != 1:
        torch._foreach_mul_(gradients, 1 / scale.value)
    return float(nn.utils.get_total_norm(gradients))


def _clip(weights: list[nn.Parameter], norm: float, longest: float) -> None:
    """Shorten the gradient to `longest`, if it is longer. Source: Pascanu et al. 2013, arXiv:1211.5063, algorithm 1."""
    if norm > longest:
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        torch._foreach_mul_(gradients, longest / norm)


def _facts(
    step: int, loss: float, norm: float, factor: float, micro: list[Batch], samples: tuple[int, int]
) -> dict[str, Any]:
    """Everything that helps to find out why a loss was not a number."""
    return {
        "step": step,
        "loss": repr(loss),
        "norm": repr(norm),
        "learning_rate_factor": factor,
        "samples": list(samples),
        "ids": [batch.inputs.tolist() for batch in micro],
    }


def _refusal(facts: dict[str, Any], in_a_row: int) -> str:
    times = f", the {in_a_row}th refused update in a row" if in_a_row > 1 else ""
    what = "loss" if facts["loss"] in ("nan", "inf", "-inf") else "gradient"
    return (
        f"{what} became non-finite at step {facts['step']}{times} (loss {facts['loss']}, norm {facts['norm']}, "
        f"samples {facts['samples'][0]} to {facts['samples'][1] - 1}). No update was applied. "
        f"Go on with a lower train.learning_rate"
    )


def _knobs(error: BaseException, micro: list[Batch]) -> TrainingError:
    """What to turn when memory ran out."""
    rows, length = micro[0].inputs.shape
    halved = f"train.batch_size={max(1, micro[0].examples // 2)} train.accumulate={2 * len(micro)} (the same result)"
    return TrainingError(
        f"out of memory with batches of {rows} x {length} ids ({str(error).splitlines()[0][:60]}). "
        f"Try {halved}, or train.checkpointing=true, or train.dtype=bfloat16",
        code=38,
    )
