"""One writer a run: a lock that the kernel takes back when its holder dies."""

import fcntl
import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from firsthand.errors import CheckpointError
from firsthand.files.read import parse_json
from firsthand.files.runs import checkpoints
from firsthand.files.words import shown
from firsthand.files.write import make_directory, refusal

_held: set[int] = set()  # descriptors of the locks this process holds


def _let_go() -> None:
    """In a forked child: a worker must not keep the lock of a parent that was killed."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


class RunLock:
    """The right to write into a run: `with RunLock(run): ...`. The kernel takes it back when the process dies."""

    def __init__(self, run: Path | str):
        self.run = Path(run)

    def __enter__(self) -> "RunLock":
        path = self.run / ".lock"
        try:
            make_directory(self.run)
            self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise refusal(error, path, 0) from error
        _held.add(self.descriptor)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            note = {"pid": os.getpid(), "host": socket.gethostname(), "start": time.strftime("%Y-%m-%d %H:%M:%S")}
            os.ftruncate(self.descriptor, 0)
            os.pwrite(self.descriptor, json.dumps(note).encode(), 0)
        except OSError as error:
            taken = isinstance(error, BlockingIOError)
            why = CheckpointError(self._holder(), code=24) if taken else refusal(error, path, 0)
            self.__exit__()
            raise why from error
        return self

    def _holder(self) -> str:
        """Who writes here, in one line."""
        who = "another process"
        with suppress(CheckpointError, KeyError):  # it may be writing its note just now
            note = parse_json(os.pread(self.descriptor, 200, 0), ".lock")
            who = f"pid {note['pid']} on host {note['host']} since {note['start']}"
        last = [f" ({path.name})" for path in checkpoints(self.run)[-1:]]
        return f"{shown(self.run)} is being written by {who}{''.join(last)}. Stop it, or choose another folder"

    def __exit__(self, *error: object) -> None:
        if self.descriptor in _held:  # not in a forked child, where the number may mean another file by now
            _held.discard(self.descriptor)
            with suppress(OSError):  # the system gives it back even when it reports an error
                os.close(self.descriptor)
