"""Conversations for a fine-tuning run: written as the model writes them, divided by question, looked at before step 1.

What was learned is measured beside what was lost: bits per byte of general text, before and after.
"""

from dataclasses import dataclass
from math import inf, log
from typing import Any, Literal, Self

from torch import Tensor

from firsthand.checkpoint.bundle import Bundle
from firsthand.data import audit as audits
from firsthand.data.audit import Part
from firsthand.data.conversations import Kind
from firsthand.data.ledger import SHOWN
from firsthand.run.audit import PARTS, divided, parts
from firsthand.run.quantize import in_rows, judged, nats
from firsthand.run.tuning import TuneConfig
from firsthand.run.verdict import AGAINST, amount, lower
from firsthand.tokenizer.chat import Chat

GENERAL = 8_192  # tokens of general text


class Talks:
    """The parts of a data set as examples, and the preflight of them."""

    def __init__(self, settings: TuneConfig, bundle: Bundle, kind: Kind, learn: Literal["answer", "all"] = "answer"):
        data, style = settings.data, settings.task.style
        self.chat = Chat(style or bundle.template or "plain", bundle.tokenizer, () if style else bundle.ends)
        length = int(min(data.longest or inf, bundle.model.config.context_length))
        fractions = {"test": data.test_fraction, "validation": data.validation_fraction}
        seed, own = data.seed, (data.validation, data.test)
        found = parts(data.source, self.chat, length, kind, data.reading, *own, fractions, seed)
        self.given = [name for name in PARTS if name in found] if any(own) else []
        self.parts = _completed(found, fractions, seed)
        self.audit = audits.audit(self.parts, kind, self.chat, length, learn, data.allow_leakage)
        self.general = General.of(bundle, settings)

    def rows(self) -> dict[str, list[Any]]:
        """What an objective collates, by part; the validation part by length, so that there is little padding."""
        rows = {name: [example.row for example in part.examples] for name, part in self.parts.items()}
        lengths = [sum(len(ids) for ids, _ in example.rows) for example in self.parts["validation"].examples]
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        return rows | {"validation": [rows["validation"][at] for at in order]}

    def facts(self) -> dict[str, Any]:
        """What became of the rows, in a few numbers; all of them are in the report, under preflight."""
        train, made = self.audit.parts["train"], self.audit
        return {
            "rows": sum(part.read for part in made.parts.values()),
            **{name: part.kept for name, part in made.parts.items()},
            "dropped": sum(sum(part.dropped.values()) for part in made.parts.values()),
            "first_dropped": [place for part in made.parts.values() for place in part.first][:SHOWN],
            "shortened": sum(part.truncated for part in made.parts.values()),
            "written_as": made.style,
            "tokens_at_most": made.context_length,
            "train_tokens": train.tokens,
            "learned_share": train.trained / max(1, train.tokens - train.rows),
            "answers_without_end": train.ends_missing,
            "duplicates": made.duplicates,
            "nearly_the_same": made.near,
            "test_questions_also_in_training": made.leaks["test in train"],
            "notes": [f"{finding.what}. {finding.mend}" for finding in made.findings if not finding.gate],
        }


def _completed(found: dict[str, Part], fractions: dict[str, float], seed: int) -> dict[str, Part]:
    """All three parts: one that was not given is taken from the training set."""
    for name in ("test", "validation"):
        if name not in found:
            found = found | divided(found["train"], {name: fractions[name]}, seed)
    return {name: found[name] for name in PARTS}


@dataclass(frozen=True)
class General:
    """Text that nothing is learned from; found before training, for it may not be there."""

    rows: Tensor  # (R, T + 1)
    nats_per_bit: float  # of a token, by the bytes it stands for
    name: str

    @classmethod
    def of(cls, bundle: Bundle, settings: TuneConfig) -> Self:
        """The text that is named, else what the model's own run held out, else the end of pydocs."""
        ids, bytes_per_token, name = judged(bundle, settings.model, settings.data.general)
        return cls(in_rows(bundle, ids, GENERAL, 1), log(2) * bytes_per_token, name)

    def forgotten(self, tuned: Bundle, untuned: Bundle) -> dict[str, Any]:
        """Bits per byte of it, before and after; a rise is what the new skill cost."""
        after, before = (nats(bundle.model, self.rows) / self.nats_per_bit for bundle in (tuned, untuned))
        bits = {"model": amount(after), "untuned": amount(before), AGAINST: lower(after, before)}
        return {"text": self.name, "tokens": self.rows[:, 1:].numel(), "bits_per_byte": bits}
