"""Learn to predict the next token, everywhere in the text.

B rows, T positions, N = B T, C width, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from firsthand.errors import DataError
from firsthand.objectives.base import IGNORE, Batch, Loss

ROOM = 2**28  # scores held at once, N x V; beyond it they are computed in pieces, and again for the backward pass
TINY = 1e-30  # a probability below it is taken from its logarithm instead
TILE = 2**20  # scores turned into float32 at once: 4 MB stay in the processor's cache


class Pretrain:
    """The next token: every position of every window is a target."""

    def prepare(self, model: nn.Module) -> None:
        """Nothing to add: the model's own head is what learns."""

    def collate(self, examples: Sequence[np.ndarray]) -> Batch:
        """Windows (T + 1,) -> inputs (B, T) and, one token later, targets (B, T)."""
        sizes = {len(example) for example in examples}
        if len(sizes) != 1 or min(sizes) < 2:
            raise DataError(f"windows of {sorted(sizes)} tokens cannot stand in one batch; all must be T + 1 >= 2 long")
        ids = torch.from_numpy(np.stack(examples).astype(np.int64))  # (B, T + 1)
        inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
        return Batch(inputs, targets, torch.full((len(ids),), inputs.shape[1]), targets.numel())

    def loss(self, model: Any, batch: Batch) -> Loss:
        """Minus log-probability of every target, summed over the batch, in nats."""
        rows = max(1, ROOM // model.config.vocab_size)
        return Loss(token_loss(model.hidden(batch.inputs), model.head, batch.targets, rows))


def token_loss(hidden: Tensor, head: Callable[[Tensor], Tensor], targets: Tensor, rows: int = ROOM) -> Tensor:
    """Head and cross-entropy: (B, T, C), (B, T) -> () the sum over all targets that are not IGNORE.

    The scores (N, V) are the largest tensor of a training step. They exist once, in the arithmetic of the head, and
    become their own gradient there; never as float32 (B, T, V). Above `rows` positions they exist only piece by piece.
    """
    hidden, targets = hidden.flatten(0, -2), targets.flatten()  # (N, C), (N,)
    if len(hidden) <= rows:
        return _piece(hidden, head, targets)
    pieces = zip(hidden.split(rows), targets.split(rows), strict=True)
    totals = [checkpoint(_piece, h, head, t, use_reentrant=False) for h, t in pieces]
    return torch.stack(totals).sum()


def _piece(hidden: Tensor, head: Callable[[Tensor], Tensor], targets: Tensor) -> Tensor:
    return CrossEntropy.apply(head(hidden), targets)


class CrossEntropy(torch.autograd.Function):
    """Sum of -log softmax(scores)[target]: (N, V), (N,) -> (). Consumes `scores`: its memory receives the gradient.

    The gradient is softmax(scores) - onehot(target), a row of zeros where the target is IGNORE.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, targets: Tensor) -> Tensor:
        precise = torch.promote_types(scores.dtype, torch.float32)
        total = torch.zeros((), dtype=precise, device=scores.device)
        rows = max(1, TILE // scores.shape[1])
        for z, target in zip(scores.split(rows), targets.split(rows), strict=True):
            learned = target != IGNORE
            index = target.clamp(min=0)[:, None]
            p = torch.softmax(z, dim=1, dtype=precise)
            chance = p.gather(1, index)
            if chance.min() < TINY:  # too unlikely to be held as a probability, though not as its logarithm
                losses = -torch.log_softmax(z, dim=1, dtype=precise).gather(1, index)
            else:
                losses = -chance.log()
            total += losses.squeeze(1)[learned].sum()
            if ctx.needs_input_grad[0]:
                p.scatter_(1, index, chance - 1)
                z.copy_(p if learned.all() else p * learned[:, None])
        ctx.gradient = scores
        return total

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None]:  # pyrefly: ignore
        return ctx.gradient.mul_(outer), None
