"""Verbs that take models of other programs in, and give models to other programs."""

from pathlib import Path
from typing import Literal

from cyclopts import App

from firsthand.cli import show
from firsthand.cli.meter import Meter, fetched

import_app = App(name="import")


@import_app.default
def import_(source: str, *, out: Path, json: bool = False) -> None:
    """Take a model of another program in: a Hugging Face folder, OpenAI's GPT-2 files, a GGUF file, or a name.

    Parameters
    ----------
    source
        A folder, a file, a name of the catalog such as smollm2-135m-instruct, or of the hub: openai-community/gpt2.
    out
        The checkpoint to write.
    json
        Print the facts as JSON.
    """
    from firsthand.run import exchange

    with Meter() as meter:
        facts = exchange.bring(source, out, meter.of)
    show.facts(facts, as_json=json)


def export(
    source: str,
    *,
    to: Literal["hf", "gguf", "peft"],
    out: Path,
    type: Literal["", "f32", "f16", "bf16", "q8_0", "q4_0"] = "",
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
    show.facts(exchange.export(source, to, out, type), as_json=json)


ALL = (import_app, export)
