"""A disk that can be watched, made to fail at any call, and cut from its power.

`Recorder` stands between Python and the system: it writes down every operation below one folder and can raise an error
at the k-th. `crash_states` takes such a list and gives every state in which a power cut may leave the folder:

- bytes that were not fsynced are all there, gone, zero, or torn at half;
- names that were not flushed by fsync of *their own* directory arrived in any combination (any prefix when many).

That is harsher than a journal that keeps the order. Source: Pillai et al. 2014 (ALICE, OSDI '14), section 3.
"""

import itertools
import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

WATCHED = ("open", "write", "fsync", "close", "mkdir", "rename", "unlink", "rmdir", "statvfs", "ftruncate", "pwrite")
SUBSETS = 8  # with more pending names than this, only prefixes are tried


@dataclass
class Recorder:
    """What was asked of the disk below `root`. Call `fail_at` raises `error`, and so do later writes if `stays`."""

    root: Path
    fail_at: int | None = None
    error: int = 0
    stays: bool = False
    calls: int = 0
    failed: str = ""
    log: list = field(default_factory=list)
    paths: dict = field(default_factory=dict)  # descriptor -> path

    @contextmanager
    def watching(self):
        real = {name: getattr(os, name) for name in WATCHED}
        try:
            for name in WATCHED:
                setattr(os, name, self._stand_in(name, real[name]))
            yield self
        finally:
            for name in WATCHED:
                setattr(os, name, real[name])

    def mark(self, note):
        self.log.append(("mark", note))

    def _stand_in(self, name, real):
        def call(first, *rest, **named):
            path = self._path(first, named.get("dir_fd"))
            if path is None:
                return real(first, *rest, **named)
            self.calls += 1
            due = self.fail_at is not None and (
                self.calls == self.fail_at or (self.stays and self.calls > self.fail_at and self._writes(name, rest))
            )
            if due:
                self.failed = self.failed or name
                if name == "close":
                    real(first)  # the system closes a descriptor even when it reports an error
                    self.paths.pop(first, None)
                raise OSError(self.error, os.strerror(self.error))
            result = real(first, *rest, **named)
            self._note(name, path, first, rest, result)
            return result

        return call

    def _writes(self, name, rest):
        return name in ("write", "mkdir", "fsync", "pwrite") or (name == "open" and rest and rest[0] & os.O_CREAT)

    def _path(self, first, dir_fd):
        """The path below the root that a call is about, or None."""
        if isinstance(first, int):
            return self.paths.get(first)
        base = self.paths.get(dir_fd, Path.cwd()) if dir_fd is not None else Path.cwd()
        path = Path(os.path.normpath(base / os.fspath(first)))
        return path if path == self.root or path.is_relative_to(self.root) else None

    def _note(self, name, path, first, rest, result):
        if name == "open":
            self.paths[result] = path
            if rest[0] & os.O_CREAT:
                self.log.append(("create", path))
        elif name == "close":
            del self.paths[first]
        elif name == "write":
            self.log.append(("write", path, bytes(rest[0][:result])))
        elif name == "rename":
            self.log.append(("rename", path, Path(os.path.normpath(Path.cwd() / os.fspath(rest[0])))))
        elif name in ("mkdir", "fsync", "unlink", "rmdir"):
            self.log.append((name, path))


@dataclass(eq=False)
class Inode:
    """A file (bytes written, bytes fsynced) or a directory (names as a process sees them)."""

    data: bytes | None = None
    durable: bytes = b""
    names: dict = field(default_factory=dict)


def tree(folder):
    """The inodes of a folder as it lies there, all durable."""
    node = Inode()
    for path in folder.iterdir():
        node.names[path.name] = tree(path) if path.is_dir() else Inode(path.read_bytes(), path.read_bytes())
    return node


def crash_states(root, before, log):
    """Every (marks so far, {relative path: bytes or None for a directory}) that a power cut may leave."""
    seen = set()
    for cut in range(len(log) + 1):
        top = clone(before)
        durable = {id(node): dict(node.names) for node in walk(top)}
        keep, pending, marks = [top], [], []
        for operation in log[:cut]:
            replay(operation, root, top, durable, pending, marks, keep)
        some = range(len(pending) + 1)
        chosen = (
            (pending[:count] for count in some)
            if len(pending) > SUBSETS
            else itertools.chain.from_iterable(itertools.combinations(pending, count) for count in some)
        )
        for survivors in chosen:
            names = {key: dict(value) for key, value in durable.items()}
            for change in survivors:
                apply(change, names)
            for mode in ("all", "none", "zeros", "torn"):
                state = picture(top, names, mode)
                key = (tuple(marks), tuple(sorted(state.items(), key=str)))
                if key not in seen:
                    seen.add(key)
                    yield marks, state


def clone(node):
    return Inode(node.data, node.durable, {name: clone(child) for name, child in node.names.items()})


def walk(node):
    yield node
    for child in node.names.values():
        yield from walk(child)


def replay(operation, root, top, durable, pending, marks, keep):
    """One recorded operation on the inodes; changes of names wait in `pending` until their directory is fsynced."""
    kind, *rest = operation
    if kind == "mark":
        marks.append(rest[0])
        return
    path = rest[0]
    parts = path.relative_to(root).parts
    parent = find(top, parts[:-1]) if parts else top
    name = parts[-1] if parts else ""
    if kind in ("create", "mkdir"):
        if name not in parent.names:
            node = Inode(b"" if kind == "create" else None)
            keep.append(node)
            durable[id(node)] = {}
            parent.names[name] = node
            pending.append(("add", parent, name, node))
    elif kind == "write":
        parent.names[name].data += rest[1]
    elif kind in ("unlink", "rmdir"):
        pending.append(("drop", parent, name, parent.names.pop(name)))
    elif kind == "rename":
        target = rest[1].relative_to(root).parts
        node, other = parent.names.pop(name), find(top, target[:-1])
        other.names[target[-1]] = node
        pending.append(("move", parent, name, node, other, target[-1]))
    elif kind == "fsync":
        node = find(top, parts)
        if node.data is not None:
            node.durable = node.data
            return
        flushed = [change for change in pending if node in change]
        for change in flushed:
            apply(change, durable)
        pending[:] = [change for change in pending if change not in flushed]


def find(node, parts):
    for part in parts:
        node = node.names[part]
    return node


def apply(change, names):
    kind, parent, name, node, *target = change
    if kind == "add":
        names[id(parent)][name] = node
    elif names[id(parent)].get(name) is node:
        del names[id(parent)][name]
    if kind == "move":
        names[id(target[0])][target[1]] = node


def picture(node, names, mode, prefix=""):
    """The files of a state: path -> bytes."""
    state = {}
    for name, child in names[id(node)].items():
        if child.data is None:
            state[prefix + name] = None
            state |= picture(child, names, mode, f"{prefix}{name}/")
        else:
            state[prefix + name] = survived(child, mode)
    return state


def survived(node, mode):
    """The bytes of a file after the cut."""
    kept, tail = len(node.durable), len(node.data) - len(node.durable)
    if mode == "all":
        return node.data
    if mode == "none":
        return node.durable
    half = kept + tail // 2 if mode == "torn" else kept
    return node.data[:half] + b"\0" * (len(node.data) - half)


def lay_out(state, folder):
    """Write a state down, so that it can be recovered from."""
    folder.mkdir()
    for name, data in state.items():
        path = folder / name
        if data is None:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
