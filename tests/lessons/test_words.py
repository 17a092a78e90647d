"""The lesson on characters and words gives the numbers of production."""

import doctest

from firsthand.lessons import words as lesson
from firsthand.tokenizer.simple import CharTokenizer, WordTokenizer

TEXT = 'I HAD always thought Jack Gisburn a cheap genius--though a good fellow--so it was no "great surprise".'
OTHER = "Jack was no cheap painter; he thought it a surprise."


def test_the_examples_in_the_lesson_are_true():
    assert doctest.testmod(lesson).failed == 0


def test_characters_have_the_ids_of_production_and_come_back():
    entries = lesson.characters(TEXT)
    ids = lesson.encode_characters(TEXT, entries)
    assert ids == CharTokenizer.train(TEXT).encode(TEXT).tolist()
    assert lesson.decode_characters(ids, entries) == TEXT


def test_words_have_the_ids_of_production_also_those_never_seen():
    entries = lesson.words(TEXT)
    production = WordTokenizer.train(TEXT)
    assert production.entries == entries
    for text in (TEXT, OTHER):
        assert lesson.encode_words(text, entries) == production.encode(text).tolist()
    assert entries.index(lesson.UNKNOWN) in lesson.encode_words(OTHER, entries)
