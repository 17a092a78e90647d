"""Instruction tasks whose answers a program can check: several hundred, from facts and rules, always the same ones.

    reverse   Spell the word 'lemon' backwards.   ->   nomel        roman   Write 44 as a Roman numeral.   ->   XLIV

No wording and no content of one part occurs in another: a kind has four wordings to learn from, a fifth to validate and
a sixth to test, and every word, number or pair of its table belongs to one part only. So the test asks whether the task
was learned, not the sentence. There is no chance in it: what goes where hangs on hashes. Whoever changes a task counts
up the edition in the catalog (rows.py), for the scores of two editions are not to be compared.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from firsthand.data.facts import (
    ANTONYMS,
    DAYS,
    MONTHS,
    NUMERALS,
    PASTS,
    PLURALS,
    SHORT_AND_LONG,
    SYNONYMS,
    UNITS,
    WORDS,
)
from firsthand.data.wordings import WORDINGS

Part = Literal["train", "validation", "test"]
COUNTS: dict[Part, int] = {"train": 24, "validation": 6, "test": 16}  # tasks of every kind
SIXTHS: dict[Part, slice] = {"train": slice(4), "validation": slice(4, 5), "test": slice(5, 6)}


@dataclass(frozen=True)
class Task:
    """A question with its one right answer."""

    kind: str
    question: str
    answer: str
    cased: bool = False  # whether capital letters count
    about: str = ""  # its content: the word, the numbers, the pair; no other part has it


Case = tuple[str, tuple[str, ...], str]  # (what it is about, the words of the question, the answer)


@dataclass(frozen=True)
class Rule:
    """How the tasks of one kind are made: from every case there is."""

    kind: str
    cases: Callable[[], Iterator[Case]]
    cased: bool = False


@cache
def tasks(part: Part) -> tuple[Task, ...]:
    """The tasks of one part: 24 of every kind to learn from, 6 to validate, 16 to test."""
    return tuple(task for rule in RULES for task in _of(rule, part))


def jsonl(part: Part) -> bytes:
    """The same as lines of JSON, to learn from: instruction, input, output, kind."""
    lines = (
        {"instruction": task.question, "input": "", "output": task.answer, "kind": task.kind} for task in tasks(part)
    )
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def _of(rule: Rule, part: Part) -> Iterator[Task]:
    wordings = [line.strip() for line in WORDINGS[rule.kind].strip().splitlines()][SIXTHS[part]]
    about: dict[str, list[Case]] = {}
    for case in rule.cases():
        about.setdefault(case[0], []).append(case)
    order = [_draw(about[key], key) for key in sorted(about, key=lambda key: _number(rule.kind, key))]
    first = sum(count for name, count in COUNTS.items() if list(COUNTS).index(name) < list(COUNTS).index(part))
    for key, words, answer in order[first : first + COUNTS[part]]:
        wording = wordings[_number("wording", rule.kind, key) % len(wordings)]
        yield Task(rule.kind, wording.format(*words), answer, rule.cased, key)


def _draw(cases: Sequence[Case], key: str) -> Case:
    """One of several cases about the same thing, such as hot -> cold and cold -> hot."""
    return cases[_number("case", key) % len(cases)]


def _number(*words: str) -> int:
    """A number that these words always get, and that looks like chance."""
    return int.from_bytes(hashlib.sha256(" ".join(words).encode()).digest()[:8], "big")


def right(task: Task, said: str) -> bool:
    """Whether an answer is exactly right: white space around it, quotes and one full stop at its end do not count."""
    return bare(said, task.cased) == bare(task.answer, task.cased)


def bare(text: str, cased: bool) -> str:
    """An answer as it is compared."""
    text = " ".join(text.split()).removesuffix(".").strip("\"'“”‘’` ")
    return text if cased else text.casefold()


# ---- the cases of every kind ----


def _words(answer: Callable[[str], str]) -> Callable[[], Iterator[Case]]:
    """One case a word of the table."""
    return lambda: ((word, (word,), answer(word)) for word in WORDS)


def _numbers(least: int, most: int, answer: Callable[[int], str]) -> Callable[[], Iterator[Case]]:
    """One case a number."""
    return lambda: ((str(number), (str(number),), answer(number)) for number in range(least, most + 1))


def _sums(least: int, most: int, answer: Callable[[int, int], int]) -> Callable[[], Iterator[Case]]:
    """One case a pair of numbers, the larger first; (3, 5) and (5, 3) would be the same case."""
    return lambda: (
        (f"{a} {b}", (str(a), str(b)), str(answer(a, b))) for a in range(least, most + 1) for b in range(least, a + 1)
    )


def _tables(pairs: Sequence[str], both_ways: bool) -> Callable[[], Iterator[Case]]:
    """One case a pair of a table, to be asked either way round if that makes sense."""

    def cases() -> Iterator[Case]:
        for pair in pairs:
            one, other = pair.split()
            yield pair.strip(), (one,), other
            if both_ways:
                yield pair.strip(), (other,), one

    return cases


def _choices() -> Iterator[Case]:
    """Which of three words means the same: the other two are of other pairs."""
    for pair in SYNONYMS:
        word, same = pair.split()
        others = sorted((other for other in SYNONYMS if other != pair), key=lambda other: _number(pair, other))
        offered = sorted([same, *(other.split()[1] for other in others[:2])], key=lambda each: _number(word, each))
        yield pair.strip(), (word, ", ".join(offered)), same


def _rows(words: Sequence[str], size: int) -> list[list[str]]:
    """Rows of different words, made of the table; 80 of them."""
    order = [sorted(words, key=lambda word, draw=draw: _number("row", str(draw), word)) for draw in range(80)]
    return [row[:size] for row in order]


def _sorted_words() -> Iterator[Case]:
    for row in _rows(WORDS, 3):
        yield " ".join(sorted(row)), (", ".join(row),), ", ".join(sorted(row))


def _initials() -> Iterator[Case]:
    for row in _rows(WORDS, 4):
        yield " ".join(row), (" ".join(row),), "".join(word[0] for word in row).upper()


def _lists(answer: Callable[[list[int]], str]) -> Callable[[], Iterator[Case]]:
    """One case a list of four different numbers."""

    def cases() -> Iterator[Case]:
        for row in _rows([str(number) for number in range(10, 100)], 4):
            yield " ".join(sorted(row)), (", ".join(row),), answer([int(number) for number in row])

    return cases


def _later(names: Sequence[str], most: int) -> Callable[[], Iterator[Case]]:
    """One case a name and a distance: Monday and 3 -> Thursday."""
    return lambda: (
        (f"{name} {far}", (name, str(far)), names[(at + far) % len(names)])
        for at, name in enumerate(names)
        for far in range(2, most + 1)
        if far % len(names)
    )


def _conversions() -> Iterator[Case]:
    for large, small, ratio in UNITS:
        for count in range(2, 13):
            yield f"{count} {large} {small}", (str(count), large, small), str(count * ratio)


def _lengths() -> Iterator[Case]:
    """Seven words of every length, for most of the table have six letters, which would be a good guess."""
    of_length: dict[int, int] = {}
    for word in (*WORDS, *SHORT_AND_LONG):
        of_length[len(word)] = of_length.get(len(word), 0) + 1
        if of_length[len(word)] <= 7:
            yield word, (word,), str(len(word))


def _letters() -> Iterator[Case]:
    """How often the most frequent letter of a word stands in it."""
    for word in WORDS:
        letter = max(sorted(set(word)), key=word.count)
        yield word, (letter, word), str(word.count(letter))


def roman(number: int) -> str:
    """A number up to 399 as the Romans wrote it: 44 -> XLIV."""
    written = ""
    for value, letters in NUMERALS:
        written += letters * (number // value)
        number %= value
    return written


def _without_vowels(word: str) -> str:
    return "".join(letter for letter in word if letter not in "aeiou")


def _capitals() -> Iterator[Case]:
    """Words in capital letters, to be written in small ones."""
    return ((word, (word.upper(),), word) for word in WORDS)


# ---- the kinds ----

RULES = (
    Rule("reverse", _words(lambda word: word[::-1])),
    Rule("upper case", _words(str.upper), cased=True),
    Rule("lower case", _capitals, cased=True),
    Rule("count letters", _lengths),
    Rule("count one letter", _letters),
    Rule("last letter", _words(lambda word: word[-1])),
    Rule("without vowels", _words(_without_vowels)),
    Rule("sort words", _sorted_words),
    Rule("initials", _initials, cased=True),
    Rule("sort numbers", _lists(lambda row: ", ".join(map(str, sorted(row))))),
    Rule("largest", _lists(lambda row: str(max(row)))),
    Rule("add", _sums(11, 60, lambda a, b: a + b)),
    Rule("subtract", _sums(11, 60, lambda a, b: a - b)),
    Rule("multiply", _sums(2, 15, lambda a, b: a * b)),
    Rule("even or odd", _numbers(100, 399, lambda number: "odd" if number % 2 else "even")),
    Rule("roman", _numbers(2, 99, roman)),
    Rule("convert units", _conversions),
    Rule("months", _later(MONTHS, 11)),
    Rule("days", _later(DAYS, 20)),
    Rule("antonym", _tables(ANTONYMS, both_ways=True)),
    Rule("synonym", _choices),
    Rule("plural", _tables(PLURALS, both_ways=False)),
    Rule("past tense", _tables(PASTS, both_ways=False)),
)
