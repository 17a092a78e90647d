"""Lesson: text as numbers, the two simplest ways. Each has a fault, and the lesson on BPE has the cure.

    characters   few entries, never at a loss in its own alphabet, but a word is long
    words        a word is one number, but the next text has words that were never seen

A tokenizer is nothing but a list of entries, the place of an entry being its number.
Source: Raschka 2024, "Build a Large Language Model (From Scratch)", sections 2.2 to 2.4.
"""

import re

UNKNOWN = "<|unk|>"
END = "<|endoftext|>"

# A word with its apostrophes left apart, a number, or one sign; white space only separates.
WORD = re.compile(r'([,.:;?_!"()\']|--|\s)')


def characters(text: str) -> list[str]:
    """The entries of a character tokenizer: every character that occurs, once, in order.

    >>> characters("hello")
    ['e', 'h', 'l', 'o']
    """
    return sorted(set(text))


def encode_characters(text: str, entries: list[str]) -> list[int]:
    """The number of every character.

    >>> encode_characters("hole", characters("hello"))
    [1, 3, 2, 0]
    """
    number = {entry: at for at, entry in enumerate(entries)}
    return [number[character] for character in text]


def decode_characters(ids: list[int], entries: list[str]) -> str:
    """The characters of the numbers, joined: exactly the text again."""
    return "".join(entries[id] for id in ids)


def split_words(text: str) -> list[str]:
    """Words and signs, without the white space between them.

    >>> split_words("Hello, world. Is this-- a test?")
    ['Hello', ',', 'world', '.', 'Is', 'this', '--', 'a', 'test', '?']
    """
    return [part.strip() for part in WORD.split(text) if part.strip()]


def words(text: str) -> list[str]:
    """The entries of a word tokenizer: every word that occurs, once, in order; then one for others, one for the end.

    >>> words("the cat and the dog")
    ['and', 'cat', 'dog', 'the', '<|unk|>', '<|endoftext|>']
    """
    return [*sorted(set(split_words(text))), UNKNOWN, END]


def encode_words(text: str, entries: list[str]) -> list[int]:
    """The number of every word; of a word that was never seen, the number of <|unk|>: that is where meaning is lost.

    >>> encode_words("the bird and the cat", words("the cat and the dog"))
    [3, 4, 0, 3, 1]
    """
    number = {entry: at for at, entry in enumerate(entries)}
    return [number.get(word, number[UNKNOWN]) for word in split_words(text)]
