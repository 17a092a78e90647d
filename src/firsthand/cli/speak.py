"""The verbs that let a model speak: generate continues a prompt, chat talks."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cyclopts import Parameter

from firsthand.cli import spoken
from firsthand.cli.meter import opened
from firsthand.errors import ConfigError


@Parameter(name="*")
@dataclass(frozen=True)
class Choosing:
    """How the next token is chosen, and where to stop.

    Parameters
    ----------
    temperature
        0 takes the likeliest token; 1 draws from the model's own distribution.
    top_k
        Draw only among the k likeliest; 0 turns it off.
    top_p
        Draw only among the fewest tokens that together hold this probability.
    min_p
        Draw only among tokens at least this fraction as likely as the likeliest.
    repetition_penalty
        Above 1, tokens that already occurred become less likely.
    presence_penalty
        Above 0, tokens of the answer so far become less likely, however often they occurred.
    frequency_penalty
        Above 0, tokens of the answer so far become less likely each time they occur.
    seed
        The same seed gives the same text.
    stop
        Texts at which to stop.
    lookup
        Guess this many tokens at once from what was said before: the same text, faster where it repeats; try 8.
    logprobs
        Tell the probability of every token, and of this many likely ones in its place.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    lookup: int = 0
    logprobs: int = 0


@Parameter(name="*")
@dataclass(frozen=True)
class Running:
    """What computes the scores.

    Parameters
    ----------
    engine
        auto: the fast engine on a processor, plain torch where it cannot run; or fast, or plain.
    weights
        Of the fast engine. own: as they are, in the fewest bytes that hold them; everything else rounds them.
    activations
        Of the fast engine. float32 is exact; int8 is faster, and how far off it is, is said.
    threads
        Of the fast engine; by default as many as torch uses.
    """

    engine: Literal["auto", "fast", "plain"] = "auto"
    weights: Literal["own", "int8", "int8-groups", "int4", "int4-lows", "bfloat16", "float32"] = "own"
    activations: Literal["float32", "int8"] = "float32"
    threads: int | None = None


AS_USUAL, AUTO = Choosing(), Running()
CLASHES = (  # what makes no sense together, and why
    ("beams", "stop", "a beam is judged as a whole, it has no text to stop at"),
    ("beams", "schema", "no grammar is followed side by side"),
    ("beams", "lookup", "beams are not guessed"),
    ("beams", "logprobs", "--json tells the log-probability of every beam"),
    ("beams", "repetition-penalty", "beams are judged by the model alone"),
    ("beams", "presence-penalty", "beams are judged by the model alone"),
    ("beams", "frequency-penalty", "beams are judged by the model alone"),
    ("explain", "beams", "one shows the choice of a token, the other chooses among texts"),
    ("explain", "lookup", "one shows the choice of the first token, the other speeds up the next ones"),
    ("explain", "logprobs", "--explain shows the probabilities already"),
)


def generate(
    source: str,
    prompt: str = "",
    *,
    max_tokens: int = 64,
    choosing: Choosing = AS_USUAL,
    running: Running = AUTO,
    beams: int = 0,
    length_penalty: float = 1.0,
    schema: Path | None = None,
    explain: bool = False,
    json: bool = False,
) -> None:
    """Continue a prompt with a trained model, token by token.

    The prompt is raw text, for chat models too: `firsthand chat` speaks in turns.

    Parameters
    ----------
    source
        A run folder, a checkpoint, or a model of another program: a name, a folder, a file.
    prompt
        The text to continue.
    max_tokens
        How many tokens at most.
    beams
        With --temperature 0: search for the likeliest text with so many beginnings side by side; try 4.
    length_penalty
        Of beams: 0 prefers short texts, 1 compares by the mean of all tokens, more prefers long ones.
    schema
        A file with a JSON schema: the answer is JSON that is valid under it.
    explain
        Show the next-token distribution before and after each step of the sampler, instead of generating.
    json
        Print {"prompt", "text", "finish", "tokens", ...} or, of beams, {"prompt", "text", "finish", "beams"}.
    """
    given = {"beams": beams, "schema": schema, "explain": explain} | asdict(choosing)
    _refuse_clashes({name.replace("_", "-"): bool(value) for name, value in given.items()})
    if beams and choosing.temperature:
        raise ConfigError("--beams looks for the likeliest text and draws nothing. Add --temperature 0")
    if length_penalty != 1 and not beams:
        raise ConfigError(f"--length-penalty {length_penalty:g} is for beams, and --beams is {beams}. Try --beams 4")
    from firsthand.run import speak

    settings, engine = _sampling(choosing, max_tokens, schema), _engine(running)
    bundle = speak.quick(opened(source), engine, spoken.note)
    if explain:
        spoken.explanation(speak.explain(bundle, prompt, settings), as_json=json)
    elif beams:
        spoken.beams(prompt, speak.searched(bundle, prompt, beams, max_tokens, length_penalty), as_json=json)
    else:
        spoken.continuation(prompt, speak.continued(bundle, prompt, settings), choosing.logprobs, as_json=json)


def chat(
    source: str,
    question: str = "",
    *,
    system: str = "",
    max_tokens: int | None = None,
    choosing: Choosing = AS_USUAL,
    running: Running = AUTO,
    schema: Path | None = None,
    json: bool = False,
) -> None:
    """Talk with a trained model: in turns if it is a chat model, else what you type is continued as one growing text.

    A question on the command line is answered once; lines from a pipe are answered one by one.

    Parameters
    ----------
    source
        A run folder, a checkpoint, or a model of another program: a name, a folder, a file.
    question
        Ask this, print the answer, and end.
    system
        What a chat model is told before the first turn.
    max_tokens
        The longest answer, in tokens; by default 512 in turns, and 128 where a text is continued.
    schema
        A file with a JSON schema: every answer is JSON that is valid under it.
    json
        Print one object for every answer: {"text", "finish", "tokens", ...}.
    """
    from firsthand.run import speak

    settings, engine = _sampling(choosing, 0, schema), _engine(running)
    talk = speak.conversation(speak.quick(opened(source), engine, spoken.note), settings, max_tokens, system)
    spoken.conversation(lambda text: speak.answered(talk, text), question, choosing.logprobs, as_json=json)


def _sampling(choosing: Choosing, max_tokens: int, schema: Path | None) -> Any:
    """The settings of the sampler, refused here if they make no sense: before a model is loaded."""
    from firsthand.run import speak

    grammar = None if schema is None else speak.schema(schema)
    return speak.Sampling(max_tokens=max_tokens, grammar=grammar, **asdict(choosing))


def _engine(running: Running) -> Any:
    """What shall compute, refused here if it makes no sense."""
    from firsthand.run import speak

    return speak.Engine(running.engine, running.weights, running.activations, running.threads)


def _refuse_clashes(given: dict[str, bool]) -> None:
    for one, other, why in CLASHES:
        if given[one] and given[other]:
            raise ConfigError(f"--{one} and --{other} exclude each other: {why}. Leave one out")
