"""Attention by hand, and masks against masks drawn by hand."""

import math

import kit
import pytest
import torch

from firsthand.model.attention import attend, attend_explicit, attend_fused, attention_weights, choose, visible
from firsthand.model.layers import rotary, rotate

both_forms = pytest.mark.parametrize("form", [attend_explicit, attend_fused])


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@both_forms
def test_attention_of_two_tokens_by_hand(form):
    q = torch.tensor([[1.0, 0.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0]], dtype=torch.float64)[None, None]
    k = torch.tensor([[0.0, 0.0, 0.0, 0.0], [math.log(3), 0.0, 0.0, 0.0]], dtype=torch.float64)[None, None]
    v = torch.tensor([[4.0, 0.0, 1.0, 0.0], [8.0, 0.0, 0.0, 1.0]], dtype=torch.float64)[None, None]
    # The first token sees itself alone. The second scores (0, 2 log 3) / sqrt(4) = (0, log 3), so it weighs 1 : 3.
    expected = torch.tensor([[4.0, 0.0, 1.0, 0.0], [7.0, 0.0, 0.25, 0.75]], dtype=torch.float64)[None, None]
    assert kit.gap(form(q, k, v), expected) < 1e-12


@both_forms
def test_a_window_of_three_hides_what_a_hand_drawn_mask_hides(form):
    q, k, v = draw(2, 6, 5, 4), draw(2, 3, 5, 4, seed=1), draw(2, 3, 5, 4, seed=2)
    by_hand = torch.tensor(
        [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1]], dtype=torch.bool
    )
    mask = visible(torch.arange(5), torch.arange(5), window=3)
    assert mask.tolist() == by_hand.tolist()
    weights = attention_weights(q, k, mask)
    assert (weights[:, :, ~by_hand] == 0).all()
    slow = torch.einsum("bhts,bhsd->bhtd", weights, v.repeat_interleave(2, dim=1))
    assert kit.gap(form(q, k, v, mask), slow) < 1e-10


@both_forms
def test_grouped_heads_equal_repeated_keys(form):
    q, k, v = draw(2, 6, 7, 4), draw(2, 3, 7, 4, seed=1), draw(2, 3, 7, 4, seed=2)
    repeated = form(q, k.repeat_interleave(2, dim=1), v.repeat_interleave(2, dim=1))
    assert kit.gap(form(q, k, v), repeated) < 1e-10


@both_forms
def test_without_a_mask_the_last_query_sees_every_key(form):
    q, k, v = draw(2, 6, 7, 4), draw(2, 3, 7, 4, seed=1), draw(2, 3, 7, 4, seed=2)
    whole = form(q, k, v)
    for T in (1, 3):
        assert kit.gap(form(q[:, :, -T:], k, v), whole[:, :, -T:]) < 1e-10


def test_every_row_has_its_own_causal_edge_when_lengths_differ():
    mask = visible(torch.tensor([[2, 3], [0, 1]]), torch.arange(4), window=None)
    assert mask.int().tolist() == [[[[1, 1, 1, 0], [1, 1, 1, 1]]], [[[1, 0, 0, 0], [1, 1, 0, 0]]]]


def test_the_chosen_form_agrees_with_both_on_both_sides_of_the_choice():
    chosen = set()
    for T in (7, 400):
        q, k, v = draw(1, 6, T, 4), draw(1, 3, T, 4, seed=1), draw(1, 3, T, 4, seed=2)
        chosen.add(choose(q, k))
        assert kit.gap(attend(q, k, v), attend_explicit(q, k, v)) < 1e-10
        assert kit.gap(attend(q, k, v), attend_fused(q, k, v)) < 1e-10
    assert chosen == {attend_explicit, attend_fused}


def test_rotary_turns_a_pair_by_hand():
    # head width 4, theta 100: pair 0 = (x0, x2) turns by the position, pair 1 = (x1, x3) by a tenth of it
    x = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64).view(1, 1, 1, 4)
    turned = rotate(x, *rotary(torch.tensor([3]), d_head=4, theta=100.0)).flatten()
    by_hand = torch.tensor([math.cos(3), math.cos(0.3), math.sin(3), math.sin(0.3)], dtype=torch.float64)
    assert kit.gap(turned, by_hand) < 1e-6  # the table is float32


def test_rotary_scores_depend_on_distance_only():
    q, k = draw(1, 1, 1, 8), draw(1, 1, 1, 8, seed=1)

    def score(at_q: int, at_k: int) -> float:
        turned = [rotate(x, *rotary(torch.tensor([t]), 8, 100.0)) for x, t in ((q, at_q), (k, at_k))]
        return (turned[0] * turned[1]).sum().item()

    assert abs(score(9, 4) - score(105, 100)) < 1e-5
    assert abs(score(9, 4) - score(9, 5)) > 1e-2
