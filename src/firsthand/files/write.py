"""Writing one file, or one line: whole, on the disk, or not at all."""

import errno
import hashlib
import io
import itertools
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from firsthand.errors import CheckpointError
from firsthand.files.read import parse_json, read_file
from firsthand.files.words import amount, shown

Content = bytes | str | Callable[[BinaryIO], None]

PIECE = 16 << 20  # a write is at most this long, so that a signal is never far


class _Sink(io.RawIOBase):
    """A new file that counts and hashes every byte on its way to the disk."""

    def __init__(self, descriptor: int):
        self.descriptor, self.written, self.digest = descriptor, 0, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        view = memoryview(data)
        view = view.cast("B") if view.nbytes else memoryview(b"")  # an empty tensor has no bytes to cast
        self.digest.update(view)
        done = 0
        while done < len(view):  # the system may take less than it was given
            done += os.write(self.descriptor, view[done : done + PIECE])
        self.written += done
        return done

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self.descriptor)


def put(path: Path, content: Content) -> list[int | str]:
    """Write a new file and force it to the disk: [bytes, sha256]."""
    with _Sink(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)) as sink:
        if callable(content):
            content(cast(BinaryIO, sink))
        else:
            sink.write(content.encode() if isinstance(content, str) else content)
        os.fsync(sink.descriptor)
    return [sink.written, sink.digest.hexdigest()]


def sync_directory(directory: Path) -> None:
    """Force the names in a directory to the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(directory: Path) -> None:
    """Make a directory and those around it, each one's name forced to the disk."""
    missing = itertools.takewhile(lambda folder: not folder.is_dir(), (directory, *directory.parents))
    for folder in reversed(list(missing)):
        folder.mkdir(exist_ok=True)
        sync_directory(folder.parent)


def remove(path: Path) -> None:
    """Delete a file or a tree as far as possible: what stays is swept by the next run."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _bytes_under(path: Path) -> int:
    """How many bytes a half-written file or directory holds."""
    with suppress(OSError):
        return sum(part.lstat().st_size for part in (path.iterdir() if path.is_dir() else [path]))
    return 0


def refusal(error: OSError, target: Path, written: int) -> CheckpointError:
    """An error of the system, as one line: what could not be saved, why, what stands, what to do."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    mend = "free some space" if full else "mend the disk or choose another folder,"
    why = (error.strerror or str(error)).lower()
    left = f"{amount(written)} written, now removed" if written else "nothing written"
    return CheckpointError(
        f"could not save {shown(target)}: {why} ({left}). Earlier work is intact; {mend} and run it again",
        code=12 if full else None,
    )


@contextmanager
def attempt(target: Path) -> Iterator[Path]:
    """The temporary path beside a target; whatever fails, it is removed, and the system's error becomes one line."""
    temporary = target.parent / f".tmp-{target.name}-{secrets.token_hex(4)}"
    try:
        yield temporary
        sync_directory(target.parent)
    except OSError as error:
        written = _bytes_under(temporary)
        remove(temporary)
        raise refusal(error, target, written) from error
    except BaseException:
        remove(temporary)
        raise


def write_file(path: Path | str, content: Content) -> None:
    """Write a file so that a reader, or a power cut, meets the old one or the new one and nothing between."""
    path = Path(path)
    with attempt(path) as temporary:
        make_directory(path.parent)
        put(temporary, content)
        temporary.rename(path)


def append_line(path: Path | str, record: dict) -> None:
    """Add one JSON line to a log, in one write. Numbers must be finite: JSON has no other."""
    line = json.dumps(record, allow_nan=False).encode() + b"\n"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            if os.write(descriptor, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise refusal(error, Path(path), 0) from error


def cut_lines(path: Path | str, keep: Callable[[dict], bool]) -> int:
    """Keep only some lines of a log, as a run does that goes back to its last checkpoint; how many were unreadable.

    A crash may leave the last line torn: a line that is not a whole JSON object is dropped and counted, never kept.
    """
    if not Path(path).exists():
        return 0
    before, after, unreadable = read_file(path, limit=None), [], 0
    for line in before.splitlines():
        try:
            record = parse_json(line, "a line")
        except CheckpointError:
            unreadable += 1
        else:
            after += [line + b"\n"] if keep(record) else []
    if b"".join(after) != before:
        write_file(path, b"".join(after))
    return unreadable


def require_space(target: Path, needed: int) -> None:
    """Refuse, before any work, to write `needed` bytes onto a disk with less than 1.1 times that."""
    free = free_bytes(target)
    if free < 1.1 * needed:
        raise CheckpointError(
            f"{shown(target)} needs {amount(needed)}, its disk has {amount(free)} free. "
            f"Free {amount(int(1.1 * needed) - free + 1)}, keep fewer checkpoints, or choose another folder",
            code=11,
        )


def free_bytes(path: Path | str) -> int:
    """Bytes that may still be written where `path` is, or would be."""
    path = Path(path).absolute()
    place = next(folder for folder in (path, *path.parents) if folder.is_dir())
    return shutil.disk_usage(place).free
