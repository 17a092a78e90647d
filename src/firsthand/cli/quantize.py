"""The verb `quantize`: a model in fewer bits, or every way to make it beside the original, in one table."""

import time
from pathlib import Path
from typing import Any, Literal

from firsthand.cli import show
from firsthand.cli.look import Steps
from firsthand.cli.meter import fetched
from firsthand.errors import ConfigError


def quantize(
    source: str,
    *,
    to: Literal["int8", "int8-dynamic", "int4", "nf4"] = "int4",
    method: Literal["rtn", "gptq"] = "rtn",
    group: int = 32,
    symmetric: bool = False,
    out: Path | None = None,
    compare: bool = False,
    text: str = "",
    calibration: str = "",
    tokens: int = 4_096,
    json: bool = False,
) -> None:
    """Write a model in fewer bits; or with --compare measure every way to do so on held-out text, and write nothing.

    Examples: firsthand quantize runs/mine --to int4 --method gptq --out runs/mine-int4
    firsthand quantize runs/mine --compare

    Parameters
    ----------
    source
        A run, a checkpoint, or any other model that can be loaded.
    to
        int8: a ruler for each row. int8-dynamic: what enters is rounded too. int4, nf4: half a byte a weight.
    method
        rtn: each weight to the nearest. gptq: weights still to come make up for the error, on real text; int4 only.
    group
        Neighbours that share a ruler in 4 bits: 32, 64, 128.
    symmetric
        Rulers of int4 with zero in the middle: half a bit less at a group of 32.
    out
        The checkpoint to write.
    compare
        Print the table instead: size, bits per byte with intervals, worst layer, tokens per second.
    text
        What --compare judges on; by default what the run held out, else the last quarter of Python's documentation.
    calibration
        What gptq looks at; by default what the run was trained on, else the other three quarters.
    tokens
        How many tokens --compare judges on.
    json
        Print the result as one JSON object.
    """
    from firsthand.run import quantize as quantizing

    recipe = quantizing.Recipe(to, method, group, symmetric, calibration)
    if out is None and not compare:
        raise ConfigError("quantize writes a model: say where, --out DIR; or measure and write nothing: --compare")
    fetched(source)
    with Going() as going:
        if compare:
            result = quantizing.compare(source, recipe, text, tokens, going.tell)
        else:
            assert out is not None
            result = quantizing.quantize(source, out, recipe, going.tell)
    if compare and not json:
        compared(result)
    else:
        show.facts(result, as_json=json)


class Going(Steps):
    """How far it is, and about how long the rest takes, judged by how long it took so far."""

    def tell(self, what: str, done: int, total: int) -> None:
        """Say what is going on."""
        passed = time.monotonic() - self.begun
        rest = f"; about {show.duration(passed * (total - done) / done)} to go" if done else ""
        self.say(f"{done} of {total} done, now: {what}{rest}")


def compared(found: dict[str, Any]) -> None:
    """The table, and what it was made on."""
    show.paragraph(f"{found['model']} on {found['tokens']:,} tokens of {found['text']}")
    show.paragraph(f"groups of {found['group']}; gptq calibrated on {found['calibrated_on']}\n")
    show.table(
        {
            "form": row["form"],
            "MB": round(row["file_bytes"] / 1e6, 1),
            "bits a weight": round(row["bits_per_weight"], 2),
            "bits per byte": f"{row['bits_per_byte']:.4f}",
            "95 %": interval(row["interval_95"], ""),
            "difference": f"{row['difference']:+.4f}",
            "95 % ": interval(row["difference_95"], "+"),
            "worst layer": row["worst_layer"],
            "off by": f"{row['worst_error']:.1%}",
            "tokens/s": round(row["tokens_per_second"], 1),
        }
        for row in found["rows"]
    )


def interval(ends: Any, sign: str) -> str:
    """From its low end to its high end."""
    return " … ".join(f"{end:{sign}.4f}" for end in ends)


ALL = (quantize,)
