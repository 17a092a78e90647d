"""How well a model predicts text it has not seen, in nats per token and bits per byte, beside two baselines.

B windows, T positions, C width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, log

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from firsthand.errors import DataError
from firsthand.evaluate.stats import Interval, bootstrap
from firsthand.infer.draw import evaluating
from firsthand.linear.labels import refuse_labels
from firsthand.model.gpt import GPT

ROWS = 1_024  # positions whose scores exist at one time: (ROWS, V)


@dataclass(frozen=True)
class Evaluation:
    """The loss of a model on held-out tokens, and what would be a poor one."""

    loss: float  # nats per token
    interval: Interval  # 95 % of `loss`, over windows
    perplexity: float  # exp(loss): as unsure as between so many equally likely tokens
    bits_per_byte: float | None  # comparable between tokenizers; None when the bytes of the text are not known
    tokens: int  # predicted tokens
    unigram: float  # nats per token of the best predictor that knows only how often each token occurs in this very data
    uniform: float  # log V: of a predictor that knows nothing


def validation_loss(
    model: GPT, windows: Sequence[np.ndarray], batch_size: int = 16, bytes_per_token: float | None = None
) -> Evaluation:
    """The mean loss over all positions of all windows: windows[i] is (T+1,), of which T tokens are predicted.

    Use windows that do not overlap (stride = context length), or tokens count more than once. `bytes_per_token` of
    the text turns nats per token into bits per byte.
    """
    refuse_labels(model)
    if len(windows) == 0:
        raise DataError("there is no window to evaluate on; give more text, or a shorter model.context_length", code=30)
    means, targets = [], []
    for first in range(0, len(windows), batch_size):
        last = min(first + batch_size, len(windows))
        rows = np.stack([windows[index] for index in range(first, last)]).astype(np.int64)
        means.append(token_losses(model, torch.from_numpy(rows)).double().mean(dim=1).cpu().numpy())
        targets.append(rows[:, 1:])
    per_window = np.concatenate(means)
    loss = float(per_window.mean())
    return Evaluation(
        loss=loss,
        interval=bootstrap(per_window),
        perplexity=exp(loss) if loss < 700 else inf,  # a float holds no exp(710)
        bits_per_byte=None if bytes_per_token is None else loss / log(2) / bytes_per_token,
        tokens=sum(part.size for part in targets),
        unigram=unigram_loss(np.concatenate(targets)),
        uniform=log(model.config.vocab_size),
    )


@torch.inference_mode()
def token_losses(model: GPT, ids: Tensor) -> Tensor:
    """How much each next token surprised the model, in nats: (B, T+1) -> (B, T)."""
    ids = ids.to(model.embed.weight.device)
    with evaluating(model):
        hidden = model.hidden(ids[:, :-1]).flatten(0, 1)  # (B·T, C)
        targets = ids[:, 1:].flatten()
        losses = [
            F.cross_entropy(_at_least_float32(model.head(part)), target, reduction="none")  # (ROWS,)
            for part, target in zip(hidden.split(ROWS), targets.split(ROWS), strict=True)
        ]
    return torch.cat(losses).view(len(ids), -1)


def _at_least_float32(scores: Tensor) -> Tensor:
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def unigram_loss(targets: np.ndarray) -> float:
    """The entropy of how often each token occurs, in nats: no predictor that ignores what came before does better."""
    counts = np.unique(targets, return_counts=True)[1]
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())
