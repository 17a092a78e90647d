"""Classification: what is read is the last real token, and neither padding, order, nor accumulation changes a thing."""

import itertools
from math import log

import pytest
import torch
from kit import VARIANTS, gap, tiny

from firsthand.checkpoint import bundle
from firsthand.errors import ConfigError, DataError, FirsthandError, ModelError
from firsthand.linear import lora
from firsthand.linear.kinds import change
from firsthand.linear.labels import LabelHead, labels_of
from firsthand.linear.lora import Lora, settings_of
from firsthand.objectives.classify import Classify
from firsthand.tokenizer.simple import CharTokenizer
from firsthand.training.loop import steps
from firsthand.training.optim import AdamW, Group

LABELS = ("ham", "spam", "other")
ROWS = [([5, 6, 7], 1), ([8], 0), ([1, 2, 3, 4, 5, 6, 9], 2), ([3, 3], 1), ([10, 9, 8, 7, 6], 0), ([2, 4, 6, 8], 2),
        ([7, 1], 0), ([4, 4, 4, 1, 0], 1)]  # fmt: skip
THAWS = ("head", "block", "two", "all", "lora")


def prepared(thaw="block", variant="llama", weights=()):
    """A tiny model with a trained head, and its objective."""
    model, objective = tiny(variant), Classify(LABELS, thaw, weights)
    if thaw == "lora":
        change(model, "lora", ["attention.q", "mlp.up"], settings_of(Lora(rank=3)))
        lora.initialise(model, "default", seed=1)
    objective.prepare(model)
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(5))
    return model, objective


def gradients(model, objective, batches):
    """The gradient that the loop would step with: a sum over all micro-batches, divided once."""
    model.zero_grad()
    count = sum(batch.count for batch in batches)
    for batch in batches:
        (objective.loss(model, batch).total / count).backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def test_a_batch_worked_by_hand():
    batch = Classify(LABELS).collate(ROWS[:3])
    assert batch.inputs.tolist() == [[5, 6, 7, 0, 0, 0, 0], [8, 0, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6, 9]]
    assert batch.targets.tolist() == [1, 0, 2]
    assert batch.lengths.tolist() == [3, 1, 7]
    assert batch.count == 3


def test_a_loss_worked_by_hand():
    model, objective = prepared()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([log(1), log(2), log(5)]))  # probabilities 1/8, 1/4, 5/8 of every text
    loss = objective.loss(model, objective.collate(ROWS[:3]))
    assert loss.total.item() == pytest.approx(log(4) + log(8) + log(8 / 5))  # labels 1, 0, 2
    assert int(loss.metrics["accuracy"]) == 1
    weighted = Classify(LABELS, weights=(6, 3, 3))  # of mean 1: 1.5, 0.75, 0.75
    total = weighted.loss(model, objective.collate(ROWS[:3])).total
    assert total.item() == pytest.approx(0.75 * log(4) + 1.5 * log(8) + 0.75 * log(8 / 5))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_new_head_knows_nothing_and_every_text_costs_log_n(variant):
    model, objective = tiny(variant), Classify(LABELS)
    objective.prepare(model)
    assert objective.loss(model, objective.collate(ROWS)).total.item() == pytest.approx(len(ROWS) * log(3))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_last_real_token_is_read(variant):
    model, objective = prepared(variant=variant)
    scores = objective.scores(model, objective.collate(ROWS))
    for row, (ids, _) in zip(scores, ROWS, strict=True):
        alone = model.head(model.hidden(torch.tensor([ids])))[0, -1]
        assert gap(row, alone) < 1e-10


def test_the_loss_depends_on_every_real_token_and_on_no_pad():
    model, objective = prepared("all")
    batch = objective.collate(ROWS[:2])  # lengths 3 and 1
    embedded = model.embed(batch.inputs).detach().requires_grad_(True)
    model.embed.forward = lambda ids: embedded
    objective.loss(model, batch).total.backward()
    touched = embedded.grad.abs().sum(dim=2) > 0
    assert touched.tolist() == [[True, True, True], [True, False, False]]


@pytest.mark.parametrize("thaw", THAWS)
def test_padding_and_order_change_nothing(thaw):
    model, objective = prepared(thaw)
    together = gradients(model, objective, [objective.collate(ROWS)])
    turned = gradients(model, objective, [objective.collate(ROWS[::-1])])
    alone = gradients(model, objective, [objective.collate([row]) for row in ROWS])  # no padding at all
    assert together.keys() == turned.keys() == alone.keys()
    for name, gradient in together.items():
        assert gap(gradient, turned[name]) < 1e-10
        assert gap(gradient, alone[name]) < 1e-10


@pytest.mark.parametrize("weights", [(), (1, 2, 4)])
@pytest.mark.parametrize("thaw", THAWS)
def test_accumulation_gives_equal_gradients(thaw, weights):
    model, objective = prepared(thaw, weights=weights)
    whole = gradients(model, objective, [objective.collate(ROWS)])
    for parts in (2, 4, 8):
        size = len(ROWS) // parts
        micro = [objective.collate(ROWS[first : first + size]) for first in range(0, len(ROWS), size)]
        for name, gradient in gradients(model, objective, micro).items():
            assert gap(gradient, whole[name]) < 1e-10


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("thaw", THAWS)
def test_what_thaws_learns_and_nothing_else(thaw, variant):
    model, _ = prepared(thaw, variant)
    expected = {
        "head": ("head.",),
        "block": ("head.", "norm.", "blocks.1."),
        "two": ("head.", "norm.", "blocks.0.", "blocks.1."),
        "all": ("",),
    }
    found = [name for name, weight in model.named_parameters() if weight.requires_grad]
    if thaw == "lora":
        assert all(".adapters." in name or name.startswith("head.") for name in found)
        assert len(found) == 2 + 2 * 2 * model.config.n_layer
    else:
        assert found == [name for name, _ in model.named_parameters() if name.startswith(expected[thaw])]


def test_it_learns_labels_that_only_the_first_token_tells():
    model, objective = prepared("all", "fast")
    rows = [([first, *rest], first % 3) for first in range(9) for rest in ([9], [10, 9, 9], [10])]
    learning = [(name, weight) for name, weight in model.named_parameters()]
    optimizer = AdamW([Group(learning, 0.01, 0.0)])
    batches = (objective.collate(rows) for _ in itertools.count())
    records = list(itertools.islice(steps(model, objective, batches, optimizer), 60))
    assert records[-1].metrics["accuracy"] == 1.0
    assert records[-1].loss < 0.1 < records[0].loss


@pytest.mark.parametrize("variant", ["gpt2", "qwen2"])  # tied and untied
def test_a_classifier_is_saved_and_loaded_with_its_labels(tmp_path, variant):
    model, objective = prepared("block", variant)
    saved = bundle.save(tmp_path / "m", model, CharTokenizer("abcdefghijk"), {})
    loaded = bundle.load(saved).model
    batch = objective.collate(ROWS)
    assert labels_of(loaded) == LABELS
    assert torch.equal(objective.scores(loaded, batch), objective.scores(model, batch))
    assert (
        "head.weight" not in tiny("gpt2").state_dict()
        or loaded.embed.weight.data_ptr() != loaded.head.weight.data_ptr()
    )


def test_a_classifier_learns_on_without_a_new_head_unless_the_labels_change():
    model, objective = prepared()
    head = model.head
    objective.prepare(model)
    assert model.head is head
    Classify(("yes", "no")).prepare(model)
    assert isinstance(model.head, LabelHead)
    assert labels_of(model) == ("yes", "no")
    assert len(model.swaps) == 2


def test_the_head_of_a_classifier_has_its_numbers_type():
    model, _ = prepared()
    assert model.head.weight.dtype == torch.float64


@pytest.mark.parametrize(
    ("act", "kind", "message"),
    [
        (lambda: Classify(LABELS, weights=(1, 2)), ConfigError, "2 weights for 3 labels; give one for each"),
        (lambda: Classify(LABELS).collate([([], 0)]), DataError, "a text of no tokens cannot be labelled"),
        (lambda: Classify(("a",)).prepare(tiny()), ModelError, "needs two or more different ones; it was given 1"),
        (lambda: Classify(("a", "a")).prepare(tiny()), ModelError, "needs two or more different ones"),
        (lambda: labels_of(tiny()), ModelError, "continues text and knows no labels"),
    ],
)
def test_what_cannot_be_is_refused(act, kind, message):
    with pytest.raises(kind, match=message):
        act()


@pytest.mark.parametrize("labels", [7, ["a", 3], ["a", ""], ["a" * 999, "b"], [], {"a": 1}, ["x"] * 20_000])
def test_a_checkpoint_cannot_ask_for_a_head_that_is_none(tmp_path, labels):
    swaps = [{"kind": "labels", "patterns": ["head"], "settings": {"labels": labels}}]
    saved = bundle.save(tmp_path / "m", tiny("qwen2"), CharTokenizer("abcdefghijk"), {"swaps": swaps})
    with pytest.raises(FirsthandError) as caught:
        bundle.load(saved)
    assert len(str(caught.value)) <= 240
