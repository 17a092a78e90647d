"""Answers held to a grammar: a JSON schema, a regular expression, or a list of choices.

An automaton over bytes says after every token which tokens may follow. It is the library llguidance's
(github.com/guidance-ai/llguidance, `pip install 'firsthand[schema]'`). What is done with it is ours, and a step of the
sampler like any other: what is forbidden gets the score minus infinity, and what is left keeps its proportions.
Source: Willard and Louf 2023, arXiv:2307.09702, section 3.

V vocabulary.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from firsthand.errors import ConfigError, ModelError, TokenizerError
from firsthand.infer.sample import NEVER, Stage
from firsthand.tokenizer.vocabulary import COMMON

# as `json.dumps` writes: free white space would let a weak model write blanks for ever
LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


@dataclass(frozen=True)
class Grammar:
    """What an answer may be: a name to show, and rules in the notation of llguidance."""

    name: str
    rules: str


def json_schema(schema: dict[str, Any]) -> Grammar:
    """JSON that is valid under a schema, laid out as `json.dumps` does it."""
    if not isinstance(schema, dict):
        raise ConfigError(f"a JSON schema is an object, not {json.dumps(schema)[:40]}; as in " + '{"type": "string"}')
    return _checked("schema", _library().LLMatcher.grammar_from_json_schema(schema, defaults=LAYOUT))


def regex(pattern: str) -> Grammar:
    """Text that a regular expression matches as a whole."""
    return _checked("regex", _library().LLMatcher.grammar_from_regex(pattern))


def choices(texts: Sequence[str]) -> Grammar:
    """One of a few texts."""
    if not texts or "" in texts:
        raise ConfigError(f"choices are {list(texts)}; give one or more, none of them empty")
    return _checked("choices", _library().LLMatcher.grammar_from_lark("start: " + " | ".join(map(json.dumps, texts))))


def _checked(name: str, rules: str) -> Grammar:
    if problem := _library().LLMatcher.validate_grammar(rules):
        raise ConfigError(f"the {name} cannot be used: {' '.join(problem.split())[:160]}. Simplify or mend it")
    return Grammar(name, rules)


def _library() -> ModuleType:
    try:
        import llguidance
    except ImportError:
        raise ConfigError("a grammar needs a library that is not here: pip install 'firsthand[schema]'") from None
    return llguidance


class Limit:
    """Where an answer stands in its grammar: which tokens may come next, and whether anything may."""

    def __init__(self, grammar: Grammar, tokenizer: Any, ends: Sequence[int]):
        library = _library()
        words = library.LLTokenizer(library.TokenizerWrapper(Vocabulary(tokenizer, ends)), eos_token=list(ends))
        self.matcher = library.LLMatcher(words, grammar.rules, log_level=0)
        self.stage: Stage = (grammar.name, self.allow)
        self._check()

    def restart(self) -> None:
        """Another answer begins."""
        self.matcher.reset()

    def allow(self, logits: Tensor) -> Tensor:
        """Scores with minus infinity for every token that may not come next: (V,) -> (V,)."""
        allowed = torch.frombuffer(bytearray(self.matcher.compute_logit_bias()), dtype=torch.uint8)
        self._check()  # after an error only the end would be allowed, and the answer would be silently cut
        return logits.masked_fill(allowed.to(logits.device) == 0, NEVER)

    def take(self, id: int) -> None:
        """The token that came."""
        self.matcher.consume_token(id)
        self._check()

    @property
    def closed(self) -> bool:
        """Whether the answer is whole and nothing can be added."""
        return self.matcher.is_stopped()

    def _check(self) -> None:
        if self.matcher.is_error():
            problem = " ".join(self.matcher.get_error().split())[:160]
            raise ModelError(f"the grammar could not be followed: {problem}. Use a simpler one")


class Vocabulary:
    """Our tokenizer as llguidance wants to see it: the bytes of every id, and which ids are no text."""

    bos_token_id = None

    def __init__(self, tokenizer: Any, ends: Sequence[int]):
        self.tokens = [_bytes(tokenizer, id) for id in range(tokenizer.vocab_size)]
        self.special_token_ids = sorted({*tokenizer.special_tokens.values(), *ends})
        missing = COMMON - {token[0] for token in self.tokens if len(token) == 1}
        if missing or not ends:  # where every byte is a token, every beginning can be completed: no dead ends
            lacking = f"no token for the byte 0x{min(missing):02x}" if missing else "no token that ends an answer"
            raise ConfigError(
                f"a grammar needs a tokenizer that can write everything and an end; this one ({tokenizer.kind}) has "
                f"{lacking}. Use a model with a BPE tokenizer"
            )
        self.eos_token_id = ends[0]
        self._encode = tokenizer.encode_bytes

    def __call__(self, text: bytes) -> list[int]:
        return self._encode(text).tolist()


def _bytes(tokenizer: Any, id: int) -> bytes:
    try:
        return tokenizer.token_bytes(id)
    except TokenizerError:  # an id that is not in use
        return b""
