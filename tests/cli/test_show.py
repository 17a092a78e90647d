"""What is printed: readable for a person, parsable for a program, harmless for the terminal."""

import json
from itertools import pairwise

import pytest

from firsthand.cli import meter, show
from firsthand.cli.main import main


def test_control_characters_of_a_model_never_reach_the_terminal():
    hostile = "a\x1b]52;c;aGk=\x07b\x1b[2Jc\x7fd\ttab\nline"
    shown = show.safe(hostile)
    assert shown == "a\\x1b]52;c;aGk=\\x07b\\x1b[2Jc\\x7fd\ttab\nline"


@pytest.mark.parametrize(
    "value, shown",
    [
        (1234567, "1,234,567"),
        (0.123456, "0.1235"),
        (12345.6, "12,346"),
        (True, "yes"),
        (None, "-"),
        ([1, 2.5], "1 … 2.5"),
    ],
)
def test_numbers_are_shown_as_a_reader_wants_them(value, shown):
    assert show.number(value) == shown


@pytest.mark.parametrize("seconds, shown", [(4, "4 s"), (150, "2 min"), (9000, "2.5 h")])
def test_durations_are_shown_as_a_person_plans(seconds, shown):
    assert show.duration(seconds) == shown


def test_tokens_as_json_are_the_ids_and_nothing_else_on_stdout(capsys):
    assert main(["tokenize", "Hello there", "--json"]) == 0
    out = capsys.readouterr().out
    result = json.loads(out)
    assert "".join(result["tokens"]) == "Hello there"
    assert len(result["ids"]) == len(result["tokens"])


def test_the_steps_of_a_word_begin_with_its_letters_and_end_with_its_tokens(capsys):
    assert main(["tokenize", "token", "--steps", "--json"]) == 0
    steps = json.loads(capsys.readouterr().out)["steps"][0]
    assert steps[0] == list("token")
    assert all(len(after) == len(before) - 1 for before, after in pairwise(steps))


def test_nothing_to_tokenize_is_refused_with_an_example(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert main(["tokenize"]) == 2
    assert "firsthand tokenize 'Hello'" in capsys.readouterr().err


def test_long_work_says_how_far_it_is_and_short_work_says_nothing(capsys, monkeypatch):
    with meter.Meter() as quick:
        quick(1_000_000, 2_000_000)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(meter, "SECONDS", 0.0)
    with meter.Meter("encoding") as slow:
        slow(1_500_000, 3_000_000)
    assert capsys.readouterr().err == "encoding: 1.5 of 3.0 MB\n"


def test_what_a_train_costs_is_said_before_it_starts(capsys):
    show.forecast(
        {"text": "x.txt", "split": "1 of 10", "parameters": 5000, "memory_bytes": 3e6, "training_tokens": 777}
    )
    assert capsys.readouterr().err == "x.txt: 1 of 10\n5,000 parameters, about 3 MB, 777 tokens to train on\n"


def test_every_numbered_error_can_be_explained(capsys):
    assert main(["explain", "fh033"]) == 0
    assert "settings hold a key that does not exist" in capsys.readouterr().out.replace("\n", " ")
    assert main(["explain", "FH999"]) == 2
    assert "no error has the number 'FH999'" in capsys.readouterr().err
