"""The corpus that is always there: what the Python interpreter says about itself, about 1.6 MB of English prose.

Two parts: the language reference that `help("assert")` shows (pydoc_data.topics), and the docstrings of the standard
library, found by reading its source with `ast` (nothing is imported, so nothing runs). One document a topic and one a
module, in a fixed order; the text depends on the version of the interpreter alone.

What is kept is prose. Doctests, tables, grammar rules, and paragraphs met before are left out: a model of some million
weights has nothing to learn from a ruler, and a paragraph that stands twice could stand on both sides of the split.
"""

import ast
import inspect
import os
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from firsthand.errors import DownloadError

SHORTEST = 200  # characters of a document worth having
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "pydoc_data"}
RULER = re.compile(r"^\s*([*=\-~^\"'#.+_])\1{2,}\s*$", re.MULTILINE)  # ======, the underline of a heading
CODE = re.compile(
    r">>>|::=|^[+|$]|^(?:(?:def|class|if|for|while|with|try)\b.*:|import \S+|from \S+ import .*)$", re.MULTILINE
)
SENTENCE = 60  # characters of an entry worth having; shorter ones say what the name says
FULL = 50  # characters of a line that was broken by the margin
BARE = 0.78  # share of letters and spaces below which a paragraph is code or a list of symbols
MARKUP = re.compile(r":\w+:`~?([^`]+)`")  # :func:`len` -> len


def corpus() -> dict[str, str]:
    """Document name -> text: every topic, then every module of the standard library."""
    seen: set[str] = set()
    found = {f"topic-{name}": prose(text, seen) for name, text in _topics()}
    library = Path(sysconfig.get_path("stdlib"))
    for path in _sources(library):
        module = ".".join(path.relative_to(library).with_suffix("").parts).removesuffix(".__init__")
        found[f"module-{module}"] = "\n\n".join(_entries(path, module, seen))
    kept = {name: text + "\n" for name, text in found.items() if len(text) >= SHORTEST}
    if not kept:
        raise DownloadError(f"this Python has no documentation of its own (looked in {library}). Give a text of yours.")
    return kept


def _sources(library: Path) -> list[Path]:
    """The source files of the library, sorted; what is installed beside it, and its tests, are not entered."""
    found = []
    for folder, inner, names in os.walk(library):
        inner[:] = [name for name in inner if name not in LEFT_OUT]
        found += [Path(folder, name) for name in names if name.endswith(".py")]
    return sorted(found)


def _topics() -> list[tuple[str, str]]:
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions cut it off; the docstrings are still there
        return []
    return sorted(topics.items())


def prose(text: str, seen: set[str]) -> str:
    """The paragraphs of a docstring that are sentences and were not met before; their indentation is removed."""
    kept = []
    for paragraph in re.split(r"\n\s*\n", RULER.sub("", inspect.cleandoc(text))):
        plain = MARKUP.sub(r"\1", _unwrap(paragraph)).replace("``", '"')
        if plain and _is_prose(plain) and plain not in seen:
            kept.append(plain)
            seen.add(plain)
    return "\n\n".join(kept)


def _unwrap(paragraph: str) -> str:
    """One line for lines that were only broken because the page ended; short lines stay, for they may be a list."""
    text, width = "", 0
    for line in map(str.strip, paragraph.strip().splitlines()):
        broken = width > FULL and (line[:1].isalnum() or line[:1] in "\"'(*`")
        inside_word = broken and re.search(r"\w-$", text)
        text += ("" if not text or inside_word else " " if broken else "\n") + line
        width = len(line)
    return text


def _is_prose(paragraph: str) -> bool:
    letters = sum(character.isalpha() or character == " " for character in paragraph)
    return letters >= BARE * len(paragraph) and " " in paragraph and not CODE.search(paragraph)


def _entries(path: Path, module: str, seen: set[str]) -> Iterator[str]:
    """Name and prose of everything in one source file that has a docstring."""
    try:
        with warnings.catch_warnings(action="ignore"):  # an old escape in somebody's string is not our business
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # a template, or source for another version
        return
    for name, node in _documented(tree, module):
        text = prose(ast.get_docstring(node) or "", seen)
        if len(text) >= SENTENCE or (text and isinstance(node, ast.Module)):
            yield f"{name}\n\n{text}"


Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _documented(node: Documented, name: str) -> Iterator[tuple[str, Documented]]:
    """A module, its classes, and their functions, in the order of the source."""
    yield name, node
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            yield from _documented(child, child.name)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _documented(child, f"{name}.{child.name}" if isinstance(node, ast.ClassDef) else child.name)
