import pytest
import torch
import torch.nn.functional as F
from kit import gap, tiny

from firsthand.errors import DataError
from firsthand.objectives.base import IGNORE
from firsthand.objectives.instruct import Instruct

EXAMPLES = [
    ([5, 6, 7, 8, 9], [0, 0, 0, 1, 1]),  # prompt 5 6 7, answer 8 9
    ([1, 2, 3], [0, 1, 1]),
    ([4, 4, 10, 1, 2, 3, 10], [0, 1, 1, 0, 0, 1, 1]),  # two answers
]


def test_instruct_learns_the_answer_and_nothing_else():
    batch = Instruct().collate(EXAMPLES[:1])
    assert batch.inputs.tolist() == [[5, 6, 7, 8]]
    assert batch.targets.tolist() == [[IGNORE, IGNORE, 8, 9]]  # 7 predicts 8; 8 predicts 9
    assert batch.count == 2


def test_learning_all_is_pretraining_on_the_same_text():
    batch = Instruct(learn="all").collate(EXAMPLES)
    assert batch.targets[0].tolist() == [6, 7, 8, 9, IGNORE, IGNORE]
    assert batch.count == 4 + 2 + 6


def test_rows_of_unequal_length_are_padded_on_the_right():
    batch = Instruct().collate(EXAMPLES)
    assert batch.lengths.tolist() == [4, 2, 6]
    assert batch.inputs[1].tolist() == [1, 2, 0, 0, 0, 0]
    assert batch.targets[2].tolist() == [4, 10, IGNORE, IGNORE, 3, 10]
    assert batch.count == 2 + 2 + 4


@pytest.mark.parametrize("learn", ["answer", "all"])
def test_the_loss_and_gradient_are_the_same_one_by_one_in_any_order_and_together(learn):
    model, objective = tiny("llama"), Instruct(learn)
    weights = list(model.parameters())

    def of(examples):
        loss = objective.loss(model, objective.collate(examples)).total
        return [loss, *torch.autograd.grad(loss, weights)]

    together, backwards = of(EXAMPLES), of(EXAMPLES[::-1])
    apart = [sum(parts) for parts in zip(*(of([example]) for example in EXAMPLES), strict=True)]
    for a, b, c in zip(together, backwards, apart, strict=True):
        assert gap(a.detach(), b.detach()) < 1e-10
        assert gap(a.detach(), c.detach()) < 1e-10


def test_the_loss_is_the_cross_entropy_of_the_answer():
    model, objective = tiny("gpt2"), Instruct()
    expected = F.cross_entropy(model(torch.tensor([[5, 6, 7, 8]]))[0, 2:], torch.tensor([8, 9]), reduction="sum")
    assert gap(objective.loss(model, objective.collate(EXAMPLES[:1])).total.detach(), expected.detach()) < 1e-10


def test_an_example_with_nothing_to_learn_is_refused():
    with pytest.raises(DataError, match="an example of 3 tokens has none to learn"):
        Instruct().collate([([1, 2, 3], [1, 0, 0])])  # the first token is predicted by nothing
