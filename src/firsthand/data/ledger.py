"""What is read, how, and what became of it: sources, settings, faults with their location, and counts that add up.

Nothing is skipped in silence: a bad record stops the work, or with on_bad="skip" is counted under its reason. Always

    read = used + sum of dropped[reason]
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pydantic

from firsthand.data import cuts
from firsthand.errors import DataError

BLANK = "blank"  # nothing but white space: dropped and counted, but no fault
SHOWN = 5  # locations kept of those that were dropped
TOLERATED = 0.01  # share of bad records above which skipping is no longer honest

Kind = Literal["text", "jsonl", "csv", "tsv"]


@pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))
class Reading:
    """How files become documents."""

    text_column: str = "text"  # the column of .csv and .tsv, or the key of .jsonl, that holds the text
    separator: str | None = None  # in text files: a line that stands between two documents, such as <|endoftext|>
    encoding: str = "utf-8"
    on_bad: Literal["error", "skip"] = "error"
    kind: Kind | None = None  # for standard input and unknown suffixes; otherwise the suffix decides
    max_line_bytes: int = pydantic.Field(default=cuts.LIMIT, ge=64)


@dataclass(frozen=True)
class Source:
    """One checked file of UTF-8 text: what is read is bytes [start, size) of `path`; messages call it `name`."""

    path: Path
    name: str
    kind: Kind
    start: int  # 3 after a byte-order mark, otherwise 0
    size: int
    digest: str  # SHA-256 of the whole file
    stamp: int  # time of its last change when it was hashed, in nanoseconds


@dataclass(frozen=True)
class Document:
    """A text, or one piece of a large one: `ends` is False while more of the same document follows."""

    text: str
    source: Source
    offset: int
    ends: bool = True


@dataclass
class Counts:
    """What became of the records: read = used + dropped. `first` holds the first few locations of what was dropped."""

    read: int = 0
    used: int = 0
    text_bytes: int = 0
    dropped: dict[str, int] = field(default_factory=dict)  # reason -> how many
    first: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Counts":
        """Counts from what `asdict` gave, through JSON."""
        read, used, text_bytes = (int(values[name]) for name in ("read", "used", "text_bytes"))
        return cls(read, used, text_bytes, dict(values["dropped"]), list(values["first"]))

    def use(self, text: str) -> None:
        self.read += 1
        self.used += 1
        self.text_bytes += len(text.encode())

    def drop(self, reason: str, where: str) -> None:
        self.read += 1
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        if len(self.first) < SHOWN and reason != BLANK:
            self.first.append(f"{where} {reason}")

    def add(self, other: "Counts") -> None:
        self.read += other.read
        self.used += other.used
        self.text_bytes += other.text_bytes
        for reason, count in other.dropped.items():
            self.dropped[reason] = self.dropped.get(reason, 0) + count
        self.first = (self.first + other.first)[:SHOWN]

    def check(self, what: str) -> None:
        """Refuse a corpus of which nothing, or not enough, could be used."""
        reasons = ", ".join(
            f"{count:,} {reason}" for reason, count in sorted(self.dropped.items(), key=lambda pair: -pair[1])[:3]
        )
        place = f"; first: {self.first[0]}" if self.first else ""
        if self.used == 0:
            raise DataError(
                f"{what} has 0 usable documents ({self.read:,} read{': ' * bool(reasons)}{reasons}{place}). "
                f"Give text, or check data.reading.text_column.",
                code=26,
            )
        bad = sum(count for reason, count in self.dropped.items() if reason != BLANK)
        if bad > TOLERATED * self.read:
            raise DataError(
                f"{bad:,} of {self.read:,} documents of {what} are bad ({reasons}{place}); at most 1 % may be skipped. "
                f"Mend them, or leave those files out."
            )


class Fault(Exception):
    """One record that cannot be used; within this package only: it becomes a DataError or a count."""

    def __init__(self, reason: str, detail: str, mend: str, offset: int, code: int | None = None):
        super().__init__(reason)
        self.reason, self.detail, self.mend, self.offset, self.code = reason, detail, mend, offset, code

    def settle(self, path: Path, name: str, reading: Reading, counts: Counts) -> None:
        """Stop with the location, or count it, as the reader asked."""
        shown = reading.on_bad == "error" or len(counts.first) < SHOWN
        name = name if len(name) <= 56 else f"...{name[-53:]}"  # a location and a reason fit one line
        where = locate(path, name, self.offset) if shown else name  # finding a line means reading all before it
        if reading.on_bad == "skip":
            counts.drop(self.reason, where)
            return
        raise DataError(f"{where} {self.detail}. {self.mend}", self.code) from None


def locate(path: Path, name: str, offset: int) -> str:
    """`file:line:byte` of an offset, both counted from 1, as editors jump to them."""
    line, last, left = 1, -1, offset
    with path.open("rb") as file:
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            line += block.count(b"\n")
            if (at := block.rfind(b"\n")) >= 0:
                last = offset - left + at
            left -= len(block)
    return f"{name}:{line}:{offset - last}"


def not_utf8(error: UnicodeDecodeError, begin: int) -> Fault:
    """The fault of bytes, beginning at `begin` of the file, that are not UTF-8; with the encoding they look like."""
    data = bytes(error.object)
    likely = guess_encoding(data)
    return Fault(
        "not UTF-8",
        f"is not UTF-8 (byte 0x{data[error.start]:02X}); it looks like {likely}",
        f"Set data.reading.encoding={likely}, or leave it out: data.reading.on_bad=skip",
        begin + error.start,
        code=28,
    )


def guess_encoding(data: bytes) -> str:
    """The likeliest encoding of text that is not UTF-8, from the bytes it uses."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or data.count(0) > len(data) // 4:
        return "utf-16"
    return "cp1252" if any(0x80 <= byte <= 0x9F for byte in data) else "latin-1"
