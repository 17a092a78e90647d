"""The checkpoints of a run: step-NNNNNN, the newest whose every byte holds, and what becomes of the others."""

import itertools
import os
import re
from contextlib import suppress
from pathlib import Path

from firsthand.errors import CheckpointError
from firsthand.files.directory import check, discard, reason
from firsthand.files.write import attempt, remove


def checkpoints(run: Path | str) -> list[Path]:
    """The directories step-NNNNNN of a run, oldest first, valid or not."""
    try:
        found = [path for path in Path(run).iterdir() if re.fullmatch(r"step-[0-9]{6,15}", path.name)]
    except OSError:
        return []
    return sorted(found, key=lambda path: int(path.name[5:]))


def newest(run: Path | str) -> tuple[Path | None, list[tuple[Path, str]]]:
    """The newest checkpoint whose every byte holds, and the newer ones that are damaged, each with its reason."""
    damaged = []
    for directory in reversed(checkpoints(run)):
        try:
            check(directory)
            return directory, damaged
        except CheckpointError as error:
            damaged.append((directory, reason(error)))
    return None, damaged


def retire(run: Path | str, keep: int) -> None:
    """Delete old checkpoints, each only when at least `keep` newer ones are valid."""
    assert keep >= 1, keep
    valid = 0
    for directory in reversed(checkpoints(run)):
        if valid >= keep:
            discard(directory)
        else:
            with suppress(CheckpointError):
                check(directory)
                valid += 1


def set_aside(directory: Path | str) -> Path:
    """Keep a damaged checkpoint under another name, step-NNNNNN.bad, out of the way of the next save."""
    directory = Path(directory)
    names = (directory.with_name(f"{directory.name}.bad{n or ''}") for n in itertools.count())
    aside = next(name for name in names if not os.path.lexists(name))
    with attempt(aside):
        directory.rename(aside)
    return aside


def sweep(run: Path | str) -> None:
    """Remove what a killed run was writing or deleting. Only the holder of the lock may do this."""
    for path in [*Path(run).glob(".tmp-*"), *Path(run).glob(".trash-*")]:
        remove(path)
