"""How far long work is: a bar on a terminal, a line every few seconds elsewhere, nothing for what is done at once."""

import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")
SECONDS = 5.0  # between two lines


class Meter:
    """Call it with (bytes done, bytes in all); leave it, or use `then`, to give the terminal back."""

    def __init__(self, what: str = "encoding"):
        self.what = what
        self.bar: Progress | None = None
        self.said = time.monotonic()

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def __call__(self, done: int, total: int) -> None:
        """Show how far it is."""
        if sys.stderr.isatty():
            self._draw(done, total)
        elif time.monotonic() - self.said >= SECONDS:
            self.said = time.monotonic()
            of = f" of {total / 1e6:,.1f}" if total else ""
            print(f"{self.what}: {done / 1e6:,.1f}{of} MB", file=sys.stderr, flush=True)

    def of(self, what: str, done: int, total: int) -> None:
        """The same for work that names its parts."""
        self.what = what
        self(done, total)

    def then(self, tell: Callable[[T], None]) -> Callable[[T], None]:
        """A listener that first gives the terminal back."""

        def after(result: T) -> None:
            self.__exit__()
            tell(result)

        return after

    def _draw(self, done: int, total: int) -> None:
        if self.bar is None:
            columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
            self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self.bar.add_task(self.what)
            self.bar.start()
        self.bar.update(self.bar.task_ids[0], description=self.what, completed=done, total=total or None)


def opened(source: str) -> Any:
    """The model that a word names, how far its download is shown."""
    from firsthand.run.source import load

    with Meter() as meter:
        return load(source, progress=meter.of)


def fetched(source: str) -> None:
    """The model that a word names is here, how far its download is shown."""
    from firsthand.run.source import locate

    with Meter() as meter:
        locate(source, meter.of)
