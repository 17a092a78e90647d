"""A split without leaks: what belongs together stands on one side, and the counts say what became of every row."""

from collections import Counter

import pytest

from firsthand.data.labelled import Columns, Text, read
from firsthand.data.ledger import Counts, Reading
from firsthand.data.split import alike, fold, split
from firsthand.errors import DataError

LABELS = ("ham", "spam")
BALANCES = ("none", "test", "all")


def letters(number):
    """A word without digits for a number."""
    return "".join(chr(97 + int(digit)) for digit in str(number))


HAM = [Text(f"see you at {letters(n)} then", "ham") for n in range(90)]
PRIZES = [Text(f"You have WON {n * 100}! Call {n}", "spam") for n in range(9)]  # one template: digits are folded
OFFERS = [Text(f"a last {letters(n)} offer, {n % 3}", "spam") for n in range(37)]
LONG = [Text(f"dear {name} we would like to tell you that your account was closed today", "spam") for name in "xyz"]
TEXTS = [*HAM, *PRIZES, *OFFERS, *LONG, *HAM[:11]]  # 101 ham, of which 11 stand there twice; 49 spam


def test_folding_takes_away_case_punctuation_and_the_value_of_numbers():
    assert fold("WIN £1,000 now!!") == "win 0 0 now"
    assert fold("Über-Preis 7") == "über preis 0"
    assert fold(":-)") == ":-)"  # nothing is left: the signs themselves are the text


def test_groups_worked_by_hand():
    texts = [
        "Call 0900 now",
        "see you",
        "call 0800, NOW!",
        "one two three four five six seven eight nine",
        "zero one two three four five six seven eight",  # shares the run one ... eight
        "zero one two three four five six seven",  # shares a run of eight with the last one only
        "one two three four five six seven",  # no run of eight words in it
    ]
    assert alike(texts) == [[0, 2], [1], [3, 4, 5], [6]]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("balance", BALANCES)
def test_nothing_of_the_test_is_in_training(balance, seed):
    found = split(TEXTS, LABELS, "leak-free", balance, seed=seed)
    group = {row: number for number, rows in enumerate(alike([text.text for text in TEXTS])) for row in rows}
    sides = [{group[row] for row in side} for side in (found.train, found.validation, found.test)]
    assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
    assert len(sides[2]) == len(found.test)  # one text of each group
    assert found.counts["test_texts_also_in_training"] == found.counts["test_texts_like_one_in_training"] == 0


@pytest.mark.parametrize("kind", ["leak-free", "leaky"])
@pytest.mark.parametrize("balance", BALANCES)
def test_every_row_is_on_one_side_or_counted_as_left_out(kind, balance):
    found = split(TEXTS, LABELS, kind, balance)
    rows = [*found.train, *found.validation, *found.test]
    assert len(set(rows)) == len(rows) == len(TEXTS) - found.counts["left_out"]
    assert [found.counts[side] for side in ("train", "validation", "test")] == [
        len(found.train), len(found.validation), len(found.test)
    ]  # fmt: skip
    assert found.counts["rows"] == 150
    assert found.counts["duplicates"] == 8 + 11 + 0  # PRIZES are one text, folded; 11 ham twice; LONG differ


def test_the_leaky_split_leaks_and_says_how_much():
    found = split(TEXTS, LABELS, "leaky")
    folded = [fold(text.text) for text in TEXTS]
    leaks = sum(folded[row] in {folded[other] for other in found.train} for row in found.test)
    assert found.counts["test_texts_also_in_training"] == leaks > 0
    assert found.counts["left_out"] == 0


@pytest.mark.parametrize("balance", BALANCES)
def test_sides_are_balanced_as_asked(balance):
    found = split(TEXTS, LABELS, "leak-free", balance, test_fraction=0.2)
    counts = [Counter(TEXTS[row].label for row in side) for side in (found.train, found.validation, found.test)]
    assert counts[2] == ({"ham": 20, "spam": 10} if balance == "none" else {"ham": 10, "spam": 10})  # of 101 and 49
    assert counts[1] == ({"ham": 10, "spam": 5} if balance == "none" else {"ham": 5, "spam": 5})
    assert (counts[0]["ham"] == counts[0]["spam"]) == (balance == "all")


def test_the_same_seed_gives_the_same_split():
    assert split(TEXTS, LABELS, seed=3) == split(TEXTS, LABELS, seed=3) != split(TEXTS, LABELS, seed=4)


def test_a_text_with_two_labels_is_learned_from_and_never_tested():
    texts = [*TEXTS, Text("Who knows?", "ham"), Text("who knows", "spam")]
    found = split(texts, LABELS)
    assert {len(TEXTS), len(TEXTS) + 1} <= set(found.train)
    assert found.counts["groups_with_several_labels"] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"test_fraction": 0.005}, r"test_fraction 0.005 of 49 rows with the label 'spam' gives 0 test rows. Use"),
        ({"validation_fraction": 0.005}, r"gives 0 validation rows. Use validation_fraction=0.0[23] or more"),
        ({"test_fraction": 0.9}, r"label 'ham' has 90 different texts left, and test alone would take 91"),
    ],
)
def test_a_side_that_would_be_empty_is_refused_with_what_works(settings, message):
    with pytest.raises(DataError, match=message) as error:
        split(TEXTS, LABELS, **settings)
    assert error.value.code == 30


def test_three_labels_are_divided_too():
    texts = [*TEXTS, *(Text(f"{letters(n)} eggs", "eggs") for n in range(30))]
    found = split(texts, (*LABELS, "eggs"), balance="all")
    assert set(Counter(texts[row].label for row in found.train).values()) == {len(found.train) // 3}


def test_of_the_real_messages_no_test_message_is_in_training_unless_the_split_is_leaky(shared, tmp_path):
    columns, counts = Columns(text="SMS", label="Label"), Counts()
    messages, labels = read([shared / "SMSSpamCollection"], columns, tmp_path, Reading(kind="tsv"), counts)
    assert Counter(message.label for message in messages) == {"ham": 4827, "spam": 747}
    clean = split(messages, labels, "leak-free", "all")
    classic = split(messages, labels, "leaky", "all")
    assert len(clean.test) == len(classic.test) == 298  # 20 % of twice 747, as the course has it: 300
    assert clean.counts["test_texts_also_in_training"] == clean.counts["test_texts_like_one_in_training"] == 0
    assert 35 <= classic.counts["test_texts_also_in_training"] <= 65  # of the course's own split: 50 of 300
