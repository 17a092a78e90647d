"""Lesson: DPO. Of two answers to one question, make the better one likelier: learning from taste, in one loss.

A model that imitates answers learns all of them alike. But it is easier to say which of two answers is better than to
write a perfect one. The long way was to train a second model that judges answers, and to let the first earn its praise.
DPO found that the judge is in the model already: how much likelier it makes an answer than it was before training,

    reward(answer) = beta (log p(answer | question) - log p_before(answer | question))

and that is all. A pair is ordered rightly with probability sigmoid(reward(chosen) - reward(rejected)), so the loss is
minus the logarithm of that. The model as it was is the anchor: what it thought is subtracted, so that an answer is not
good for being short or common; and the further a pair's lead is already, the less it pulls.

    nothing learned yet     rewards 0 and 0          loss log 2 = 0.693
    a lead of 2             sigmoid(2) = 0.88        loss 0.127
    the wrong way by 2      sigmoid(-2) = 0.12       loss 2.127

B pairs, T positions, V vocabulary.
Source: Rafailov et al. 2023, arXiv:2305.18290, eq. 5 (the reward) and 7 (the loss).
"""

from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

Pair = tuple[list[int], list[int], list[int]]  # ids of the question, of the better and of the worse answer


def answer_log_probability(model: Callable[[Tensor], Tensor], question: list[int], answer: list[int]) -> Tensor:
    """How likely a model finds an answer, as a whole, in nats: its tokens' log-probabilities, summed -> ().

    The last token of the question predicts the first of the answer; what the question's own tokens predict counts not.
    """
    ids = torch.tensor([question + answer])
    scores = model(ids[:, :-1])[0]  # (T, V): what may come after each token
    log_probabilities = scores - scores.logsumexp(dim=-1, keepdim=True)
    said = log_probabilities[len(question) - 1 :]  # (the answer's T, V)
    return said[torch.arange(len(answer)), torch.tensor(answer)].sum()


def reward(model: nn.Module, before: nn.Module, question: list[int], answer: list[int], beta: float) -> Tensor:
    """How much likelier an answer became, in units of 1 / beta: positive, if the model was taught to say it -> ()."""
    with torch.no_grad():  # the anchor does not move
        anchor = answer_log_probability(before, question, answer)
    return beta * (answer_log_probability(model, question, answer) - anchor)


def pair_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Minus the log-probability that the chosen answer wins, from the two rewards: (B,), (B,) -> (B,).

    -log sigmoid(x) is log(1 + e^-x): of a wrong order it is as large as the lead, of a right one almost nothing.
    """
    return torch.log1p(torch.exp(-(chosen - rejected).abs())) + (rejected - chosen).clamp(min=0)


def pull(chosen: Tensor, rejected: Tensor) -> Tensor:
    """How hard a pair pulls at its two answers: up at the one and down at the other: (B,), (B,) -> (B,).

    It is the gradient of the loss, and the probability of the wrong order: one that is settled pulls no more.
    """
    return 1 / (1 + torch.exp(chosen - rejected))


def loss(model: nn.Module, before: nn.Module, pairs: Sequence[Pair], beta: float) -> Tensor:
    """The mean loss of some pairs -> ()."""
    chosen = torch.stack([reward(model, before, question, better, beta) for question, better, _ in pairs])
    rejected = torch.stack([reward(model, before, question, worse, beta) for question, _, worse in pairs])
    return pair_loss(chosen, rejected).mean()


def prefer(model: nn.Module, pairs: Sequence[Pair], beta: float, rate: float, steps: int) -> tuple[list[float], float]:
    """Teach a model by pairs, with plain gradient steps: the losses, and what share of the pairs is ordered rightly."""
    before = deepcopy(model)
    losses = []
    for _ in range(steps):
        model.zero_grad()
        total = loss(model, before, pairs, beta)
        total.backward()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.grad is not None:
                    weight -= rate * weight.grad
        losses.append(float(total.detach()))
    with torch.no_grad():
        right = [
            bool(reward(model, before, question, better, beta) > reward(model, before, question, worse, beta))
            for question, better, worse in pairs
        ]
    return losses, sum(right) / len(right)
