"""How far another form of a model is from the plain one, in numbers that mean something.

The plain form is the reference: explicit attention, no cache, one row at a time, in float32 (float64 if strict).

T positions of a row, V vocabulary.
"""

import math
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, replace
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from firsthand import files
from firsthand.checkpoint.bundle import Bundle
from firsthand.errors import ConfigError, DataError, ModelError
from firsthand.evaluate.stats import Interval, bootstrap
from firsthand.linear.labels import refuse_labels
from firsthand.model.attention import attend_explicit
from firsthand.model.gpt import GPT

# How far an exact form may be off, as a share of the largest reference score. Rounding in float32 puts random models
# of 2 to 64 layers 4e-7 to 2e-6 off float64, growing slowly with the depth; the few huge activations of a trained model
# cost some ten times more. A fault, such as one position or one head read wrongly, is 1e-3 and larger.
TOLERANCE = 1e-4
STRICT = 1e-10  # in float64, where rounding is 1e-15: no fault of any size can hide in it

LENGTHS = (1.0, 0.65, 0.87, 0.42)  # of the rows in turn: ragged, as real prompts are
MOST_BYTES = 4 << 30  # of reference scores, which are kept while the forms are measured


@dataclass(frozen=True)
class Text:
    """What forms are compared on: rows of ids (T+1,), of which the last T are predicted."""

    name: str
    rows: list[Tensor]
    bytes_per_token: float

    @property
    def tokens(self) -> int:
        return sum(len(row) - 1 for row in self.rows)

    @property
    def bytes(self) -> float:
        return self.tokens * self.bytes_per_token


def cut(name: str, ids: np.ndarray, bytes_per_token: float, tokens: int, longest: int) -> Text:
    """Rows of several lengths, evenly spread over the ids of a text, about `tokens` in all."""
    if len(ids) < 3:
        raise DataError(f"{name} has {len(ids)} tokens, too few to compare anything; give at least 3", code=29)
    lengths: list[int] = []
    while sum(lengths) < tokens:
        wished = round(longest * LENGTHS[len(lengths) % len(LENGTHS)])
        lengths.append(max(2, min(wished, len(ids) - 1, tokens - sum(lengths))))
    begins = np.linspace(0, len(ids) - 1 - max(lengths), len(lengths)).astype(int)
    pairs = zip(begins, lengths, strict=True)
    return Text(name, [torch.from_numpy(ids[a : a + T + 1].astype(np.int64)) for a, T in pairs], bytes_per_token)


class Gap(NamedTuple):
    """How far the scores of one row are from the reference."""

    delta: float  # the largest difference of two scores
    kl: float  # nats, summed over the positions
    nats: float  # how much more the row's own tokens surprise the form, summed
    other: list[tuple[int, int]]  # positions at which the form holds another token for the likeliest, and which


def gap(reference: Tensor, scores: Tensor, targets: Tensor) -> Gap:
    """Two forms of one row side by side, in float64: (T, V), (T, V), (T,) -> Gap."""
    if reference.equal(scores):  # to the bit, as out of most files
        return Gap(0.0, 0.0, 0.0, [])
    a, b = reference.double(), scores.double()
    likeliest = b.argmax(dim=-1)
    other = (a.argmax(dim=-1) != likeliest).nonzero()[:, 0].tolist()
    delta = float((a - b).abs().max())
    a, b = a.log_softmax(dim=-1), b.log_softmax(dim=-1)
    kl = float((a.exp() * (a - b)).sum())
    nats = float((a - b).gather(-1, targets[:, None]).sum())
    return Gap(delta, kl, nats, [(position, int(likeliest[position])) for position in other])


class Choice(NamedTuple):
    """The first place where the likeliest token is another than by the reference, and what stood there."""

    row: int
    position: int
    before: str  # the text that leads to it
    reference: str
    form: str
    probabilities: tuple[float, float]  # of these two, both by the reference
    margin: float  # by how much their reference scores differ


@dataclass(frozen=True)
class Found:
    """What a form turned out to be. Numbers are None where it was not run, or writes text instead of giving scores."""

    form: str
    about: str
    claim: str  # "exact" or "drift"
    verdict: str = "not run"  # or "exact", "NOT EXACT", "drift"
    max_delta: float | None = None
    of_scale: float | None = None  # max_delta as a share of the largest reference score
    kl: float | None = None  # nats per token, from the reference to the form
    bits_per_byte: float | None = None  # the form's minus the reference's
    interval_95: Interval | None = None
    same_greedy: float | None = None  # share of positions with the same likeliest token
    first_other: Choice | None = None
    note: str = ""  # why it was not run, or what failed
    seconds: float = 0.0


def twin(model: GPT, dtype: torch.dtype | None = None) -> GPT:
    """The same model once more, free to be set up differently; weights that need no other type are shared."""
    tensors = [*model.parameters(), *model.buffers()]
    same = dtype is None or {tensor.dtype for tensor in tensors if tensor.is_floating_point()} == {dtype}
    made = deepcopy(model, {id(tensor): tensor for tensor in tensors} if same else {})  # what the memo holds stays
    return (made if same else made.to(dtype)).eval()


class Reference:
    """The plain form of a model on a text, and other forms measured against it."""

    def __init__(self, bundle: Bundle, text: Text, strict: bool = False):
        refuse_labels(bundle.model)
        self.dtype, self.tolerance = (torch.float64, STRICT) if strict else (torch.float32, TOLERANCE)
        _affordable(text.tokens, bundle.model.config.vocab_size * self.dtype.itemsize)
        self.text, device = text, bundle.model.embed.weight.device
        model = twin(twin(bundle.model, torch.float32), self.dtype)  # strict or not, of the same weights
        model.attend = attend_explicit
        self.bundle = replace(bundle, model=model)
        self.rows = [row[:-1].to(device) for row in text.rows]
        self.targets = [row[1:].to(device) for row in text.rows]
        self.scores: list[Tensor] = []

    @torch.inference_mode()
    def compute(self, tell: Callable[[float], None]) -> float:
        """The reference scores of all rows, and the seconds they took; `tell` hears about how many, near the start."""
        self.bundle.model(self.rows[-1][None])  # the first products of a process are slow
        begin, done = perf_counter(), 0
        for count, row in enumerate(self.rows):
            self.scores.append(self.bundle.model(row[None])[0])
            done += len(row)
            if count == min(2, len(self.rows) - 1):
                tell((perf_counter() - begin) * self.text.tokens / done)
        seconds = perf_counter() - begin
        self.scale = max(float(scores.abs().max()) for scores in self.scores) or 1.0  # a model of zeros has a scale too
        if not math.isfinite(self.scale):
            where = files.shown(self.bundle.path)
            raise ModelError(
                f"{where} gives scores that are no numbers: its weights are damaged. Use another checkpoint"
            )
        return seconds

    @property
    def bits_per_byte(self) -> float:
        """What the text costs by the reference."""
        pairs = zip(self.scores, self.targets, strict=True)
        nats = sum(float(F.cross_entropy(scores.double(), target, reduction="sum")) for scores, target in pairs)
        return nats / math.log(2) / self.text.bytes

    def compare(self, found: Found, scores: Iterable[Tensor]) -> Found:
        """The scores of a form, row by row (T, V), against the reference's.

        If no score is off by more than the bound, another token can be the likeliest only where the reference's own
        two best lie within twice the bound: a tie in float32. So the bound on scores is one on greedy text too.
        """
        gaps = [gap(a, b, t) for a, b, t in zip(self.scores, scores, self.targets, strict=True)]
        delta = max(gap.delta for gap in gaps)
        if not all(math.isfinite(gap.delta) for gap in gaps):
            return replace(found, verdict=_verdict(found, False), note="some of its scores are no numbers")
        bits = np.array([gap.nats for gap in gaps]) / math.log(2) / self.text.bytes
        places = [(row, *gap.other[0]) for row, gap in enumerate(gaps) if gap.other]
        first = [self._choice(row, self.rows[row], self.scores[row], at, id) for row, at, id in places[:1]]
        return replace(
            found,
            verdict=_verdict(found, delta <= self.tolerance * self.scale),
            max_delta=delta,
            of_scale=delta / self.scale,
            kl=max(sum(gap.kl for gap in gaps) / self.text.tokens, 0.0),  # rounding may leave -1e-17
            bits_per_byte=float(bits.sum()),
            interval_95=bootstrap(bits * len(bits)),  # both forms saw the same rows, so the differences are drawn anew
            same_greedy=1 - sum(len(gap.other) for gap in gaps) / self.text.tokens,
            first_other=first[0] if first else None,
        )

    @torch.inference_mode()
    def compare_greedy(self, found: Found, ids: list[int], prompt: int) -> Found:
        """Text a form wrote after the first `prompt` ids, against what the reference would have chosen at each place.

        One pass over the whole text says it: as long as every token is the reference's choice after those before
        it, the reference would have written the same.
        """
        scores = self.bundle.model(torch.tensor([ids[:-1]], device=self.rows[0].device))[0, prompt - 1 :]
        wrong = [place for place, id in enumerate(ids[prompt:]) if id != int(scores[place].argmax())]
        if not wrong:
            return replace(found, verdict=_verdict(found, True), same_greedy=1.0)
        place = wrong[0]
        at = self._choice(0, torch.tensor(ids[prompt - 1 :]), scores, place, ids[prompt + place])
        tie = at.margin <= 2 * self.tolerance * self.scale
        return replace(found, verdict=_verdict(found, tie), same_greedy=place / len(scores), first_other=at)

    def _choice(self, row: int, ids: Tensor, scores: Tensor, position: int, chosen: int) -> Choice:
        """What stood where the form chose another token: `scores` (T, V) follow `ids` (T,)."""
        decode, here = self.bundle.tokenizer.decode, scores[position].double()
        expected, chances = int(here.argmax()), here.softmax(dim=0)
        return Choice(
            row,
            position,
            decode(ids[max(position - 7, 0) : position + 1].tolist()),
            decode([expected]),
            decode([chosen]),
            (float(chances[expected]), float(chances[chosen])),
            float(here[expected] - here[chosen]),
        )


def _verdict(found: Found, near: bool) -> str:
    return "drift" if found.claim == "drift" else "exact" if near else "NOT EXACT"


def _affordable(tokens: int, bytes_per_token: int) -> None:
    if tokens * bytes_per_token > MOST_BYTES:
        raise ConfigError(
            f"tokens is {tokens:,}, whose reference scores would fill {tokens * bytes_per_token / 1e9:,.0f} GB; "
            f"this vocabulary allows up to {MOST_BYTES // bytes_per_token:,}. Usual: 1024."
        )
