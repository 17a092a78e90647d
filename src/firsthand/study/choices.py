"""A figure of the sampler: the next token before and after every step."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from firsthand.study.canvas import GREEN, INK, RUST, SOFT, bare, canvas, note
from firsthand.study.page import Picture, Row, Table, brief

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def choices(steps: Sequence[dict[str, Any]]) -> Picture:
    """The next token before and after each step: {name, kept, removed, tokens: [{token, before, after}]}."""
    tokens = steps[0]["tokens"]
    panels = [("the model itself", [row["before"] for row in tokens], "")]
    for step in steps:
        after = {row["token"]: row["after"] for row in step["tokens"]}
        cut = f"{step['removed']:.1%} of the probability removed" if step["removed"] > 1e-9 else "nothing removed"
        panels.append((step["name"], [after.get(row["token"], 0.0) for row in tokens], cut))
    names = [brief(row["token"]) for row in tokens]
    with canvas("choices", 0.9 + 0.235 * len(tokens)) as drawn:
        grid = drawn.figure.subplots(1, len(panels), sharex=True, squeeze=False)[0]
        for axes, (name, shares, cut), place in zip(grid, panels, range(len(panels)), strict=True):
            _bars(axes, shares, panels[place - 1][1] if place else shares, GREEN if place else SOFT)
            axes.set_title(f"{name}\n{cut}" if cut else f"{name}\n", fontsize=9)
            axes.set_yticks(range(len(names)), names if place == 0 else [""] * len(names), color=INK)
        grid[0].set_xlim(0, max(max(shares) for _, shares, _ in panels) * 1.22)
    rows: list[Row] = [(names[place], *(shares[place] for _, shares, _ in panels)) for place in range(len(names))]
    columns = ("token", *(name for name, _, _ in panels))
    done = ", ".join(step["name"] for step in steps)
    alt = f"Bar charts: the {len(names)} likeliest next tokens before and after {done}."
    caption = (
        "Outlined: before the step. Filled: after it. A cross: can no longer be drawn; what is left sums to 1 again."
    )
    return Picture(drawn.svg, alt, caption, Table(columns, rows))


def _bars(axes: "Axes", shares: Sequence[float], before: Sequence[float], colour: str) -> None:
    bare(axes)
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.barh(range(len(shares)), shares, height=0.62, color=colour, alpha=0.7)
    axes.barh(range(len(shares)), before, height=0.62, facecolor="none", edgecolor=INK, linewidth=0.7)
    for place, (share, was) in enumerate(zip(shares, before, strict=True)):
        gone = share == 0 and was > 0
        mark, ink = ("✕", RUST) if gone else ("" if share == 0 else f"{share:.1%}", INK)
        note(axes, (max(share, was), place), mark, ink, shift=(4, 0), size=8)
