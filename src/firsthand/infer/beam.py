"""Beam search: the answer that is likeliest as a whole, not token by token.

A first token that is a little less likely may lead to a far likelier rest. So the `beams` likeliest beginnings are
continued side by side, as rows of one batch, until none that still runs can beat those that ended.
Source: Sutskever et al. 2014, arXiv:1409.3215, section 3.2; length penalty in the form of transformers,
`generate(early_stopping="never")`; an answer is worth (sum of its log-probabilities) / length ** length_penalty.

R running beams, V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from firsthand.infer.draw import Reader, evaluating


class Beam(NamedTuple):
    """An answer, or the beginning of one."""

    ids: tuple[int, ...]  # an end token included
    logprob: float  # natural logarithm of its probability after the prompt
    finish: str | None = None  # "end" an end token, "length" max_tokens, None it still runs

    def score(self, length_penalty: float) -> float:
        """What it is worth: 0 prefers what is likely and so what is short, 1 is the mean per token, more is longer."""
        return self.logprob / len(self.ids) ** length_penalty


@torch.inference_mode()
def search(
    model: Reader,
    prompt: Sequence[int],
    beams: int,
    max_tokens: int,
    ends: Sequence[int] = (),
    length_penalty: float = 1.0,
) -> list[Beam]:
    """The best answers to the ids of a prompt, at most `beams` of them, the best first.

    As many beams as there are beginnings make the search exhaustive; one beam is greedy decoding.
    """
    cache = model.new_cache(1, len(prompt) + max_tokens)
    running, finished = [Beam((), 0.0)], []
    new = torch.tensor([list(prompt)])
    while running and max_tokens:
        with evaluating(model):
            scores = model.last(new, 1, cache)[:, 0]  # (R, V)
        logprobs = scores.to("cpu", torch.float64).log_softmax(dim=-1)
        rows, candidates = _continued(running, logprobs, (1 + len(ends)) * beams, ends, max_tokens)
        ranked = list(zip(rows, candidates, strict=True))
        finished += [beam for _, beam in ranked[:beams] if beam.finish]  # what is worse would not have been kept
        finished = sorted(finished, key=lambda beam: -beam.score(length_penalty))[:beams]
        kept = [(row, beam) for row, beam in ranked if not beam.finish][:beams]
        running = [beam for _, beam in kept]
        if not running or (len(finished) == beams and _hopeless(running[0], finished[-1], max_tokens, length_penalty)):
            break
        cache.select(torch.tensor([row for row, _ in kept]))
        new = torch.tensor([beam.ids[-1:] for beam in running])
    return finished


def _continued(
    running: list[Beam], logprobs: Tensor, count: int, ends: Sequence[int], max_tokens: int
) -> tuple[list[int], list[Beam]]:
    """The likeliest ways to add one token: (R, V) -> the rows they continue, and the beams, the likeliest first."""
    sums = logprobs + logprobs.new_tensor([beam.logprob for beam in running])[:, None]
    best = sums.flatten().topk(min(count, sums.numel()))
    rows, beams = (best.indices // sums.shape[1]).tolist(), []
    for row, id, logprob in zip(rows, (best.indices % sums.shape[1]).tolist(), best.values.tolist(), strict=True):
        ids = (*running[row].ids, id)
        finish = "end" if id in ends else "length" if len(ids) == max_tokens else None
        beams.append(Beam(ids, logprob, finish))
    return rows, beams


def _hopeless(best: Beam, worst: Beam, max_tokens: int, length_penalty: float) -> bool:
    """Whether even the best running beam, should every further token be certain, stays below a finished one."""
    length = max_tokens if length_penalty > 0 else len(best.ids)
    return best.logprob / length**length_penalty <= worst.score(length_penalty)
