"""The frozen part of a model, computed once: the same numbers as computing it every time, in bounded memory."""

import time

import pytest
import torch
from kit import VARIANTS, gap, ids, tiny

from firsthand.model.config import ModelConfig
from firsthand.model.gpt import GPT
from firsthand.objectives import trunk as trunks
from firsthand.objectives.classify import Classify, frozen_below
from firsthand.objectives.trunk import Trunk

LABELS = ("ham", "spam", "other")
ROWS = [([5, 6, 7], 1), ([8], 0), ([1, 2, 3, 4, 5, 6, 9], 2), ([3, 3], 1), ([5, 6, 7], 0), ([2, 4, 6, 0], 2)]


def filled(folder, model, thaw="block", rows=ROWS):
    """An objective whose frozen part was computed beforehand."""
    objective = Classify(LABELS, thaw)
    objective.prepare(model)
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(5))
    objective.trunk = Trunk(folder, [ids for ids, _ in rows], frozen_below(model, thaw)[0])
    objective.trunk.fill(model)
    return objective


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_two_halves_of_a_pass_are_the_pass(variant, blocks):
    model = tiny(variant)
    assert torch.equal(model.finish(model.stream(ids(3, 9), blocks), blocks), model.hidden(ids(3, 9)))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("thaw", ["head", "block", "two"])
def test_the_frozen_part_looked_up_equals_the_frozen_part_computed(tmp_path, monkeypatch, variant, thaw):
    monkeypatch.setattr(trunks, "ROOM", 5)  # several pieces
    model = tiny(variant)
    objective, plain = filled(tmp_path, model, thaw), Classify(LABELS, thaw)
    for batch in (plain.collate(ROWS), plain.collate(ROWS[::-1]), plain.collate(ROWS[1:2])):
        losses = []
        for way in (objective, plain):
            model.zero_grad()
            loss = way.loss(model, batch).total
            loss.backward()
            losses.append((loss.detach(), [w.grad.clone() for w in model.parameters() if w.grad is not None]))
        (a, a_gradients), (b, b_gradients) = losses
        assert gap(a, b) < 1e-10
        assert len(a_gradients) == len(b_gradients) > 0
        assert all(gap(x, y) < 1e-10 for x, y in zip(a_gradients, b_gradients, strict=True))


def test_equal_texts_share_a_row_and_the_file_holds_no_padding(tmp_path):
    model = tiny("llama")
    objective = filled(tmp_path, model)
    (path,) = tmp_path.glob("trunk-*.bin")
    tokens = 3 + 1 + 7 + 2 + 4  # [5, 6, 7] stands there twice
    assert path.stat().st_size == objective.trunk.bytes(model) == tokens * 24 * 8


def test_what_is_there_is_used_again_and_another_model_or_text_has_another_file(tmp_path):
    filled(tmp_path, tiny("llama"))
    (path,) = tmp_path.glob("trunk-*.bin")
    stamp = path.stat().st_mtime_ns
    filled(tmp_path, tiny("llama"))
    assert path.stat().st_mtime_ns == stamp
    filled(tmp_path, tiny("llama", seed=1))
    filled(tmp_path, tiny("llama"), rows=ROWS[:3])
    assert len(list(tmp_path.glob("trunk-*.bin"))) == 3


def test_at_the_end_the_file_is_deleted(tmp_path):
    objective = filled(tmp_path, tiny("llama"))
    assert objective.trunk is not None
    objective.trunk.forget()
    assert not list(tmp_path.iterdir())


def test_dropout_is_off_in_what_is_frozen_and_on_above(tmp_path):
    shape = ModelConfig(vocab_size=11, context_length=19, n_layer=2, n_head=6, d_model=24, d_ff=40, dropout=0.5)
    model = GPT(shape).train()
    objective = filled(tmp_path, model)
    assert model.training
    batch = objective.collate(ROWS)
    assert objective.trunk is not None
    stream = objective.trunk.kept.clone()
    assert not torch.equal(objective.scores(model, batch), objective.scores(model, batch))
    model.eval()
    assert gap(objective.scores(model, batch), Classify(LABELS).scores(model, batch)) < 1e-6
    assert torch.equal(objective.trunk.kept, stream)


def test_it_says_how_far_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(trunks, "ROOM", 5)
    said = []
    model = tiny("llama")
    trunk = Trunk(tmp_path, [ids for ids, _ in ROWS], 1)
    trunk.fill(model, lambda done, total: said.append((done, total)))
    row = 24 * 8  # bytes of a token
    assert said == [(n * row, 17 * row) for n in (3, 6, 10, 17)]  # rows of 1 and 2, then 3, 4 and 7 tokens alone


@pytest.mark.deep
def test_a_step_above_a_frozen_trunk_is_several_times_faster(tmp_path):
    shape = ModelConfig(vocab_size=97, context_length=64, n_layer=12, n_head=4, d_model=128)
    model = GPT(shape)
    rows = [(ids(60, vocab_size=97, seed=seed).tolist(), seed % 3) for seed in range(16)]
    objective, plain = filled(tmp_path, model, rows=rows), Classify(LABELS)
    batch = plain.collate(rows)

    def seconds(way):
        best = 1e9
        for _ in range(5):
            start = time.process_time()  # of the processor: others may be busy too
            way.loss(model, batch).total.backward()
            best = min(best, time.process_time() - start)
        return best

    assert seconds(plain) > 3 * seconds(objective)
