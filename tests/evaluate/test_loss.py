"""Held-out loss: equal to a plain sum, deterministic, and honest about what it is compared with."""

from math import exp, log

import numpy as np
import pytest
import torch
from kit import tiny

from firsthand.data.tokens import windows
from firsthand.errors import DataError
from firsthand.evaluate import loss as module
from firsthand.evaluate.loss import token_losses, unigram_loss, validation_loss

IDS = np.random.default_rng(0).integers(0, 11, size=138).astype(np.uint16)
HELD_OUT = windows(IDS, 17, 17)


def test_the_loss_is_the_mean_of_minus_log_probability():
    model = tiny("llama")
    surprises = []
    for window in HELD_OUT:
        ids = torch.from_numpy(window.astype(np.int64))
        probabilities = model(ids[None, :-1])[0].softmax(dim=-1).detach()
        surprises += [-log(float(probabilities[t, ids[t + 1]])) for t in range(17)]
    result = validation_loss(model, HELD_OUT, batch_size=3)
    assert result.tokens == len(surprises) == 136
    assert result.loss == pytest.approx(sum(surprises) / 136, abs=1e-10)
    assert result.perplexity == pytest.approx(exp(result.loss))
    assert result.interval.low < result.loss < result.interval.high
    assert result.uniform == pytest.approx(log(11))


@pytest.mark.parametrize("batch_size, rows", [(1, 1_024), (3, 5), (8, 17), (100, 3)])
def test_neither_the_batch_nor_the_chunk_changes_the_loss(monkeypatch, batch_size, rows):
    expected = validation_loss(tiny(), HELD_OUT)
    monkeypatch.setattr(module, "ROWS", rows)
    result = validation_loss(tiny(), HELD_OUT, batch_size)
    assert result.loss == pytest.approx(expected.loss, abs=1e-10)
    assert result.interval == pytest.approx(expected.interval, abs=1e-10)


def test_bits_per_byte_worked_by_hand():
    model = tiny()
    with torch.no_grad():
        model.head.weight.zero_()  # all 11 tokens equally likely: log 11 = 2.397895 nats
    result = validation_loss(model, HELD_OUT, bytes_per_token=4.0)
    assert result.loss == pytest.approx(2.397895, abs=1e-6)
    assert result.bits_per_byte == pytest.approx(3.459432 / 4, abs=1e-6)  # log2 11 = 3.459432 bits, over 4 bytes
    assert result.perplexity == pytest.approx(11)
    assert validation_loss(model, HELD_OUT).bits_per_byte is None


def test_the_unigram_baseline_worked_by_hand():
    # shares 1/2, 1/4, 1/4: 1.5 bits
    assert unigram_loss(np.array([7, 7, 2, 9])) == pytest.approx(1.5 * log(2), abs=1e-12)
    assert validation_loss(tiny(), HELD_OUT).unigram == pytest.approx(
        unigram_loss(np.concatenate([window[1:] for window in HELD_OUT]))
    )


@pytest.mark.parametrize("training", [True, False])
def test_evaluating_leaves_the_model_as_it_was_and_has_no_dropout(training):
    model = tiny()
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.5
    model.train(training)
    first, second = (validation_loss(model, HELD_OUT).loss for _ in range(2))
    assert first == second == validation_loss(tiny(), HELD_OUT).loss
    assert all(part.training == training for part in model.modules())


def test_a_model_in_half_precision_is_scored_in_single():
    assert token_losses(tiny(dtype=torch.bfloat16), torch.arange(10)[None]).dtype == torch.float32


def test_no_window_is_refused():
    with pytest.raises(DataError, match="there is no window to evaluate on"):
        validation_loss(tiny(), [])
