"""Verbs that take models of other programs in, and give models to other programs."""

from pathlib import Path
from typing import Any, Literal

from cyclopts import App

from firsthand.cli import show
from firsthand.cli.meter import Meter, fetched

import_app = App(name="import")


@import_app.default
def import_(source: str, *, out: Path, adapter: Path | None = None, json: bool = False) -> None:
    """Take a model of another program in: a Hugging Face folder, OpenAI's GPT-2 files, a GGUF file, or a name.

    Parameters
    ----------
    source
        A folder, a file, a name of the catalog such as smollm2-135m-instruct, or of the hub: openai-community/gpt2.
    out
        The checkpoint to write.
    adapter
        A folder of PEFT to put onto the model: its adapter acts, and can be switched off, trained further or merged.
    json
        Print the facts as JSON.
    """
    from firsthand.run import adapters, exchange

    with Meter() as meter:
        if adapter is None:
            facts = exchange.bring(source, out, meter.of)
        else:
            facts = adapters.bring(source, adapter, out, meter.of)
    show.facts(facts, as_json=json)


def export(
    source: str,
    *,
    to: Literal["hf", "gguf", "peft"],
    out: Path,
    type: Literal["f32", "f16", "bf16", "q8_0", "q4_0"] | None = None,
    json: bool = False,
) -> None:
    """Give a model to other programs; what was written is opened again and compared before it gets its name.

    Parameters
    ----------
    source
        A run, a checkpoint, or a name.
    to
        hf: a folder for transformers and vLLM. gguf: a file for llama.cpp, Ollama and LM Studio. peft: its adapters.
    out
        The folder to write.
    type
        How a number is stored; by default as it is for hf, and f16 for gguf.
    json
        Print what was compared as JSON.
    """
    from firsthand.run import exchange

    fetched(source)
    found = exchange.export(source, to, out, type)
    if json:
        show.as_one_object(found)
    else:
        exported(found)


def exported(found: dict[str, Any]) -> None:
    """What stands on the disk, what was compared, and where it runs."""
    drift = found["drift"]
    at = drift["differs_at"]
    same = f"all {drift['tokens']} are the same" if at is None else f"number {at + 1} is the first other one"
    show.facts(
        {
            "path": str(found["path"]),
            "holds": f"{found['kind']}, {found['size']:,} bytes",
            "opened_again": "every tensor, token and setting is the one meant",
            "rounding": f"moves a score by at most {drift['largest']:.2g}; the largest score is {drift['scale']:.3g}",
            "greedy_tokens": f"of {drift['tokens']} {same}" if at is not None else same,
            "runs_in": ", ".join(found["runs_in"]),
            **{f"note_{number}": note for number, note in enumerate(found["notes"], start=1)},
        }
    )


def merge(source: str, *, out: Path, adapter: str = "", json: bool = False) -> None:
    """Write a model with its adapter inside the weights, and say how far that moved its scores.

    Parameters
    ----------
    source
        A run or a checkpoint with adapters.
    out
        The checkpoint to write.
    adapter
        The name of the adapter; by default the one that acts.
    json
        Print the facts as JSON.
    """
    from firsthand.run import adapters

    fetched(source)
    show.facts(adapters.merge(source, out, adapter), as_json=json)


ALL = (import_app, export, merge)
