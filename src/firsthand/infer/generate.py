"""The answer to a prompt, token by token: the chosen token, what it adds to the text, how likely it was, how it ends.

A prompt goes through the model once; then each token is picked, given out, and goes through alone: the cache holds the
keys and values of all before it. Nothing is shown that could still turn out to be half a character or the beginning
of a stop text. `stream` and `generate` are views of this one sequence of events.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import NamedTuple

import torch
from torch import Tensor

from firsthand.checkpoint.bundle import Bundle
from firsthand.errors import ConfigError, ModelError
from firsthand.infer.constrain import Grammar, Limit
from firsthand.infer.draw import Drawn, chooser, draw, next_scores
from firsthand.infer.sample import Sampler, Step
from firsthand.infer.speculate import Lookup, draw_guessing
from firsthand.infer.stop import UntilStop, check_stops
from firsthand.linear.labels import refuse_labels
from firsthand.model.gpt import GPT


class Token(NamedTuple):
    """One token of an answer. Probabilities are the model's own: before a grammar, a penalty, or a temperature."""

    id: int
    text: str  # what can be shown now: often a word, nothing while a character is unfinished, or what was held back
    logprob: float  # natural logarithm of its probability
    top: tuple[tuple[int, float], ...]  # the likeliest tokens in its place, with theirs
    finish: str | None  # on the last: "end" the model ended it, "stop" a stop text came, "length" max_tokens


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn, and where it ends."""

    max_tokens: int = 64
    temperature: float = 0.8
    top_k: int = 40
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int = 0
    stop: str | Sequence[str] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logprobs: int = 0  # likely tokens to tell in each place
    lookup: int = 0  # tokens to guess at once, from what was said before; 0: none
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        for name, usual in (("max_tokens", 64), ("logprobs", 5), ("lookup", 8)):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 0 or more. Usual: {usual}.")
        if check_stops(self.stop) and self.grammar is not None:
            raise ConfigError(f"a stop text would cut the {self.grammar.name} short. Give one or the other.")
        self.sampler  # refuses what makes no sense  # noqa: B018

    @property
    def sampler(self) -> Sampler:
        return Sampler(
            self.temperature,
            self.top_k,
            self.top_p,
            self.min_p,
            self.repetition_penalty,
            self.presence_penalty,
            self.frequency_penalty,
        )

    def check(self, vocab_size: int) -> None:
        """Refuse what does not fit the vocabulary, before any work."""
        self.sampler.check(vocab_size)
        if self.logprobs > vocab_size:
            raise ConfigError(f"logprobs is {self.logprobs}; the vocabulary has {vocab_size:,} tokens. Usual: 5.")


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
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    lookup: int = 0,
    grammar: Grammar | None = None,
) -> Iterator[str]:
    """The continuation of a prompt, piece by piece, without the prompt.

    Ends after `max_tokens`, when the model ends it, or before a stop text. An empty prompt begins a new text: it
    stands for one end-of-text token, as between two training texts. Everything is checked at the call.
    """
    chance = (temperature, top_k, top_p, min_p, repetition_penalty, seed)
    settings = Sampling(max_tokens, *chance, stop, presence_penalty, frequency_penalty, 0, lookup, grammar)
    return (token.text for token in tokens(bundle, prompt, settings) if token.text)


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
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    lookup: int = 0,
    grammar: Grammar | None = None,
) -> str:
    """The continuation of a prompt as one text: what `stream` gives, joined."""
    chance = (temperature, top_k, top_p, min_p, repetition_penalty, seed)
    others = (stop, presence_penalty, frequency_penalty, lookup, grammar)
    return "".join(stream(bundle, prompt, max_tokens, *chance, *others))


def tokens(bundle: Bundle, prompt: str, sampling: Sampling) -> Iterator[Token]:
    """The continuation of a prompt, token by token."""
    return Writer(bundle, sampling).answer(start(bundle, prompt))


def explain(bundle: Bundle, prompt: str, sampling: Sampling) -> list[Step]:
    """What every step of the sampler does to the distribution of the first token after a prompt."""
    sampling.check(bundle.model.config.vocab_size)
    ids = start(bundle, prompt)
    check_room(bundle, 0, len(ids), 1)
    limit = None if sampling.grammar is None else Limit(sampling.grammar, bundle.tokenizer, bundle.ends)
    scores = next_scores(bundle.model, ids).to("cpu", torch.float64)
    return sampling.sampler.steps(scores, ids, len(ids), None if limit is None else limit.stage)


def start(bundle: Bundle, prompt: str) -> list[int]:
    """The ids of a prompt, behind the token that begins every text of the model, if it has one.

    Of an empty prompt without such a token it is the end-of-text token, after which the model has seen texts begin.
    """
    if isinstance(bundle.model, GPT):
        refuse_labels(bundle.model)
    begin = bundle.tokenizer.begin
    ids = [*([] if begin is None else [begin]), *bundle.tokenizer.encode(prompt).tolist()]
    if ids:
        return ids
    if bundle.tokenizer.end_of_text is None:
        message = (
            "prompt is empty, and this tokenizer has no end-of-text token to start from. Send at least one character."
        )
        raise ConfigError(message, code=15)
    return [bundle.tokenizer.end_of_text]


class Writer:
    """A model that answers, and remembers what it has read: what two prompts share at their beginning is read once."""

    def __init__(self, bundle: Bundle, sampling: Sampling, ends: Sequence[int] | None = None):
        sampling.check(bundle.model.config.vocab_size)
        self.bundle, self.sampling = bundle, sampling
        self.ends = bundle.ends if ends is None else ends
        self.limit = None if sampling.grammar is None else Limit(sampling.grammar, bundle.tokenizer, self.ends)
        self.generator = torch.Generator().manual_seed(sampling.seed)
        self.lookup = Lookup(sampling.lookup)
        self.ids: list[int] = []  # the last prompt and its answer, without the token that ended it
        self.cache = bundle.model.new_cache(1, 1)

    def answer(self, prompt: Sequence[int]) -> Iterator[Token]:
        """What follows the ids of a prompt; it is checked now, and read with the first token that is asked for."""
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self.ids, prompt, strict=False)))
        check_room(self.bundle, shared, len(prompt) - shared, self.sampling.max_tokens)
        if (needed := len(prompt) + self.sampling.max_tokens) > self.cache.capacity:
            # room for twice that, not for a context that may take gigabytes; all is read again then, which is rare
            config = self.bundle.model.config
            self.cache = self.bundle.model.new_cache(1, min(2 * needed, config.context_length))
        # the last token is read again, if need be: its scores are not in the cache
        self.cache.rewind(min(int(self.cache.lengths[0]), shared, len(prompt) - 1))
        self.ids = list(prompt)
        return self._answer()

    def _answer(self) -> Iterator[Token]:
        bundle, most = self.bundle, self.sampling.max_tokens
        pieces, until = bundle.tokenizer.stream(), UntilStop(check_stops(self.sampling.stop))
        for count, (id, scores) in enumerate(islice(self._drawn(), most), 1):
            ended = id in self.ends
            if ended:
                self.ids.pop()  # in a growing text it would tell the model to forget what came before
            text = until.push("" if ended else pieces.push(id))
            whole = ended or (self.limit is not None and self.limit.closed)
            if (whole or count == most) and not until.done:
                text += until.push(pieces.flush())
                text += until.flush()
            finish = "stop" if until.done else "end" if whole else "length" if count == most else None
            yield self._token(id, text, scores, finish)
            if finish:
                return

    def _drawn(self) -> Iterator[Drawn]:
        if self.limit is not None:
            self.limit.restart()
        choose = chooser(self.sampling.sampler, self.generator, self.ids, self.limit)
        if not self.sampling.lookup:
            return draw(self.bundle.model, self.ids, choose, self.cache)
        self.lookup = Lookup(self.sampling.lookup)
        return draw_guessing(self.bundle.model, self.ids, choose, self.cache, self.lookup)

    def _token(self, id: int, text: str, scores: Tensor, finish: str | None) -> Token:
        logprobs = scores.to("cpu", torch.float64).log_softmax(dim=0)
        top = logprobs.topk(self.sampling.logprobs)
        likeliest = tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True))
        return Token(id, text, float(logprobs[id]), likeliest, finish)


def check_room(bundle: Bundle, held: int, said: int, max_tokens: int) -> None:
    """Refuse what would outgrow the context: tokens held from earlier turns, tokens said now, tokens to come."""
    context, prompt = bundle.model.config.context_length, held + said
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
