"""The slow byte pair encoding and the fast one are the same."""

import doctest

import pytest

from firsthand.lessons import bpe as lesson
from firsthand.tokenizer import learn
from firsthand.tokenizer.split import PATTERNS, split


@pytest.fixture(scope="module")
def text(shared):
    return (shared / "the-verdict.txt").read_text(encoding="utf-8")


def test_the_examples_in_the_lesson_are_true():
    assert doctest.testmod(lesson).failed == 0


def test_worked_by_hand():
    merges = lesson.train(["aaabdaaabac"], 3)
    assert merges == [(97, 97), (97, 98), (256, 257)]
    assert lesson.encode("aaabdaaabac", merges) == [258, 100, 258, 97, 99]


def test_words_lose_nothing(text):
    assert "".join(lesson.words(text)) == text


@pytest.mark.parametrize("pattern", PATTERNS)
def test_production_learns_the_merges_of_the_lesson(text, pattern):
    production = learn.train(text, 256 + 400, pattern=pattern, special_tokens=())
    assert production.merges == lesson.train(split(text, pattern), 400)


def test_production_learns_the_merges_of_the_lesson_until_nothing_is_left():
    text = "aaaa aaaaaaa aaa bababab abab 日本語日本 日本 🙂🙂🙂🙂 ééé\n\n\n\t\t\t\t"
    production = learn.train(text, 4096, special_tokens=(), allow_fewer=True)
    assert production.merges == lesson.train(split(text, "gpt2"), 4096)
    assert len(lesson.count_pairs({tuple(production.encode(piece).tolist()): 1 for piece in split(text, "gpt2")})) == 0


def test_production_encodes_as_the_lesson(text):
    merges = lesson.train(lesson.words(text), 300)
    production = learn.train(text, 256 + 300, special_tokens=())
    for piece in set(split(text, "gpt2")):
        assert production.encode(piece).tolist() == lesson.encode(piece, production.merges)
        assert lesson.decode(lesson.encode(piece, merges), merges) == piece
