"""One forward pass as one picture: the logit lens, what every layer adds to the stream, and where heads look.

L layers, H heads, T tokens.
"""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from firsthand import files
from firsthand.study.attention import show_map
from firsthand.study.canvas import BLUE, GREEN, INK, RUST, SOFT, bare, sheet
from firsthand.study.page import brief

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 14  # tokens that the lens has room for: the last ones
HEADS = 4
PAPER = ["#f6f3ec", "#c9d9e6", "#7fa8c9", "#2b5c8a", "#12304d"]


def draw(facts: dict[str, Any], target: Path) -> Path:
    """Write a PNG of a trace, from its facts."""
    maps, rows = np.array(facts["attention"]), len(facts["lens"])
    tall, low = max(0.27 * rows, 2.4) + 1.0, 4.2
    with sheet(14.0, tall + low) as figure:
        upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=[tall, low])[:, 0]
        lens, lengths = upper.subplots(1, 2, width_ratios=[3.2, 1], sharey=True)
        _lens(lens, facts)
        _lengths(lengths, facts["norms"], rows)
        overview, *heads = lower.subplots(1, 1 + HEADS, width_ratios=[1.0, *[1.0] * HEADS])
        _overview(overview, maps)
        _heads(heads, maps, facts["tokens"])
        written = io.BytesIO()
        figure.savefig(written, format="png", dpi=150)
    files.write_file(target, written.getvalue())
    return target


def _lens(axes: "Axes", facts: dict[str, Any]) -> None:
    """The likeliest next token after every layer, at every position; the darker, the surer."""
    from matplotlib.colors import LinearSegmentedColormap

    first = max(0, len(facts["tokens"]) - COLUMNS)
    lens = [layer[first:] for layer in facts["lens"]]
    sure = np.array([[best[0]["probability"] for best in layer] for layer in lens])
    shades = LinearSegmentedColormap.from_list("sure", PAPER)
    axes.imshow(sure, cmap=shades, vmin=0, vmax=1, aspect="auto", interpolation="none", origin="lower")
    room = max(5, round(96 / sure.shape[1]))
    for layer, row in enumerate(lens):
        for place, best in enumerate(row):
            ink = "white" if sure[layer, place] > 0.6 else INK if sure[layer, place] > 0.05 else SOFT
            shown = brief(best[0]["token"], room) + (f"  {sure[layer, place]:.0%}" if room > 10 else "")
            axes.text(place, layer, shown, ha="center", va="center", fontsize=7.5, color=ink, clip_on=True)
    bare(axes)
    axes.set_title("What the model would say next, read after every layer (the darker, the surer)", pad=10)
    axes.set_xticks(
        range(sure.shape[1]), [brief(token, room) for token in facts["tokens"][first:]], fontsize=9, color=INK
    )
    axes.set_yticks(range(len(lens)), ["embedding", *(f"layer {n}" for n in range(1, len(lens)))], fontsize=8)
    axes.set_xlabel("after this token" + (f" (the last {COLUMNS} of {len(facts['tokens'])})" if first else ""))


def _lengths(axes: "Axes", norms: dict[str, Any], rows: int) -> None:
    """How long the stream is, and how much each layer's two parts add, at the last token."""
    stream = [at[-1] for at in norms["stream"]]
    attention, mlp = ([at[-1] for at in norms[part]] for part in ("attention", "mlp"))
    lines = (
        ("the stream", stream, BLUE, 0),
        ("attention adds", attention, RUST, 1),
        ("feed-forward adds", mlp, GREEN, 1),
    )
    for place, (name, values, colour, first) in enumerate(lines):
        axes.plot(values, range(first, rows), color=colour, marker="o", markersize=3, linewidth=1.4)
        axes.text(0.97, 0.12 - 0.045 * place, name, color=colour, transform=axes.transAxes, ha="right")
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.set_title("Length of the stream, and of what is added", pad=10)
    axes.set_xlabel("norm at the last token")
    axes.tick_params(labelleft=False)


def _overview(axes: "Axes", maps: np.ndarray) -> None:
    """How much each head looks elsewhere than at itself and at the first token: (L, H, T, T)."""
    from matplotlib.colors import LinearSegmentedColormap

    axes.imshow(
        busy(maps),
        cmap=LinearSegmentedColormap.from_list("busy", PAPER),
        vmin=0,
        vmax=1,
        aspect="auto",
        interpolation="none",
        origin="lower",
    )
    bare(axes)
    axes.set_title("Heads that look around", pad=8)
    axes.set_xlabel("head; darker: more to others than\nitself and the first token")
    axes.set_ylabel("layer")
    L, H = maps.shape[:2]
    axes.set_xticks(range(H), [str(head + 1) for head in range(H)])
    some = range(0, L, max(1, L // 6))
    axes.set_yticks(some, [str(layer + 1) for layer in some])


def busy(maps: np.ndarray) -> np.ndarray:
    """The share of its looks that a head gives to others than itself and the first token: (L, H, T, T) -> (L, H)."""
    if maps.shape[-1] < 3:  # there are no others
        return np.zeros(maps.shape[:2])
    later = maps[..., 2:, 1:]  # (L, H, T-2, T-1): the second token has nobody else either
    own = np.einsum("lhtt->lht", later[..., :, 1:])
    return (later.sum(axis=-1) - own).mean(axis=-1)


def _heads(axes: list["Axes"], maps: np.ndarray, tokens: list[str]) -> None:
    """The heads that look around most, one each of different layers where there are enough."""
    share = busy(maps)
    best = sorted(((layer, int(share[layer].argmax())) for layer in range(len(share))), key=lambda at: -share[at])[
        : len(axes)
    ]
    names = [brief(token, 9) for token in tokens]
    small = 7.0 if len(tokens) <= 16 else 4.5
    for one, (layer, head) in zip(axes, sorted(best), strict=False):
        show_map(one, maps[layer, head])
        one.set_title(f"layer {layer + 1}, head {head + 1}", pad=8)
        one.set_xlabel("looks at")
        every = max(1, len(tokens) // 40)
        one.set_xticks(range(0, len(tokens), every), names[::every], fontsize=small, rotation=90)
        one.set_yticks(range(0, len(tokens), every), names[::every], fontsize=small)
    for unused in axes[len(best) :]:
        unused.set_axis_off()
