r"""Where a text may be cut so that its parts, encoded one by one, give exactly the ids of the whole.

A byte-level BPE never merges across the pieces of its split pattern. A cut is therefore harmless when the whole text
has a boundary between pieces there, and no piece on the left would have looked past it. Two kinds of place satisfy
both in every pattern we know (GPT-2, cl100k, Llama-3, Qwen2):

    visible | space letter       "foo| bar"      a space before a letter is the first sign of its piece, and the run of
    visible \n | letter          "foo.\n|Bar"    letters takes at most one sign before it; a newline is never inside a
                                                 piece that goes on with a letter; and white space that is one sign long
                                                 is the same piece whatever the look-ahead of \s+(?!\S) sees

So a corpus of any size is encoded in parts, in parallel, in bounded memory. A text that has no such place for
`limit` bytes (Chinese without line breaks, base64 without end) is refused with its location.
"""

import re
from pathlib import Path
from typing import BinaryIO

from firsthand.errors import DataError

LIMIT = 16 << 20  # bytes without a safe place before we give up; also the longest line of a .jsonl or .csv file
WINDOW = 1 << 16  # bytes looked at first; doubled until a place is found
BEHIND = 8  # bytes before a place that decide about it: one character and a line end

CANDIDATE = re.compile(  # in bytes: any sign above ASCII may be one of those meant, and `_is_safe` decides
    rb"(?<=[!-~\x80-\xff])(?:(?= [A-Za-z\x80-\xff])|(?:\r\n?|\n)(?=[A-Za-z\x80-\xff]))"
)


def next_cut(path: Path, offset: int, size: int, name: str, limit: int = LIMIT) -> int:
    """The first safe place at or after byte `offset` of a UTF-8 file of `size` bytes; `size` where none is left."""
    with path.open("rb") as file:
        window = WINDOW
        while True:
            begin = max(0, offset - BEHIND)
            file.seek(begin)
            found = first_cut(file.read(window), offset - begin)
            if found is not None:
                return begin + found
            if begin + window >= size:
                return size
            if window > limit:
                raise DataError(
                    f"{name} has no place to cut for {limit >> 20} MiB after byte {offset} (a line end or a space "
                    f"before a letter). Break it into lines or documents: data.reading.separator=..."
                )
            window *= 2


def first_cut(data: bytes, start: int) -> int | None:
    """The first safe place at or after `start` in `data`, or None; BEHIND bytes must stand before `start`."""
    for match in CANDIDATE.finditer(data, max(0, start - BEHIND)):
        if match.end() >= start and _is_safe(data, match.start(), match.end()):
            return match.end()
    return None


def _is_safe(data: bytes, left: int, right: int) -> bool:
    """Whether the sign before `left` is visible, and the first one after the white space a letter, in any script."""
    letter = right + 1 if left == right else right  # before a space, or behind a line end
    before = data[max(0, left - 4) : left].decode("utf-8", "ignore")[-1:]
    after = data[letter : letter + 4].decode("utf-8", "ignore")[:1]
    return before != "" and not before.isspace() and after.isalpha()


def read_between(file: BinaryIO, start: int, end: int) -> bytes:
    """Bytes [start, end) of an open file."""
    file.seek(start)
    return file.read(end - start)
