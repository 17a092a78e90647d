"""The stage with a model that others trained: fetch it, take it in, prove every form of it equal, and let it answer."""

from pathlib import Path
from typing import Any

from firsthand import files
from firsthand.checkpoint.bundle import Bundle
from firsthand.errors import DownloadError
from firsthand.run import exchange, look, speak
from firsthand.run.source import load, locate
from firsthand.run.speak import Sampling

MODEL = "smollm2-135m-instruct"
TOKENS = 256  # that its forms are compared on
QUESTIONS = (
    "What is the capital of France, and what is it known for?",
    "Explain in two sentences why the sky is blue.",
    "Write a Python function that adds two numbers.",
)


def weights(out: Path) -> dict[str, Any]:
    """A real model comes in, and is the same in every form; it answers in turns, by its own template."""
    try:
        locate(MODEL)
    except DownloadError as error:
        line = f"left out, for {MODEL} cannot be fetched here: {error}"
        return {"lines": [line], "left_out": str(error)}
    folder = out / "real"
    if folder.exists():
        files.discard(folder)  # of an earlier walk, by another version of this program
    shape = exchange.bring(MODEL, folder)
    bundle = load(folder)
    proof = look.prove(folder, tokens=TOKENS).facts()
    asked = [{"question": question, "answer": _answer(bundle, question)} for question in QUESTIONS]
    exact = [row["form"] for row in proof["rows"] if row["verdict"] == "exact"]
    drifts = [row for row in proof["rows"] if row["verdict"] == "drift"]
    return {
        "lines": [
            f"{MODEL}: {bundle.model.config.n_layer} layers, trained by others on 2 trillion tokens",
            f"{len(exact)} forms are exactly the plain model: {', '.join(exact)}",
            f"{len(drifts)} are known to drift: {', '.join(row['form'] for row in drifts)}",
            *(f"{one['question']} {one['answer']!r}" for one in asked),
        ],
        "shape": shape,
        "proof": proof,
        "asked": asked,
    }


def _answer(bundle: Bundle, question: str) -> str:
    """What the model says to a question, and nothing else before it; dots where it was cut."""
    answer = speak.answered(speak.conversation(bundle, Sampling(temperature=0.0), longest=48), question)
    said = "".join(answer)
    return said + " …" * (answer.facts()["finish"] == "length")
