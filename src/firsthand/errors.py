"""Everything that can go wrong and that the reader can mend, as one tree.

FirsthandError        one line for the user, exit code 2
├─ ConfigError        a key, a value, a file of settings
├─ DataError          text, rows, encodings, splits
├─ TokenizerError     vocabularies, merges, patterns, ids
├─ ModelError         widths, heads, contexts, weights that do not fit
├─ CheckpointError    directories that are damaged, locked, full, or not there
├─ DeviceError        hardware that is missing or too small
├─ DownloadError      sources that cannot be reached, or that gave other bytes
└─ TrainingError      a run that had to stop: exit code 1

A message says what was given, where, what is allowed, and a mend that works when pasted.
`[FH033]` at its end is the number that `firsthand explain FH033` knows.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class FirsthandError(Exception):
    """Something the user can mend. `code` is the number of the mistake in docs/errors.md."""

    exit_code = 2

    def __init__(self, message: str, code: int | None = None):
        super().__init__(message if code is None else f"{message} [FH{code:03d}]")
        self.code = code


class ConfigError(FirsthandError):
    """A key, a value, or a file of settings is wrong."""


class DataError(FirsthandError):
    """Text, rows, encodings, or splits are not what they must be."""


class TokenizerError(FirsthandError):
    """A vocabulary, a merge list, a pattern, or an id is wrong."""


class ModelError(FirsthandError):
    """Widths, heads, contexts, or weights do not fit together."""


class CheckpointError(FirsthandError):
    """A directory of saved work is damaged, locked, full, or not there."""


class DeviceError(FirsthandError):
    """The hardware asked for is missing, or too small."""


class DownloadError(FirsthandError):
    """A source cannot be reached, or gave other bytes than promised."""


class TrainingError(FirsthandError):
    """A run had to stop before its end; its last checkpoint stands."""

    exit_code = 1


def nearest(given: str, allowed: Iterable[str]) -> str:
    """A hint in words: " Did you mean 'learning_rate'?", or nothing when no name is near."""
    close = get_close_matches(given, list(allowed), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""
