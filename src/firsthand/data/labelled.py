"""Texts with labels: rows of .csv and .tsv, lines of .jsonl -> (text, label), nothing skipped in silence."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from firsthand import files
from firsthand.data.ledger import Counts, Fault, Reading, Source
from firsthand.data.records import MEND, is_filled, objects, refuse_unwritable, rows
from firsthand.data.sources import check, named
from firsthand.errors import DataError, nearest


class Text(NamedTuple):
    """A text, and what it is."""

    text: str
    label: str


@dataclass(frozen=True)
class Columns:
    """Where text and label stand, and which labels there may be; () takes those that occur."""

    text: str = "text"
    label: str = "label"
    labels: tuple[str, ...] = ()


def read(
    sources: Sequence[Path | str], columns: Columns, spool: Path, reading: Reading, counts: Counts
) -> tuple[list[Text], tuple[str, ...]]:
    """All texts of files and folders with their labels, and the labels: those that were named, or found, sorted."""
    texts = [
        text for source in check(sources, spool, reading, counts) for text in _of(source, columns, reading, counts)
    ]
    counts.check(named(sources))
    found = sorted({text.label for text in texts})
    labels = columns.labels or tuple(found)
    _refuse_labels(labels, found, named(sources))
    return texts, labels


def _of(source: Source, columns: Columns, reading: Reading, counts: Counts) -> Iterator[Text]:
    if source.kind == "text":
        raise DataError(
            f"{source.name} is plain text; labels need .csv, .tsv or .jsonl. Name its kind: data.reading.kind=tsv"
        )
    table = source.kind in ("csv", "tsv")
    with source.path.open("rb") as file:
        records = (
            rows(source, file, [], reading) if table else objects(source, file, source.start, source.size, reading)
        )
        for offset, record in records:
            try:
                if not is_filled(record, source, counts):
                    continue
                text = _text(record, columns, offset)
            except Fault as fault:
                if fault.reason == "with wrong names" and table:  # of the first line: every row would say the same
                    raise DataError(f"{source.name} {fault.detail}. {fault.mend}", fault.code) from None
                fault.settle(source.path, source.name, reading, counts)
                continue
            counts.use(text.text)
            yield text


def _text(record: dict[str, Any], columns: Columns, offset: int) -> Text:
    """Text and label of one record; a Fault where one is missing, or the label is none of those that were named."""
    missing = [name for name in (columns.text, columns.label) if name not in record]
    if missing:
        detail = f"has columns {files.quoted(list(record)[:6])[:80]}, and needs {columns.text!r} and {columns.label!r}"
        raise Fault("with wrong names", detail, _mapping(record, columns, missing), offset, code=4)
    text, label = record[columns.text], record[columns.label]
    if not isinstance(text, str) or not text.strip():
        raise Fault("without a text", f"has no text under {columns.text!r}", MEND, offset, code=4)
    if isinstance(label, bool) or not isinstance(label, str | int) or not str(label).strip():
        raise Fault("without a label", f"has no word or whole number under {columns.label!r}", MEND, offset, code=4)
    refuse_unwritable(text + str(label), offset)
    if columns.labels and str(label) not in columns.labels:
        known = ", ".join(columns.labels)[:60]
        detail = f"has the label {files.quoted(label)}, which is not in [{known}]"
        mend = f"{nearest(str(label), columns.labels).strip()} {MEND}".strip()
        raise Fault("with an unknown label", detail, mend, offset, code=5)
    return Text(text, str(label))


def _mapping(record: dict[str, Any], columns: Columns, missing: Sequence[str]) -> str:
    """Words that would map the columns that are missing: those of the same name in other case, else any other."""
    free = [name for name in record if name not in (columns.text, columns.label)]
    words = []
    for key, name in (("label", columns.label), ("text", columns.text)):
        if name in missing:
            found = next((other for other in free if other.casefold() == name.casefold()), (free or ["NAME"])[0])
            free = [other for other in free if other != found]
            words.append(f"data.{key}={files.quoted(found[:30])[1:-1]}")
    return f"Map them: {' '.join(words)}"


def _refuse_labels(labels: Sequence[str], found: Sequence[str], where: str) -> None:
    """Labels that cannot be told apart, or that nothing has, are mistakes of the data."""
    if len(labels) < 2:
        raise DataError(f"{where} has one label only ({files.quoted(labels[0])}); there must be two or more to tell", 5)
    folded = Counter(label.strip().casefold() for label in labels)
    alike = [label for label in labels if folded[label.strip().casefold()] > 1]
    if alike:
        raise DataError(
            f"labels {files.quoted(alike[:4])} of {where} differ only in case or white space. Mend them, or name those "
            f'that count: data.labels=["{alike[0].strip()}", ...]',
            code=5,
        )
    absent = [label for label in labels if label not in found]
    if absent:
        raise DataError(
            f"no row of {where} has the label {files.quoted(absent[0])}; it has {files.quoted(found[:8])}", 5
        )
