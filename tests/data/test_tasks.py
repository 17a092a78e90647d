"""The verifiable tasks: right, always the same ones, and nothing of one part in another."""

import hashlib
import json
from itertools import combinations

import pytest

from firsthand.data import catalog, duplicates, tasks
from firsthand.data.facts import PASTS, PLURALS, WORDS
from firsthand.data.tasks import COUNTS, RULES, Task, bare, right, roman
from firsthand.data.wordings import WORDINGS

EVERY = {part: tasks.tasks(part) for part in COUNTS}


def of(kind):
    return [task for part in EVERY.values() for task in part if task.kind == kind]


def test_every_kind_has_as_many_tasks_as_promised_in_every_part():
    assert {part: len(made) for part, made in EVERY.items()} == {"train": 552, "validation": 138, "test": 368}
    for part, count in COUNTS.items():
        for rule in RULES:
            assert sum(task.kind == rule.kind for task in EVERY[part]) == count, (part, rule.kind)
    assert [rule.kind for rule in RULES] == list(WORDINGS)


def test_no_question_and_no_wording_of_one_part_is_in_another():
    for one, other in combinations(EVERY.values(), 2):
        known = {duplicates.normal(task.question) for task in one}
        assert not [task for task in other if duplicates.normal(task.question) in known]
    for lines in WORDINGS.values():
        assert len({line.strip() for line in lines.strip().splitlines()}) == 6
    questions = [task.question for part in EVERY.values() for task in part]
    assert len(set(questions)) == len(questions)
    owners = [part for part, made in EVERY.items() for _ in made]
    assert not [pair for pair in duplicates.near(questions) if owners[pair[0]] != owners[pair[1]]]


def test_no_content_of_one_part_is_in_another():
    """Also where it is asked otherwise: hot -> cold in one part and cold -> hot in another would be a leak."""
    for rule in RULES:
        contents = [{task.about for task in part if task.kind == rule.kind} for part in EVERY.values()]
        assert [len(content) for content in contents] == [24, 6, 16]
        assert len(set.union(*contents)) == 46
    pairs = [frozenset(task.about.split()) for task in of("antonym")]
    assert len(set(pairs)) == len(pairs)
    assert all(task.answer in task.about for task in of("antonym"))
    lists = [frozenset(task.about.split()) for task in of("sort numbers") + of("sort words")]
    assert len(set(lists)) == len(lists)


def test_the_tasks_of_edition_1_never_change():
    """Whoever changes a task counts up `edition` in data/rows.py, and puts the new sums here."""
    found = {part: hashlib.sha256(tasks.jsonl(part)).hexdigest()[:16] for part in COUNTS}
    assert found == {"train": "e8cfce39add38ee5", "validation": "a3f526918aadb261", "test": "456f603461122457"}
    assert catalog.row("tasks").files[0].origins[0].edition == 1


@pytest.mark.parametrize(
    "number, letters", [(4, "IV"), (9, "IX"), (44, "XLIV"), (90, "XC"), (99, "XCIX"), (388, "CCCLXXXVIII")]
)
def test_roman_numerals_by_hand(number, letters):
    assert roman(number) == letters


def test_answers_that_python_can_work_out_are_so():
    for task in of("add") + of("subtract") + of("multiply"):
        numbers = [int(word) for word in "".join(c if c.isdigit() else " " for c in task.question).split()]
        sign = {"add": int.__add__, "subtract": lambda a, b: max(a, b) - min(a, b), "multiply": int.__mul__}[task.kind]
        assert str(sign(*numbers)) == task.answer, task
    for task in of("sort words"):
        listed = task.answer.split(", ")
        assert listed == sorted(listed) and all(word in task.question for word in listed)
    for task in of("largest"):
        assert task.answer in task.question
    for task in of("reverse"):
        assert task.answer[::-1] in task.question


def test_some_answers_by_hand():
    known = {task.question: task.answer for part in EVERY.values() for task in part}
    assert known["How does 'oyster' read from right to left?"] == "retsyo"
    assert known["From Tuesday, count 13 days ahead: where do you land?"] == "Monday"
    assert known["From December, count 2 months ahead: where do you land?"] == "February"
    assert known["6 yards make up how many feet?"] == "18"
    assert known["What is left of 'glacier' once its vowels are gone?"] == "glcr"


def test_every_choice_holds_the_answer_and_two_that_are_wrong():
    for task in of("synonym"):
        assert task.question.count(", ") >= 2 and task.answer in task.question


def test_the_tables_have_no_word_twice():
    for table in (WORDS, PLURALS, PASTS):
        assert len(set(table)) == len(table)


def test_an_answer_is_right_whatever_stands_around_it_and_wrong_otherwise():
    task = Task("reverse", "?", "nomel")
    for said in ("nomel", " Nomel.\n", "'nomel'", '"NOMEL".', "`nomel`"):
        assert right(task, said), said
    for said in ("", "lemon", "The answer is nomel", "nomel nomel", "n o m e l"):
        assert not right(task, said), said
    assert right(Task("upper case", "?", "LEMON", cased=True), "LEMON.")
    assert not right(Task("upper case", "?", "LEMON", cased=True), "lemon")
    assert bare("  a\n b.", cased=True) == "a b"


def test_the_catalog_makes_them_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv("FIRSTHAND_HOME", str(tmp_path))
    folder = catalog.get("tasks")
    lines = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    assert len(lines) == 368
    assert lines[0].keys() == {"instruction", "input", "output", "kind"}
    assert sum(path.stat().st_size for path in folder.glob("*.jsonl")) <= catalog.row("tasks").size
