"""How an answer looks as it comes: text to stdout, how it ended and how fast to stderr; JSON where asked."""

import sys
from collections.abc import Callable
from math import exp
from typing import Any

from rich.console import Console

from firsthand.cli.show import as_one_object, console, safe, visible

notes = Console(stderr=True, highlight=False, soft_wrap=True, style="dim")


def continuation(prompt: str, answer: Any, logprobs: int, as_json: bool) -> None:
    """The prompt, then the answer as it comes."""
    if not as_json:
        console.print(safe(prompt), style="bold", end="", markup=False)
    _answer(answer, logprobs, as_json, {"prompt": prompt})


def conversation(ask: Callable[[str], Any], question: str, logprobs: int, as_json: bool) -> None:
    """Answer the question; without one every line that is typed, up to an empty one, or every line of a pipe."""
    if question:
        _answer(ask(question), logprobs, as_json, {})
        return
    if not sys.stdin.isatty():
        for line in sys.stdin:
            if line.strip():
                _answer(ask(line.rstrip("\n")), logprobs, as_json, {})
        return
    notes.print("Type, and the model answers. An empty line ends.")
    while line := _typed():
        _answer(ask(line), logprobs, as_json, {})


def _typed() -> str:
    try:
        return console.input("[bold]> [/bold]")
    except EOFError:
        return ""


def _answer(answer: Any, logprobs: int, as_json: bool, first: dict[str, Any]) -> None:
    """The pieces as they come, then what is known of them."""
    for piece in answer:
        if not as_json:
            console.print(safe(piece), end="", markup=False)
            sys.stdout.flush()
    facts = answer.facts()
    if as_json:
        as_one_object(first | facts)
    else:
        console.print()
        if logprobs:
            _probabilities(facts["tokens"])
        notes.print(_note(facts), markup=False)


def _note(facts: dict[str, Any]) -> str:
    """How many tokens, how fast, how it ended, and what guessing brought, in one line."""
    count, guesses = len(facts["tokens"]), facts["lookup"]
    ended = {"length": "cut at --max-tokens", "stop": "at a stop text", "end": "ended by the model"}[facts["finish"]]
    saved = f", {guesses['right']} of {guesses['guessed']} guesses right, {guesses['passes']} passes" if guesses else ""
    return f"[{count} tokens, {count / max(facts['seconds'], 1e-9):.1f} a second, {ended}{saved}; {facts['engine']}]"


def note(text: str) -> None:
    """Something worth knowing that is not the answer."""
    notes.print(text, markup=False)


def _probabilities(tokens: list[dict[str, Any]]) -> None:
    """A line for every token: how likely it was, and what else was likely."""
    for token in tokens:
        others = "   ".join(f"{visible(other['token'])} {exp(other['logprob']):.1%}" for other in token["top"])
        console.print(f"  {visible(token['token']):<16} {exp(token['logprob']):7.2%}   {others}", markup=False)


def beams(prompt: str, found: list[dict[str, Any]], as_json: bool) -> None:
    """The best beam after the prompt, then the others, each with its score."""
    if as_json:
        as_one_object({"prompt": prompt, "text": found[0]["text"], "finish": found[0]["finish"], "beams": found})
        return
    console.print(safe(prompt), style="bold", end="", markup=False)
    console.print(safe(found[0]["text"]), markup=False)
    for beam in found:
        notes.print(f"{beam['score']:8.4f}  {visible(beam['text'])}", markup=False)


def explanation(steps: list[dict[str, Any]], as_json: bool) -> None:
    """For every step of the sampler: the likeliest tokens before and after, and how much probability it removed."""
    if as_json:
        as_one_object(steps)
        return
    for step in steps:
        console.print(f"\n{step['name']}", style="bold", end="")
        console.print(f"   keeps {step['kept']:,} tokens, removes {step['removed']:.1%} of the probability")
        for row in step["tokens"]:
            bar = "█" * round(40 * row["after"])
            chances = f"{row['before']:7.2%} -> {row['after']:7.2%}"
            console.print(f"  {visible(row['token']):<16} {chances}  {bar}", markup=False)
