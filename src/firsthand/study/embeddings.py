"""A figure of embeddings: which tokens the model holds for similar."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from firsthand.study.canvas import COLOURS, bare, canvas, note
from firsthand.study.page import Picture, Row, Table, brief

WIDE, HIGH = 600.0, 340.0  # the drawn area, in points
Box = tuple[float, float, float, float]


def neighbours(table: np.ndarray, tokens: Sequence[str], words: dict[str, int], most: int = 6) -> dict[str, Any]:
    """For a few words, the tokens whose embeddings point the same way, and all these in two dimensions: (V, C).

    `words` are names and their ids. Gives {"near": {word: [{token, cosine}]}, "points": [{token, word, main, x, y}]}
    in plain numbers; x and y are the two directions in which the shown vectors differ most (principal components).
    """
    units = table / np.linalg.norm(table, axis=1, keepdims=True).clip(1e-12)
    near: dict[str, list[dict[str, Any]]] = {}
    shown = {id: word for word, id in words.items()}  # a token near two words is drawn once, with the first
    for word, id in words.items():
        cosines = units @ units[id]
        order = [int(other) for other in np.argsort(-cosines, kind="stable") if other != id][:most]
        near[word] = [{"token": tokens[other], "cosine": float(cosines[other])} for other in order]
        shown |= {other: word for other in order if other not in shown}
    flat = principal(units[list(shown)]) if shown else []
    points = [
        {"token": tokens[id], "word": word, "main": words[word] == id, "x": float(x), "y": float(y)}
        for (id, word), (x, y) in zip(shown.items(), flat, strict=True)
    ]
    return {"near": near, "points": points}


def principal(vectors: np.ndarray) -> np.ndarray:
    """The shadow of vectors on the two directions in which they differ most: (n, C) -> (n, 2)."""
    centred = vectors - vectors.mean(axis=0)
    return centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T


def embedding_map(points: Sequence[dict[str, Any]]) -> Picture:
    """Tokens as points: what `neighbours` gives. Each word and its neighbours share a colour."""
    words = list(dict.fromkeys(point["word"] for point in points))
    colours = {word: COLOURS[place % len(COLOURS)] for place, word in enumerate(words)}
    names = [brief(point["token"]) for point in points]
    with canvas("embeddings", 5.2) as drawn:
        axes = drawn.figure.add_subplot()
        bare(axes)
        axes.set_xticks([])
        axes.set_yticks([])
        for point, name, (shift, align) in zip(points, names, _beside(points, names), strict=True):
            at, colour = (point["x"], point["y"]), colours[point["word"]]
            axes.plot(*at, "o", color=colour, markersize=6 if point["main"] else 3)
            note(axes, at, name, colour, shift, align, size=10 if point["main"] else 8)
        axes.margins(x=0.09)
    rows: list[Row] = [(point["word"], name, point["x"], point["y"]) for point, name in zip(points, names, strict=True)]
    alt = f"Scatter plot: the embeddings of {', '.join(words)} and of their nearest tokens, in two dimensions."
    caption = "Large: the words asked for; in the same colour their nearest neighbours, in two of many dimensions."
    return Picture(drawn.svg, alt, caption, Table(("near", "token", "x", "y"), rows))


def _beside(points: Sequence[dict[str, Any]], names: Sequence[str]) -> list[tuple[tuple[int, int], str]]:
    """For every point, on which side its name covers the least of the points and names before it."""
    flat = np.array([[point["x"], point["y"]] for point in points])
    spread = np.ptp(flat, axis=0)
    flat = (flat - flat.min(axis=0)) / np.where(spread > 0, spread, 1) * (WIDE, HIGH)
    taken: list[Box] = [(x - 3, y - 3, x + 3, y + 3) for x, y in flat]
    sides = []
    for (x, y), name in zip(flat, names, strict=True):
        width = 5.5 * len(name)
        boxes: dict[tuple[tuple[int, int], str], Box] = {
            ((6, 0), "left"): (x + 5, y - 5, x + 7 + width, y + 5),
            ((-6, 0), "right"): (x - 7 - width, y - 5, x - 5, y + 5),
            ((0, 10), "center"): (x - width / 2, y + 5, x + width / 2, y + 15),
            ((0, -10), "center"): (x - width / 2, y - 15, x + width / 2, y - 5),
        }
        side = min(boxes, key=lambda side: sum(_overlap(boxes[side], other) for other in taken))
        taken.append(boxes[side])
        sides.append(side)
    return sides


def _overlap(a: Box, b: Box) -> float:
    """The area that two boxes share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
