"""Text that follows a prompt, piece by piece.

A prompt goes through the model once; then each token is picked, shown, and goes through alone: the cache holds the
keys and values of all before it. Nothing is shown that could still turn out to be half a character or the beginning
of a stop text.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor, nn

from firsthand.checkpoint.bundle import Bundle
from firsthand.errors import ConfigError, ModelError
from firsthand.infer.sample import Sampler, Step, pick
from firsthand.model.cache import Cache, StaticCache
from firsthand.model.gpt import GPT


def stream(
    bundle: Bundle,
    prompt: str,
    max_tokens: int = 64,
    temperature: float = 0.8,
    top_k: int = 40,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    seed: int = 0,
    stop: str | Sequence[str] = (),
) -> Iterator[str]:
    """The continuation of a prompt, piece by piece, without the prompt.

    Ends after `max_tokens`, at the end-of-text token, or before a stop text. An empty prompt begins a new text: it
    stands for one end-of-text token, as between two training texts. Everything is checked at the call.
    """
    sampler = Sampler(temperature, top_k, top_p, min_p, repetition_penalty)
    return Conversation(bundle, sampler, max_tokens, seed, stop).say(prompt)


def generate(
    bundle: Bundle,
    prompt: str,
    max_tokens: int = 64,
    temperature: float = 0.8,
    top_k: int = 40,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    seed: int = 0,
    stop: str | Sequence[str] = (),
) -> str:
    """The continuation of a prompt as one text: what `stream` gives, joined."""
    pieces = stream(bundle, prompt, max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed, stop)
    return "".join(pieces)


def explain(bundle: Bundle, prompt: str, sampler: Sampler) -> list[Step]:
    """What every step of the sampler does to the distribution of the first token after a prompt."""
    sampler.check(bundle.model.config.vocab_size)
    ids = start(bundle, prompt)
    _check_room(bundle.model, 0, len(ids), 1)
    return sampler.steps(next_scores(bundle.model, ids).to("cpu", torch.float64), ids)


class Conversation:
    """One growing text: what is said is appended, the model continues, and the cache is kept between the turns.

    A model that only continues text knows no speakers: `text` is all there is. A stop text that ended a turn stays
    in the conversation though it is not shown; an end-of-text token does not.
    """

    def __init__(
        self, bundle: Bundle, sampler: Sampler, max_tokens: int = 64, seed: int = 0, stop: str | Sequence[str] = ()
    ):
        if max_tokens < 0:
            raise ConfigError(f"max_tokens is {max_tokens}; it must be 0 or more. Usual: 64.")
        sampler.check(bundle.model.config.vocab_size)
        self.bundle, self.sampler, self.max_tokens = bundle, sampler, max_tokens
        self.stops = check_stops(stop)
        self.generator = torch.Generator().manual_seed(seed)
        self.ids: list[int] = []
        self.cache = StaticCache(bundle.model.config)

    @property
    def text(self) -> str:
        """All that was said and continued."""
        end = self.bundle.tokenizer.end_of_text
        return self.bundle.tokenizer.decode(self.ids[1:] if self.ids[:1] == [end] else self.ids)

    def say(self, text: str) -> Iterator[str]:
        """Append a text now, and give the model's continuation piece by piece."""
        said = self.bundle.tokenizer.encode(text).tolist() if self.ids else start(self.bundle, text)
        _check_room(self.bundle.model, len(self.ids), len(said), self.max_tokens)
        self.ids += said
        return self._continue()

    def _continue(self) -> Iterator[str]:
        pieces, until = self.bundle.tokenizer.stream(), UntilStop(self.stops)
        following = draw_ids(self.bundle.model, self.ids, self.sampler, self.generator, self.cache)
        for id in islice(following, self.max_tokens):
            if id == self.bundle.tokenizer.end_of_text:
                self.ids.pop()  # it would tell the model to forget what came before
                break
            if piece := until.push(pieces.push(id)):
                yield piece
            if until.done:
                return
        if piece := until.push(pieces.flush()) + until.flush():
            yield piece


def start(bundle: Bundle, prompt: str) -> list[int]:
    """The ids of a prompt; of an empty one, the end-of-text token, after which the model has seen new texts begin."""
    ids = bundle.tokenizer.encode(prompt).tolist()
    if ids:
        return ids
    if bundle.tokenizer.end_of_text is None:
        message = (
            "prompt is empty, and this tokenizer has no end-of-text token to start from. Send at least one character."
        )
        raise ConfigError(message, code=15)
    return [bundle.tokenizer.end_of_text]


def draw_ids(
    model: GPT, ids: list[int], sampler: Sampler, generator: torch.Generator, cache: Cache | None = None
) -> Iterator[int]:
    """Ids that follow `ids`, for ever; each is appended to `ids` before it is given. The caller decides when to stop.

    What the cache does not hold yet is computed. Without one that is everything, each time: equal, and slower.
    """
    while True:
        seen = 0 if cache is None else int(cache.lengths[0])
        ids.append(pick(next_scores(model, ids[seen:], cache), sampler, ids, generator))
        yield ids[-1]


@torch.inference_mode()  # on a function, not around a `yield`: there it would leak into the caller's training
def next_scores(model: GPT, ids: Sequence[int], cache: Cache | None = None) -> Tensor:
    """The scores of every token that may come next: T ids -> (V,)."""
    with evaluating(model):
        rows = torch.tensor([list(ids)], device=model.embed.weight.device)
        return model.head(model.hidden(rows, cache)[0, -1])  # the head reads the last position only


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout inside the `with`; afterwards the model trains again, if it did before."""
    training = model.training
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()


def check_stops(stop: str | Sequence[str]) -> tuple[str, ...]:
    """Stop texts as a tuple; one text may stand alone."""
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    if "" in stops:
        raise ConfigError("a stop text is empty and would end at once. Give at least one character, or none at all.")
    return stops


class UntilStop:
    """Text in, text out, until a stop text is complete; the outcome does not depend on how the text is cut."""

    def __init__(self, stops: tuple[str, ...]):
        self.stops = stops
        self.held = ""  # what could still become a stop text
        self.done = False

    def push(self, piece: str) -> str:
        """What can be shown for sure."""
        text = self.held + piece
        ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in self.stops if stop in text]
        if ends:  # the one that is complete first
            self.done, self.held = True, ""
            return text[: min(ends)[1]]
        longest = max((_overlap(text, stop) for stop in self.stops), default=0)
        self.held = text[len(text) - longest :]
        return text[: len(text) - longest]

    def flush(self) -> str:
        """What was held back, when no more text comes."""
        held, self.held = self.held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of a text that is a beginning of a stop text."""
    lengths = range(min(len(text), len(stop) - 1), 0, -1)
    return next((length for length in lengths if text.endswith(stop[:length])), 0)


def _check_room(model: GPT, held: int, said: int, max_tokens: int) -> None:
    """Refuse what would outgrow the context: tokens held from earlier turns, tokens said now, tokens to come."""
    context, prompt = model.config.context_length, held + said
    over = prompt + max_tokens - context
    if over > 0:
        mends = [f"shorten the prompt by {over:,} tokens"] if over < said else []
        mends += [f"lower max_tokens to {context - prompt:,}"] if prompt < context else []
        mends += ["begin a new conversation"] if held else []
        raise ModelError(
            f"{'conversation and prompt are' if held else 'prompt is'} {prompt:,} tokens, the model's context is "
            f"{context:,} and max_tokens is {max_tokens:,}. {' or '.join(mends or ['shorten both']).capitalize()}.",
            code=2,
        )
