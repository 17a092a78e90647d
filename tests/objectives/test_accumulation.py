"""One gradient however a step is cut: 1, 2, 4 or 8 micro-batches, any order, any padding; for every objective."""

from itertools import pairwise

import pytest
import torch
from kit import gap, tiny

from firsthand.linear import lora
from firsthand.linear.kinds import change
from firsthand.objectives.classify import Classify
from firsthand.objectives.instruct import Instruct
from firsthand.objectives.preference import Preference
from firsthand.objectives.pretrain import Pretrain
from firsthand.training.loop import steps

LENGTHS = (9, 3, 5, 12, 4, 7, 6, 10)  # of eight examples
OBJECTIVES = ["pretrain", "classify", "weighted", "answer", "all", "dpo", "smooth", "ipo", "orpo", "simpo"]


def row(length, seed):
    """A question and an answer; about half of it is to be learned."""
    ids = torch.randint(11, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return ids, [at > length // 2 - seed % 2 for at in range(length)]


def made(kind):
    """An objective, and eight examples for it of unequal length and unequally much to learn."""
    talks = [row(length, seed) for seed, length in enumerate(LENGTHS)]
    if kind == "pretrain":
        return Pretrain(), [
            torch.randint(11, (8,), generator=torch.Generator().manual_seed(n)).numpy() for n in range(8)
        ]
    if kind in ("classify", "weighted"):
        weights = (1.0, 2.0, 5.0) if kind == "weighted" else ()
        return Classify(("a", "b", "c"), "lora", weights), [(ids, n % 3) for n, (ids, _) in enumerate(talks)]
    if kind in ("answer", "all"):
        return Instruct(kind), talks
    pairs = [(talk, ([*talk[0][:-1], (talk[0][-1] + 1) % 11, 3], [*talk[1], True])) for talk in talks]
    return Preference("dpo" if kind == "smooth" else kind, smoothing=0.1 if kind == "smooth" else 0.0), pairs


class Kept:
    """Plain gradient descent that remembers the gradients it was given."""

    def __init__(self, weights):
        self.weights, self.groups, self.seen = weights, [], {}

    def step(self, factor=1.0):
        self.seen = {name: weight.grad.clone() for name, weight in self.weights.items() if weight.grad is not None}
        for weight in self.weights.values():
            if weight.grad is not None:
                weight.data -= 0.1 * factor * weight.grad

    def tensors(self):
        return {}


def gradient(kind, adapters, order, accumulate):
    """The gradient of one step over the examples in an order, in so many micro-batches; and what the step says."""
    model, (objective, examples) = tiny("llama"), made(kind)
    if adapters:
        change(model, "lora", ["attention.*", "mlp.*"], {"rank": 2})
        lora.initialise(model, "default", seed=0)
    objective.prepare(model)
    if isinstance(objective, Classify):
        torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(5))
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    with torch.no_grad():
        for weight in weights.values():
            weight.add_(0.01)  # away from the reference, and from an adapter of zeros
    size = len(examples) // accumulate
    chosen = [examples[at] for at in order]
    batches = [objective.collate(chosen[first : first + size]) for first in range(0, len(chosen), size)]
    kept = Kept(weights)
    record = next(steps(model, objective, iter(batches), kept, accumulate=accumulate, clip=1e9))
    assert record.position == 8  # examples, whatever rows they make
    return record, kept.seen


@pytest.mark.parametrize("adapters", [False, True], ids=["plain", "lora"])
@pytest.mark.parametrize("kind", OBJECTIVES)
def test_the_gradient_is_the_same_in_1_2_4_and_8_micro_batches_and_in_any_order(kind, adapters):
    straight, backwards = list(range(8)), list(range(7, -1, -1))
    found = [gradient(kind, adapters, straight, accumulate) for accumulate in (1, 2, 4, 8)]
    found += [gradient(kind, adapters, backwards, accumulate) for accumulate in (1, 4)]
    for (one, slopes), (other, others) in pairwise(found):
        assert one.loss == pytest.approx(other.loss, rel=1e-12)
        assert one.metrics.keys() == other.metrics.keys()
        assert all(one.metrics[name] == pytest.approx(other.metrics[name], abs=1e-6) for name in one.metrics)
        assert slopes.keys() == others.keys()
        assert max(slope.abs().max().item() for slope in slopes.values()) > 1e-4
        assert all(gap(slope, others[name]) < 1e-10 for name, slope in slopes.items())
