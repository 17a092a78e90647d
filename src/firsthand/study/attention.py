"""Figures of attention: which token looks at which, in every layer and head."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from firsthand.study.canvas import INK, SOFT, bare, canvas
from firsthand.study.page import Picture, Row, Table, brief

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def attention_grid(maps: np.ndarray, tokens: Sequence[str]) -> Picture:
    """Who looks at whom, in every layer and head: (L, H, T, T), T tokens."""
    L, H, T, _ = maps.shape
    names = [brief(token) for token in tokens]
    side = 8.2 / H
    with canvas("attention", min(side * L + 0.7, 13.0)) as drawn:
        grid = drawn.figure.subplots(L, H, squeeze=False)
        for layer in range(L):
            for head in range(H):
                axes = grid[layer][head]
                show_map(axes, maps[layer, head])
                axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=8, color=SOFT, pad=3)
                left, bottom = head == 0, layer == L - 1
                axes.set_yticks(range(T) if left else [], names if left else [], fontsize=6.5)
                axes.set_xticks(range(T) if bottom else [], names if bottom else [], fontsize=6.5, rotation=90)
    rows: list[Row] = [
        (f"{layer + 1}.{head + 1}", *_habits(maps[layer, head])) for layer in range(L) for head in range(H)
    ]
    columns = ("layer.head", "looks at itself", "at the token before", "at the first token", "tokens it spreads over")
    alt = (
        f"{L * H} small heat maps, one for each head: every row is a token, the darker a cell, the more it looks there."
    )
    caption = (
        "Each row is one token and shows where it looks; darker is more, every row sums to 1. The upper right is the "
        "future, which no head can see. Diagonals look at the token before, columns at one token that draws many."
    )
    return Picture(drawn.svg, alt, caption, Table(columns, rows))


def attention_map(weights: np.ndarray, tokens: Sequence[str], title: str) -> Picture:
    """One head, large enough to read: (T, T), T tokens."""
    T = len(tokens)
    names = [brief(token) for token in tokens]
    with canvas("head", 4.6) as drawn:
        axes = drawn.figure.add_subplot(title=title)
        show_map(axes, weights)
        axes.set_yticks(range(T), names)
        axes.set_xticks(range(T), names, rotation=90)
        if T <= 16:
            for row in range(T):
                for column in range(row + 1):
                    ink = "white" if weights[row, column] > 0.4 else INK
                    share = f"{weights[row, column]:.2f}".lstrip("0")
                    axes.text(column, row, share, ha="center", va="center", fontsize=7, color=ink)
    rows: list[Row] = []
    for row in range(T):
        most = int(weights[row, : row + 1].argmax())
        rows.append((names[row], names[most], float(weights[row, most])))
    alt = f"Heat map of {title}: every row is a token, the darker a cell, the more it looks there."
    caption = "The same, for one head: the token at the left looks at the tokens below."
    return Picture(drawn.svg, alt, caption, Table(("token", "looks most at", "share"), rows))


def busiest_head(maps: np.ndarray) -> tuple[int, int]:
    """The layer and head that look least at the first token and at themselves: (L, H, T, T) -> (), ()."""
    idle = maps[..., 1:, 0].sum(axis=-1) + np.einsum("lhtt->lh", maps[..., 1:, 1:])  # (L, H)
    layer, head = divmod(int(idle.argmin()), maps.shape[1])
    return layer, head


def show_map(axes: "Axes", weights: np.ndarray) -> None:
    """One head on given axes: (T, T)."""
    from matplotlib.colors import LinearSegmentedColormap

    shades = LinearSegmentedColormap.from_list("paper", ["#f6f3ec", "#9dbbd4", "#2b5c8a", "#12304d"])
    colours = shades.with_extremes(bad="#ffffff")  # the future
    T = weights.shape[0]
    past = np.ma.masked_where(np.triu(np.ones((T, T), dtype=bool), 1), weights)
    axes.imshow(past, cmap=colours, vmin=0, vmax=1, interpolation="none")
    bare(axes)


def _habits(weights: np.ndarray) -> tuple[float, float, float, float]:
    """Means over the tokens after the first: share on itself, on the one before, on the first; how many it uses."""
    T = weights.shape[0]
    own = float(np.mean([weights[t, t] for t in range(1, T)]))
    before = float(np.mean([weights[t, t - 1] for t in range(1, T)]))
    first = float(weights[1:, 0].mean())
    entropy = [-sum(w * math.log(w) for w in weights[t, : t + 1] if w > 0) for t in range(1, T)]
    return own, before, first, float(np.mean(np.exp(entropy)))
