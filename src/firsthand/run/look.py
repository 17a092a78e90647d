"""Looking closely at a model: is every form of it the same, and what happens inside one forward pass."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from firsthand.checkpoint.bundle import Bundle
from firsthand.data.tokens import Tokens
from firsthand.evaluate import proof
from firsthand.evaluate.compare import Text, cut
from firsthand.evaluate.forms import FORMS
from firsthand.evaluate.proof import Proof, Soon
from firsthand.infer import trace
from firsthand.linear.shrink import rounds_inputs
from firsthand.run.source import load
from firsthand.run.text import locate, sample_text
from firsthand.training.device import pick

ROW = 128  # tokens of the longest row that forms are compared on


def prove(
    source: str | Path,
    text: str = "",
    tokens: int = 1_024,
    device: str = "cpu",
    strict: bool = False,
    slow: bool = False,
    tell: Callable[[Soon], None] = lambda soon: None,
) -> Proof:
    """Every form of a model against the plain one, on a text, or on the validation split of its run."""
    bundle = load(source, str(pick(device)))
    unsure = rounds_inputs(bundle.model) and not strict  # in float64 nothing falls on a half by accident
    forms = [replace(form, exact=False) for form in FORMS] if unsure else FORMS
    made = proof.prove(bundle, _text(bundle, source, text, tokens), forms, strict, slow, tell)
    return replace(made, model=str(source))


def _text(bundle: Bundle, source: str | Path, text: str, tokens: int) -> Text:
    """Rows of the text that is named; without a name, of what the run held out, or of Python's documentation."""
    longest = min(ROW, bundle.model.config.context_length)
    shards = (folder / "data" / "validation.tokens" for folder in (Path(source), Path(source).parent))
    held_out = next((path for path in shards if path.exists()), None)
    if text or held_out is None:
        content = sample_text([locate(text or "pydocs")], most=64 * max(tokens, longest))
        ids, size, name = bundle.tokenizer.encode(content), len(content.encode("utf-8")), text or "pydocs"
    else:
        shard = Tokens(held_out)
        shard.check(bundle.tokenizer)
        ids, size, name = shard.ids, shard.header.text_bytes, str(held_out)
    return cut(name, np.asarray(ids), size / max(len(ids), 1), tokens, longest)


def inspect(source: str | Path, text: str, device: str = "cpu") -> dict[str, Any]:
    """One forward pass of a model on a text, opened, as plain numbers and words."""
    bundle = load(source, str(pick(device)))
    return {"model": str(source), **trace.facts(bundle, trace.inspect(bundle, text))}
