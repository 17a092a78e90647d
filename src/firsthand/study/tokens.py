"""Figures of tokens: their lengths, and the rows they make for training."""

from collections.abc import Sequence

from firsthand.study.canvas import BLUE, INK, RULE, SOFT, bare, canvas, note
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
    with canvas("window", 1.45) as drawn:
        axes = drawn.figure.add_subplot()
        bare(axes)
        axes.set_xlim(-0.6, most - 0.4)
        axes.set_ylim(-0.55, 1.65)
        axes.set_xticks([])
        axes.set_yticks([0.1, 1.1], ["must say", "is given"], fontsize=9)
        for place, (a, b) in enumerate(zip(given, wanted, strict=True)):
            for height, word, ground in ((1.1, a, "#dfe9f2"), (0.1, b, "#dfeee2")):
                box = {"boxstyle": "round,pad=0.35", "facecolor": ground, "edgecolor": "none"}
                axes.text(place, height, word, ha="center", va="center", fontsize=9.5, color=INK, bbox=box)
            axes.annotate(
                "", (place, 0.42), (place, 0.8), arrowprops={"arrowstyle": "->", "color": RULE, "linewidth": 1.2}
            )
    rows: list[Row] = [(n, a, b) for n, (a, b) in enumerate(zip(given, wanted, strict=True))]
    alt = "A row of tokens the model is given, and below it the tokens it must say: the same row, one place later."
    caption = "The lower row is the upper one, moved by one place. Position t may look at 0 … t, never further."
    return Picture(drawn.svg, alt, caption, Table(("position", "is given", "must say"), rows))
