"""Lesson: training. Guess the next token, see how wrong the guess was, and move every weight a little.

Everything is written out: the loss, AdamW, the learning rate, the loop. Production's loop must give these losses.

B rows, T positions, V vocabulary.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


def cross_entropy(scores: Tensor, targets: Tensor) -> Tensor:
    """How surprised the model is by what really came, in nats: (B, T, V), (B, T) -> (B, T).

    A model that gives the right token probability p pays -log p: nothing when it was sure, 0.693 at one half, and
    log V when it knows nothing at all.
    """
    log_probabilities = scores - scores.exp().sum(dim=-1, keepdim=True).log()
    return -log_probabilities.gather(-1, targets[..., None])[..., 0]


def learning_rate(step: int, steps: int, peak: float, warmup: int, floor: float) -> float:
    """Small at first, while the averages of AdamW know nothing; then the peak; then slowly down to `floor`.

    Source: Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5, with a straight warm-up before it.
    """
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    way = (step - warmup) / (steps - warmup)
    return floor + (peak - floor) * (1 + math.cos(math.pi * way)) / 2


class AdamW:
    """Move each weight against its average gradient, in units of that gradient's usual size.

    So a weight whose gradient is always tiny moves as far as one whose gradient is always large: only the sign, and how
    steady it is, counts. Both averages start at zero and are too small at first; the corrections undo exactly that.
    Source: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2.
    """

    def __init__(self, weights: Iterable[nn.Parameter], beta1: float = 0.9, beta2: float = 0.95, decay: float = 0.1):
        self.weights = list(weights)
        self.beta1, self.beta2, self.decay = beta1, beta2, decay
        self.mean = [torch.zeros_like(weight) for weight in self.weights]
        self.square = [torch.zeros_like(weight) for weight in self.weights]
        self.steps = 0

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One update of every weight."""
        self.steps += 1
        for weight, mean, square in zip(self.weights, self.mean, self.square, strict=True):
            gradient = weight.grad
            assert gradient is not None  # every weight had a part in the loss
            mean.copy_(self.beta1 * mean + (1 - self.beta1) * gradient)
            square.copy_(self.beta2 * square + (1 - self.beta2) * gradient**2)
            direction = mean / (1 - self.beta1**self.steps)
            size = (square / (1 - self.beta2**self.steps)).sqrt() + 1e-8
            if weight.ndim >= 2:  # only matrices are pulled towards zero; a norm's scale belongs near one
                weight -= rate * self.decay * weight
            weight -= rate * direction / size


def clip(weights: list[nn.Parameter], longest: float) -> float:
    """Shorten the whole gradient to `longest` if it is longer, so that one strange batch cannot undo a day's work."""
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients))
    if norm > longest:
        for gradient in gradients:
            gradient *= longest / norm  # in place: it is the weight's own
    return norm


def train(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    optimizer: AdamW,
    rate: Callable[[int], float],
    longest: float = 1.0,
) -> list[float]:
    """The loop: for every batch of inputs and targets one update; gives the loss before each."""
    losses = []
    for step, (inputs, targets) in enumerate(batches):
        loss = cross_entropy(model(inputs), targets).mean()  # how wrong, averaged over all tokens
        loss.backward()  # in which direction each weight makes it worse
        clip(optimizer.weights, longest)
        optimizer.step(rate(step))  # a step in the other direction
        for weight in optimizer.weights:
            weight.grad = None  # or the next batch's gradient would be added to this one
        losses.append(loss.item())
    return losses
