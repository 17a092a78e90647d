"""How near an answer is to the one that was wanted: exactly it, or how much of it in the same order."""

import re
from collections.abc import Sequence

from firsthand.data.tasks import bare

WORD = re.compile(r"[^\W_]+")


def exact(said: str, wanted: str) -> bool:
    """Whether two answers are the same but for case, white space, quotes around them and a full stop at the end."""
    return bare(said, cased=False) == bare(wanted, cased=False)


def rouge_l(said: str, wanted: str) -> float:
    """The longest common subsequence of words, as F1 of its share in both: 0 nothing in common, 1 the same words.

    "the cat sat" to "the cat was sad": 2 common words, 2/3 of one and 2/4 of the other, 0.571.
    Source: Lin 2004, ROUGE: A package for automatic evaluation of summaries, section 3.1, with beta = 1.
    """
    a, b = WORD.findall(said.lower()), WORD.findall(wanted.lower())
    common = longest_common(a, b)
    return 2 * common / (len(a) + len(b)) if common else 0.0


def echoes(question: str, said: str, wanted: str, words: int = 5) -> bool:
    """Whether an answer repeats so many words of its question in a row that the answer wanted does not repeat."""
    return bool(_runs(said, words) & (_runs(question, words) - _runs(wanted, words)))


def _runs(text: str, words: int) -> set[tuple[str, ...]]:
    found = WORD.findall(text.lower())
    return {tuple(found[at : at + words]) for at in range(len(found) - words + 1)}


def longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    """How many elements two rows share in the same order, others between them."""
    row = [0] * (len(b) + 1)  # of what was read of `a` so far, with the first n of `b`
    for one in a:
        before = 0
        for at, other in enumerate(b, 1):
            before, row[at] = row[at], before + 1 if one == other else max(row[at], row[at - 1])
    return row[-1]
