"""A trained model speaks: it continues a text, answers in turns, searches for the likeliest, and shows its choices."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

from firsthand import files
from firsthand.checkpoint.bundle import Bundle
from firsthand.errors import ConfigError
from firsthand.infer import beam, talk
from firsthand.infer import generate as infer
from firsthand.infer.constrain import Grammar, json_schema
from firsthand.infer.generate import Sampling as Sampling
from firsthand.infer.generate import Token, Writer

TOP = 12  # tokens that `explain` shows at every step
LONGEST = {"turns": 512, "text": 128}  # tokens of an answer in a conversation; a growing text would never end


class Answer:
    """An answer as it comes: pieces of text to go through once; then all that is known of it."""

    def __init__(self, writer: Writer, tokens: Iterator[Token]):
        self.writer, self.coming = writer, tokens
        self.tokens: list[Token] = []
        self.seconds = 0.0

    def __iter__(self) -> Iterator[str]:
        start = perf_counter()
        for token in self.coming:
            self.tokens.append(token)
            self.seconds = perf_counter() - start
            if token.text:
                yield token.text

    def facts(self) -> dict[str, Any]:
        """Text, how it ended, its tokens with their log-probabilities, and what it cost; with stable names."""
        lookup, decode = self.writer.lookup, self.writer.bundle.tokenizer.decode
        rows = []
        for id, _, logprob, top, _ in self.tokens:
            others = [{"id": other, "token": decode([other]), "logprob": its} for other, its in top]
            rows.append({"id": id, "token": decode([id]), "logprob": logprob, "top": others})
        return {
            "text": "".join(token.text for token in self.tokens),
            "finish": self.tokens[-1].finish if self.tokens else "length",
            "tokens": rows,
            "seconds": round(self.seconds, 3),
            "lookup": {"guessed": lookup.guessed, "right": lookup.right, "passes": lookup.passes}
            if lookup.most
            else None,
        }


def schema(path: Path) -> Grammar:
    """The grammar of all JSON that is valid under the schema in a file."""
    return json_schema(files.parse_json(files.read_file(path), files.shown(path)))


def continued(bundle: Bundle, prompt: str, sampling: Sampling) -> Answer:
    """What follows the prompt."""
    writer = Writer(bundle, sampling)
    return Answer(writer, writer.answer(infer.start(bundle, prompt)))


def conversation(bundle: Bundle, sampling: Sampling, longest: int | None = None, system: str = "") -> talk.Conversation:
    """Someone to talk to: in turns where the model has a chat template, else by continuing one growing text."""
    if bundle.template is None and system:
        raise ConfigError("this model has no chat template: it continues a text and knows no system turn. Leave it out")
    kind = "text" if bundle.template is None else "turns"
    sampling = replace(sampling, max_tokens=LONGEST[kind] if longest is None else longest)
    return talk.Text(bundle, sampling) if bundle.template is None else talk.Turns(bundle, sampling, system)


def answered(conversation: talk.Conversation, text: str) -> Answer:
    """What the model says to a text."""
    return Answer(conversation.writer, conversation.say(text))


def searched(bundle: Bundle, prompt: str, beams: int, max_tokens: int, length_penalty: float) -> list[dict[str, Any]]:
    """The likeliest continuations that beam search finds, the best first."""
    if beams < 1 or max_tokens < 1:
        raise ConfigError(f"beams is {beams} and max_tokens is {max_tokens}; a search needs at least 1 of both")
    ids, decode = infer.start(bundle, prompt), bundle.tokenizer.decode
    infer.check_room(bundle, 0, len(ids), max_tokens)
    found = beam.search(bundle.model, ids, beams, max_tokens, bundle.ends, length_penalty)
    return [
        {
            "text": decode(it.ids[:-1] if it.finish == "end" else it.ids),
            "finish": it.finish,
            "logprob": it.logprob,
            "score": it.score(length_penalty),
            "ids": list(it.ids),
        }
        for it in found
    ]


def explain(bundle: Bundle, prompt: str, sampling: Sampling) -> list[dict[str, Any]]:
    """What every step of the sampler does to the distribution of the next token, as its likeliest tokens."""
    shown = []
    for step in infer.explain(bundle, prompt, sampling):
        likeliest = step.before.topk(min(TOP, len(step.before))).indices.tolist()
        rows = [
            {
                "id": id,
                "token": bundle.tokenizer.decode([id]),
                "before": float(step.before[id]),
                "after": float(step.after[id]),
            }
            for id in likeliest
        ]
        shown.append({"name": step.name, "kept": step.kept, "removed": step.removed, "tokens": rows})
    return shown
