"""Is the fast form the same model? Every form of a model against the plain one, on real text."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from time import perf_counter
from typing import Any, NamedTuple

import torch

from firsthand.checkpoint.bundle import Bundle
from firsthand.errors import FirsthandError
from firsthand.evaluate.compare import Found, Reference, Text
from firsthand.evaluate.forms import CACHES, FORMS, Form, Greedy, NotHere

ASKED = "takes long; run it with --slow"
DISK = (11, 12)  # errors that say nothing about the form
WRITTEN = 48  # tokens that greedy forms write


class Soon(NamedTuple):
    """How far a proof is: what comes next, how many forms are done and in all, and about how many seconds remain."""

    form: str
    done: int
    total: int
    seconds: float


@dataclass(frozen=True)
class Proof:
    """All forms of one model on one text."""

    model: str
    text: str
    tokens: int
    windows: int
    dtype: str  # of the reference
    bits_per_byte: float  # of the reference
    scale: float  # the largest reference score
    tolerance: float  # how much of it an exact form may be off
    seconds: float
    rows: list[Found]
    cache_bytes_per_token: dict[str, int]

    @property
    def exact(self) -> bool:
        """Whether every form that claims to be exact, and could be run, is."""
        return all(row.verdict != "NOT EXACT" for row in self.rows)

    def facts(self) -> dict[str, Any]:
        """Everything as plain numbers and words."""
        rows = [{**asdict(row), "first_other": row.first_other and row.first_other._asdict()} for row in self.rows]
        return {"exact": self.exact, **asdict(self), "rows": rows}


def prove(
    bundle: Bundle,
    text: Text,
    forms: Sequence[Form | Greedy] = FORMS,
    strict: bool = False,
    slow: bool = False,
    tell: Callable[[Soon], None] = lambda soon: None,
) -> Proof:
    """Every form of a model on a text. `strict` leaves out what drifts, and compares the rest in float64 at 1e-10."""
    begin, reference = perf_counter(), Reference(bundle, text, strict)
    chosen = [form for form in forms if form.exact or not strict]
    costs = [form.cost if slow or not form.slow else 0.0 for form in chosen]
    seconds = reference.compute(lambda s: tell(Soon("reference", 0, len(chosen), s * (1 + sum(costs)))))
    rows = []
    for done, form in enumerate(chosen):
        tell(Soon(form.name, done, len(chosen), seconds * sum(costs[done:])))
        rows.append(measure(form, reference, slow))
    return Proof(
        model=str(bundle.path),
        text=text.name,
        tokens=text.tokens,
        windows=len(text.rows),
        dtype=str(reference.dtype).removeprefix("torch."),
        bits_per_byte=reference.bits_per_byte,
        scale=reference.scale,
        tolerance=reference.tolerance,
        seconds=perf_counter() - begin,
        rows=rows,
        cache_bytes_per_token=cache_bytes(reference.bundle),
    )


@torch.inference_mode()
def measure(form: Form | Greedy, reference: Reference, slow: bool = False) -> Found:
    """What one form turns out to be. One that claims to be exact and fails to run is not exact."""
    begin, bundle = perf_counter(), reference.bundle
    found = Found(form.name, form.about, "exact" if form.exact else "drift")
    if form.slow and not slow:
        return replace(found, note=ASKED)
    try:
        if isinstance(form, Form):
            with form.open(bundle) as scores:
                found = reference.compare(found, scores(reference.rows))
        else:
            prompt, room = reference.rows[0].tolist(), bundle.model.config.context_length
            prompt = prompt[: max(1, room - WRITTEN)]
            ids = form.write(bundle.model, list(prompt), min(WRITTEN, room - len(prompt)))
            found = reference.compare_greedy(found, ids, len(prompt))
    except NotHere as reason:
        found = replace(found, note=str(reason))
    except FirsthandError as error:
        failed = form.exact and error.code not in DISK
        found = replace(found, verdict="NOT EXACT" if failed else "not run", note=str(error))
    return replace(found, seconds=perf_counter() - begin)


@torch.inference_mode()
def cache_bytes(bundle: Bundle) -> dict[str, int]:
    """What one token costs in each kind of cache."""
    sizes, device = {}, bundle.model.embed.weight.device
    for name, (make, _) in CACHES.items():
        with suppress(NotHere):
            cache = make(bundle.model.config, 1, 2)
            bundle.model(torch.tensor([[0]], device=device), cache)
            sizes[name] = cache.bytes().token
    return sizes
