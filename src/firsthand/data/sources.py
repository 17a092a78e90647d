"""Which files there are to read, and whether each is what it seems: checked once, hashed, and UTF-8 from here on.

Standard input and other encodings are first written to a folder as UTF-8, so everything after this file reads one kind.
"""

import codecs
import contextlib
import hashlib
import os
import shutil
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from firsthand import files
from firsthand.data.ledger import BLANK, Counts, Document, Fault, Kind, Reading, Source, guess_encoding, not_utf8
from firsthand.data.records import PIECE, documents
from firsthand.errors import DataError

KINDS: dict[str, Kind] = {
    ".txt": "text", ".md": "text", ".py": "text", ".jsonl": "jsonl", ".csv": "csv", ".tsv": "tsv",
}  # fmt: skip
MAGICS = {
    b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstandard",
    b"%PDF": "PDF", b"PAR1": "Parquet", b"\x89PNG": "PNG", b"\x7fELF": "a program",
}  # fmt: skip
UTF8 = ("utf-8", "utf8", "utf-8-sig")
STDIN = "<stdin>"


def read(sources: Sequence[Path | str], spool: Path, reading: Reading | None = None) -> Iterator[Document]:
    """Every document of files and folders in order; `spool` is a folder for what must first be made UTF-8.

    Ends with a DataError if nothing, or less than 99 %, could be used.
    """
    reading, counts = reading or Reading(), Counts()
    for source in check(sources, spool, reading, counts):
        yield from documents(source, source.start, source.size, reading, counts)
    counts.check(named(sources))


def named(sources: Sequence[Path | str]) -> str:
    """The sources in a few words, for messages."""
    first = STDIN if str(sources[0]) == "-" else files.shown(sources[0])
    return first if len(sources) == 1 else f"{first} and {len(sources) - 1} more"


def check(sources: Sequence[Path | str], spool: Path, reading: Reading, counts: Counts) -> Iterator[Source]:
    """Every file of `sources` that can be read, in a fixed order; what cannot is an error, or counted as dropped."""
    if not sources:
        raise DataError(
            "no text was given. Give files or folders, '-' for standard input, or the built-in text: pydocs."
        )
    for path, kind in _files(sources, reading):
        name = STDIN if str(path) == "-" else files.shown(path)
        try:
            if str(path) != "-":
                _refuse_special(path)
            elif sys.stdin is None:
                raise DataError("standard input is closed. Pipe text into the command, or give a file.")
            if source := _check_file(path, name, kind, spool, reading):
                yield source
            else:
                counts.drop(BLANK, name)
        except Fault as fault:
            fault.settle(path, name, reading, counts)


def _files(sources: Sequence[Path | str], reading: Reading) -> Iterator[tuple[Path, Kind]]:
    for given in sources:
        path = Path(given)
        if str(given) == "-":
            yield path, reading.kind or "text"
        elif path.is_dir():
            yield from _folder(path)
        elif not path.exists() and not path.is_symlink():
            raise DataError(f"there is no file or folder {given!s}. Check the path, or use the built-in text: pydocs.")
        else:
            yield path, reading.kind or KINDS.get(path.suffix.lower(), "text")


def _folder(folder: Path) -> Iterator[tuple[Path, Kind]]:
    """The files of known kinds below a folder, sorted; hidden ones and links to folders are not followed."""
    found = []
    for directory, folders, names in os.walk(folder, followlinks=False):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(directory, name) for name in names if not name.startswith(".")]
    chosen = sorted(path for path in found if path.suffix.lower() in KINDS)
    if not chosen:
        raise DataError(
            f"folder {files.shown(folder)} has no {' '.join(KINDS)} file ({len(found):,} others). "
            f"Give the files by name, or use the built-in text: pydocs.",
            code=26,
        )
    for path in chosen:
        yield path, KINDS[path.suffix.lower()]


def _refuse_special(path: Path) -> None:
    """Only regular files are opened: a pipe would hang the reader, a link may point nowhere."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        mend = "Mend or remove it, or leave it out: data.reading.on_bad=skip"
        raise _Unreadable("unreadable", f"cannot be read ({error.strerror})", mend, 0) from None
    if not stat.S_ISREG(mode):
        kind = "a pipe" if stat.S_ISFIFO(mode) else "not a regular file"
        raise _Unreadable("not a file", f"is {kind}", "To read a pipe, use '-': COMMAND | firsthand ... -", 0)


class _Unreadable(Fault):
    """A fault of a file that must not be opened even to find the line."""

    def settle(self, path: Path, name: str, reading: Reading, counts: Counts) -> None:
        if reading.on_bad == "skip":
            counts.drop(self.reason, name)
            return
        raise DataError(f"{name} {self.detail}. {self.mend}") from None


def _check_file(path: Path, name: str, kind: Kind, spool: Path, reading: Reading) -> Source | None:
    """Look at the first bytes, make it UTF-8 if it is not, then read it once: its SHA-256, and its faults if a text.

    None for a text of white space only: an empty __init__.py is no mistake.
    """
    if str(path) == "-" or reading.encoding.lower() not in UTF8:
        path = _spooled(path, name, spool, reading)
    with path.open("rb") as file:
        stamp = os.fstat(file.fileno()).st_mtime_ns
        head = file.read(4096)
        _refuse_binary(head)
        file.seek(0)
        whole = kind == "text" and reading.separator is None
        digest, size, visible = _hash_checked(file) if whole else _hash(file)
    start = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
    return Source(path, name, kind, start, size, digest, stamp) if visible else None


def _refuse_binary(head: bytes) -> None:
    for magic, what in MAGICS.items():
        if head.startswith(magic):
            raise _Unreadable("not text", f"is {what}, not text", "Unpack or convert it first", 0)
    if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise Fault(
            "not UTF-8",
            f"is UTF-16 (byte-order mark 0x{head[0]:02X} 0x{head[1]:02X}), not UTF-8",
            "Set data.reading.encoding=utf-16",
            0,
            code=28,
        )


def _hash(file: BinaryIO) -> tuple[str, int, bool]:
    digest, size = hashlib.sha256(), 0
    while block := file.read(PIECE):
        digest.update(block)
        size += len(block)
    return digest.hexdigest(), size, size > 0


def _hash_checked(file: BinaryIO) -> tuple[str, int, bool]:
    """SHA-256 and size of a file that is UTF-8 text throughout, without NUL; and whether anything in it is visible."""
    digest, size, decoder, visible = hashlib.sha256(), 0, codecs.getincrementaldecoder("utf-8")(), False
    while True:
        block = file.read(PIECE)
        held = len(decoder.getstate()[0])  # bytes of a character that the last block cut in two
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise not_utf8(error, size - held) from None
        if (at := block.find(0)) >= 0:
            raise Fault(
                "with a NUL",
                "has a NUL byte: that is no text",
                "Leave the file out: data.reading.on_bad=skip",
                size + at,
            )
        visible = visible or bool(text.strip("\ufeff \t\r\n") and text.strip())
        if not block:
            return digest.hexdigest(), size, visible
        digest.update(block)
        size += len(block)


def _spooled(path: Path, name: str, spool: Path, reading: Reading) -> Path:
    """A copy of standard input, or of a file in another encoding, as UTF-8 in the folder `spool`."""
    try:
        codecs.lookup(reading.encoding)
    except LookupError:
        raise DataError(
            f"data.reading.encoding={reading.encoding!r} is no encoding. Use utf-8, latin-1, cp1252, or utf-16."
        ) from None
    spool.mkdir(parents=True, exist_ok=True)
    copy = spool / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.utf8"
    with contextlib.nullcontext(sys.stdin.buffer) if str(path) == "-" else path.open("rb") as file:
        files.write_file(copy, lambda out: _transcode(file, out, reading.encoding))
    return copy


def _transcode(file: BinaryIO, out: BinaryIO, encoding: str) -> None:
    """Copy as UTF-8; what claims to be UTF-8 is copied as it is, and its faults are found later, with their place."""
    if encoding.lower() in UTF8:
        shutil.copyfileobj(file, out, PIECE)
        return
    decoder, offset = codecs.getincrementaldecoder(encoding)(), 0
    while True:
        block = file.read(PIECE)
        try:
            out.write(decoder.decode(block, final=not block).encode())
        except UnicodeError as error:
            detail = f"is not {encoding} ({str(error)[:80]}, in the {PIECE >> 20} MiB after byte {offset})"
            raise _Unreadable(
                "not decodable", detail, f"Set data.reading.encoding={guess_encoding(block)}", 0
            ) from None
        if not block:
            return
        offset += len(block)
