"""README.md of an exported model: the card that model hubs show. It says what is known, and nothing else."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from firsthand import __version__, files
from firsthand.interop.foreign import Foreign
from firsthand.model.sizes import parameters

if TYPE_CHECKING:
    from firsthand.interop.verified import Drift


@dataclass(frozen=True)
class Card:
    """What a format knows of its files: the type of their numbers, who can open them, what is worth a note."""

    name: str
    library: str  # as model hubs sort models
    architecture: str
    kind: str
    runs_in: tuple[str, ...]
    notes: tuple[str, ...]
    use: str  # lines of Python or shell

    def text(self, model: Foreign, drift: "Drift") -> str:
        """The card of a model, with its YAML head."""
        config, about = model.config, model.about
        head = {"library_name": self.library, "pipeline_tag": "text-generation", "tags": "[firsthand]"}
        if re.fullmatch(r"[a-z0-9.-]{1,40}", str(about.get("license"))):
            head["license"] = about["license"]
        source = str(about.get("source", ""))
        source = Path(source).name if Path(source).is_absolute() else source  # nobody's folders are named
        rows = {
            "architecture": self.architecture,
            "parameters": f"{parameters(config):,}",
            "layers, heads, width": f"{config.n_layer}, {config.n_head} ({config.n_kv_head} of keys), {config.d_model}",
            "context": f"{config.context_length:,} tokens",
            "vocabulary": f"{config.vocab_size:,} tokens",
            "numbers": self.kind,
            **({"made from": files.quoted(source)} if source else {}),
        }
        parts = [
            "\n".join(["---", *(f"{key}: {value}" for key, value in head.items()), "---"]),
            f"# {self.name}",
            f"Written by firsthand {__version__}. Made to run in {', '.join(self.runs_in)}.",
            "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())]),
            "## Use",
            self.use,
            "## How it was checked",
            _checked(drift),
            *(f"- {note}" for note in self.notes),
        ]
        return "\n\n".join(parts) + "\n"


def _checked(drift: "Drift") -> str:
    """What was compared, and how far rounding led away."""
    lines = (
        "Before this folder got its name it was opened again: every tensor, every token and the whole configuration "
        "were those that were meant to be written, to the bit, and so were the logits of a fixed text and the "
        f"{drift.tokens} likeliest tokens that follow it."
    )
    if drift.largest == 0:
        return f"{lines} They are those of the model it was made from, exactly."
    where = "are the same" if drift.differs_at is None else f"differ from number {drift.differs_at + 1} on"
    return (
        f"{lines} Rounding the weights changed a logit of the model it was made from by at most {drift.largest:.3g} "
        f"(its largest logit is {drift.scale:.3g}); the {drift.tokens} tokens {where}."
    )
