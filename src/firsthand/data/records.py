"""Documents out of files: .txt .md .py whole, .jsonl a line each, .csv and .tsv a row each.

Everything is read as a stream of bytes with its offset, so a fault is named `file:line:byte` and memory stays bounded.
A range of bytes stands for the documents that begin in it: neighbouring ranges give, together, what the file gives.
"""

import csv
import json
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn, TypeGuard

from firsthand import files
from firsthand.data import cuts
from firsthand.data.ledger import BLANK, Counts, Document, Fault, Reading, Source, not_utf8
from firsthand.errors import DataError, nearest

PIECE = 4 << 20  # bytes of a large document handed over at once


def documents(source: Source, start: int, end: int, reading: Reading, counts: Counts) -> Iterator[Document]:
    """The documents of `source` that begin in bytes [start, end); of a text without separators, that part of it.

    Neighbouring ranges give, together, exactly what the whole file gives.
    """
    if source.kind == "text" and reading.separator is None:
        yield from _parts(source, start, end, reading, counts)
        return
    records = {"text": _between_separators, "jsonl": _json_lines, "csv": _table, "tsv": _table}[source.kind]
    with source.path.open("rb") as file:
        for offset, record in records(source, file, start, end, reading):
            try:
                if isinstance(record, Fault):
                    raise record
                refuse_unwritable(record, offset)
            except Fault as fault:
                fault.settle(source.path, source.name, reading, counts)
                continue
            if record.strip():
                counts.use(record)
                yield Document(record, source, offset)
            else:
                counts.drop(BLANK, source.name)


MEND = "Mend the record, or leave it out: data.reading.on_bad=skip"
Records = Iterator[tuple[int, str | Fault]]


def refuse_unwritable(text: str, offset: int) -> None:
    """A Fault for what is no text: NUL, and halves of characters (lone surrogates), which JSON lets through."""
    if "\0" in text:
        raise Fault("with a NUL", "has a NUL character: that is no text", MEND, offset)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise Fault("with half a character", f"holds {half}, half of a surrogate pair", MEND, offset) from None


def _parts(source: Source, start: int, end: int, reading: Reading, counts: Counts) -> Iterator[Document]:
    """A text file in pieces that end where cutting is harmless; it was checked to be UTF-8 when it became a Source."""
    limit = reading.max_line_bytes
    at = start if start == source.start else cuts.next_cut(source.path, start, source.size, source.name, limit)
    last = end if end >= source.size else cuts.next_cut(source.path, end, source.size, source.name, limit)
    with source.path.open("rb") as file:
        while at < last:
            stop = (
                cuts.next_cut(source.path, at + PIECE, source.size, source.name, limit) if at + PIECE < last else last
            )
            text = cuts.read_between(file, at, stop).decode().replace("\r\n", "\n").replace("\r", "\n")
            ends = stop == source.size
            counts.text_bytes += len(text.encode())
            counts.read += ends  # a document counts where it ends
            counts.used += ends
            yield Document(text, source, at, ends)
            at = stop


def _lines(file: BinaryIO, start: int, end: int, origin: int, limit: int) -> Iterator[tuple[int, bytes | None]]:
    """(offset, line) of every line that begins in [start, end); the line is None where it is longer than `limit`."""
    file.seek(start)
    if start > origin:
        file.seek(start - 1)
        _skip_line(file)
    while (offset := file.tell()) < end and (line := file.readline(limit + 1)):
        if len(line) > limit and not line.endswith(b"\n"):
            _skip_line(file)
            yield offset, None
        else:
            yield offset, line


def _skip_line(file: BinaryIO) -> None:
    while (part := file.readline(1 << 20)) and not part.endswith(b"\n"):
        pass


def _decode(line: bytes | None, offset: int, reading: Reading) -> str:
    """A line as text, without its end; a Fault where it is too long or not UTF-8."""
    if line is None:
        detail = f"begins a line longer than {files.amount(reading.max_line_bytes)}"
        raise Fault("too long", detail, "Break it, or raise data.reading.max_line_bytes", offset)
    try:
        return line.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise not_utf8(error, offset) from None


def _between_separators(source: Source, file: BinaryIO, start: int, end: int, reading: Reading) -> Records:
    """Runs of lines between lines that equal the separator; a run belongs to the range its separator begins in."""
    inside, first, lines, size, fault = start == source.start, start, [], 0, None
    for offset, line in _lines(file, start, source.size, source.start, reading.max_line_bytes):
        try:
            text = _decode(line, offset, reading)
        except Fault as found:
            text, fault = "", fault or found
        if text == reading.separator and line is not None:
            if inside:
                yield first, fault or "\n".join(lines)
            if offset >= end:
                return
            inside, first, lines, size, fault = True, offset + len(line), [], 0, None
        elif inside:
            lines.append(text)
            size += len(text)
            if size > reading.max_line_bytes:
                lines, fault = [], fault or Fault("too long", "begins a document that is too long", MEND, first)
    if inside and (lines or fault):  # nothing after the last separator is no document
        yield first, fault or "\n".join(lines)


def _json_lines(source: Source, file: BinaryIO, start: int, end: int, reading: Reading) -> Records:
    for offset, record in objects(source, file, start, end, reading):
        try:
            yield offset, record if isinstance(record, Fault) else _text_of(record, offset, reading.text_column)
        except Fault as fault:
            yield offset, fault


def is_filled(record: dict[str, Any] | Fault | None, source: Source, counts: Counts) -> TypeGuard[dict[str, Any]]:
    """Whether there is anything in a record; a blank one is counted, and a fault raised."""
    if isinstance(record, Fault):
        raise record
    if record and any(str(value).strip() for value in record.values()):
        return True
    counts.drop(BLANK, source.name)
    return False


def objects(
    source: Source, file: BinaryIO, start: int, end: int, reading: Reading
) -> Iterator[tuple[int, dict[str, Any] | Fault | None]]:
    """(offset, object) of every line that begins in [start, end) and holds one JSON object; None for a blank line."""
    for offset, line in _lines(file, start, end, source.start, reading.max_line_bytes):
        try:
            text = _decode(line, offset, reading)
            yield offset, parse_object(text, offset) if text.strip() else None
        except Fault as fault:
            yield offset, fault


def parse_object(line: str, offset: int) -> dict[str, Any]:
    """One JSON object, read more strictly than Python does by itself.

    NaN, numbers that overflow, a key given twice, and nesting without end are faults: each would be another value to
    another reader.
    """
    try:
        record = json.loads(
            line,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=files.short_integer,
            object_pairs_hook=_once,
        )
    except json.JSONDecodeError as error:
        detail = f"is not JSON (column {error.colno}: {error.msg})"
        raise Fault(
            "not JSON", detail, "Fix the line, or leave it out: data.reading.on_bad=skip", offset, code=27
        ) from None
    except RecursionError:
        raise Fault("not JSON", "is nested too deeply to be read", MEND, offset, code=27) from None
    except ValueError as error:
        raise Fault("not JSON", f"is not strict JSON ({str(error)[:80]})", MEND, offset, code=27) from None
    if not isinstance(record, dict):
        raise Fault("not an object", f"is a JSON {type(record).__name__}, not an object", MEND, offset, code=27)
    return record


def _text_of(record: dict[str, Any] | None, offset: int, key: str) -> str:
    """The text under `key` of an object; none for a blank line."""
    if record is None:
        return ""
    if key not in record:
        keys = [str(name) for name in record][:6]
        hint = nearest(key, keys) or f" Map one: data.reading.text_column={keys[0] if keys else 'NAME'}."
        raise Fault(f"lack {key!r}", f"has keys {keys}, but no {key!r}.{hint}", MEND, offset, code=4)
    if not isinstance(record[key], str):
        raise Fault("not a text", f"has a {type(record[key]).__name__} under {key!r}, not a text", MEND, offset, code=4)
    return record[key]


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"{text[:20]} is larger than any float")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"key {twice[:40]!r} stands there twice")
    return record


def _table(source: Source, file: BinaryIO, start: int, end: int, reading: Reading) -> Records:
    """The text column of every row; the first row names the columns. A table is one range: a quote may span lines."""
    for offset, row in rows(source, file, [reading.text_column], reading):
        yield offset, row if isinstance(row, Fault) else row[reading.text_column]


def rows(
    source: Source, file: BinaryIO, columns: list[str], reading: Reading
) -> Iterator[tuple[int, dict[str, str] | Fault]]:
    """(offset, row) of a .csv or .tsv file whose first row names at least `columns`.

    A .tsv has no quoting (a quote is a character like others); a .csv has RFC 4180's.
    """
    csv.field_size_limit(reading.max_line_bytes)
    quoting = csv.QUOTE_NONE if source.kind == "tsv" else csv.QUOTE_MINIMAL
    delimiter = "\t" if source.kind == "tsv" else ","
    names: list[str] | None = None
    at = source.start
    while at < source.size:
        feed = _Feed(file, at, source, reading)
        try:
            for values in csv.reader(feed, delimiter=delimiter, quoting=quoting, strict=True):
                first, fault = feed.begin()
                if fault:
                    yield first, fault
                elif not values:
                    yield first, dict.fromkeys(columns, "")
                elif names is None:
                    names = _columns(source.name, values, columns)
                elif len(values) != len(names):
                    detail = f"has {len(values)} columns, the first line has {len(names)}"
                    yield first, Fault("with wrong columns", detail, MEND, first, code=4)
                else:
                    yield first, dict(zip(names, values, strict=True))
            return
        except csv.Error as error:
            at = feed.second  # a quote that is never closed swallows the file: give up its first line only
            first, fault = feed.begin()
            yield first, fault or Fault("not CSV", f"is not CSV ({str(error).split(' - ')[0]})", MEND, first, code=4)


def _columns(name: str, given: list[str], wanted: list[str]) -> list[str]:
    missing = [column for column in wanted if column not in given]
    if missing or len(set(given)) < len(given):
        raise DataError(
            f"{name} has columns {given[:8]}, but {wanted} {'is' if len(wanted) == 1 else 'are'} needed, each once. "
            f"Map it: data.reading.text_column={given[-1]!r}, or name the columns in the first line.",
            code=4,
        )
    return given


class _Feed(Iterator[str]):
    """Lines for csv.reader, remembering where the current row began and what was wrong with its bytes."""

    def __init__(self, file: BinaryIO, start: int, source: Source, reading: Reading):
        self.file, self.reading = file, reading
        self.lines = _lines(file, start, source.size, source.start, reading.max_line_bytes)
        self.first: int | None = None
        self.second = start  # where the second line of the row begins
        self.fault: Fault | None = None

    def __next__(self) -> str:
        offset, line = next(self.lines)
        if self.first is None:
            self.first, self.second = offset, self.file.tell()
        try:
            return _decode(line, offset, self.reading) + "\n"
        except Fault as fault:
            self.fault = self.fault or fault
            return "\n"

    def begin(self) -> tuple[int, Fault | None]:
        """Where the row just read began, and its fault; the next row begins after it."""
        first, fault = self.first or 0, self.fault
        self.first = self.fault = None
        return first, fault
