"""A page that needs nothing but itself: no request, no script, and no text that could become markup.

Whatever a model, a tokenizer or a data set says is hostile text. Every function here takes plain text and gives `Html`,
and only `Html` is put into the page as it is; the page's own policy forbids scripts and requests besides.
"""

import re
import unicodedata
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

STYLE = Path(__file__).with_name("page.css")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
HIDDEN = {"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"}  # categories that show nothing, or turn the direction of writing


class Html(str):
    """Text that is markup already: everything of others in it is escaped."""

    __slots__ = ()


Row = tuple[str | float | None, ...]


class Table(NamedTuple):
    """Rows under names; numbers are right-aligned."""

    columns: tuple[str, ...]
    rows: list[Row]


class Picture(NamedTuple):
    """A figure, its description for those who do not see it, a caption, and the numbers behind it."""

    svg: Html
    alt: str
    caption: str
    table: Table | None = None


class Section(NamedTuple):
    """A part of a page: its heading, what to look for, and its content."""

    title: str
    lead: str
    parts: list[Html]


def page(title: str, subtitle: str, sections: Sequence[Section], footer: str) -> str:
    """The whole document."""
    numbered = list(enumerate(sections, start=1))
    toc = "".join(f'<li><a href="#s{n}">{text(section.title)}</a></li>' for n, section in numbered)
    body = "".join(_section(n, section) for n, section in numbered)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<meta name="referrer" content="no-referrer">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n"
        f"<header><h1>{text(title)}</h1><p>{text(subtitle)}</p></header>\n"
        f'<nav aria-label="Contents"><ol>{toc}</ol></nav>\n<main>\n{body}</main>\n'
        f"<footer><p>{text(footer)}</p></footer>\n</body>\n</html>\n"
    )


def _section(number: int, section: Section) -> str:
    lead = f'<p class="lead">{text(section.lead)}</p>' if section.lead else ""
    return f'<section id="s{number}"><h2>{text(section.title)}</h2>{lead}{"".join(section.parts)}</section>\n'


def text(content: str) -> Html:
    """Text that shows as it is, line breaks and tabs included; what cannot be seen is named."""
    return Html(escape("".join(char if char in "\n\t" else _seen(char) for char in content), quote=True))


def label(token: str) -> str:
    """A token on one line, as plain text: spaces, line breaks and tabs become visible signs."""
    signs = {" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍"}
    return "".join(signs.get(char) or _seen(char) for char in token) or "∅"


def brief(token: str, most: int = 14) -> str:
    """A token as a figure has room for it: the beginning, if it is long."""
    shown = label(token)
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def _seen(char: str) -> str:
    """A character, or its number where it would be invisible."""
    return f"⟨{ord(char):x}⟩" if unicodedata.category(char) in HIDDEN else char


def paragraph(content: str) -> Html:
    """A paragraph of our own words."""
    return Html(f"<p>{text(content)}</p>")


def heading(content: str) -> Html:
    """A heading inside a section."""
    return Html(f"<h3>{text(content)}</h3>")


def code(content: str) -> Html:
    """Commands and settings, as they are."""
    return Html(f'<pre class="code"><code>{text(content)}</code></pre>')


def folded(summary: str, *parts: Html) -> Html:
    """Parts behind one line that unfolds."""
    return Html(f"<details><summary>{text(summary)}</summary>{''.join(parts)}</details>")


def facts(pairs: Sequence[tuple[str, str, str]]) -> Html:
    """The few numbers that matter: name, value, and what it is to be compared with."""
    cells = (
        f"<div><dt>{text(name)}</dt><dd><b>{text(value)}</b><span>{text(note)}</span></dd></div>"
        for name, value, note in pairs
    )
    return Html(f'<dl class="facts">{"".join(cells)}</dl>')


def table(content: Table) -> Html:
    """A table; numbers stand right."""
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in content.columns)
    rows = ("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in content.rows)
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return Html(f'<div class="wide" tabindex="0"><table>{body}</table></div>')


def _cell(value: str | float | None) -> str:
    if isinstance(value, str):
        return f"<td>{text(value)}</td>"
    return f'<td class="number">{text(number(value))}</td>'


def number(value: float | None) -> str:
    """A number for reading: thousands apart, four digits of a fraction."""
    if value is None:
        return "–"
    if isinstance(value, int) or (float(value).is_integer() and 1 <= abs(value) < 1e15):
        return f"{int(value):,}"
    if value == 0:
        return "0"
    return f"{value:.4g}" if 1e-3 <= abs(value) < 1e4 else f"{value:.1e}" if abs(value) < 1e-3 else f"{value:,.0f}"


def figure(picture: Picture) -> Html:
    """A picture with its caption, and its numbers folded below."""
    numbers = "" if picture.table is None else folded("The numbers of this figure", table(picture.table))
    shown = f'<div class="picture" tabindex="0" role="img" aria-label="{text(picture.alt)}">{picture.svg}</div>'
    return Html(f"<figure>{shown}<figcaption>{text(picture.caption)}</figcaption>{numbers}</figure>")


def chips(tokens: Sequence[str]) -> Html:
    """Tokens in a row, each on its own ground; five grounds take turns."""
    spans = (f'<span class="chip c{place % 5}">{text(label(token))}</span>' for place, token in enumerate(tokens))
    return Html(f'<p class="chips">{"".join(spans)}</p>')


def merges(pairs: Sequence[tuple[str, str]]) -> Html:
    """Pairs of tokens and what they became, in the order in which they were learned."""
    items = (
        f'<li><span class="chip c0">{text(label(a))}</span><span class="chip c1">{text(label(b))}</span>'
        f'<i>→</i><span class="chip c2">{text(label(a + b))}</span></li>'
        for a, b in pairs
    )
    return Html(f'<ol class="merges">{"".join(items)}</ol>')


def ladder(steps: Sequence[Sequence[str]]) -> Html:
    """How one word was merged: its parts after every merge, one line a step."""
    lines = (f"<li>{chips(parts)}</li>" for parts in steps)
    return Html(f'<ol class="steps">{"".join(lines)}</ol>')


def quotes(rows: Sequence[tuple[str, str, str]]) -> Html:
    """What a model wrote: where (a step, a temperature), the prompt it was given, and how it went on."""
    items = (
        f'<div class="quote"><dt>{text(where)}</dt><dd><b>{text(prompt)}</b>{text(_short(written))}</dd></div>'
        for where, prompt, written in rows
    )
    return Html(f'<dl class="quotes">{"".join(items)}</dl>')


def _short(written: str) -> str:
    """Three and more line breaks in a row are counted instead of shown."""
    return re.sub(r"\n{3,}", lambda breaks: f"\n⏎ × {len(breaks[0])}\n", written)
