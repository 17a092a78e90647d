"""Several texts in one row: the same scores, sums and gradients as one a row, and no way from one text to another."""

from functools import partial

import pytest
import torch
from kit import VARIANTS, gap, ids, tiny

from firsthand.errors import ModelError
from firsthand.model.attention import attend_explicit, attend_fused
from firsthand.objectives.base import IGNORE
from firsthand.objectives.classify import Classify
from firsthand.objectives.instruct import Instruct
from firsthand.objectives.preference import Preference
from firsthand.objectives.trunk import Trunk

A, B, C = ([5, 6, 7, 8, 9], [0, 0, 0, 1, 1]), ([1, 2, 3], [0, 1, 1]), ([4, 10, 1, 2], [0, 1, 0, 1])


def drawn(lengths, seed=0):
    """Examples of random ids, each with at least its last token learned."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randint(11, (n,), generator=generator).tolist(),
            [*torch.randint(2, (n - 1,), generator=generator).tolist(), 1],
        )
        for n in lengths
    ]


MANY = drawn([9, 3, 14, 2, 8, 5, 7, 11, 2, 6, 19])


def of(objective, examples, model):
    """Count, sum and gradients of one batch, and what was watched."""
    batch = objective.collate(examples)
    loss = objective.loss(model, batch)
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    return batch, [loss.total, *torch.autograd.grad(loss.total, learned), *loss.metrics.values()]


def test_conversations_in_a_row_by_hand():
    batch = Instruct(pack=True).collate([A, B, C])
    assert batch.inputs.tolist() == [[5, 6, 7, 8, 1, 2, 4, 10, 1]]
    # 9, the last of A, is only a target, and nothing predicts the first of B
    assert batch.targets.tolist() == [[IGNORE, IGNORE, 8, 9, 2, 3, 10, IGNORE, 2]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 0, 1, 0, 1, 2]]
    assert (batch.lengths.tolist(), batch.starts.tolist(), batch.count, batch.examples) == ([4, 2, 3], [0, 4, 6], 6, 3)
    assert [text.tolist() for text in batch.texts] == [[5, 6, 7, 8], [1, 2], [4, 10, 1]]
    assert batch.by_text((batch.targets != IGNORE).long()).tolist() == [2, 2, 2]


def test_labels_in_a_row_by_hand():
    batch = Classify(["ham", "spam"], pack=True).collate([([5, 6, 7], 1), ([8], 0)])
    assert (batch.inputs.tolist(), batch.targets.tolist()) == ([[5, 6, 7, 8]], [1, 0])
    assert (batch.starts + batch.lengths - 1).tolist() == [2, 3]  # where the labels are read


def test_pairs_in_a_row_by_hand():
    batch = Preference(pack=True).collate([(A, C), (B, A)])
    assert batch.lengths.tolist() == [4, 2, 3, 4]  # both chosen ones, then both rejected ones
    assert (batch.count, batch.examples) == (2, 2)


@pytest.mark.parametrize("attend", [attend_explicit, attend_fused])
@pytest.mark.parametrize("variant", VARIANTS)
def test_packed_scores_are_those_of_each_text_alone(variant, attend):
    model = tiny(variant)
    model.attend = attend
    batch = Instruct(pack=True).collate(MANY)
    assert batch.inputs.numel() > model.config.context_length  # the context bounds a text, not the row
    scores = model.head(model.hidden(batch.inputs, positions=batch.positions))[0]
    for (text, _), start in zip(MANY, batch.starts.tolist(), strict=True):
        alone = model(torch.tensor([text[:-1]]))[0]
        assert gap(scores[start : start + len(alone)], alone) < 1e-10


LABELS = [(text, index % 2) for index, (text, _) in enumerate(MANY)]
PAIRS = list(zip(MANY, drawn([4, 9, 3, 12, 7, 15, 2, 8, 6, 5, 3], seed=1), strict=True))
OBJECTIVES = {
    "answer": (partial(Instruct, "answer"), MANY),
    "all": (partial(Instruct, "all"), MANY),
    "labels": (partial(Classify, ["ham", "spam"], "all"), LABELS),
    "first": (partial(Classify, ["ham", "spam"], "all", reads="first"), LABELS),
    "dpo": (Preference, PAIRS),
    "simpo": (partial(Preference, "simpo"), PAIRS),
}


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_packed_sums_and_gradients_are_those_of_padded_rows(variant, name):
    made, examples = OBJECTIVES[name]
    model = tiny(variant)
    made().prepare(model)
    alone, together = made(), made(pack=True)
    alone.reference = together.reference = tiny(variant, seed=1)
    (padded, wanted), (row, found) = of(alone, examples, model), of(together, examples, model)
    assert (padded.count, padded.examples) == (row.count, row.examples)
    assert row.inputs.numel() < padded.inputs.numel()
    for one, other in zip(wanted, found, strict=True):
        assert gap(one.detach().double(), other.detach().double()) < 1e-10


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_was_kept_of_frozen_layers_serves_packed_rows(variant, tmp_path):
    model = tiny(variant)
    objective = Classify(["ham", "spam"], "block", pack=True)
    objective.prepare(model)
    _, plain = of(objective, LABELS, model)
    objective.trunk = Trunk(tmp_path, [text for text, _ in LABELS], len(model.blocks) - 1)
    objective.trunk.fill(model)
    for one, other in zip(plain, of(objective, LABELS, model)[1], strict=True):
        assert gap(one.detach().double(), other.detach().double()) < 1e-10


def test_a_text_longer_than_the_context_is_refused():
    model = tiny("llama")
    longest = model.config.context_length + 1
    batch = Classify(["ham", "spam"], pack=True).collate([([1, 2], 0), ([3] * longest, 1)])
    with pytest.raises(ModelError, match=f"{longest} tokens exceed the {longest - 1} positions; shorten by 1"):
        model.hidden(batch.inputs, positions=batch.positions)


@pytest.mark.parametrize("attend", [attend_explicit, attend_fused])
@pytest.mark.parametrize("variant", VARIANTS)
def test_no_gradient_leads_from_one_text_to_another(variant, attend):
    model = tiny(variant)
    model.attend = attend
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 0, 1, 0, 1, 2, 3, 0]])
    texts = (positions == 0).cumsum(dim=1)[0]
    streams = []
    hook = model.embed.register_forward_hook(lambda layer, given, x: streams.append(x.retain_grad() or x) or x)
    for t in range(positions.shape[1]):
        hidden = model.hidden(ids(1, 14), positions=positions)
        (reached,) = torch.autograd.grad(hidden[0, t].square().sum() + hidden[0, t].sum(), streams[-1])
        met = reached[0].abs().sum(dim=1) > 0
        window = model.config.window or 14
        reach = model.config.n_layer * (window - 1)  # what a layer cannot see another has seen
        seen = (texts == texts[t]) & (torch.arange(14) <= t) & (torch.arange(14) >= t - reach)
        assert torch.equal(met, seen), t
    hook.remove()


def test_recomputing_activations_changes_nothing():
    model = tiny("llama").train()
    objective = Instruct(pack=True)
    batch = objective.collate(MANY)
    plain = objective.loss(model, batch).total
    model.checkpointing = True
    assert gap(objective.loss(model, batch).total.detach(), plain.detach()) == 0


def test_positions_go_where_the_batch_goes():
    batch = Instruct(pack=True).collate([A, B]).to(torch.device("meta"))
    assert batch.positions.device.type == "meta"
    assert Instruct().collate([A]).to(torch.device("meta")).positions is None
