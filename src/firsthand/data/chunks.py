"""A corpus as units of work: ranges of bytes, about equal, whose results joined in order are the whole."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from firsthand.data.ledger import Source
from firsthand.errors import DataError

Side = Literal["train", "validation"]
SIDES: tuple[Side, Side] = ("train", "validation")


@dataclass(frozen=True)
class Span:
    """Bytes [start, end) of one source."""

    source: int
    start: int
    end: int


@dataclass(frozen=True)
class Chunk:
    """A unit of work; `side` is given where the split is by position, otherwise each document decides."""

    index: int
    spans: tuple[Span, ...]
    side: Side | None

    @property
    def size(self) -> int:
        return sum(span.end - span.start for span in self.spans)


def chunks(sources: Sequence[Source], chunk_bytes: int, fraction: float | None) -> Iterator[Chunk]:
    """Units of about `chunk_bytes`: parts of large files, or many small files together.

    With a `fraction`, one boundary lies where that share of all bytes remains, and every chunk belongs to one side.
    """
    total = sum(source.size - source.start for source in sources)
    cut = total if fraction is None else round(total * (1 - fraction))
    side: Side | None = None if fraction is None else "train"
    spans: list[Span] = []
    passed, filled, index = 0, 0, 0
    for number, source in enumerate(sources):
        at = source.start
        if fraction is not None and source.kind in ("csv", "tsv"):
            raise DataError(f"{source.name} is a table, which cannot be split by position. Split it by document.")
        while at < source.size:
            end = source.size if source.kind in ("csv", "tsv") else min(source.size, at + chunk_bytes - filled)
            if passed < cut < passed + end - at:
                end = at + cut - passed
            spans.append(Span(number, at, end))
            passed, filled, at = passed + end - at, filled + end - at, end
            if filled >= chunk_bytes or passed in (cut, total):
                yield Chunk(index, tuple(spans), side)
                spans, filled, index = [], 0, index + 1
                side = "validation" if fraction is not None and passed >= cut else side
