"""Records of fine-tuning data -> turns: answers to learn, answers to prefer, texts with a label.

    messages     {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    completion   {"prompt": "Hi", "completion": "Hello"}                          both may also be lists of messages
    alpaca       {"instruction": "Add.", "input": "1 and 2", "output": "3"}
    sharegpt     {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}
    preference   {"prompt": "Hi", "chosen": "Hello", "rejected": "Go away"}       or instruction and input; or no prompt
    label        {"text": "Win a prize", "label": "spam"}

One record a line (.jsonl), a list of them (.json), or columns of these names (.csv, .tsv); other keys are left alone.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from firsthand import files
from firsthand.data.ledger import Counts, Fault, Reading, Source, locate
from firsthand.data.records import MEND, is_filled, objects, parse_object, refuse_unwritable, rows
from firsthand.data.sources import check, named
from firsthand.errors import DataError
from firsthand.tokenizer.chat import Turn

Kind = Literal["instruct", "preference", "label"]
Turns = tuple[Turn, ...]
Record = tuple[int, dict[str, Any] | Fault | None]

ARRAY_BYTES = 32 << 20  # a larger array of JSON is to be written a record a line, which is read as a stream
ROLES = ("system", "user", "assistant", "tool")
SPEAKERS = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant"}


@dataclass(frozen=True)
class Item:
    """One record: what was said, up to the answer that is to be learned; for a text with a label, the text."""

    place: str  # file:line:byte
    turns: Turns
    rejected: Turns = ()  # of a pair: the same conversation with the answer that is not wanted
    label: str | None = None

    @property
    def question(self) -> str:
        """All that stands before the last answer: equal questions on both sides of a split are a leak."""
        last = max((at for at, turn in enumerate(self.turns) if turn.role == "assistant"), default=len(self.turns))
        return "\n".join(turn.content for turn in self.turns[:last])

    @property
    def text(self) -> str:
        """Everything in it."""
        return "\n".join(turn.content for turn in (*self.turns, *self.rejected))


def read(
    sources: Sequence[Path | str], kind: Kind, spool: Path, reading: Reading, counts: Counts, joint: str = "\n\n"
) -> Iterator[Item]:
    """Every record of files and folders that can be used as `kind`; the others are errors, or counted by reason.

    `joint` stands between the instruction and the input of an Alpaca record. The caller counts what it uses.
    """
    make = MAKERS[kind]
    for source, offset, record, place in _records(sources, spool, reading, counts):
        try:
            if not is_filled(record, source, counts):
                continue
            item = make(record, place, joint)
            refuse_unwritable(item.text + (item.label or ""), offset)
            yield item
        except Fault as fault:
            fault.offset = fault.offset or offset
            fault.settle(source.path, source.name, reading, counts)


def kind_of(sources: Sequence[Path | str], spool: Path) -> Kind:
    """What the first record that can be read is good for, by its keys."""
    counts = Counts()
    for _, _, record, _ in _records(sources, spool, Reading(on_bad="skip"), counts):
        if isinstance(record, dict):
            if "chosen" in record or "rejected" in record:
                return "preference"
            return "label" if {"text", "label"} <= record.keys() else "instruct"
    counts.check(named(sources))
    raise DataError(f"{named(sources)} has no record that can be read, so nothing can be learned from it", code=26)


def _records(
    sources: Sequence[Path | str], spool: Path, reading: Reading, counts: Counts
) -> Iterator[tuple[Source, int, dict[str, Any] | Fault | None, str]]:
    """(file, offset, record, place) of everything that is there; None stands for a blank line."""
    for source in check(sources, spool, reading, counts):
        if source.kind == "text" and not source.name.lower().endswith(".json"):
            raise DataError(
                f"{source.name} is plain text, but fine-tuning needs records: .jsonl, .json, .csv or .tsv. Write one "
                'a line: {"prompt": "...", "completion": "..."}, or name its kind: data.reading.kind=jsonl',
                code=4,
            )
        with source.path.open("rb") as file, source.path.open("rb") as again:
            line, known = 1, 0
            for offset, record in _open(source, file, reading):
                line, known = line + _breaks(again, offset - known), offset
                yield source, offset, record, f"{source.name}:{line}"


def _breaks(file: BinaryIO, count: int) -> int:
    """The line breaks in the next `count` bytes."""
    found = 0
    while count > 0 and (block := file.read(min(count, 1 << 20))):
        found, count = found + block.count(b"\n"), count - len(block)
    return found


def _open(source: Source, file: BinaryIO, reading: Reading) -> Iterator[Record]:
    if source.kind in ("csv", "tsv"):
        return rows(source, file, [], reading)
    if source.kind == "text":
        file.seek(source.start)
        head = file.read(4096).lstrip()
        if head[:1] == b"[":
            return array(source, file)
    return objects(source, file, source.start, source.size, reading)


def array(source: Source, file: BinaryIO) -> Iterator[Record]:
    """(offset, object) of every record of one JSON array; where its commas or brackets are wrong, it is refused."""
    if source.size > ARRAY_BYTES:
        raise DataError(
            f"{source.name} is one JSON array of {files.amount(source.size)}, at most {files.amount(ARRAY_BYTES)} are "
            f"read whole. Write a record a line: jq -c '.[]' {source.name} > records.jsonl"
        )
    file.seek(source.start)
    text = file.read().decode()
    ends = json.JSONDecoder(parse_int=len, parse_float=len, parse_constant=len)  # finds where a record ends, no more
    at = _past(text, text.index("[") + 1)
    offset, counted = source.start, 0
    while text[at : at + 1] != "]" or counted:  # "]" behind a comma is a fault
        offset, counted = offset + len(text[counted:at].encode()), at
        try:
            _, end = ends.raw_decode(text, at)
            behind = _past(text, end)
            if text[behind : behind + 1] not in (",", "]"):
                raise ValueError("no comma behind a record")
        except (ValueError, RecursionError) as error:
            why = "too deep" if isinstance(error, RecursionError) else str(error).split(":")[0]
            raise _broken(source, offset, why) from None
        try:
            yield offset, parse_object(text[at:end], offset)
        except Fault as fault:
            yield offset, fault
        at = _past(text, behind + 1)
        if text[behind] == "]":
            break
    else:
        at = _past(text, at + 1)
    if at < len(text):
        raise _broken(source, offset + len(text[counted:at].encode()), "more behind its end")


def _past(text: str, at: int) -> int:
    """The next place that is not white space."""
    while text[at : at + 1] in ("\n", " ", "\r", "\t"):
        at += 1
    return at


def _broken(source: Source, offset: int, why: str) -> DataError:
    place = locate(source.path, source.name, offset)
    return DataError(f"{place} is no array of JSON records ({why}). Mend it, or write one record a line", code=27)


def _fault(reason: str, detail: str, code: int = 4) -> Fault:
    return Fault(reason, detail, MEND, 0, code)


def _instruct(record: dict[str, Any], place: str, joint: str) -> Item:
    """A conversation with at least one answer in it."""
    if "messages" in record:
        turns = _messages(record["messages"], "messages", "role", "content")
    elif "conversations" in record:
        turns = _messages(record["conversations"], "conversations", "from", "value")
    elif "prompt" in record and "completion" in record:
        turns = _said(record, "prompt", "user") + _said(record, "completion", "assistant")
    elif "instruction" in record and "output" in record:
        turns = _instruction(record, joint) + _said(record, "output", "assistant")
    else:
        raise _no_schema(record, "messages, or prompt and completion, or instruction and output")
    if all(turn.role != "assistant" for turn in turns):
        raise _fault("no answer", "has no assistant message, so there is nothing to learn", code=36)
    return Item(place, turns)


def _preference(record: dict[str, Any], place: str, joint: str) -> Item:
    """Two answers to one question; without a prompt, what both conversations begin with is the question."""
    if "chosen" not in record or "rejected" not in record:
        raise _no_schema(record, "prompt, chosen, rejected")
    chosen, rejected = _said(record, "chosen", "assistant"), _said(record, "rejected", "assistant")
    prompt: Turns = ()
    if "prompt" in record:
        prompt = _said(record, "prompt", "user")
    elif "instruction" in record:
        prompt = _instruction(record, joint)
    if prompt and chosen[: len(prompt)] != prompt:  # some sets repeat the prompt inside both answers
        chosen, rejected = prompt + chosen, prompt + rejected
    if chosen == rejected:
        raise _fault("same twice", "has the same text as 'chosen' and 'rejected', so nothing is preferred", code=35)
    if chosen[-1].role != "assistant" or chosen[:-1] != rejected[:-1] or len(chosen) < 2:
        raise _fault("no pair", "holds no two answers to one question: all before the last turn must be equal", code=35)
    return Item(place, chosen, rejected)


def _label(record: dict[str, Any], place: str, joint: str) -> Item:
    """A text with its label; a label may be a number."""
    if "text" not in record or "label" not in record:
        raise _no_schema(record, "text, label")
    label = record["label"]
    if not isinstance(label, str | int) or not str(label).strip():
        raise _fault("no label", f"has the label {files.quoted(label)}, which is no word and no whole number")
    return Item(place, _said(record, "text", "user"), label=str(label))


MAKERS: dict[Kind, Callable[[dict[str, Any], str, str], Item]] = {
    "instruct": _instruct,
    "preference": _preference,
    "label": _label,
}


def _no_schema(record: dict[str, Any], wanted: str) -> Fault:
    keys = ", ".join(files.quoted(key)[1:-1] for key in list(record)[:5])
    keys = keys if len(keys) <= 24 else f"{keys[:21]}..."
    return _fault("wrong columns", f"has [{keys}], and needs {wanted}")


def _instruction(record: dict[str, Any], joint: str) -> Turns:
    """Instruction and input as one turn."""
    asked = _turn("user", record["instruction"], "instruction")
    more = record.get("input") or ""
    if not isinstance(more, str):
        raise _fault("not a text", f"has a {type(more).__name__} under 'input', not a text")
    return (Turn("user", f"{asked.content}{joint}{more}" if more.strip() else asked.content),)


def _said(record: dict[str, Any], key: str, role: str) -> Turns:
    """What stands under a key: a text, or messages."""
    value = record[key]
    if isinstance(value, list):
        return _messages(value, key, "role", "content")
    return (_turn(role, value, key),)


def _messages(value: Any, key: str, speaker: str, said: str) -> Turns:
    """The turns of a list of messages; a system message that says nothing is none."""
    if not isinstance(value, list) or not value:
        raise _fault("no messages", f"has no list of messages under {key!r}")
    turns = []
    for number, message in enumerate(value):
        if not isinstance(message, dict) or speaker not in message or said not in message:
            raise _fault("no messages", f"lacks {speaker!r} or {said!r} in {key}[{number}]")
        role, content = message[speaker], message[said]
        role = SPEAKERS.get(role, role) if isinstance(role, str) else role
        if role not in ROLES:
            raise _fault("unknown role", f"has the role {files.quoted(role)} in {key}[{number}]")
        if role != "system" or content != "":
            turns.append(_turn(role, content, f"{key}[{number}]"))
    return tuple(turns)


def _turn(role: str, content: Any, key: str) -> Turn:
    """A turn that says something, as a text."""
    if not isinstance(content, str):
        raise _fault("not a text", f"has a {type(content).__name__} under {key!r}, not a text")
    if not content.strip():
        raise _fault("blank turn", f"says nothing under {key!r}")
    return Turn(role, content)
