"""What a classifier must beat: the commonest label, and a logistic regression on words, which takes a second.

E examples, F features (words and pairs of neighbours), N labels.
"""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

WORD = re.compile(r"\w+|[^\w\s]+")


class BagOfWords:
    """Logistic regression on which words and pairs occur, their order otherwise forgotten.

    A feature counts log(1 + times), divided by the length of the text's vector; those of fewer than two training texts
    are left out. The loss is convex, so there is one best answer and nothing to tune but `pull`, the weight of |W|^2/2.
    `weights` count the texts of a label more or less, as those of the model do.
    """

    def __init__(
        self,
        texts: Sequence[str],
        targets: Sequence[int],
        labels: int,
        weights: Sequence[float] = (),
        pull: float = 1e-4,
    ):
        often = Counter(feature for text in texts for feature in set(_features(text)))
        self.index = {feature: at for at, feature in enumerate(sorted(f for f, n in often.items() if n > 1))}
        self.weight = torch.zeros(len(self.index) + 1, labels, dtype=torch.float64, requires_grad=True)
        self.bias = torch.zeros(labels, dtype=torch.float64, requires_grad=True)
        bags, wanted = [self._bag(text) for text in texts], torch.tensor(targets)
        share = torch.tensor(list(weights) or [1.0] * labels, dtype=torch.float64)
        optimizer = torch.optim.LBFGS(
            [self.weight, self.bias],
            max_iter=500,
            tolerance_grad=1e-8,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = F.cross_entropy(self._scores(bags), wanted, share) + pull / 2 * self.weight.square().sum()
            value.backward()
            return value

        optimizer.step(loss)

    @torch.no_grad()
    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """How likely each label is: (E, N)."""
        return self._scores([self._bag(text) for text in texts]).softmax(dim=1).numpy()

    def _scores(self, bags: list[tuple[list[int], list[float]]]) -> Tensor:
        """The sum of the rows of W that a text's features have, each times its value: (E, N)."""
        starts = np.cumsum([0, *(len(at) for at, _ in bags[:-1])])
        where = torch.tensor([one for at, _ in bags for one in at])
        values = torch.tensor([one for _, many in bags for one in many], dtype=torch.float64)
        offsets = torch.from_numpy(starts)
        return F.embedding_bag(where, self.weight, offsets, mode="sum", per_sample_weights=values) + self.bias

    def _bag(self, text: str) -> tuple[list[int], list[float]]:
        """The features of a text and their values; the last feature, of value 0, stands for none at all."""
        counts = Counter(feature for feature in _features(text) if feature in self.index)
        values = np.log1p(list(counts.values()))
        return [*(self.index[f] for f in counts), len(self.index)], [
            *(values / max(np.linalg.norm(values), 1e-12)),
            0.0,
        ]


def _features(text: str) -> list[str]:
    """Words, signs, and pairs of neighbours, in small letters: "Win now!" -> win, now, !, win now, now !"""
    words = WORD.findall(text.lower())
    return words + [f"{a} {b}" for a, b in pairwise(words)]


def majority(targets: Sequence[int], count: int, labels: int) -> np.ndarray:
    """The shares of the labels in training, said of every text alike: (E, N)."""
    return np.tile(np.bincount(targets, minlength=labels) / len(targets), (count, 1))
