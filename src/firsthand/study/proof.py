"""The part of a report that says whether the fast, small, cached and saved forms are still the same model."""

from typing import Any

from firsthand.study.canvas import GREEN, RUST, SAND, SOFT, canvas, note
from firsthand.study.page import Picture, Row, Section, Table, facts, figure, heading, number, paragraph, table
from firsthand.study.plots import power

Result = dict[str, Any]
COLOURS = {"exact": GREEN, "drift": SAND, "NOT EXACT": RUST}


def proof_chapter(result: Result) -> Section:
    """Every form of a model beside the plain one, from the facts of a proof."""
    ran = [row for row in result["rows"] if row["verdict"] != "not run"]
    exact = [row for row in ran if row["claim"] == "exact"]
    numbers = [
        (
            "exact forms",
            f"{sum(row['verdict'] == 'exact' for row in exact)} of {len(exact)}",
            "the same up to rounding",
        ),
        ("reference", f"{result['bits_per_byte']:.4f}", f"bits per byte, plain {result['dtype']}"),
        ("compared on", number(result["tokens"]), f"tokens of {result['text']}"),
        ("bound", f"{result['tolerance'] * result['scale']:.1e}", f"{result['tolerance']:.0e} of the largest score"),
    ]
    columns = ("form", "what it is", "verdict", "max Δ", "KL", "bits per byte", "95 % from", "to", "same greedy")
    note_on_columns = paragraph(
        "KL: nats per token, from the reference. Bits per byte: the form's minus the reference's."
    )
    parts = [
        facts(numbers),
        figure(distances(result)),
        note_on_columns,
        table(Table(columns, [_row(row) for row in result["rows"]])),
    ]
    if first := [line for row in ran if (line := _first(row))]:
        parts += [heading("Where they first choose another token"), *map(paragraph, first)]
    if missing := [f"{row['form']}: {row['note']}." for row in result["rows"] if row["note"]]:
        parts += [heading("Not run, or failed"), *map(paragraph, missing)]
    caches: list[Row] = [(name, size) for name, size in result["cache_bytes_per_token"].items()]
    parts += [heading("What one token costs in each cache"), table(Table(("cache", "bytes"), caches))]
    lead = (
        "One model can be computed in many ways: fused, batched, from a cache, in fewer bits, out of another file. "
        "Each is compared with the plain one, which is slow and short enough to be checked by eye. What is the same in "
        "mathematics must be the same up to rounding; of the rest, the distance is stated."
    )
    return Section("Is every form the same model?", lead, parts)


def distances(result: Result) -> Picture:
    """How far each form is off, on a logarithmic scale, with the bound for exact ones."""
    rows = [row for row in result["rows"] if row["of_scale"] is not None][::-1]
    floor = min([row["of_scale"] for row in rows if row["of_scale"]] + [result["tolerance"]]) / 10
    with canvas("proof", 0.9 + 0.27 * len(rows)) as drawn:
        axes = drawn.figure.add_subplot(xlabel="largest difference of a score, as a share of the largest score")
        axes.set_xscale("log")
        for place, row in enumerate(rows):
            colour, where = COLOURS[row["verdict"]], max(row["of_scale"], floor)
            axes.plot([floor, where], [place, place], color=colour, alpha=0.35, linewidth=1.4)
            axes.plot(where, place, "o", color=colour, markersize=6)
            note(axes, (where, place), f"{row['of_scale']:.0e}" if row["of_scale"] else "0", colour, shift=(8, 0))
        axes.axvline(result["tolerance"], color=SOFT, linewidth=0.9, linestyle=(0, (4, 3)))
        note(axes, (result["tolerance"], len(rows) - 0.3), "bound for exact forms", SOFT, shift=(5, 2))
        axes.set_yticks(range(len(rows)), [row["form"] for row in rows])
        axes.set_ylim(-0.7, len(rows) + 0.1)
        axes.margins(x=0.09)
        axes.minorticks_off()
        axes.xaxis.set_major_formatter(power)
        axes.grid(False, axis="y")
    caption = "Green: the same in mathematics, so only rounding may differ. Sand: fewer bits; how far off is measured."
    alt = f"Dot chart: how far {len(rows)} forms are off; the bound for exact ones is {result['tolerance']:.0e}."
    return Picture(drawn.svg, alt, caption)


def _row(row: Result) -> Row:
    """A form in the table; of differences in bits, five digits."""
    differences = (row["bits_per_byte"], *(row["interval_95"] or (None, None)))
    bits = [value if value is None else round(value, 5) for value in differences]
    same = row["same_greedy"] if row["same_greedy"] is None else f"{row['same_greedy']:.1%}"
    return (row["form"], row["about"], row["verdict"], row["max_delta"], row["kl"], *bits, same)


def _first(row: Result) -> str:
    """What stood where a form first chose another token; empty if it never did."""
    if not (at := row["first_other"]):
        return ""
    by_reference, by_form = at["probabilities"]
    return (
        f"{row['form']}: after “…{at['before']}” it says “{at['form']}” instead of “{at['reference']}”; "
        f"to the reference they are {by_form:.1%} and {by_reference:.1%} likely."
    )
