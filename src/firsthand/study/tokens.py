"""Figures of tokens: their lengths, the rows they make for training, and which of them mean nearly the same."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from firsthand.study.canvas import BLUE, COLOURS, INK, RULE, SOFT, bare, canvas, note
from firsthand.study.page import Picture, Row, Table, brief


def token_lengths(counts: dict[int, int]) -> Picture:
    """How many tokens of the vocabulary are how many bytes long: length -> count."""
    lengths = range(1, max(counts) + 1)
    heights = [counts.get(length, 0) for length in lengths]
    with canvas("lengths", 2.7) as drawn:
        axes = drawn.figure.add_subplot(xlabel="bytes of a token", ylabel="tokens")
        axes.bar(lengths, heights, color=BLUE, width=0.72)
        axes.grid(axis="x", visible=False)
        axes.set_xticks([length for length in lengths if len(lengths) <= 24 or length % 5 == 0 or length == 1])
        for length, height in zip(lengths, heights, strict=True):
            if height and len(lengths) <= 24:
                note(axes, (length, height), f"{height:,}", SOFT, shift=(0, 7), align="center")
    mean = sum(length * count for length, count in counts.items()) / sum(counts.values())
    alt = f"Bar chart: tokens by length in bytes; mean {mean:.1f}, longest {max(counts)}."
    caption = f"The 256 single bytes are always there; merges make the rest. Mean length {mean:.1f} bytes."
    return Picture(drawn.svg, alt, caption, Table(("bytes", "tokens"), [(n, counts.get(n, 0)) for n in lengths]))


def window_picture(inputs: Sequence[str], targets: Sequence[str], most: int = 9) -> Picture:
    """The beginning of one training row: what the model is given at every position, and what it must say."""
    given, wanted = [brief(token, 11) for token in inputs[:most]], [brief(token, 11) for token in targets[:most]]
    with canvas("window", 1.75) as drawn:
        axes = drawn.figure.add_subplot()
        bare(axes)
        axes.set_xlim(-1.1, most - 0.45)
        axes.set_ylim(-0.55, 1.65)
        axes.set_xticks([])
        axes.set_yticks([0.1, 1.1], ["must say", "is given"], fontsize=9)
        for place, (a, b) in enumerate(zip(given, wanted, strict=True)):
            for height, word, ground in ((1.1, a, "#dfe9f2"), (0.1, b, "#dfeee2")):
                box = {"boxstyle": "round,pad=0.35", "facecolor": ground, "edgecolor": "none"}
                axes.text(place, height, word, ha="center", va="center", fontsize=8, color=INK, bbox=box)
            axes.annotate(
                "", (place, 0.42), (place, 0.8), arrowprops={"arrowstyle": "->", "color": RULE, "linewidth": 1.2}
            )
    rows: list[Row] = [(n, a, b) for n, (a, b) in enumerate(zip(given, wanted, strict=True))]
    alt = "A row of tokens the model is given, and below it the tokens it must say: the same row, one place later."
    caption = "The lower row is the upper one, moved by one place. Position t may look at 0 … t, never further."
    return Picture(drawn.svg, alt, caption, Table(("position", "is given", "must say"), rows))


def neighbours(table: np.ndarray, tokens: Sequence[str], words: dict[str, int], most: int = 6) -> dict[str, Any]:
    """For a few words, the tokens whose embeddings point the same way, and all these in two dimensions: (V, C).

    `words` are names and their ids. Gives {"near": {word: [{token, cosine}]}, "points": [{token, word, x, y}]} in plain
    numbers; x and y are the two directions in which the shown vectors differ most (principal components).
    """
    units = table / np.linalg.norm(table, axis=1, keepdims=True).clip(1e-12)
    near: dict[str, list[dict[str, Any]]] = {}
    shown: list[tuple[int, str]] = []
    for word, id in words.items():
        cosines = units @ units[id]
        order = [int(other) for other in np.argsort(-cosines, kind="stable") if other != id][:most]
        near[word] = [{"token": tokens[other], "cosine": float(cosines[other])} for other in order]
        shown += [(id, word), *((other, word) for other in order)]
    vectors = units[[id for id, _ in shown]]
    axes = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)[2][:2]
    flat = (vectors - vectors.mean(axis=0)) @ axes.T  # (n, 2)
    points = [
        {"token": tokens[id], "word": word, "x": float(x), "y": float(y)}
        for (id, word), (x, y) in zip(shown, flat, strict=True)
    ]
    return {"near": near, "points": points}


def embedding_map(points: Sequence[dict[str, Any]]) -> Picture:
    """Tokens as points: what `neighbours` gives. Each word and its neighbours share a colour."""
    words = list(dict.fromkeys(point["word"] for point in points))
    colours = {word: COLOURS[place % len(COLOURS)] for place, word in enumerate(words)}
    with canvas("embeddings", 5.2) as drawn:
        axes = drawn.figure.add_subplot()
        bare(axes)
        axes.set_xticks([])
        axes.set_yticks([])
        first: set[str] = set()
        for point in points:
            main = point["word"] not in first
            first.add(point["word"])
            colour = colours[point["word"]]
            axes.plot(point["x"], point["y"], "o", color=colour, markersize=6 if main else 3)
            note(axes, (point["x"], point["y"]), brief(point["token"]), colour, size=10 if main else 8)
        axes.margins(x=0.09)
    rows: list[Row] = [(p["word"], brief(p["token"]), p["x"], p["y"]) for p in points]
    alt = f"Scatter plot: the embeddings of {', '.join(words)} and of their nearest tokens, in two dimensions."
    caption = "Large: the words asked for; in the same colour their nearest neighbours, in two of many dimensions."
    return Picture(drawn.svg, alt, caption, Table(("near", "token", "x", "y"), rows))
