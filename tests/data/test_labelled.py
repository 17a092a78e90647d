"""Texts with labels: every format gives the same rows, and what cannot be used is refused or counted."""

import json

import pytest

from firsthand.data.labelled import Columns, Text, read
from firsthand.data.ledger import Counts, Reading
from firsthand.errors import DataError

ROWS = [("Win a prize", "spam"), ('She said "hi", twice', "ham"), ("Ende gut", "ham"), ("FREE!!!", "spam")]


def written(folder, suffix, rows=ROWS, names=("text", "label")):
    """The rows as a file of a kind."""
    path = folder / f"rows{suffix}"
    if suffix == ".jsonl":
        lines = [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
    elif suffix == ".tsv":
        lines = ["\t".join(row) for row in [names, *rows]]
    else:
        lines = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in [names, *rows]]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def of(path, columns=None, on_bad="error"):
    """What is read of a file, and the counts."""
    counts = Counts()
    texts, labels = read([path], columns or Columns(), path.parent / "spool", Reading(on_bad=on_bad), counts)
    return texts, labels, counts


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_every_format_gives_the_same_rows(tmp_path, suffix):
    texts, labels, counts = of(written(tmp_path, suffix))
    assert texts == [Text(*row) for row in ROWS]
    assert labels == ("ham", "spam")
    assert (counts.read, counts.used) == (4, 4)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_columns_of_other_names_are_mapped_as_the_error_says(tmp_path, suffix):
    path = written(tmp_path, suffix, names=("SMS", "Label"))
    with pytest.raises(DataError, match=r"needs 'text' and 'label'. Map them: data.label=Label data.text=SMS") as error:
        of(path)
    assert error.value.code == 4
    assert len(str(error.value)) <= 240
    assert of(path, Columns(text="SMS", label="Label"))[0] == [Text(*row) for row in ROWS]


def test_a_label_that_is_not_named_is_refused_with_its_place_or_counted(tmp_path):
    path = written(tmp_path, ".csv", [*ROWS * 60, ("Hm", "spam ")])
    named = Columns(labels=("ham", "spam"))
    with pytest.raises(
        DataError, match=r"rows.csv:242:1 has the label 'spam ', which is not in \[ham, spam\]"
    ) as error:
        of(path, named)
    assert error.value.code == 5
    assert "Did you mean 'spam'?" in str(error.value)
    texts, labels, counts = of(path, named, "skip")
    assert len(texts) == 240 == counts.used
    assert labels == ("ham", "spam")
    assert counts.dropped == {"with an unknown label": 1}


def test_labels_keep_the_order_in_which_they_are_named(tmp_path):
    assert of(written(tmp_path, ".csv"), Columns(labels=("spam", "ham")))[1] == ("spam", "ham")


def test_whole_numbers_are_labels(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n')
    assert of(path)[1] == ("0", "1")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": 7, "label": "ham"}', r"rows.jsonl:2:1 has no text under 'text'"),
        ('{"text": " ", "label": "ham"}', r"has no text under 'text'"),
        ('{"text": "a", "label": null}', r"has no word or whole number under 'label'"),
        ('{"text": "a", "label": true}', r"has no word or whole number"),
        ('{"text": "a", "label": 1.5}', r"has no word or whole number"),
        ('{"text": "a", "label": ["ham"]}', r"has no word or whole number"),
        ('{"text": "a"}', r"has columns \['text'\], and needs 'text' and 'label'"),
        ('{"text": "\\ud800", "label": "ham"}', r"half of a surrogate pair"),
        ('{"text": "a\\u0000", "label": "ham"}', r"has a NUL character"),
        ('{"text": "a", "label": "ham"', r"is not JSON"),
        ('{"text": "a", "label": "ham", "label": "spam"}', r"'label' stands there twice"),
        ("[1, 2]", r"is a JSON list, not an object"),
    ],
)
def test_a_bad_row_is_one_line_with_its_place(tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    good = [json.dumps({"text": f"text {n}", "label": "ham" if n % 2 else "spam"}) for n in range(200)]
    path.write_text("\n".join([good[0], line, *good[1:]]) + "\n")
    with pytest.raises(DataError, match=message) as error:
        of(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) <= 240
    counts = of(path, on_bad="skip")[2]
    assert (counts.read, counts.used, sum(counts.dropped.values())) == (201, 200, 1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", "ham"), ("b", "ham")], "has one label only \\('ham'\\)"),
        ([("a", "ham"), ("b", "Ham "), ("c", "spam")], "differ only in case or white space"),
        ([], "has 0 usable"),
    ],
)
def test_a_data_set_that_cannot_teach_is_refused(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        of(written(tmp_path, ".csv", rows))


def test_a_named_label_that_no_row_has_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no row of .* has the label 'eggs'; it has \['ham', 'spam'\]"):
        of(written(tmp_path, ".csv"), Columns(labels=("ham", "spam", "eggs")))


def test_plain_text_has_no_labels(tmp_path):
    path = tmp_path / "rows.txt"
    path.write_text("hello\n")
    with pytest.raises(DataError, match=r"rows.txt is plain text; labels need .csv, .tsv or .jsonl"):
        of(path)
