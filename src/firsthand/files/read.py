"""Reading what may come from a stranger: no link is followed, no pipe waited for, no size believed."""

import errno
import hashlib
import io
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from firsthand.errors import CheckpointError
from firsthand.files.words import amount, quoted, shown

JSON_BYTES = 4 << 20  # a larger JSON file is not one of ours
LONGEST_INTEGER = 4_000  # digits; the limit of Python itself can be lifted by any library


def safe_join(root: Path | str, name: str) -> Path:
    """The file that a stranger's `name` means inside `root`; it must lie there, and be a plain file if it exists."""
    parts = name.split("/")
    plain = name.isprintable() and "\\" not in name and ":" not in name and not {"", ".", ".."} & set(parts)
    plain = plain and len(name.encode()) < 256  # a longer one would be an error of the system
    if plain:
        root = Path(os.path.realpath(root))
        path = Path(os.path.realpath(root / name))  # follows links, so that one leading outside is seen
        with suppress(OSError):  # not there yet, which is allowed
            plain = stat.S_ISREG(path.lstat().st_mode)
        if plain and path.is_relative_to(root):
            return path
    raise CheckpointError(
        f"{shown(root)}: {quoted(name)} is not the name of a plain file inside this folder. "
        f"Names are relative, without '..', '\\', ':' or links out of it"
    )


@contextmanager
def open_regular(path: Path | str) -> Iterator[io.BufferedReader]:
    """Open a plain file for reading: a link is refused, and a pipe cannot make us wait."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise CheckpointError(f"{shown(path)}: not a plain file")
            yield file
    except OSError as error:
        link = error.errno == errno.ELOOP
        why = "a link, which is not followed" if link else (error.strerror or str(error)).lower()
        raise CheckpointError(f"{shown(path)}: {why}") from error


def read_file(path: Path | str, limit: int | None = JSON_BYTES) -> bytes:
    """The bytes of a plain file, refused when there are more than `limit`."""
    with open_regular(path) as file:
        data = file.read() if limit is None else file.read(limit + 1)
    if limit is not None and len(data) > limit:
        raise CheckpointError(f"{shown(path)}: larger than {amount(limit)}, which is the most allowed here")
    return data


def read_text(path: Path | str, limit: int = JSON_BYTES) -> str:
    """The text of a plain file in UTF-8."""
    try:
        return read_file(path, limit).decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{shown(path)} is not UTF-8 (byte {error.start:,}). Fetch it again") from error


def short_integer(text: str) -> int:
    """An integer of JSON, of a length that takes no noticeable time."""
    if len(text) > LONGEST_INTEGER:
        raise ValueError(f"an integer of {len(text):,} digits")
    return int(text)


def parse_json(data: bytes, name: str) -> dict:
    """A JSON object from strict JSON: UTF-8, no key twice, no NaN, no infinity, no bottomless nesting."""

    def unique(pairs: list[tuple[str, object]]) -> dict:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key stands twice")
        return dict(pairs)

    def finite(text: str) -> float:
        if not abs(float(text)) < float("inf"):
            raise ValueError(f"{text[:20]} is not a finite number")
        return float(text)

    hooks = {"object_pairs_hook": unique, "parse_float": finite, "parse_int": short_integer, "parse_constant": finite}
    try:
        value = json.loads(data.decode(), **hooks)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise CheckpointError(f"{name}: not valid JSON ({str(error)[:80]})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{name}: must hold a JSON object, holds {type(value).__name__}")
    return value


def sha256(path: Path | str) -> str:
    """The SHA-256 of a plain file, as 64 hexadecimal digits."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
