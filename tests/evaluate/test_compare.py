"""The numbers of a comparison, against numbers worked by hand."""

import math

import kit
import numpy as np
import pytest
import torch
from provers import bundle, text

from firsthand.errors import ConfigError, DataError, ModelError
from firsthand.evaluate import compare
from firsthand.evaluate.compare import Found, Reference, cut, gap, twin

EXACT, DRIFT = Found("a form", "", "exact"), Found("a form", "", "drift")


def reference(strict=False, tokens=60):
    made = Reference(bundle(), text(tokens), strict)
    made.compute(lambda seconds: None)
    return made


def test_kl_and_surprise_worked_by_hand():
    a = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log() + 7.0  # a shift that softmax does not see
    b = torch.tensor([[0.25, 0.75], [0.9, 0.1]]).log()
    found = gap(a, b, torch.tensor([0, 1]))
    assert found.kl == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), abs=1e-6)  # 0.143841; 0 at the second
    assert found.nats == pytest.approx(math.log(2), abs=1e-6)  # token 0: 1/2 by the one, 1/4 by the other
    assert found.delta == pytest.approx(7 + math.log(2), abs=1e-6)
    assert found.other == [(0, 1)]


def test_bits_per_byte_worked_by_hand():
    made = reference()
    cold = [scores / 1e9 for scores in made.scores]  # all 11 tokens equally likely: log2 11 = 3.459432 bits
    found = made.compare(DRIFT, cold)
    bits = 3.459432 / 4 - made.bits_per_byte  # the text has 4 bytes a token
    assert found.bits_per_byte == pytest.approx(bits, abs=1e-6)
    assert found.interval_95.low < bits < found.interval_95.high
    assert found.verdict == "drift"


def test_the_interval_is_of_paired_differences():
    made = reference()
    found = made.compare(DRIFT, [scores * 2 for scores in made.scores])
    alone = made.compare(DRIFT, made.scores)
    assert alone.interval_95 == (0, 0) and alone.kl == alone.max_delta == 0 and alone.same_greedy == 1
    assert found.interval_95.low < found.bits_per_byte < found.interval_95.high
    assert found.same_greedy == 1 and found.first_other is None  # twice as sure, of the same


@pytest.mark.parametrize("share, verdict", [(0.9, "exact"), (1.1, "NOT EXACT")])
def test_one_score_beyond_the_bound_is_not_exact(share, verdict):
    made = reference()
    scores = [row.clone() for row in made.scores]
    scores[-1][-1, 3] += share * 1e-4 * max(float(row.abs().max()) for row in made.scores)
    assert made.compare(EXACT, scores).verdict == verdict
    assert made.compare(DRIFT, scores).verdict == "drift"


def test_where_another_token_is_first_chosen_it_says_what_stood_there():
    made = reference()
    scores = [row.clone() for row in made.scores]
    best, second = made.scores[1][4].topk(2).indices.tolist()
    scores[1][4, second] += 100
    at = made.compare(EXACT, scores).first_other
    letters = made.bundle.tokenizer
    assert (at.row, at.position) == (1, 4)
    assert (at.reference, at.form) == (letters.decode([best]), letters.decode([second]))
    assert at.before == letters.decode(made.rows[1][:5].tolist())
    chances = made.scores[1][4].softmax(0)
    assert at.probabilities == pytest.approx((float(chances[best]), float(chances[second])), abs=1e-6)
    assert at.margin == pytest.approx(float(made.scores[1][4][best] - made.scores[1][4][second]), abs=1e-5)


def test_scores_that_are_no_numbers_are_never_exact():
    made = reference()
    scores = [row.clone() for row in made.scores]
    scores[0][0, 0] = float("nan")
    assert made.compare(EXACT, scores).verdict == "NOT EXACT"
    drifted = made.compare(DRIFT, scores)
    assert (drifted.verdict, drifted.max_delta) == ("drift", None) and "no numbers" in drifted.note


def test_greedy_text_is_exact_if_every_token_is_the_references_own_choice():
    made, ids = reference(), [3, 1, 4]
    for _ in range(9):
        ids.append(int(made.bundle.model(torch.tensor([ids]))[0, -1].argmax()))
    assert made.compare_greedy(EXACT, ids, 3).verdict == "exact"
    other = [*ids[:8], (ids[8] + 1) % 11, *ids[9:]]
    found = made.compare_greedy(EXACT, other, 3)
    assert found.verdict == "NOT EXACT"
    assert (found.first_other.position, found.same_greedy) == (5, pytest.approx(5 / 9))
    assert found.first_other.form == made.bundle.tokenizer.decode([other[8]])


def test_the_reference_is_the_explicit_model_row_by_row():
    made, model = reference(strict=True), kit.tiny("llama", torch.float32).double()
    for row, scores in zip(made.rows, made.scores, strict=True):
        assert kit.gap(model(row[None])[0], scores) < 1e-10
    assert (made.dtype, made.tolerance) == (torch.float64, 1e-10)


def test_rows_are_ragged_and_spread_over_the_text():
    made = cut("counted", np.arange(1_000), 2.0, tokens=100, longest=20)
    lengths = [len(row) - 1 for row in made.rows]
    assert sum(lengths) == made.tokens == 100 and made.bytes == 200
    assert len(set(lengths)) >= 4 and max(lengths) == 20
    assert made.rows[0][0] == 0 and made.rows[-1][-1] > 950
    assert all((row.diff() == 1).all() for row in made.rows)


def test_a_text_of_nothing_is_refused():
    with pytest.raises(DataError, match=r"note\.txt has 2 tokens, too few to compare anything; give at least 3"):
        cut("note.txt", np.arange(2), 1.0, 100, 20)


def test_more_tokens_than_memory_are_refused_with_the_most_there_can_be(monkeypatch):
    monkeypatch.setattr(compare, "MOST_BYTES", 2_000)
    with pytest.raises(ConfigError, match=r"tokens is 60, .* this vocabulary allows up to 45"):  # 2000 / (11 x 4)
        Reference(bundle(), text(60))


def test_a_damaged_model_is_refused():
    damaged = bundle()
    with torch.no_grad():
        damaged.model.embed.weight[3, 2] = float("nan")
    with pytest.raises(ModelError, match="no numbers: its weights are damaged"):
        Reference(damaged, text(60)).compute(lambda seconds: None)


def test_a_twin_shares_weights_of_its_type_and_leaves_the_model_alone():
    model = kit.tiny("gpt2")
    same, other = twin(model), twin(model, torch.float32)
    same.attend = None
    assert same.embed.weight is model.embed.weight and same.head.weight is same.embed.weight
    assert model.attend is not None and model.embed.weight.dtype == torch.float64
    assert other.head.weight is other.embed.weight and other.embed.weight.dtype == torch.float32
