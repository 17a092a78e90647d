"""What must be true whenever a file from a stranger is read: one clean error or a result, in time, and nothing else.

The interpreter reports what it does to "audit hooks" (PEP 578). While a file is read, code that came from a file, a
process, a socket, or anything written, renamed or deleted is a failure; code of installed packages is not, nor are the
caches that the interpreter and Numba write.
"""

import os
import sys
import time
from contextlib import contextmanager

from firsthand.errors import FirsthandError

FORBIDDEN = ("subprocess.", "socket.connect", "socket.bind", "socket.sendto", "pickle.find_class", "shelve.", "dbm.")
FORBIDDEN += ("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn", "os.remove", "os.rmdir", "os.rename")
FORBIDDEN += ("os.symlink", "os.link", "os.truncate", "os.chmod", "shutil.", "tempfile.", "urllib.", "ctypes.dlopen")
TRUSTED = ("/dataclasses.py", "/collections/__init__.py", "<frozen importlib", "/numba/", "/pydantic/")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
watched = False
seen: list[str] = []


def hook(event: str, arguments: tuple) -> None:
    """Called by the interpreter for everything; cheap while nothing is watched."""
    if not watched:
        return
    if event == "open":
        bad = isinstance(arguments[2], int) and bool(arguments[2] & WRITING)
    elif event in ("exec", "compile"):
        code = arguments[0] if event == "exec" else None
        name = code.co_filename if code is not None and hasattr(code, "co_filename") else str(arguments[-1])
        bad = name.startswith("<") and not name.startswith("<frozen")
    else:
        bad = event.startswith(FORBIDDEN)
    if bad and not trusted(sys._getframe(1)):
        seen.append(f"{event} {str(arguments)[:200]}")


def trusted(frame) -> bool:
    """Whether a library does this for itself: dataclasses made of text, and the caches of imports and of Numba."""
    while frame is not None:
        if any(part in frame.f_code.co_filename for part in TRUSTED):
            return True
        frame = frame.f_back
    return False


sys.addaudithook(hook)


@contextmanager
def watch():
    """Fail if anything forbidden is done inside."""
    global watched
    seen.clear()
    watched = True
    try:
        yield
    finally:
        watched = False
    assert not seen, seen


def limited(action, seconds=1.0):
    """Run: the result, or None for a FirsthandError of one line; anything else, or too long, is a failure."""
    start = time.process_time()
    result = None
    try:
        with watch():
            result = action()
    except FirsthandError as error:
        text = str(error)
        assert "\n" not in text and len(text) <= 240 and text.isprintable(), f"{len(text)}: {text!a}"
    took = time.process_time() - start
    assert took < seconds, f"{took:.2f} s"
    return result
