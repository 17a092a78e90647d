"""A trained model speaks: it continues a text, answers in turns, searches for the likeliest, and shows its choices."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Timer
from time import perf_counter
from typing import Any, Literal

import torch

from firsthand import files
from firsthand.checkpoint.bundle import Bundle
from firsthand.errors import ConfigError
from firsthand.infer import beam, talk
from firsthand.infer import generate as infer
from firsthand.infer.constrain import Grammar, json_schema
from firsthand.infer.fast import Activations, Fast, Weights, refusal
from firsthand.infer.generate import Sampling as Sampling
from firsthand.infer.generate import Token, Writer
from firsthand.run.text import locate, sample_text

TOP = 12  # tokens that `explain` shows at every step
COMPILING = 1.5  # seconds; who reads from the disk what was compiled before is faster
TRIED = 128  # tokens on which a rounded engine is compared with the model
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
        model = self.writer.bundle.model
        return {
            "text": "".join(token.text for token in self.tokens),
            "finish": self.tokens[-1].finish if self.tokens else "length",
            "tokens": rows,
            "seconds": round(self.seconds, 3),
            "engine": str(model) if isinstance(model, Fast) else "plain torch",
            "lookup": {"guessed": lookup.guessed, "right": lookup.right, "passes": lookup.passes}
            if lookup.most
            else None,
        }


@dataclass(frozen=True)
class Engine:
    """What computes the scores: the fast engine or plain torch; "auto" takes the fast one where it can."""

    kind: Literal["auto", "fast", "plain"] = "auto"
    weights: Weights = "own"
    activations: Activations = "float32"
    threads: int | None = None

    def __post_init__(self) -> None:
        given = {"weights": self.weights != "own", "activations": self.activations != "float32"}
        if self.kind == "plain" and any(given.values()):
            told = " and ".join(f"--{name}" for name, is_given in given.items() if is_given)
            raise ConfigError(f"{told} belong to the fast engine, and --engine is plain. Use --engine fast")


def quick(bundle: Bundle, engine: Engine, tell: Callable[[str], None]) -> Bundle:
    """The same model behind the engine that was asked for; `tell` hears what is worth knowing before the first token.

    That is: why plain torch is used where nobody asked for it; that something is compiled; how far off the scores are
    where weights or activations are rounded.
    """
    if engine.kind == "plain":
        return bundle
    if engine.kind == "auto" and engine.weights == "own" and (reason := refusal(bundle.model)):
        tell(f"plain torch, not the fast engine: {reason}")
        return bundle
    fast = Fast(bundle.model, engine.weights, engine.activations, engine.threads)
    slow = Timer(COMPILING, tell, ["compiling the fast engine, once for this kind of model: about 15 seconds"])
    slow.start()
    try:
        fast.last(torch.zeros(1, 1, dtype=torch.long), 1)
    finally:
        slow.cancel()
    if engine.weights != "own" or engine.activations != "float32":
        tell(drift(bundle, fast))
    torch.set_num_threads(1)  # torch's threads go on spinning after an operation, on the cores that the engine needs
    made: Any = fast
    return replace(bundle, model=made)


@torch.inference_mode()
def drift(bundle: Bundle, fast: Fast) -> str:
    """How far a rounded engine is from the model itself on a few tokens of Python's documentation, in words."""
    context = bundle.model.config.context_length
    ids = torch.from_numpy(
        bundle.tokenizer.encode(sample_text([locate("pydocs")])[:2000])[: min(TRIED, context)].astype("int64")
    )[None]
    true, found = bundle.model(ids)[0].log_softmax(dim=-1), fast(ids)[0].log_softmax(dim=-1)
    apart = float((true.exp() * (true - found)).sum(dim=-1).mean())
    same = float((true.argmax(dim=-1) == found.argmax(dim=-1)).float().mean())
    return (
        f"{fast}: not exact. On {ids.shape[1]} tokens of text {apart:.1e} nats from the model itself, the same "
        f"likeliest token at {same:.0%}; firsthand prove measures more"
    )


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
