"""Publishing a directory with its manifest, and checking every byte of it later."""

import hashlib
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from firsthand.errors import CheckpointError
from firsthand.files.read import open_regular, parse_json, read_file, safe_join
from firsthand.files.words import quoted, shown
from firsthand.files.write import Content, attempt, make_directory, put, remove, require_space, sync_directory

FORMAT = 1
MANIFEST = "MANIFEST.json"


def publish(
    target: Path | str,
    files: dict[str, Content],
    about: dict | None = None,
    expected: int = 0,
    accept: Callable[[Path], None] | None = None,
) -> Path:
    """Write a whole directory with its manifest, or nothing: see the seven steps above.

    `expected` is the number of bytes that the callables among `files` will write; it is only used to refuse early.
    `accept` sees the whole directory while its name is still temporary; if it raises, nothing stays.
    """
    target = Path(target)
    if os.path.lexists(target):
        raise CheckpointError(f"{shown(target)} is there already; remove it, or choose another name")
    for name in files:
        if "/" in name or name == MANIFEST:
            raise CheckpointError(f"{name!r} cannot be a file of a published directory; use a plain name")
    known = sum(len(content) for content in files.values() if not callable(content))
    with attempt(target) as temporary:
        require_space(target, expected + known)
        make_directory(target.parent)
        temporary.mkdir()
        listed = {name: put(safe_join(temporary, name), content) for name, content in files.items()}
        put(temporary / MANIFEST, _sealed(listed, about or {}))
        if accept is not None:
            accept(temporary)
        sync_directory(temporary)
        temporary.rename(target)
    return target


def _sealed(listed: dict, about: dict) -> bytes:
    """The manifest's bytes: format, about, files, and a hash over all of that."""
    body = {"format": FORMAT, "about": about, "files": listed}
    text = json.dumps(body, indent=1, allow_nan=False)
    return json.dumps({**body, "seal": hashlib.sha256(text.encode()).hexdigest()}, indent=1).encode() + b"\n"


def check(directory: Path) -> dict:
    """The manifest of a directory whose every byte agrees with it; the error is only the reason."""
    raw = read_file(directory / MANIFEST)
    manifest = parse_json(raw, MANIFEST)
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"{MANIFEST}: format {quoted(manifest.get('format'))}, this version reads {FORMAT}")
    listed, about = manifest.get("files"), manifest.get("about")
    if not isinstance(listed, dict) or not isinstance(about, dict) or raw != _sealed(listed, about):
        raise CheckpointError(f"{MANIFEST}: its seal differs")
    for name, entry in listed.items():
        if not isinstance(entry, list) or [type(part) for part in entry] != [int, str]:
            raise CheckpointError(f"{MANIFEST}: the entry of {quoted(name)} is not [bytes, sha256]")
        size, digest = entry
        with open_regular(safe_join(directory, name)) as file:
            found = os.fstat(file.fileno()).st_size
            if found != size:
                raise CheckpointError(f"{name}: {found:,} bytes, the manifest says {size:,}")
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise CheckpointError(f"{name}: sha256 differs")
    return manifest


def verify(directory: Path | str) -> dict:
    """The manifest of a published directory, after every byte of it was compared with it."""
    directory = Path(directory)
    try:
        return check(directory)
    except CheckpointError as error:
        if not os.path.lexists(directory / MANIFEST):
            raise CheckpointError(
                f"{shown(directory)} is no finished directory of ours: it has no {MANIFEST}. "
                f"Give one that firsthand wrote, such as runs/NAME/step-000100"
            ) from error
        raise CheckpointError(
            f"{shown(directory)} is damaged ({reason(error)}). Use another checkpoint, or fetch it again",
            code=22,
        ) from error


def reason(error: CheckpointError) -> str:
    """What an error says of a file, without the folder it lies in."""
    where, _, what = str(error).partition(": ")
    return f"{where.rsplit('/', 1)[-1]}: {what}"[:90]


def discard(directory: Path | str) -> None:
    """Delete a published directory: first its name, in one step, then its files."""
    directory = Path(directory)
    trash = directory.parent / f".trash-{directory.name}-{secrets.token_hex(4)}"
    try:
        directory.rename(trash)
    except OSError as error:
        raise CheckpointError(f"could not remove {shown(directory)}: {(error.strerror or '').lower()}") from error
    remove(trash)
