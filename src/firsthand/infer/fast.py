"""The fast engine on a CPU: scores of the next token, by one compiled function a token (step.py says how).

    engine = Fast(model, weights="int4")
    scores = engine.scores(prompt)              # reads the prompt; (V,)
    scores = engine.scores([int(scores.argmax())])

It holds the weights in blocks of its own and the keys and values of `batch` texts, its slots. `GPT.forward` with
`rounded(model, kind)` gives the same scores. Where `available` gives a reason, use that.
"""

import threading
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from firsthand.errors import ConfigError, ModelError, nearest
from firsthand.model.cache import Bytes, check_room
from firsthand.model.gpt import GPT

Kind = Literal["int8", "int4", "bfloat16", "float32"]
Activations = Literal["float32", "int8"]
CHUNK = 32  # tokens of a prompt in one step


def available() -> str | None:
    """Why the engine cannot run here; None if it can."""
    try:
        from firsthand.infer import step  # noqa: F401
    except ImportError as error:
        return f"Numba cannot be used: {error}"
    return None


def head_kind(weights: Kind) -> Kind:
    """How the head is stored: it suffers most from few bits."""
    return "int8" if weights == "int4" else weights


def chosen(kind: str, kinds: tuple[str, ...], what: str) -> None:
    """Refuse a word that is none of the kinds."""
    if kind not in kinds:
        raise ConfigError(f"{what} {kind!r:.40} are unknown; use {', '.join(kinds)}.{nearest(kind, kinds)}")


@torch.no_grad()
def rounded(model: GPT, weights: Kind) -> GPT:
    """A copy of the model whose matrices are what the engine makes of them; its head is not its embedding any more."""
    from firsthand.infer.pack import meant

    copy = GPT(replace(model.config, tied=False)).eval()
    state = {name: tensor.float() for name, tensor in model.state_dict().items()}
    copy.load_state_dict(state | {"head.weight": model.head.weight})
    for name, layer in copy.named_modules():
        if isinstance(layer, nn.Linear):
            layer.weight.copy_(meant(layer.weight, head_kind(weights) if name == "head" else weights))
    return copy


class Fast:
    """A model that reads tokens fast on a CPU.

    `weights` is how they are stored, `activations` what they are multiplied with: "float32" is exact, "int8" is not.
    `batch` texts of up to `length` tokens are held at once. One caller at a time works; others wait.
    """

    def __init__(
        self,
        model: GPT,
        weights: Kind = "int8",
        activations: Activations = "float32",
        threads: int | None = None,
        batch: int = 1,
        length: int | None = None,
    ):
        chosen(weights, get_args(Kind), "weights")
        chosen(activations, get_args(Activations), "activations")
        if activations == "int8" and weights not in ("int8", "int4"):
            raise ConfigError(f'activations "int8" need integer weights, not {weights}; use int8 or int4')
        if reason := available():
            raise ConfigError(f"the fast engine cannot run here: {reason}")
        from firsthand.infer.load import arguments
        from firsthand.infer.step import work
        from firsthand.infer.team import Team

        context = model.config.context_length
        self.config, self.length = model.config, context if length is None else length
        self.threads = torch.get_num_threads() if threads is None else threads
        for name, value, most in (
            ("length", self.length, context),
            ("threads", self.threads, 256),
            ("batch", batch, 4096),
        ):
            if not 0 < value <= most:
                raise ConfigError(f"{name} is {value}; the fast engine takes 1 to {most}")
        self.rows, self.held = max(batch, CHUNK), np.zeros(batch, np.int64)
        form, shape, learned, self.room, self.weight_bytes = arguments(
            model, weights, head_kind(weights), activations, self.threads, batch, self.rows, self.length
        )
        self.team, self.lock = (
            Team(self.threads, work, (form, shape, learned, self.room, self.threads)),
            threading.Lock(),
        )
        self.close = weakref.finalize(self, self.team.close)

    @property
    def lengths(self) -> Tensor:
        """Tokens every slot holds: (B,)."""
        return torch.from_numpy(self.held.copy())

    def bytes(self) -> Bytes:
        """What keys and values may take; memory comes with the tokens. `weight_bytes` is what the weights take."""
        total = self.room.keys.nbytes + self.room.values.nbytes
        return Bytes(total, total // (len(self.held) * self.length))

    def scores(self, ids: Sequence[int], slot: int = 0) -> Tensor:
        """The scores of every token that may come next, after the slot has taken these ids: T ids -> (V,)."""
        new = self._checked(ids)
        self._check_slots([slot])
        if not len(new):
            raise ModelError("no ids were given; the scores after them need at least one")
        with self.lock:
            held = int(self.held[slot])
            check_room(held, len(new), self.length)
            for at in range(0, len(new) - 1, CHUNK):  # all but the last token, whose scores are wanted
                some = new[at : min(at + CHUNK, len(new) - 1)]
                self._run(some, held + at + np.arange(len(some)), np.full(len(some), slot), 0)
                self.held[slot] += len(some)
            scores = self._run(new[-1:], self.held[[slot]], np.array([slot]), 1)[0]
            self.held[slot] += 1
        return scores

    def step(self, ids: Sequence[int] | Tensor, slots: Sequence[int]) -> Tensor:
        """One token more for each of these slots: (B,) ids -> (B, V)."""
        new = self._checked(ids)
        self._check_slots(slots)
        if len(new) != len(slots) or len(set(slots)) != len(slots) or not len(new):
            raise ModelError(f"{len(new)} ids were given for slots {list(slots)}; give one for each, each slot once")
        with self.lock:
            where = np.array(slots)
            check_room(int(self.held[where].max()), 1, self.length)
            scores = self._run(new, self.held[where], where, len(new))
            self.held[where] += 1
        return scores

    def rewind(self, slot: int, length: int) -> None:
        """Forget what a slot holds beyond `length` tokens."""
        self._check_slots([slot])
        with self.lock:
            held = int(self.held[slot])
            if not 0 <= length <= held:
                raise ModelError(f"slot {slot} cannot be rewound to {length}; it holds {held} tokens")
            self.room.values[slot, :, :, :, length:held] = 0  # a weight of 0 times garbage could be NaN
            self.held[slot] = length

    def release(self, slot: int) -> None:
        """Make a slot free for another text."""
        self.rewind(slot, 0)

    def _run(self, ids: np.ndarray, positions: np.ndarray, slots: np.ndarray, wanted: int) -> Tensor:
        """One step of the team: (R,) three times -> (wanted, V), of the last rows."""
        room, rows = self.room, len(ids)
        room.ids[:rows], room.at[:rows], room.slots[:rows] = ids, positions, slots
        V = self.config.vocab_size
        scores = np.empty((1 if wanted == 1 else -(-wanted // 8) * 8, -(-V // 16) * 16), np.float32)
        room.now[:] = rows, rows - wanted, scores.ctypes.data
        self.team.step()
        return torch.from_numpy(scores[:wanted, :V])

    def _checked(self, ids: Sequence[int] | Tensor) -> np.ndarray:
        new = np.asarray(ids, np.int64)
        if len(new) and not 0 <= new.min() <= new.max() < self.config.vocab_size:
            raise ModelError(
                f"token id {new.max()} (smallest {new.min()}) is not in the model's vocabulary of "
                f"{self.config.vocab_size}; use the tokenizer saved beside the model",
                code=1,
            )
        return new

    def _check_slots(self, slots: Sequence[int]) -> None:
        if not all(0 <= slot < len(self.held) for slot in slots):
            raise ModelError(f"slots {list(slots)[:8]} are not all there; this engine has 0 to {len(self.held) - 1}")
