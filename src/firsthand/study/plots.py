"""Figures of training: how the loss fell, how fast it went, what the learning rate did, and why depth needs shortcuts.

Most take the records of metrics.jsonl, whose names `training/track.py` gives, and make a `Picture`, or None where
the run has recorded nothing to draw.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from firsthand.study.canvas import BLUE, COLOURS, GREEN, INK, RUST, SAND, SOFT, canvas, note
from firsthand.study.page import Picture, Row, Table

Records = Sequence[dict[str, Any]]
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
MOST = 1_500  # points a line may have: more cannot be told apart on a screen


class Series(NamedTuple):
    """One measured number over the steps of a run."""

    steps: list[int]
    values: list[float]

    @property
    def last(self) -> tuple[int, float]:
        return self.steps[-1], self.values[-1]

    def at(self, step: int) -> float | None:
        """The value at a step, if it was measured there."""
        return self.values[self.steps.index(step)] if step in self.steps else None


def series(records: Records, name: str) -> Series:
    """Every finite value that was recorded under a name."""
    found = [(record["train/global_step"], record[name]) for record in records if record.get(name) is not None]
    return Series([step for step, _ in found], [value for _, value in found])


def smooth(values: Sequence[float], span: int) -> list[float]:
    """The mean over a window of `span` values around each; at the ends, over as many as there are on both sides."""
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    means = []
    for place in range(len(values)):
        reach = min(span // 2, place, len(values) - 1 - place)
        means.append((sums[place + reach + 1] - sums[place - reach]) / (2 * reach + 1))
    return means


def thin(line: Series, most: int = MOST) -> Series:
    """At most so many points, evenly spaced, first and last among them."""
    if len(line.steps) <= most:
        return line
    places = [round(place * (len(line.steps) - 1) / (most - 1)) for place in range(most)]
    return Series([line.steps[place] for place in places], [line.values[place] for place in places])


def loss_curve(records: Records, baselines: dict[str, float] | None = None) -> Picture | None:
    """Training loss, raw and smoothed, with validation loss and, as level lines, what a poor predictor would reach."""
    raw, held_out = series(records, "train/loss"), series(records, "eval/loss")
    if not raw.steps:
        return None
    bold = thin(Series(raw.steps, smooth(raw.values, max(len(raw.values) // 25, 1))))
    raw = thin(raw)
    with canvas("loss", 4.1) as drawn:
        axes = drawn.figure.add_subplot(xlabel="step", ylabel="loss, nats per token")
        axes.plot(raw.steps, raw.values, color=BLUE, alpha=0.22, linewidth=0.8)
        axes.plot(bold.steps, bold.values, color=BLUE)
        apart = _apart({"training": bold, "held-out": held_out}, axes.get_ylim())
        note(axes, (bold.last[0], apart["training"]), f"training {bold.last[1]:.2f}", BLUE)
        if held_out.steps:
            axes.plot(held_out.steps, held_out.values, color=RUST, marker="o", markersize=4)
            note(axes, (held_out.last[0], apart["held-out"]), f"held-out {held_out.last[1]:.2f}", RUST)
        for name, level in (baselines or {}).items():
            axes.axhline(level, color=SOFT, linewidth=0.9, linestyle=(0, (4, 3)))
            note(axes, (bold.last[0], level), name, SOFT, shift=(0, 8), align="right")
        axes.set_xlim(0, max(bold.last[0] * 1.13, 1))
    ends = f"from {bold.values[0]:.2f} to {bold.last[1]:.2f}"
    caption = "Thin: the loss of every step. Bold: its running mean. Dots: text that is never trained on."
    return Picture(
        drawn.svg, f"Line chart: training loss falls {ends} nats per token.", caption, _loss_table(bold, held_out)
    )


def _apart(lines: dict[str, Series], limits: tuple[float, float]) -> dict[str, float]:
    """Heights for the words at the ends of lines, moved so that they do not lie on each other."""
    ends = {name: line.last[1] for name, line in lines.items() if line.steps}
    need = (limits[1] - limits[0]) * 0.055
    if len(ends) == 2:
        (low, a), (high, b) = sorted(ends.items(), key=lambda pair: pair[1])
        missing = max(need - (b - a), 0.0)
        ends = {low: a - missing / 2, high: b + missing / 2}
    return ends


def _loss_table(bold: Series, held_out: Series) -> Table:
    """Validation losses with the smoothed training loss beside them; where there are none, that alone."""
    steps = thin(held_out, 40).steps or thin(bold, 20).steps
    rows: list[Row] = []
    for step in steps:
        nearest = min(range(len(bold.steps)), key=lambda place: abs(bold.steps[place] - step))
        rows.append((step, bold.values[nearest], held_out.at(step)))
    return Table(("step", "training loss, smoothed", "held-out loss"), rows)


def median(values: Sequence[float]) -> float:
    """The value in the middle."""
    return sorted(values)[len(values) // 2]


def throughput(records: Records) -> Picture | None:
    """Tokens learned from in a second, step by step."""
    speed = series(records, "train/tok_per_sec")
    if not speed.steps:
        return None
    middle = median(speed.values)
    raw, bold = thin(speed), thin(Series(speed.steps, smooth(speed.values, max(len(speed.values) // 25, 1))))
    with canvas("speed", 2.5) as drawn:
        axes = drawn.figure.add_subplot(xlabel="step", ylabel="tokens per second")
        axes.plot(raw.steps, raw.values, color=GREEN, alpha=0.25, linewidth=0.8)
        axes.plot(bold.steps, bold.values, color=GREEN)
        axes.set_ylim(0, max(middle * 1.5, max(bold.values) * 1.05))
        axes.yaxis.set_major_formatter("{x:,.0f}")
        note(axes, bold.last, f"median {middle:,.0f}", GREEN)
        axes.set_xlim(0, max(bold.last[0] * 1.13, 1))
    alt = f"Line chart: tokens per second, median {middle:,.0f}."
    rows: list[Row] = [(s, v) for s, v in zip(*thin(bold, 20), strict=True)]
    return Picture(drawn.svg, alt, "Thin: every step. Bold: running mean.", Table(("step", "tokens per second"), rows))


def rate_and_norm(records: Records) -> Picture | None:
    """The learning rate, and the length of the gradient before it was clipped."""
    lines = {
        "learning rate": (series(records, "train/learning_rate"), SAND),
        "gradient norm": (series(records, "train/grad_norm"), INK),
    }
    shown = {name: (thin(line), colour) for name, (line, colour) in lines.items() if line.steps}
    if not shown:
        return None
    with canvas("rate", 2.5) as drawn:
        for place, (name, (line, colour)) in enumerate(shown.items(), start=1):
            axes = drawn.figure.add_subplot(1, len(shown), place, title=name, xlabel="step")
            axes.plot(line.steps, line.values, color=colour, linewidth=1.8 if name == "learning rate" else 0.9)
            axes.set_ylim(0, _ceiling(line.values))
    caption = (
        "The rate rises while estimates are poor and falls so that the end is calm. A norm that grows warns early."
    )
    columns = [thin(line, 20) for line, _ in shown.values()]
    rows: list[Row] = [(step, *(line.values[place] for line in columns)) for place, step in enumerate(columns[0].steps)]
    alt = f"Line charts over the steps: {' and '.join(shown)}."
    return Picture(drawn.svg, alt, caption, Table(("step", *shown), rows))


def _ceiling(values: Sequence[float]) -> float:
    """A height that shows nearly all values: one early spike must not flatten the rest."""
    ordered = sorted(values)
    usual = ordered[min(math.ceil(len(ordered) * 0.98), len(ordered)) - 1]
    return usual * 1.15 or 1.0


def gradients(lines: dict[str, Sequence[float]]) -> Picture:
    """How much each layer of a deep stack could learn, with and without shortcuts: name -> norm of every layer."""
    with canvas("gradients", 2.8) as drawn:
        axes = drawn.figure.add_subplot(xlabel="layer, from the input to the output", ylabel="norm of the gradient")
        for (name, norms), colour in zip(lines.items(), COLOURS, strict=False):
            places = range(1, len(norms) + 1)
            axes.semilogy(places, norms, color=colour, marker="o", markersize=3.5)
            note(axes, (1, norms[0]), name, colour, shift=(-2, 10))
        axes.set_xticks(range(1, max(map(len, lines.values())) + 1))
        axes.yaxis.set_major_formatter(power)
        axes.minorticks_off()
        axes.margins(y=0.16)
    depth = max(map(len, lines.values()))
    rows: list[Row] = [(n + 1, *(norms[n] for norms in lines.values())) for n in range(depth)]
    alt = f"Line chart on a logarithmic scale: gradient norm of each of {depth} layers, {' and '.join(lines)}."
    caption = (
        "Without shortcuts the gradient shrinks at every layer on its way down; the first layers learn next to nothing."
    )
    return Picture(drawn.svg, alt, caption, Table(("layer", *lines), rows))


def power(value: float, _place: float) -> str:
    """A power of ten as it is written by hand."""
    return "10" + str(round(math.log10(value))).translate(RAISED)
