"""Settings: a frozen dataclass <- TOML files <- `section.key=value`, merged left to right, and back to TOML.

Knows no particular setting: the dataclasses stand beside the things they configure. Every problem is reported at once,
each with its place (file:line, or the word of the command line) and the nearest known name.
"""

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import tomlkit
from pydantic import TypeAdapter, ValidationError

from firsthand.errors import ConfigError, nearest

T = TypeVar("T")
Key = tuple[str, ...]


def read(schema: type[T], words: Sequence[str | Path]) -> T:
    """The settings that `words` describe: each is a TOML file, or `section.key=value`; a later word wins.

    Raises ConfigError that lists every unknown key and every value out of range, each with its place.
    """
    merged: dict[str, Any] = {}
    places: dict[Key, str] = {}
    for word in words:
        for key, value, place in _assignments(str(word)):
            _put(merged, key, value, place)
            places[key] = place
    try:
        return TypeAdapter(schema).validate_python(merged)
    except ValidationError as error:
        problems = [_problem(schema, detail, places) for detail in error.errors()]
        raise ConfigError(_together(problems), code=33) from None


def write(config: Any) -> str:
    """The settings as TOML text that `read` gives back; a field that is None is left out, for TOML has no null."""
    return tomlkit.dumps(_tree(config))


def _tree(config: Any) -> dict[str, Any]:
    """The fields that have a value, plain ones first: in TOML a key after a section would belong to it."""
    pairs = [(field.name, getattr(config, field.name)) for field in fields(config)]
    plain = {name: value for name, value in pairs if value is not None and not is_dataclass(value)}
    tree = {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}
    return tree | {name: _tree(value) for name, value in pairs if is_dataclass(value)}


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """What changed between two settings, one line a key: `train.steps: 200 -> 400`."""
    lines = []
    for field in fields(old):
        a, b = getattr(old, field.name), getattr(new, field.name)
        if is_dataclass(a) and is_dataclass(b):
            lines += differences(a, b, f"{prefix}{field.name}.")
        elif a != b:
            lines.append(f"{prefix}{field.name}: {a} -> {b}")
    return lines


def _assignments(word: str) -> Iterator[tuple[Key, Any, str]]:
    """Every (key, value, place) that one word of the command line sets."""
    name, equals, text = word.partition("=")
    if equals and not word.endswith(".toml"):
        yield tuple(name.split(".")), _value(text), word
        return
    path = Path(word)
    if not path.is_file():
        raise ConfigError(
            f"{word!r} is neither a TOML file nor section.key=value. "
            f"Give a file such as configs/shakespeare-char-fast.toml, or a setting such as train.steps=200."
        )
    text = path.read_text(encoding="utf-8")
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{word} is not TOML: {error}. Write settings as key = value under [section].") from None
    lines = _lines(text)
    for key, value in _leaves(tree):
        yield key, value, f"{word}:{lines.get(key, 1)}"


def _value(text: str) -> Any:
    """The value of a word: TOML where it reads as TOML (200, true, [1, 2]), otherwise the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _leaves(tree: dict[str, Any], above: Key = ()) -> Iterator[tuple[Key, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*above, name))
        else:
            yield (*above, name), value


def _lines(text: str) -> dict[Key, int]:
    """The line on which each key of a TOML text is set."""
    section: Key = ()
    found: dict[Key, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if head := re.match(r"\s*\[([\w.-]+)\]", line):
            section = tuple(head[1].split("."))
        elif pair := re.match(r"\s*([\w.-]+)\s*=", line):
            found[(*section, *pair[1].split("."))] = number
    return found


def _put(tree: dict[str, Any], key: Key, value: Any, place: str) -> None:
    """Set one key in the tree, making the sections above it."""
    for name in key[:-1]:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{name!r} is a value, not a section ({place}). Write {name}=... or choose another key.")
    tree[key[-1]] = value


def _problem(schema: Any, detail: Any, places: dict[Key, str]) -> str:
    """One sentence about one wrong setting: what, where, what is allowed, what was probably meant."""
    key = tuple(str(part) for part in detail["loc"])
    place = next((at for at, where in places.items() if at[: len(key)] == key or key[: len(at)] == at), None)
    where = f" ({places[place]})" if place else ""
    if detail["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = [field.name for field in fields(_section(schema, key[:-1]))]
        hint = nearest(key[-1], known) or f" Known here: {', '.join(sorted(known))}."
        return f"unknown key {'.'.join(key)!r}{where}.{hint}"
    if detail["type"] in ("missing", "missing_argument"):
        return f"{'.'.join(key)!r} is needed and has no default. Set it: {'.'.join(key)}=..."
    given = detail.get("input")
    allowed = detail["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    hint = nearest(given, re.findall(r"'([^']*)'", allowed)) if isinstance(given, str) else ""
    return f"{'.'.join(key)} is {given!r}{where}; it must be {allowed}.{hint}"


def _section(schema: Any, key: Key) -> Any:
    """The dataclass that holds the settings under `key`."""
    for name in key:
        kind = next(field.type for field in fields(schema) if field.name == name)
        schema = next(part for part in (kind, *get_args(kind)) if is_dataclass(part))  # also of `Section | None`
    return schema


def _together(problems: list[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return f"{len(problems)} problems in the settings:\n" + "\n".join(f"  - {problem}" for problem in problems)
