"""Sizes, paths and foreign names as a message shows them."""

from pathlib import Path


def amount(count: int) -> str:
    """A number of bytes in words: 812 -> '812 bytes', 1_900_000_000 -> '1.9 GB'."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} bytes"


def shown(path: Path | str) -> str:
    """A path as a message shows it: at most 80 characters, control characters escaped, the end kept."""
    text = str(path) if str(path).isprintable() else ascii(str(path))[1:-1]
    return text if len(text) <= 80 else "..." + text[-77:]


def quoted(name: object) -> str:
    """A name from a stranger as a message shows it: in quotes, at most 40 characters, nothing but plain ASCII."""
    text = ascii(name)
    return text if len(text) <= 40 else text[:36] + "..." + text[0]
