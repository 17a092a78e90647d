"""The paper that figures are drawn on: one calm style, and SVG that is safe to put into a page.

matplotlib is imported on the first figure, not before: it costs half a second.
"""

import io
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from firsthand.study.page import Html

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, RULE = "#23262d", "#686f7b", "#e3e0d8"
BLUE, RUST, GREEN, SAND, PLUM = "#2b5c8a", "#b5532f", "#3f7f5f", "#c08a2e", "#75508f"
COLOURS = (BLUE, RUST, GREEN, SAND, PLUM, "#3d8a93", "#a34a6b", SOFT)
SVG, LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"

STYLE = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": "#bdb9ae",
    "axes.labelcolor": SOFT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelsize": 9,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "font.size": 9,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "text.parse_math": False,  # a token may hold two dollar signs
    "svg.fonttype": "none",  # letters stay letters: to be selected, searched, and read aloud
    "image.composite_image": False,
}


class Canvas:
    """A figure while it is drawn; afterwards `svg` is its markup."""

    def __init__(self, figure: "Figure"):
        self.figure = figure
        self.svg = Html()


@contextmanager
def sheet(width: float, height: float) -> Iterator["Figure"]:
    """An empty figure in the style of the page, to be saved as a picture of its own."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        yield Figure(figsize=(width, height), layout="constrained", facecolor="white")


@contextmanager
def canvas(name: str, height: float, width: float = 9.0) -> Iterator[Canvas]:
    """A figure to draw on, in inches of 72 points; a page shows 9 of them as about 900 pixels. `name` marks its ids."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # letters are drawn by the browser, in its own fonts; that ours lacks a glyph only makes a width approximate
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        drawn = Canvas(Figure(figsize=(width, height), layout="constrained"))
        yield drawn
        written = io.BytesIO()
        drawn.figure.savefig(written, format="svg")
        drawn.svg = inline(written.getvalue(), name)


def inline(svg: bytes, name: str) -> Html:
    """A file of matplotlib as a part of a page: no style for the rest of it, no metadata, and ids of its own."""
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", LINK)
    root = ElementTree.fromstring(svg)
    for parent in root.iter():
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    used = set(re.findall(r"(?:url\(#|href=\"#)([\w.-]+)", svg.decode("utf-8")))
    for element in root.iter():
        _rename(element.attrib, used, name)
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.set("style", "stroke-linejoin: round; stroke-linecap: butt")
    root.set("aria-hidden", "true")  # the figure around it carries the description
    return Html(ElementTree.tostring(root, encoding="unicode"))


def _rename(attributes: dict[str, str], used: set[str], name: str) -> None:
    """Ids that something points to get the figure's name in front; the others go, for a page may have each id once."""
    if "id" in attributes:
        old = attributes.pop("id")
        if old in used:
            attributes["id"] = f"{name}-{old}"
    for key, value in attributes.items():
        if key == f"{{{LINK}}}href" and value.startswith("#"):
            attributes[key] = f"#{name}-{value[1:]}"
        elif "url(#" in value:
            attributes[key] = value.replace("url(#", f"url(#{name}-")


def note(
    axes: "Axes",
    place: tuple[float, float],
    content: str,
    colour: str,
    shift: tuple[int, int] = (6, 0),
    align: str = "left",
    size: float = 8.5,
) -> None:
    """A word beside a point, in its colour: no legend to look up."""
    offset = {"xytext": shift, "textcoords": "offset points", "ha": align, "va": "center"}
    axes.annotate(content, place, color=colour, fontsize=size, **offset)


def bare(axes: "Axes") -> None:
    """No frame and no grid: for bars with their numbers beside them, and for maps."""
    axes.grid(False)
    for side in ("left", "right", "top", "bottom"):
        axes.spines[side].set_visible(False)
