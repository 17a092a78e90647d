"""Stop texts: an answer ends before the first of them, and nothing is shown that could still become one."""

from collections.abc import Sequence

from firsthand.errors import ConfigError


def check_stops(stop: str | Sequence[str]) -> tuple[str, ...]:
    """Stop texts as a tuple; one text may stand alone."""
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    if "" in stops:
        raise ConfigError("a stop text is empty and would end at once. Give at least one character, or none at all.")
    return stops


class UntilStop:
    """Text in, text out, until a stop text is complete; the outcome does not depend on how the text is cut."""

    def __init__(self, stops: tuple[str, ...]):
        self.stops = stops
        self.held = ""  # what could still become a stop text
        self.done = False

    def push(self, piece: str) -> str:
        """What can be shown for sure."""
        text = self.held + piece
        ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in self.stops if stop in text]
        if ends:  # the one that is complete first
            self.done, self.held = True, ""
            return text[: min(ends)[1]]
        longest = max((_overlap(text, stop) for stop in self.stops), default=0)
        self.held = text[len(text) - longest :]
        return text[: len(text) - longest]

    def flush(self) -> str:
        """What was held back, when no more text comes."""
        held, self.held = self.held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of a text that is a beginning of a stop text."""
    lengths = range(min(len(text), len(stop) - 1), 0, -1)
    return next((length for length in lengths if text.endswith(stop[:length])), 0)
