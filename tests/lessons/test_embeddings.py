"""A lookup is a matrix product; positions tell two orders apart."""

import torch

from firsthand.lessons.embeddings import lookup, matrix_product, one_hot, with_positions

IDS = torch.tensor([2, 5, 2])


def table(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_one_hot_by_hand():
    assert one_hot(torch.tensor([2, 0]), 4).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]


def test_a_lookup_is_a_one_hot_matrix_product_and_is_what_torch_does():
    rows = table(7, 3)
    assert torch.equal(lookup(IDS, rows), matrix_product(IDS, rows))
    assert torch.equal(lookup(IDS, rows), torch.nn.functional.embedding(IDS, rows))


def test_a_row_learns_as_often_as_it_is_named():
    gradients = []
    for form in (lookup, matrix_product):
        rows = table(7, 3).requires_grad_()
        form(IDS, rows).sum().backward()
        gradients.append(rows.grad)
    assert torch.equal(*gradients)
    assert gradients[0][:, 0].tolist() == [0, 0, 2, 0, 0, 1, 0]


def test_without_positions_order_is_lost_and_with_them_it_is_not():
    rows, where = table(7, 3), table(5, 3, seed=1)
    there, back = torch.tensor([1, 4]), torch.tensor([4, 1])
    assert torch.equal(lookup(there, rows).sum(0), lookup(back, rows).sum(0))
    assert not torch.allclose(with_positions(there, rows, where)[0], with_positions(back, rows, where)[1])
    assert torch.equal(with_positions(there, rows, where), rows[there] + where[:2])
