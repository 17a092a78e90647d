"""Data sets for fine-tuning: found, split, rendered as a model will see them, and checked before the first step."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from firsthand import files
from firsthand.data import audit as audits
from firsthand.data import duplicates, mask
from firsthand.data.audit import Audit, Finding, Part
from firsthand.data.conversations import Kind, kind_of
from firsthand.data.examples import Example, examples
from firsthand.data.ledger import Counts, Reading
from firsthand.errors import ConfigError
from firsthand.run.text import locate, tokenizer_for
from firsthand.tokenizer.chat import Chat

PARTS = ("train", "validation", "test")
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")
CONTEXT = 1_024  # tokens, where no model says how many
FRACTIONS = {"test": 0.1, "validation": 0.1}  # of one source without parts of its own
SKIP = Reading(on_bad="skip")


def chat_for(model: str = "", tokenizer: str = "", style: str = "") -> tuple[Chat, int]:
    """How turns become ids, by a model or a tokenizer, and how many fit; a style goes before the model's template."""
    if model and tokenizer:
        raise ConfigError(f"--model {model} brings its own tokenizer; leave out --tokenizer {tokenizer}")
    if model:
        from firsthand.run.source import load

        bundle = load(model, dtype=None)
        chat = Chat(style or bundle.template or "plain", bundle.tokenizer, () if style else bundle.ends)
        return chat, bundle.model.config.context_length
    return Chat(style or "plain", tokenizer_for(tokenizer)), CONTEXT


def parts(
    source: str,
    chat: Chat,
    context_length: int,
    kind: Kind,
    reading: Reading = SKIP,
    validation: str = "",
    test: str = "",
    fractions: dict[str, float] | None = None,
    seed: int = 0,
) -> dict[str, Part]:
    """Training, validation and test examples: the files named, those of a folder, or a split of one without leaks."""
    named = {"train": source} | {name: given for name, given in (("validation", validation), ("test", test)) if given}
    paths = {name: locate(given) for name, given in named.items()}
    if len(paths) == 1:
        paths = _inside(paths["train"]) or paths
    read = {}
    for name, path in paths.items():
        counts = Counts()
        read[name] = Part(examples([path], kind, chat, context_length, reading, counts), counts)
    return read if len(read) > 1 else divided(read["train"], fractions or FRACTIONS, seed)


def _inside(folder: Path) -> dict[str, Path]:
    """The files train, validation and test of a folder that has the first of them."""
    given = ((name, folder / f"{name}{suffix}") for name in PARTS for suffix in SUFFIXES)
    found = {name: path for name, path in given if path.is_file()}
    return found if "train" in found else {}


def divided(part: Part, fractions: dict[str, float], seed: int = 0) -> dict[str, Part]:
    """One part as several, equal questions together; what was dropped is counted with the training set."""
    chosen = duplicates.split([example.item.question for example in part.examples], fractions, seed)
    made = {}
    for name in [name for name in PARTS if name in chosen]:
        kept = [part.examples[index] for index in chosen[name]]
        counts = Counts(len(kept), len(kept)) if name != "train" else _rest(part.counts, len(kept))
        made[name] = Part(kept, counts)
    return made


def _rest(counts: Counts, kept: int) -> Counts:
    """The counts of a source of which only `kept` rows stayed."""
    return Counts(kept + sum(counts.dropped.values()), kept, 0, dict(counts.dropped), list(counts.first))


def check(
    source: str,
    model: str = "",
    tokenizer: str = "",
    style: str = "",
    kind: Kind | None = None,
    validation: str = "",
    test: str = "",
    context_length: int = 0,
    learn: Literal["answer", "all"] = "answer",
    allow_leakage: bool = False,
) -> Audit:
    """The preflight of a data set; nothing is refused here, everything is counted."""
    chat, fits = chat_for(model, tokenizer, style)
    length = _length(context_length, fits)
    kind = kind or kind_of_source(source)
    found = parts(source, chat, length, kind, SKIP, validation, test)
    made = audits.audit(found, kind, chat, length, learn, allow_leakage)
    if not (validation or test or _inside(locate(source))):
        made.findings.extend(_by_chance(found, made.things))
    return made


def _by_chance(found: dict[str, Part], things: str) -> list[Finding]:
    """What the usual split, every row by chance, would have leaked."""
    texts = [example.item.question for part in found.values() for example in part.examples]
    leaked = duplicates.expected_leaks(texts, FRACTIONS["test"], 1 - sum(FRACTIONS.values()))
    if leaked < 0.5:
        return []
    what = f"a random split would put about {leaked:.0f} {things} of the test part into train as well"
    return [Finding(what, "This one keeps equal ones together")]


def _length(asked: int, fits: int) -> int:
    if asked < 0:
        raise ConfigError(f"--context {asked} is no length; give the tokens of a row, such as {fits}", code=34)
    return asked or fits


def kind_of_source(source: str) -> Kind:
    """What a source is good for, by its first record."""
    path = locate(source)
    with TemporaryDirectory(prefix="firsthand-") as spool:
        return kind_of([_inside(path).get("train", path)], Path(spool))


def masked(
    source: str,
    model: str = "",
    tokenizer: str = "",
    style: str = "",
    kind: Kind | None = None,
    context_length: int = 0,
    first: int = 1,
    count: int = 4,
) -> dict[str, Any]:
    """A batch of `count` examples from the `first` on, token by token, as plain numbers and words."""
    chat, fits = chat_for(model, tokenizer, style)
    kind = kind or kind_of_source(source)
    if kind == "label":
        raise ConfigError(
            f"{files.shown(source)} holds texts with labels: none of their tokens is learned. Give answers"
        )
    path, length = locate(source), _length(context_length, fits)
    found: list[Example] = examples([_inside(path).get("train", path)], kind, chat, length, SKIP, Counts())
    if not found:
        where = files.shown(source)
        raise ConfigError(f"no row of {where} can be used within {length:,} tokens; firsthand data check says why")
    if not 1 <= first <= len(found):
        raise ConfigError(f"--first {first} is not there: {len(found):,} examples fit. Use 1 to {len(found):,}")
    rows = mask.views(found[first - 1 : first - 1 + count], chat)
    learned = sum(token.trained for row in rows for token in row.tokens)
    return {
        "source": source,
        "kind": kind,
        "style": audits.style_of(chat) or "the model's own template",
        "learned": learned,
        "tokens": sum(len(row.tokens) for row in rows),
        "rows": [
            {"place": row.place, "answer": row.answer, "tokens": [token._asdict() for token in row.tokens]}
            for row in rows
        ],
    }
