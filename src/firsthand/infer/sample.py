"""From the scores of all tokens to the one that comes next.

The steps run in this order, each on what the one before left over; a removed token has the score minus infinity:

    limit -> repetition, presence, frequency penalty -> temperature -> top-k -> top-p -> min-p -> draw

The limit is what else decides, such as a grammar (constrain.py). V vocabulary. Every function here takes and gives
scores (logits) of one position, (V,), and changes nothing in place.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from firsthand.errors import ConfigError, ModelError

NEVER = float("-inf")
Stage = tuple[str, Callable[[Tensor], Tensor]]  # the name of a step, and what it does: (V,) -> (V,)


def repeat_less(logits: Tensor, history: Sequence[int], penalty: float) -> Tensor:
    """Scores in which what already occurred is less likely: (V,) -> (V,).

    Positive scores are divided by the penalty and negative ones multiplied, so that both fall.
    Source: Keskar et al. 2019, arXiv:1909.05858, section 4.1.
    """
    seen = torch.tensor(sorted(set(history)), dtype=torch.long, device=logits.device)
    scores = logits[seen]
    return logits.index_copy(0, seen, torch.where(scores < 0, scores * penalty, scores / penalty))


def mention_once(logits: Tensor, history: Sequence[int], penalty: float) -> Tensor:
    """Scores lowered by the penalty for every token that occurred, however often: (V,) -> (V,).

    Source: OpenAI API reference, "Frequency and presence penalties": mu[j] - (c[j] > 0) * alpha_presence.
    """
    return logits - penalty * (_counts(logits, history) > 0)


def mention_rarely(logits: Tensor, history: Sequence[int], penalty: float) -> Tensor:
    """Scores lowered by the penalty each time that a token occurred: (V,) -> (V,).

    Source: OpenAI API reference, "Frequency and presence penalties": mu[j] - c[j] * alpha_frequency.
    """
    return logits - penalty * _counts(logits, history)


def _counts(logits: Tensor, history: Sequence[int]) -> Tensor:
    """How often each token occurred."""
    return torch.bincount(torch.tensor(history, dtype=torch.long), minlength=len(logits)).to(logits)


def heat(logits: Tensor, temperature: float) -> Tensor:
    """Scores divided by the temperature: (V,) -> (V,). Below 1 the likely gain, above 1 the unlikely.

    At 0, the limit, only the likeliest token is left (the one with the lowest id, if several are): greedy.
    """
    if temperature == 0:
        return _keep(logits, torch.arange(len(logits), device=logits.device) == logits.argmax())
    return (logits - logits.max()) / temperature  # the largest becomes 0: a tiny temperature cannot overflow


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Only the k likeliest tokens, and those as likely as the k-th: (V,) -> (V,). Source: arXiv:1805.04833."""
    return _keep(logits, logits >= logits.topk(k).values[-1])


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Only the fewest tokens that together hold the probability p: (V,) -> (V,). Source: arXiv:1904.09751, eq. 2."""
    probabilities, order = logits.softmax(dim=0).sort(descending=True, stable=True)
    mass_before = probabilities.cumsum(dim=0) - probabilities
    keep = torch.zeros_like(logits, dtype=torch.bool).index_copy(0, order, mass_before < p)
    return _keep(logits, keep)


def keep_min_p(logits: Tensor, fraction: float) -> Tensor:
    """Only tokens at least `fraction` as likely as the likeliest: (V,) -> (V,). Source: arXiv:2407.01082, eq. 2."""
    probabilities = logits.softmax(dim=0)
    return _keep(logits, probabilities >= fraction * probabilities.max())


def _keep(logits: Tensor, keep: Tensor) -> Tensor:
    return logits.masked_fill(~keep, NEVER)


class Step(NamedTuple):
    """What one step of the sampler did to the distribution of the next token."""

    name: str
    before: Tensor  # (V,) probabilities
    after: Tensor  # (V,)

    @property
    def removed(self) -> float:
        """The probability that the step took away entirely."""
        return float(self.before[self.after == 0].sum())

    @property
    def kept(self) -> int:
        """How many tokens can still be drawn."""
        return int((self.after > 0).sum())


@dataclass(frozen=True)
class Sampler:
    """How the next token is chosen; None, a top_k of 0, a repetition penalty of 1, and others of 0 turn a step off.

    The repetition penalty counts the prompt too, the other two only what was answered so far.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    def __post_init__(self) -> None:
        _between("temperature", self.temperature, 0 <= self.temperature <= 2, "between 0 (greedy) and 2", 16)
        _between("top_k", self.top_k, self.top_k >= 0, "1 or more, or 0 to turn it off", 17)
        if self.top_p is not None:
            _between("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1 (1 keeps all)")
        if self.min_p is not None:
            _between("min_p", self.min_p, 0 <= self.min_p <= 1, "between 0 (keeps all) and 1")
        if self.repetition_penalty is not None:
            allowed = 0 < self.repetition_penalty <= 10
            _between("repetition_penalty", self.repetition_penalty, allowed, "above 0 and at most 10; usual: 1.2")
        for name in ("presence_penalty", "frequency_penalty"):
            value = float(getattr(self, name))
            _between(name, value, -2 <= value <= 2, "between -2 and 2; usual: 0.1 to 1, 0 turns it off")

    def check(self, vocab_size: int) -> None:
        """Refuse what does not fit the vocabulary, before any work."""
        if self.top_k > vocab_size:
            raise ConfigError(
                f"top_k is {self.top_k} but the vocabulary has {vocab_size:,} tokens. "
                f"Use 1…{vocab_size}, or 0 to turn it off.",
                code=17,
            )

    def stages(self, history: Sequence[int] = (), begin: int = 0, limit: Stage | None = None) -> list[Stage]:
        """The steps that are on, in their order; the answer begins at `begin` of the history."""
        stages: list[Stage] = [] if limit is None else [limit]
        if self.repetition_penalty not in (None, 1):
            penalty = float(self.repetition_penalty)
            stages.append((f"repetition penalty {penalty:g}", partial(repeat_less, history=history, penalty=penalty)))
        penalties = (
            ("presence", mention_once, self.presence_penalty),
            ("frequency", mention_rarely, self.frequency_penalty),
        )
        for name, lower, penalty in penalties:
            if penalty:
                stages.append((f"{name} penalty {penalty:g}", partial(lower, history=history[begin:], penalty=penalty)))
        stages.append((f"temperature {self.temperature:g}", partial(heat, temperature=self.temperature)))
        if self.top_k:
            stages.append((f"top-k {self.top_k}", partial(keep_top_k, k=self.top_k)))
        if self.top_p not in (None, 1):
            stages.append((f"top-p {self.top_p:g}", partial(keep_top_p, p=self.top_p)))
        if self.min_p is not None:
            stages.append((f"min-p {self.min_p:g}", partial(keep_min_p, fraction=self.min_p)))
        return stages

    def steps(
        self, logits: Tensor, history: Sequence[int] = (), begin: int = 0, limit: Stage | None = None
    ) -> list[Step]:
        """What every step does to the distribution: (V,) -> one `Step` each; `removed` is the mass it takes away."""
        steps = []
        for name, stage in self.stages(history, begin, limit):
            changed = stage(logits)
            steps.append(Step(name, logits.softmax(dim=0), changed.softmax(dim=0)))
            logits = changed
        return steps

    def distribution(
        self, logits: Tensor, history: Sequence[int] = (), begin: int = 0, limit: Stage | None = None
    ) -> Tensor:
        """The probabilities from which the next token is drawn: (V,) -> (V,)."""
        for _, stage in self.stages(history, begin, limit):
            logits = stage(logits)
        return logits.softmax(dim=0)


def draw(probabilities: Tensor, generator: torch.Generator) -> int:
    """One id: throw a number below 1, and walk along the probabilities until their sum passes it: (V,) -> ()."""
    walk = probabilities.cumsum(dim=0)
    # times the last sum, for it may be 1 - 1e-16; u < 1 keeps the product below it, and a probability of 0 is never hit
    thrown = torch.rand((), generator=generator, dtype=walk.dtype) * walk[-1]
    return int(torch.searchsorted(walk, thrown, right=True))


def pick(
    logits: Tensor,
    sampler: Sampler,
    history: Sequence[int],
    generator: torch.Generator,
    begin: int = 0,
    limit: Stage | None = None,
) -> int:
    """The id of the next token: (V,) -> (), in float64 on the CPU, so that a seed means the same on every device."""
    logits = logits.detach().to("cpu", torch.float64)
    if not logits.isfinite().all():
        bad = logits[~logits.isfinite()]
        raise ModelError(
            f"the model gave the score {float(bad[0])} to {len(bad):,} of {len(logits):,} tokens: its weights are "
            "damaged or its training diverged. Use an earlier checkpoint."
        )
    return draw(sampler.distribution(logits, history, begin, limit), generator)


def _between(name: str, value: float, allowed: bool, rule: str, code: int | None = None) -> None:
    if not allowed:
        raise ConfigError(f"{name} is {value}; it must be {rule}.", code=code)
