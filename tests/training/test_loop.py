"""The loop: one gradient however it is cut, no update from a NaN, dropout that belongs to the sample."""

import hashlib
import itertools

import pytest
import torch
from torch import nn

from firsthand.errors import TrainingError
from firsthand.objectives.base import IGNORE, Batch, Loss
from firsthand.objectives.pretrain import Pretrain
from firsthand.training.config import TrainConfig
from firsthand.training.groups import build
from firsthand.training.loop import LossScale, NonFinite, dropout_seed, steps
from tests.kit import gap, ids, tiny

LENGTHS = [9, 1, 4, 9, 2, 6, 9, 3]  # learned positions of eight rows


class Keep:
    """An optimiser that only keeps the gradient it is shown."""

    def __init__(self, model):
        self.model, self.groups, self.seen = model, [], []

    def step(self, factor=1.0):
        self.seen.append({name: p.grad.clone() for name, p in self.model.named_parameters()})

    def tensors(self):
        return {}


class Plain:
    """The objective under test beside a fault that a test puts in."""

    def __init__(self, fault=lambda loss, batch: loss):
        self.fault = fault

    def prepare(self, model):
        pass

    def collate(self, examples):
        return Pretrain().collate(examples)

    def loss(self, model, batch):
        return Loss(self.fault(Pretrain().loss(model, batch).total, batch))


def ragged(rows=slice(None)):
    inputs, targets = ids(8, 9)[rows], ids(8, 9, seed=3)[rows].clone()
    for row, length in enumerate(LENGTHS[rows]):
        targets[row, length:] = IGNORE
    count = int((targets != IGNORE).sum())
    return Batch(inputs, targets, torch.tensor(LENGTHS[rows]), count)


def gradient_of(batches, accumulate):
    model = tiny("llama")
    keeper = Keep(model)
    record = next(steps(model, Pretrain(), iter(batches), keeper, accumulate=accumulate, clip=1e9))
    return record, keeper.seen[0]


@pytest.mark.parametrize("size", [4, 2, 1])
def test_accumulation_gives_the_gradient_of_one_large_batch(size):
    whole, expected = gradient_of([ragged()], 1)
    parts = [ragged(slice(i, i + size)) for i in range(0, 8, size)]
    record, gradient = gradient_of(parts, 8 // size)
    assert record.count == whole.count == sum(LENGTHS)
    assert record.loss == pytest.approx(whole.loss, rel=1e-13)
    assert record.norm == pytest.approx(whole.norm, rel=1e-12)
    for name, slope in expected.items():
        assert gap(gradient[name], slope) <= 1e-12 * max(1.0, slope.abs().max().item())


def test_micro_batches_without_a_learned_token_change_nothing():
    whole, expected = gradient_of([ragged()], 1)
    empty = Batch(ids(2, 9), torch.full((2, 9), IGNORE), torch.tensor([9, 9]), 0)
    record, gradient = gradient_of([empty, ragged()], 2)
    assert record.loss == pytest.approx(whole.loss, rel=1e-13)
    for name, slope in expected.items():
        assert gap(gradient[name], slope) <= 1e-12 * max(1.0, slope.abs().max().item())


def test_the_loss_is_the_mean_over_learned_tokens_by_hand():
    model = tiny("gpt2")
    nn.init.zeros_(model.embed.weight)  # tied: every score is 0, every token has probability 1/11
    record, _ = gradient_with(model, [ragged()])
    assert record.loss == pytest.approx(torch.log(torch.tensor(11.0, dtype=torch.float64)).item(), abs=1e-12)


def gradient_with(model, batches, clip=1e9, **settings):
    keeper = Keep(model)
    return next(steps(model, Pretrain(), iter(batches), keeper, clip=clip, **settings)), keeper.seen


def test_clipping_shortens_the_gradient_and_reports_its_length():
    model = tiny("gpt2")
    free, [loose] = gradient_with(model, [ragged()])
    tight, [short] = gradient_with(model, [ragged()], clip=0.01)
    assert tight.norm == free.norm > 0.01
    for name, slope in loose.items():
        assert gap(short[name], slope * 0.01 / free.norm) < 1e-12


def digest(model):
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()


def poison_loss(value):
    return lambda loss, batch: loss * value


def poison_one_gradient(value):
    class Poison(torch.autograd.Function):
        @staticmethod
        def forward(ctx, loss):
            return loss.clone()

        @staticmethod
        def backward(ctx, outer):
            return outer * value

    return lambda loss, batch: Poison.apply(loss)


FAULTS = {
    "loss nan": poison_loss(float("nan")),
    "loss inf": poison_loss(float("inf")),
    "loss minus inf": poison_loss(float("-inf")),
    "gradient nan": poison_one_gradient(float("nan")),
    "gradient inf": poison_one_gradient(float("inf")),
    "gradient too large to square": poison_one_gradient(1e300),
}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_number_that_is_none_updates_nothing(fault, optimizer):
    model = tiny("llama")
    made = build(model, TrainConfig(optimizer=optimizer))
    turns = itertools.count()
    objective = Plain(lambda loss, batch: FAULTS[fault](loss, batch) if next(turns) == 2 else loss)
    run = steps(model, objective, itertools.repeat(ragged()), made)
    next(run), next(run)
    weights, memory = digest(model), {name: tensor.clone() for name, tensor in made.tensors().items()}
    with pytest.raises(NonFinite, match=r"became non-finite at step 3 .*samples 16 to 23\). No update was applied"):
        next(run)
    assert digest(model) == weights
    assert all(torch.equal(tensor, memory[name]) for name, tensor in made.tensors().items())


def test_a_poisoned_weight_is_found_by_its_loss():
    model = tiny("gpt2")
    with torch.no_grad():
        model.blocks[1].mlp.up.weight[3, 5] = float("nan")
    with pytest.raises(NonFinite) as caught:
        next(steps(model, Pretrain(), itertools.repeat(ragged()), build(model, TrainConfig())))
    assert caught.value.facts["ids"] == [ids(8, 9).tolist()]
    assert caught.value.facts["loss"] == "nan" and caught.value.code == 37


def test_skipping_goes_on_but_not_for_ever():
    model = tiny("gpt2")
    bad = {1, 3, 4, 5, 6, 7, 8}
    turns = itertools.count()
    objective = Plain(lambda loss, batch: loss * float("nan") if next(turns) in bad else loss)
    run = steps(model, objective, itertools.repeat(ragged()), build(model, TrainConfig()), nonfinite="skip")
    refused = [next(run).refused is not None for _ in range(8)]
    assert refused == [False, True, False, True, True, True, True, True]
    with pytest.raises(NonFinite, match="the 6th refused update in a row"):
        next(run)


def test_a_spike_is_clipped_to_the_length_of_any_other_step():
    model = tiny("gpt2")
    record, _ = gradient_with(model, [ragged()], clip=1.0)
    keeper = Keep(model)
    spike = next(steps(model, Plain(lambda loss, batch: loss * 1000), iter([ragged()]), keeper, clip=1.0))
    assert spike.norm == pytest.approx(1000 * record.norm)
    length = sum(slope.square().sum() for slope in keeper.seen[0].values()) ** 0.5
    assert float(length) == pytest.approx(1.0)


def test_memory_that_runs_out_names_three_knobs_and_updates_nothing():
    model = tiny("gpt2")

    def fail(loss, batch):
        raise torch.OutOfMemoryError("tried to allocate 9.10 GiB")

    before = digest(model)
    with pytest.raises(TrainingError) as caught:
        next(steps(model, Plain(fail), itertools.repeat(ragged()), build(model, TrainConfig())))
    message = str(caught.value)
    assert "batches of 8 x 9 ids" in message and "[FH038]" in message
    assert "train.batch_size=4 train.accumulate=2" in message
    assert "train.checkpointing=true" in message and "train.dtype=bfloat16" in message
    assert digest(model) == before and all(p.grad is None for p in model.parameters())


def test_an_error_of_another_kind_is_not_called_memory():
    def fail(loss, batch):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    model = tiny("gpt2")
    with pytest.raises(RuntimeError, match="mat1"):
        next(steps(model, Plain(fail), itertools.repeat(ragged()), build(model, TrainConfig())))


def test_dropout_belongs_to_the_sample_not_to_the_history():
    def losses(start, noise):
        model = tiny("gpt2")
        model.dropout.p = 0.5
        torch.rand(noise)
        run = steps(model, Pretrain(), itertools.repeat(ragged()), Keep(model), start=start, position=8 * start, seed=7)
        return [next(run).loss for _ in range(3 - start)]

    assert losses(0, 5)[1:] == losses(1, 11)
    assert len(set(losses(0, 0))) == 3


def test_dropout_seeds_differ_for_every_sample_and_seed():
    assert len({dropout_seed(seed, sample) for seed in range(20) for sample in range(200)}) == 4000


def test_checkpointing_changes_no_gradient():
    def gradient(checkpointing):
        model = tiny("gpt2")
        model.dropout.p = model.blocks[0].dropout.p = 0.5
        model.checkpointing = checkpointing
        return gradient_with(model, [ragged()])[1][0]

    for a, b in zip(gradient(False).values(), gradient(True).values(), strict=True):
        assert gap(a, b) < 1e-12


def test_the_loss_scale_halves_on_overflow_and_doubles_after_a_while():
    scale = LossScale("float16")
    assert scale.value == 65536 and scale.overflowed(2.5, float("inf"))
    scale.adapt(finite=False)
    assert scale.value == 32768
    for _ in range(2000):
        scale.adapt(finite=True)
    assert scale.value == 65536
    assert not scale.overflowed(float("nan"), float("nan"))
    assert LossScale("bfloat16").value == 1 and not LossScale("bfloat16").overflowed(2.5, float("inf"))


def test_a_scaled_loss_gives_the_same_gradient():
    scale = LossScale("float16")
    _, [scaled] = gradient_with(tiny("gpt2"), [ragged()], scale=scale)
    _, [plain] = gradient_with(tiny("gpt2"), [ragged()])
    for name, slope in plain.items():
        assert gap(scaled[name], slope) < 1e-12


def test_an_overflow_of_the_scale_is_no_fault_of_the_run():
    model = tiny("gpt2")
    turns = itertools.count()
    spoil = poison_one_gradient(float("inf"))
    objective = Plain(lambda loss, batch: spoil(loss, batch) if next(turns) == 0 else loss)
    scale = LossScale("float16")
    run = steps(model, objective, itertools.repeat(ragged()), build(model, TrainConfig()), scale=scale)
    before = digest(model)
    assert next(run).refused is not None
    assert scale.value == 32768 and digest(model) == before
    assert next(run).refused is None and digest(model) != before
