"""The chapters of a model that becomes fast and small: time by position, and size against loss against speed."""

from typing import Any

from firsthand.study.canvas import BLUE, COLOURS, canvas, note
from firsthand.study.page import Picture, Row, Section, Table, code, facts, figure, number, table

Result = dict[str, Any]


def cache(result: Result) -> Section:
    """What a cache saves."""
    if "left_out" in result:
        return Section("What a cache saves", "", [code("\n".join(result["lines"]))])
    times = result["milliseconds"]
    ratio = times["without a cache"][-1] / times["with a cache"][-1]
    numbers = [
        ("saved", f"{ratio:.1f}", f"times, at position {result['positions'][-1]}"),
        ("kept", number(result["bytes_per_token"]), "bytes a token, in all layers"),
    ]
    lead = (
        "To say the next token, a model must look at all before it. Without a cache it also computes them all again; "
        "with one it keeps their keys and values, and a token costs one token's work."
    )
    return Section("What a cache saves", lead, [facts(numbers), figure(by_position(result["positions"], times))])


def by_position(positions: list[int], times: dict[str, list[float]]) -> Picture:
    """Milliseconds a token at several positions, a line for every way."""
    with canvas("position", 3.4) as drawn:
        axes = drawn.figure.add_subplot(xlabel="position of the token", ylabel="milliseconds")
        for (name, its), colour in zip(times.items(), COLOURS, strict=False):
            axes.plot(positions, its, color=colour, marker="o", markersize=4)
            note(axes, (positions[-1], its[-1]), name, colour)
        axes.set_ylim(0, None)
        axes.set_xlim(0, positions[-1] * 1.25)
    rows: list[Row] = [(at, *(its[place] for its in times.values())) for place, at in enumerate(positions)]
    alt = f"Line chart: milliseconds a token by position, {' and '.join(times)}."
    return Picture(drawn.svg, alt, "Medians, on this machine.", Table(("position", *times), rows))


def quantize(result: Result) -> Section:
    """What fewer bits cost."""
    rows: list[Row] = [
        (
            row["form"],
            f"{row['file_bytes'] / 1e6:.2f}",
            f"{row['bits_per_weight']:.2f}",
            f"{row['difference']:+.4f}",
            f"{row['difference_95'][0]:+.4f} … {row['difference_95'][1]:+.4f}",
            f"{row['tokens_per_second']:,.0f}",
        )
        for row in result["rows"]
    ]
    columns = ("form", "MB", "bits a weight", "bits per byte", "95 %", "tokens a second")
    lead = (
        "A weight does not need 32 bits. Rounded to 8 the model hardly notices; at 4 it matters how one rounds: GPTQ "
        f"lets the weights not yet rounded make up for those that were. Judged on {result['tokens']:,} tokens."
    )
    return Section("What fewer bits cost", lead, [figure(by_size(result["rows"])), table(Table(columns, rows))])


def by_size(rows: list[Result]) -> Picture:
    """Size across, loss upwards with its interval, speed as the area of the dot."""
    fastest = max(row["tokens_per_second"] for row in rows)
    with canvas("fewer-bits", 3.6) as drawn:
        axes = drawn.figure.add_subplot(xlabel="megabytes", ylabel="bits per byte, above the original")
        for row in rows:
            x, y = row["file_bytes"] / 1e6, row["difference"]
            low, high = row["difference_95"]
            axes.plot([x, x], [low, high], color=BLUE, linewidth=1.2)
            axes.scatter([x], [y], s=20 + 120 * row["tokens_per_second"] / fastest, color=BLUE, alpha=0.6)
            note(axes, (x, y), row["form"], BLUE)
        axes.margins(x=0.15, y=0.2)
    alt = "Dots: size of each form against what it loses, larger dots are faster."
    caption = "Lower is better, left is smaller, a large dot is fast. Bars: 95 %, paired with the original."
    cells: list[Row] = [(row["form"], row["file_bytes"] / 1e6, row["difference"]) for row in rows]
    return Picture(drawn.svg, alt, caption, Table(("form", "MB", "bits per byte"), cells))
