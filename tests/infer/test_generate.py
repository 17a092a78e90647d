"""Generation: cached equals recomputed, nothing half is shown, and a seed is a promise."""

from dataclasses import replace
from itertools import islice, product
from math import log

import pytest
import torch
from kit import VARIANTS, gap
from speakers import END, bundle, bytes_tokenizer, forgetful

from firsthand.checkpoint.bundle import Bundle
from firsthand.errors import ConfigError, ModelError
from firsthand.infer.draw import chooser, draw, next_scores
from firsthand.infer.generate import Sampling, Writer, explain, generate, start, stream, tokens
from firsthand.infer.sample import Sampler
from firsthand.infer.stop import UntilStop
from firsthand.infer.talk import Text
from firsthand.model.cache import GrowingCache, StaticCache
from firsthand.tokenizer.bpe import Tokenizer


def draw_ids(model, ids, sampler, generator, cache=None):
    """Ids that follow `ids`, for ever."""
    return (drawn.id for drawn in draw(model, ids, chooser(sampler, generator, ids), cache))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", [StaticCache, GrowingCache])
def test_greedy_with_a_cache_is_greedy_without(variant, kind):
    model = bundle(variant).model
    plain, cached, cache = [5, 77, 200], [5, 77, 200], kind(model.config)
    greedy = Sampler(0, repetition_penalty=2.0)  # the penalty keeps a random model from repeating one token for ever
    list(islice(draw_ids(model, plain, greedy, torch.Generator()), 40))
    list(islice(draw_ids(model, cached, greedy, torch.Generator(), cache), 40))
    assert plain == cached
    assert len(set(plain)) > 5


def words(answer) -> str:
    return "".join(token.text for token in answer)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_cached_score_is_the_recomputed_score(variant):
    model, ids = bundle(variant).model, [5, 77, 200, 31, 9, 256, 12, 90, 3]
    cache = StaticCache(model.config)
    for seen, upto in [(0, 4), (4, 5), (5, 8), (8, 9)]:
        assert gap(next_scores(model, ids[seen:upto], cache), next_scores(model, ids[:upto])) < 1e-10


def test_the_joined_stream_is_the_decoded_ids():
    it = bundle()
    for seed in range(6):
        ids = it.tokenizer.encode("the thé").tolist()
        drawn = list(islice(draw_ids(it.model, list(ids), Sampler(1.5, 0), torch.Generator().manual_seed(seed)), 30))
        if END in drawn:
            drawn = drawn[: drawn.index(END)]
        pieces = list(stream(it, "the thé", 30, temperature=1.5, top_k=0, seed=seed))
        assert "".join(pieces) == it.tokenizer.decode(drawn)
        assert all(pieces)


def test_the_same_seed_gives_the_same_text():
    first = generate(bundle(), "the", 30, temperature=1.2, seed=4)
    assert first == generate(bundle(), "the", 30, temperature=1.2, seed=4)
    assert first != generate(bundle(), "the", 30, temperature=1.2, seed=5)


def test_the_end_of_text_ends_the_text_and_is_not_shown():
    lengths = []
    for seed in range(30):
        text = generate(forgetful({"a": 0.5, "b": 0.4}, end=0.1), "x", 46, temperature=1, top_k=0, seed=seed)
        assert set(text) <= {"a", "b"}
        lengths.append(len(text))
    assert len(set(lengths)) > 5
    assert 5 < sum(lengths) / 30 < 13  # 9 on average: (1 - 0.1) / 0.1; the deviation of the mean of 30 is 1.7
    assert generate(forgetful({"a": 0.1}, end=0.9), "x", 46, temperature=0) == ""


def test_max_tokens_is_the_number_of_tokens():
    for count in (0, 1, 7):
        assert len(generate(forgetful({"a": 1.0}, end=0), "x", count)) == count


def test_a_stop_text_ends_the_text_and_no_part_of_it_is_shown():
    it = bundle()
    whole = generate(it, "the", 40, temperature=1.5, top_k=0, seed=2)
    assert len(whole) > 15
    for at, length in product(range(2, len(whole) - 4, 5), (1, 2, 4)):
        stop = whole[at : at + length]
        assert generate(it, "the", 40, 1.5, 0, seed=2, stop=stop) == whole[: whole.index(stop)]
        assert generate(it, "the", 40, 1.5, 0, seed=2, stop=("never said", stop)) == whole[: whole.index(stop)]


def test_what_only_begins_like_a_stop_text_is_shown():
    it = forgetful({"a": 1.0}, end=0)
    assert generate(it, "x", 5, stop="aaaaaab") == "aaaaa"
    assert next(stream(it, "x", 5, stop="aab")) == "a"  # "aa" could go on to "aab", the third a sets the first free


@pytest.mark.parametrize("stops", [("abe",), ("cab", "bd"), ("abc", "b"), ("zz",), (), ("abdabe", "abda"), ("e",)])
def test_how_the_text_is_cut_into_pieces_does_not_matter(stops):
    text = "abcabdabe"
    shown = set()
    for cuts in product([False, True], repeat=len(text) - 1):
        until, out, piece = UntilStop(stops), "", ""
        for letter, cut in zip(text, [*cuts, True], strict=True):
            piece += letter
            if cut:
                out += until.push(piece)
                piece = ""
            if until.done:
                break
        shown.add(out + until.flush())
    assert len(shown) == 1
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    assert shown == {text[: min(ends)[1]] if ends else text}


def test_a_conversation_is_what_recomputing_everything_gives():
    it = bundle()
    talk = Text(it, Sampling(7, 1.3, 0, seed=3))
    by_hand, generator = [], torch.Generator().manual_seed(3)
    for turn in ("the", " no", "", "?"):
        said = words(talk.say(turn))
        by_hand += it.tokenizer.encode(turn).tolist()
        start = len(by_hand)
        list(islice(draw_ids(it.model, by_hand, Sampler(1.3, 0), generator), 7))
        assert talk.writer.ids == by_hand
        assert said == it.tokenizer.decode(by_hand[start:])
        assert int(talk.writer.cache.lengths[0]) == len(by_hand) - 1  # all but the last was computed, and once
    assert talk.text == it.tokenizer.decode(by_hand)


def test_a_conversation_goes_on_after_the_end_of_text():
    talk = Text(forgetful({"a": 0.6}, end=0.4), Sampling(6, 1, 0, seed=1))
    said = [words(talk.say(turn)) for turn in ("x", "y", "z")]
    assert any(len(text) < 6 for text in said)
    assert END not in talk.writer.ids
    assert talk.text == f"x{said[0]}y{said[1]}z{said[2]}"


def test_an_empty_prompt_starts_a_new_text():
    it = bundle()
    ids = [END]
    list(islice(draw_ids(it.model, ids, Sampler(0), torch.Generator()), 5))
    assert generate(it, "", 5, temperature=0) == it.tokenizer.decode(ids[1:])
    talk = Text(it, Sampling(5, 0))
    assert words(talk.say("")) == talk.text


def test_an_empty_prompt_is_refused_where_no_token_says_end_of_text():
    it = bundle()
    mute = Bundle(it.model, bytes_tokenizer({"<|other|>": END}), {}, it.path)
    with pytest.raises(ConfigError, match=r"prompt is empty, .* Send at least one character. \[FH015\]"):
        stream(mute, "")


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was_also_between_two_pieces(training):
    it = bundle()
    for part in it.model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.5
    it.model.train(training)
    pieces = stream(it, "no", 20, temperature=0, repetition_penalty=2.0)
    text = next(pieces)
    assert all(part.training == training for part in it.model.modules())
    assert not torch.is_inference_mode_enabled()
    text += "".join(pieces)
    assert text == generate(bundle(), "no", 20, temperature=0, repetition_penalty=2.0)  # no dropout in it


def test_a_prompt_that_does_not_fit_is_refused_at_the_call():
    it = bundle()
    with pytest.raises(ModelError) as error:
        stream(it, "x" * 30, max_tokens=20)
    assert str(error.value) == (
        "prompt is 30 tokens, the model's context is 47 and max_tokens is 20. "
        "Shorten the prompt by 3 tokens or lower max_tokens to 17. [FH002]"
    )
    assert generate(it, "x" * 30, max_tokens=17, temperature=0) is not None
    with pytest.raises(ModelError, match=r"Lower max_tokens to 45\."):
        stream(it, "xx", max_tokens=64)
    with pytest.raises(ModelError, match=r"Shorten the prompt by 4 tokens\."):
        stream(it, "x" * 50, max_tokens=1)


def test_a_conversation_that_outgrows_the_context_is_refused_and_stays_whole():
    talk = Text(bundle(), Sampling(20, 0))
    list(talk.say("the"))
    before = list(talk.writer.ids)
    with pytest.raises(ModelError) as error:
        talk.say("y" * (47 - len(before)))
    assert str(error.value) == (
        "conversation and prompt are 47 tokens, the model's context is 47 and max_tokens is 20. "
        "Shorten the prompt by 20 tokens or begin a new conversation. [FH002]"
    )
    assert talk.writer.ids == before


def test_the_stream_is_a_view_of_the_tokens():
    it = bundle()
    for seed in range(4):
        events = list(tokens(it, "the", Sampling(30, 1.5, 0, seed=seed, stop="e")))
        assert [token.text for token in events if token.text] == list(
            stream(it, "the", 30, 1.5, 0, seed=seed, stop="e")
        )
        assert [token.finish for token in events[:-1]] == [None] * (len(events) - 1)


@pytest.mark.parametrize(
    "shares, end, settings, finish, count",
    [
        ({"a": 1.0}, 0, {"max_tokens": 7}, "length", 7),
        ({"a": 0.1}, 0.9, {"max_tokens": 7}, "end", 1),
        ({"a": 1.0}, 0, {"max_tokens": 7, "stop": "aaa"}, "stop", 3),
        ({"a": 1.0}, 0, {"max_tokens": 3, "stop": "aaa"}, "stop", 3),  # complete with the last token
        ({"a": 1.0}, 0, {"max_tokens": 2, "stop": "aaa"}, "length", 2),
    ],
)
def test_the_last_token_says_how_the_answer_ended(shares, end, settings, finish, count):
    events = list(tokens(forgetful(shares, end), "x", Sampling(temperature=0, **settings)))
    assert len(events) == count
    assert events[-1].finish == finish
    assert words(events) == ("" if finish != "length" else "a" * count)


def test_logprobs_are_those_of_the_model_before_every_step_of_the_sampler():
    it = forgetful({"a": 0.5, "b": 0.3, "c": 0.2}, end=0)
    strange = Sampling(6, 2.0, 2, repetition_penalty=5.0, presence_penalty=2, seed=1, logprobs=2)
    for token in tokens(it, "x", strange):
        assert token.logprob == pytest.approx(log({"a": 0.5, "b": 0.3, "c": 0.2}[chr(token.id)]), abs=1e-6)
        assert [id for id, _ in token.top] == [ord("a"), ord("b")]
        assert [value for _, value in token.top] == pytest.approx([log(0.5), log(0.3)], abs=1e-6)


def test_a_model_ends_at_each_of_its_ends():
    it = forgetful({"a": 0.4, "b": 0.6}, end=0)
    other = type(it)(it.model, it.tokenizer, {"ends": [END, ord("b")]}, it.path)
    events = list(tokens(other, "x", Sampling(9, 0)))
    assert [(token.id, token.text, token.finish) for token in events] == [(ord("b"), "", "end")]


def test_what_two_prompts_share_is_read_once():
    it = bundle()
    writer = Writer(it, Sampling(4, 0, repetition_penalty=3.0))
    first = list(writer.answer([5, 6, 7, 8]))
    assert int(writer.cache.lengths[0]) == 7
    longer = [5, 6, 7, 9, 1, 2]
    second = writer.answer(longer)
    assert int(writer.cache.lengths[0]) == 3  # 5 6 7
    assert [token.id for token in second] == [token.id for token in Writer(it, writer.sampling).answer(longer)]
    assert [token.id for token in writer.answer([5, 6, 7, 8])] == [
        token.id for token in first
    ]  # the same prompt again: only its last token is read again


def test_a_conversation_that_outgrows_its_cache_gets_a_larger_one_and_says_the_same():
    it, settings = bundle(), Sampling(3, 0, repetition_penalty=3.0)
    writer = Writer(it, settings)
    rooms = []
    for length in (2, 5, 9, 30):
        fresh = Writer(it, settings).answer(range(length))
        assert [token.id for token in writer.answer(range(length))] == [token.id for token in fresh]
        rooms.append(writer.cache.capacity)
    assert rooms == [10, 10, 24, 47]  # 2 * (2 + 3), 2 * (9 + 3), and the context


def test_penalties_of_presence_and_frequency_count_the_answer_and_not_the_prompt():
    it = forgetful({"a": 0.5, "b": 0.3, "c": 0.2}, end=0)
    # ln(0.5 / 0.3) = 0.51, ln(0.5 / 0.2) = 0.92, ln(0.3 / 0.2) = 0.41: at 1 every letter comes once before one twice
    assert generate(it, "aaaa", 3, 0, presence_penalty=1.0) == "abc"
    assert generate(it, "aaaa", 6, 0, presence_penalty=1.0) == "abcaaa"  # once is enough: a is the likeliest again
    assert generate(it, "aaaa", 9, 0, frequency_penalty=1.0) == "abcabcabc"


def test_settings_are_refused_at_the_call():
    with pytest.raises(ConfigError, match="logprobs is 300; the vocabulary has 259 tokens"):
        tokens(bundle(), "x", Sampling(logprobs=300))
    with pytest.raises(ConfigError, match="lookup is -2; it must be 0 or more"):
        stream(bundle(), "x", lookup=-2)
    with pytest.raises(ConfigError, match=r"temperature is -1"):
        stream(bundle(), "x", temperature=-1)
    with pytest.raises(ConfigError, match=r"top_k is 300 but the vocabulary has 259 tokens"):
        stream(bundle(), "x", top_k=300)
    with pytest.raises(ConfigError, match=r"max_tokens is -1; it must be 0 or more"):
        stream(bundle(), "x", max_tokens=-1)
    with pytest.raises(ConfigError, match="a stop text is empty"):
        stream(bundle(), "x", stop=("a", ""))


def test_explain_shows_the_way_to_the_first_token():
    it = bundle("fast")
    steps = explain(it, "the", Sampling(temperature=0.7, top_k=5))
    assert [step.name for step in steps] == ["temperature 0.7", "top-k 5"]
    scores = next_scores(it.model, it.tokenizer.encode("the").tolist())
    assert gap(steps[0].before, scores.softmax(dim=0)) < 1e-10
    assert steps[1].kept == 5


def test_a_model_that_wants_a_token_before_every_text_gets_it():
    plain = bundle()
    tokenizer = Tokenizer(
        [plain.tokenizer.token_bytes(id) for id in range(plain.tokenizer.vocab_size)],
        [(ord("t"), ord("h")), (256, ord("e"))],
        "gpt2",
        plain.tokenizer.special_tokens,
        begin=END,
    )
    wanting = replace(plain, tokenizer=tokenizer)
    assert start(wanting, "the") == [END, 257]
    assert start(wanting, "") == [END]
    assert start(plain, "the") == [257]
