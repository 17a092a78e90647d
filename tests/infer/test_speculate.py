"""Guessing from what was said before changes how often the model is asked, and never what it says."""

import pytest
import torch
from kit import VARIANTS
from speakers import END, bundle, by_heart, forgetful

from firsthand.infer.constrain import json_schema
from firsthand.infer.draw import chooser
from firsthand.infer.generate import Sampling, Writer, tokens
from firsthand.infer.sample import Sampler
from firsthand.infer.speculate import Lookup, draw_guessing
from firsthand.model.cache import GrowingCache, StaticCache

PROMPTS = ["the", "the cat, the cat, the", "aaaaaaaaaaaa", "abcabcabc", "xyz the"]


def both(it, prompt: str, most: int, **settings):
    plain = list(tokens(it, prompt, Sampling(**settings)))
    writer = Writer(it, Sampling(lookup=most, **settings))
    return plain, list(writer.answer(it.tokenizer.encode(prompt).tolist())), writer


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("most", [1, 3, 10])
def test_the_text_is_the_text_without_guessing(variant, most):
    for seed, prompt in enumerate(PROMPTS):
        for temperature in (0, 0.7, 1.3):  # each token is chosen with the same random number from the same scores
            settings = {"max_tokens": 26, "temperature": temperature, "top_k": 0, "seed": seed}
            plain, guessed, _ = both(bundle(variant), prompt, most, **settings)
            assert [token.id for token in guessed] == [token.id for token in plain]
            assert [token.text for token in guessed] == [token.text for token in plain]
            assert guessed[-1].finish == plain[-1].finish
            assert [token.logprob for token in guessed] == pytest.approx([token.logprob for token in plain], abs=1e-9)


@pytest.mark.parametrize("settings", [{"repetition_penalty": 1.5}, {"presence_penalty": 1.0}, {"stop": "th"}])
def test_penalties_and_stop_texts_see_what_they_would_see_without_guessing(settings):
    for seed in range(4):
        plain, guessed, _ = both(bundle(seed=seed), "the the the", 5, max_tokens=30, temperature=0.8, **settings)
        assert [token[:2] for token in guessed] == [token[:2] for token in plain]


def test_a_grammar_is_followed_through_guesses():
    grammar = json_schema({"type": "array", "items": {"enum": ["abcabc", "abd"]}, "minItems": 2, "maxItems": 3})
    right = 0
    for seed in range(4):
        plain, guessed, writer = both(
            bundle(seed=seed), '["abcabc", "abcabc"]', 4, max_tokens=26, seed=seed, grammar=grammar
        )
        assert [token[:2] for token in guessed] == [token[:2] for token in plain]
        right += writer.lookup.right
    assert right > 0


def test_a_text_that_repeats_needs_few_passes():
    _, guessed, writer = both(forgetful({"a": 1.0}, end=0), "x", 8, max_tokens=40, temperature=0)
    assert len(guessed) == 40
    # nothing to guess after x, and after x a; then a was followed by a: 2, 4, 8, 8, 8 guesses, each time one token more
    assert writer.lookup.passes == 2 + 6
    assert writer.lookup.guessed == 2 + 4 + 8 + 8 + 8 + 8
    assert (
        writer.lookup.right == 2 + 4 + 8 + 8 + 8 + 3
    )  # 2 + 3 + 5 + 9 + 9 + 9 are 37 tokens, and 3 were still asked for


def test_a_cycle_is_guessed_to_its_end():
    table = torch.full((4, 4), 1e-9, dtype=torch.float64)
    for last, following in [(0, 1), (1, 2), (2, 0), (3, 0)]:
        table[last, following] = 1.0
    model, ids, lookup = by_heart(table), [3, 0, 1, 2], bold(7)
    cache = StaticCache(model.config)
    drawn = draw_guessing(model, ids, chooser(Sampler(0, 0), torch.Generator(), ids), cache, lookup)
    assert [next(drawn).id for _ in range(9)] == [0, 1, 2, 0, 1, 2, 0, 1, 2]
    assert (lookup.passes, lookup.guessed, lookup.right) == (2, 7, 7)  # 0 | 1 2 0 1 2 0 1 were guessed, and 2 is free


def test_a_guess_is_what_followed_the_longest_end_that_occurred_and_the_last_time():
    assert bold(3).guess([1, 2, 3, 7, 8, 9, 1, 2, 3]) == [7, 8, 9]
    assert Lookup(2).guess([1, 2, 3, 7, 5, 2, 3, 8, 1, 2, 3]) == [7, 5]  # 1 2 3 occurred, before 2 3 did
    assert Lookup(2).guess([2, 3, 7, 7, 2, 3, 8, 8, 5, 2, 3]) == [8, 8]
    assert bold(4).guess([5, 1, 2, 1, 2]) == [1, 2, 1, 2]  # it goes on repeating
    assert Lookup(4).guess([1, 2, 3]) == Lookup(4).guess([1]) == Lookup(4).guess([]) == []


def test_guessing_step_by_step_is_guessing_at_once():
    ids = torch.randint(4, (60,), generator=torch.Generator().manual_seed(0)).tolist()
    lookup = bold(5)
    for length in range(1, 60):
        assert lookup.guess(ids[:length]) == bold(5).guess(ids[:length])


def bold(most: int) -> Lookup:
    lookup = Lookup(most)
    lookup.size = most
    return lookup


def test_guesses_grow_while_they_are_right_and_shrink_when_they_are_not():
    lookup, sizes = Lookup(9), []
    for guessed, right in [(2, 2), (4, 4), (8, 8), (0, 0), (9, 9), (9, 3), (3, 0), (1, 0), (1, 1), (2, 1)]:
        lookup.learn(guessed, right)
        sizes.append(lookup.size)
    assert sizes == [4, 8, 9, 9, 9, 3, 1, 1, 2, 1]


@pytest.mark.parametrize("kind", [StaticCache, GrowingCache])
def test_after_an_answer_was_broken_off_the_cache_holds_nothing_that_was_only_guessed(kind):
    it = forgetful({"a": 1.0}, end=0)
    writer = Writer(it, Sampling(30, 0, lookup=8))
    writer.cache = kind(it.model.config)
    answer = writer.answer([ord("x")])
    for _ in range(6):
        next(answer)
    assert int(writer.cache.lengths[0]) > len(writer.ids)  # in the middle of a guess
    again = list(writer.answer([ord("x"), ord("a"), ord("b")]))
    assert [token.id for token in again] == [ord("a")] * 30


def test_guesses_never_outgrow_the_context():
    it = forgetful({"a": 1.0}, end=0)
    events = list(tokens(it, "a" * 40, Sampling(7, 0, lookup=20)))
    assert "".join(token.text for token in events) == "a" * 7
    assert END not in [token.id for token in events]
