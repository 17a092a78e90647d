"""Several texts in one row: the same scores, sums and gradients as one a row, and no way from one text to another."""

import pytest
import torch
from kit import VARIANTS, gap, ids, tiny

from firsthand.errors import DataError
from firsthand.model.attention import attend_explicit, attend_fused
from firsthand.objectives.base import IGNORE
from firsthand.objectives.instruct import Instruct, Packed
from firsthand.objectives.packing import facts, pack

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


def test_two_conversations_in_a_row_by_hand():
    batch = Packed().collate([[A, B], [C]])
    assert batch.inputs.tolist() == [[5, 6, 7, 8, 1, 2], [4, 10, 1, 0, 0, 0]]
    # 9, the last of A, is only a target, and nothing predicts the first of B
    assert batch.targets.tolist() == [[IGNORE, IGNORE, 8, 9, 2, 3], [10, IGNORE, 2, IGNORE, IGNORE, IGNORE]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 0, 1], [0, 1, 2, 0, 1, 2]]
    assert (batch.lengths.tolist(), batch.count) == ([6, 3], 6)


def test_packing_by_hand():
    # places 4, 2, 3 and room 6: the longest first, then 3 has no place beside 4, and 2 fills that row
    assert pack([A, B, C], 6) == [[A, B], [C]]
    assert facts(pack([A, B, C], 6), 6) == {"rows": 2, "examples": 3, "tokens": 9, "filled": 0.75}


@pytest.mark.parametrize("room", [18, 25, 60, 1000])
def test_nothing_is_cut_and_nothing_lost(room):
    packing = pack(MANY, room)
    assert sorted(example for row in packing for example in row) == sorted(MANY)
    assert all(sum(len(one) - 1 for one, _ in row) <= room for row in packing)
    assert packing == pack(MANY, room)


def test_real_lengths_leave_hardly_any_room():
    generator = torch.Generator().manual_seed(4)
    lengths = (4 * torch.randn(900, generator=generator).exp() + 20).long().clamp(max=200).tolist()
    packing = pack(drawn(lengths), 256)
    assert len(packing) <= 1.05 * sum(n - 1 for n in lengths) / 256 + 1


def test_what_does_not_fit_is_refused():
    with pytest.raises(DataError, match="an example of 5 tokens does not fit into rows of 3; leave it out"):
        pack([B, A], 3)


@pytest.mark.parametrize("attend", [attend_explicit, attend_fused])
@pytest.mark.parametrize("variant", VARIANTS)
def test_packed_scores_are_those_of_each_text_alone(variant, attend):
    model = tiny(variant)
    model.attend = attend
    packing = pack(MANY, 18)
    assert any(len(row) > 2 for row in packing)
    batch = Packed().collate(packing)
    scores = model.head(model.hidden(batch.inputs, positions=batch.positions))
    for row, found in zip(packing, scores, strict=True):
        begin = 0
        for text, _ in row:
            alone = model(torch.tensor([text[:-1]]))[0]
            assert gap(found[begin : begin + len(alone)], alone) < 1e-10
            begin += len(alone)


@pytest.mark.parametrize("learn", ["answer", "all"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_packed_sums_and_gradients_are_those_of_one_text_a_row(variant, learn):
    model = tiny(variant)
    weights = list(model.parameters())

    def of(objective, examples):
        batch = objective.collate(examples)
        loss = objective.loss(model, batch).total
        return batch.count, [loss, *torch.autograd.grad(loss, weights)]

    (count, alone), (again, together) = of(Instruct(learn), MANY), of(Packed(learn), pack(MANY, 18))
    assert count == again
    for one, other in zip(alone, together, strict=True):
        assert gap(one.detach(), other.detach()) < 1e-10


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
    batch = Packed().collate(pack(MANY, 18))
    plain = Packed().loss(model, batch).total
    model.checkpointing = True
    assert gap(Packed().loss(model, batch).total.detach(), plain.detach()) == 0


def test_positions_go_where_the_batch_goes():
    batch = Packed().collate([[A, B]]).to(torch.device("meta"))
    assert batch.positions.device.type == "meta"
    assert Instruct().collate([A]).to(torch.device("meta")).positions is None
