"""How a model chooses its next word, as slowly as possible.

A model never says a word. It gives every token of its vocabulary a number, the score: the larger, the likelier.
What happens to these numbers afterwards decides whether the text is dull, lively, or nonsense.
Each function here takes a tensor of V scores (or probabilities) and gives a new one.
"""

import torch
from torch import Tensor

NEVER = float("-inf")


def softmax(scores: Tensor) -> Tensor:
    """Scores to probabilities: each becomes e to its power, divided by the sum of all: (V,) -> (V,)."""
    powers = torch.exp(scores - scores.max())  # minus the largest: nothing overflows, and the shares stay the same
    return powers / powers.sum()


def temperature(scores: Tensor, T: float) -> Tensor:
    """Divide all scores by T: (V,) -> (V,). Differences grow when T < 1, and shrink when T > 1.

    Two tokens with scores 2 and 0: at T = 1 the first is e² = 7.4 times likelier, at T = 0.5 e⁴ = 54.6 times.
    """
    return scores / T


def greedy(scores: Tensor) -> int:
    """Always the likeliest token: (V,) -> (). Where every temperature ends up that comes near 0."""
    best = 0
    for token in range(len(scores)):
        if scores[token] > scores[best]:
            best = token
    return best


def top_k(scores: Tensor, k: int) -> Tensor:
    """Forbid all but the k likeliest: (V,) -> (V,). Thousands of unlikely tokens together are likely: cut them off."""
    worst_allowed = sorted(scores.tolist(), reverse=True)[k - 1]
    kept = scores.clone()
    for token in range(len(scores)):
        if scores[token] < worst_allowed:
            kept[token] = NEVER
    return kept


def top_p(scores: Tensor, p: float) -> Tensor:
    """Take the likeliest, then the next, until together they hold p; forbid the rest: (V,) -> (V,).

    Where the model is sure that leaves one or two tokens, where it is not, hundreds; top-k cannot do that.
    """
    probabilities = softmax(scores)
    kept = torch.full_like(scores, NEVER)
    held = 0.0
    for token in sorted(range(len(scores)), key=lambda token: -probabilities[token]):
        if held >= p:
            break
        kept[token] = scores[token]
        held += float(probabilities[token])
    return kept


def min_p(scores: Tensor, fraction: float) -> Tensor:
    """Forbid what is less than `fraction` as likely as the likeliest: (V,) -> (V,)."""
    probabilities = softmax(scores)
    kept = scores.clone()
    for token in range(len(scores)):
        if probabilities[token] < fraction * probabilities.max():
            kept[token] = NEVER
    return kept


def repetition_penalty(scores: Tensor, history: list[int], penalty: float) -> Tensor:
    """Make what was already said less likely: (V,) -> (V,). A score below 0 must be multiplied to fall."""
    changed = scores.clone()
    for token in set(history):
        changed[token] = scores[token] * penalty if scores[token] < 0 else scores[token] / penalty
    return changed


def draw(probabilities: Tensor, u: float) -> int:
    """Lay the probabilities end to end on a line of length 1; the token under the point u is drawn: (V,), () -> ()."""
    passed = 0.0
    for token in range(len(probabilities)):
        passed += float(probabilities[token])
        if u < passed:
            return token
    return len(probabilities) - 1  # u beyond a sum that rounding left at 0.9999999


def next_token(scores: Tensor, T: float, k: int, generator: torch.Generator) -> int:
    """The whole way that most models take: (V,) -> ()."""
    probabilities = softmax(top_k(temperature(scores, T), k))
    u = float(torch.rand((), generator=generator, dtype=torch.float64))
    return draw(probabilities, u)


def look_up(history: list[int], count: int) -> list[int]:
    """Guess the next tokens without any model: what followed the last three when they last stood side by side.

    Then the model reads all guesses at once, which takes hardly longer than reading one: its time goes into fetching
    its weights. It gives scores at every place, and so says what it would have chosen there.
    """
    for length in (3, 2, 1):
        end = history[-length:]
        for start in reversed(range(len(history) - length)):
            if history[start : start + length] == end:
                return history[start + length :][:count]
    return []


def accept(guesses: list[int], chosen: list[int]) -> list[int]:
    """The model's choices that hold: as long as the guesses were right, and one more, for it saw nothing wrong before.

    [5, 6, 7] guessed and [5, 6, 9, 2] chosen: 5 and 6 were right, 9 is what comes instead of 7, and 2 is void.
    """
    right = 0
    while right < len(guesses) and guesses[right] == chosen[right]:
        right += 1
    return chosen[: right + 1]
