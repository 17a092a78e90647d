"""Beam search against all texts there are, and against transformers."""

from itertools import product

import pytest
import torch
import transformers
from kit import VARIANTS, tiny
from speakers import by_heart

from firsthand.infer import beam
from firsthand.infer.draw import draw
from firsthand.interop import names
from firsthand.model.assemble import assemble
from firsthand.model.config import ModelConfig
from firsthand.model.gpt import GPT

SMALL = ModelConfig(vocab_size=5, context_length=19, n_layer=2, n_head=6, d_model=24, d_ff=40)


def random(config: ModelConfig, seed: int) -> GPT:
    model, generator = GPT(config).to(torch.float64).eval(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.4, generator=generator)
    return model


def all_texts(model: GPT, prompt: list[int], ends: tuple[int, ...], max_tokens: int) -> dict[tuple[int, ...], float]:
    """Every answer that ends, or has max_tokens, with its log-probability; each computed alone and without a cache."""
    found = {}
    for length in range(1, max_tokens + 1):
        for ids in product(range(model.config.vocab_size), repeat=length):
            whole = ids[-1] in ends or length == max_tokens
            if whole and not set(ids[:-1]) & set(ends):
                with torch.no_grad():
                    logprobs = model(torch.tensor([prompt + list(ids)]))[0].log_softmax(dim=-1)
                places = range(len(prompt) - 1, len(prompt) + length - 1)
                found[ids] = sum(float(logprobs[at, id]) for at, id in zip(places, ids, strict=True))
    return found


@pytest.mark.parametrize("ends", [(), (2,), (0, 4)])
@pytest.mark.parametrize("length_penalty", [-0.7, 0.0, 1.0, 2.5])
def test_with_beams_for_all_beginnings_the_search_is_exhaustive(ends, length_penalty):
    model, prompt = random(SMALL, seed=len(ends)), [1, 3]
    texts = all_texts(model, prompt, ends, 3)
    best = sorted(texts, key=lambda ids: -texts[ids] / len(ids) ** length_penalty)
    found = beam.search(model, prompt, 130, 3, ends, length_penalty)
    assert [it.ids for it in found] == best
    for it in found:
        assert it.logprob == pytest.approx(texts[it.ids], abs=1e-10)
        assert it.finish == ("end" if it.ids[-1] in ends else "length")


def foreign(model: transformers.PreTrainedModel, prompt: list[int], **settings) -> tuple[list[list[int]], list[float]]:
    given = torch.tensor([prompt])
    found = model.generate(
        given,
        attention_mask=torch.ones_like(given),
        do_sample=False,
        early_stopping="never",
        return_dict_in_generate=True,
        output_scores=True,
        **settings,
    )
    return found.sequences[:, len(prompt) :].tolist(), found.sequences_scores.tolist()


@pytest.mark.parametrize("beams", [2, 4])
@pytest.mark.parametrize("ends", [(), (7,), (3, 9)])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
def test_beams_are_those_of_transformers(beams, ends, length_penalty):
    config = transformers.GPT2Config(
        vocab_size=11, n_positions=19, n_embd=24, n_layer=2, n_head=6, n_inner=40, bos_token_id=None, eos_token_id=None
    )
    torch.manual_seed(beams)
    theirs = transformers.GPT2LMHeadModel(config)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.3)
    theirs = theirs.double().eval()
    ours = assemble(VARIANTS["gpt2"], names.to_ours(theirs.state_dict(), VARIANTS["gpt2"], "here")[0], "here")
    for prompt in ([1], [5, 2, 8], [10, 10, 4, 0]):
        settings = {"num_beams": beams, "num_return_sequences": beams, "max_new_tokens": 8}
        texts, scores = foreign(
            theirs, prompt, **settings, eos_token_id=list(ends) or None, length_penalty=length_penalty
        )
        found = beam.search(ours, prompt, beams, 8, ends, length_penalty)
        padded = [[*it.ids, *ends[:1] * (len(texts[0]) - len(it.ids))] for it in found]  # as transformers pads
        assert padded == texts
        assert [it.score(length_penalty) for it in found] == pytest.approx(scores, abs=1e-5)  # they sum in float32


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_beam_is_greedy(variant):
    model, ids = tiny(variant), [5, 3, 8]
    drawn = draw(model, ids, lambda scores: int(scores.argmax()))
    greedy = tuple(next(drawn).id for _ in range(12))
    (found,) = beam.search(model, [5, 3, 8], 1, 12)
    assert found.ids == greedy


def test_a_likelier_text_behind_a_less_likely_beginning_is_found():
    # after 0 comes 1 (0.6) or 2 (0.4); after 1 nothing is sure; after 2 surely 3, and after that too
    table = torch.full((4, 4), 0.25, dtype=torch.float64)
    table[0] = torch.tensor([1e-9, 0.6, 0.4, 1e-9])
    table[1] = torch.tensor([0.35, 0.25, 0.2, 0.2])
    table[2] = table[3] = torch.tensor([1e-9, 1e-9, 1e-9, 1.0])
    one, two = (beam.search(by_heart(table), [0], beams, 3)[0] for beams in (1, 2))
    assert one.ids == (1, 0, 1)
    assert one.logprob == pytest.approx(-0.5108 - 1.0498 - 0.5108, abs=1e-3)  # ln 0.6, ln 0.35, ln 0.6
    assert two.ids == (2, 3, 3)
    assert two.logprob == pytest.approx(-0.9163, abs=1e-4)  # ln 0.4
    assert two.score(1.0) == pytest.approx(-0.3054, abs=1e-4)  # a third of it a token


def test_no_tokens_asked_for_are_no_beams():
    assert beam.search(tiny(), [1, 2], 3, 0) == []
