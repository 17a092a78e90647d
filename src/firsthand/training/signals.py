"""Being asked to stop: finish the step, save, and say with which exit code to go."""

import os
import signal
from pathlib import Path
from types import FrameType
from typing import Any

from firsthand.errors import TrainingError


class Interrupted(TrainingError):
    """Somebody asked the run to stop; everything is saved. The exit code is the shell's: 128 + the signal."""

    def __init__(self, number: int, step: int, saved: Path):
        name = signal.Signals(number).name
        super().__init__(
            f"stopped by {name} after step {step:,}; saved as {saved}. "
            "Go on by the same command (firsthand train and finetune: with --resume)"
        )
        self.exit_code = 128 + number


class Signals:
    """Inside, Ctrl-C and SIGTERM are only noted, in `received`; a second one ends the process. SIGHUP is borne."""

    def __init__(self):
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        handlers = {signal.SIGINT: self._note, signal.SIGTERM: self._note, signal.SIGHUP: signal.SIG_IGN}
        for number, handler in handlers.items():
            try:
                self._before[number] = signal.signal(number, handler)
            except ValueError:  # not the main thread, as in a notebook's worker: signals belong to the main one
                break
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            os._exit(128 + number)  # asked twice: the last checkpoint stands
        self.received = number

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
