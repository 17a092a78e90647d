"""The fast engine on a CPU: a model whose every step is one compiled function (step.py says how).

    engine = Fast(bundle.model)                       # its weights as they are, in the fewest bytes that hold them
    cache = engine.new_cache()
    scores = engine(torch.tensor([prompt]), cache)    # (1, T, V), as GPT gives them
    scores = engine(torch.tensor([[id]]), cache)

It is called as GPT is, with a cache or without, and gives the same scores: of the model itself, or, if it shall round
its weights, of `rounded(model, weights)`. What it cannot take, and where it cannot run, `refusal` says.
"""

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from firsthand.errors import ConfigError, ModelError, nearest
from firsthand.model.cache import Bytes, Cache, real_counts
from firsthand.model.config import ModelConfig
from firsthand.model.gpt import GPT
from firsthand.model.paged import PagedCache, Pool, Row

Weights = Literal["own", "int8", "int8-groups", "int4", "int4-lows", "bfloat16", "float32"]
Activations = Literal["float32", "int8"]
AT_ONCE = 32  # tokens in one step


def available() -> str | None:
    """Why the engine cannot run here; None if it can."""
    try:
        from firsthand.infer import step  # noqa: F401
    except ImportError as error:
        return f"Numba cannot be used: {error}"
    return None


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Torch works with one thread inside the `with`: its others would spin on the cores that the engine needs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def refusal(model: GPT) -> str | None:
    """Why the engine cannot take a model here; None if it can."""
    from firsthand.infer.codes import refusal as of_layers

    if (kind := model.embed.weight.device.type) != "cpu":
        return f"the model is on {kind}, and the fast engine is for processors"
    return available() or of_layers(model)


def chosen(kind: str, kinds: tuple[str, ...], what: str) -> None:
    """Refuse a word that is none of the kinds."""
    if kind not in kinds:
        raise ConfigError(f"{what} {kind!r:.40} are unknown; use {', '.join(kinds)}.{nearest(kind, kinds)}")


@torch.no_grad()
def rounded(model: GPT, weights: Weights) -> GPT:
    """A copy of a plain model whose matrices are what the engine makes of them; head and embedding are two then."""
    from firsthand.infer.codes import rounding
    from firsthand.infer.load import head_form

    copy = GPT(replace(model.config, tied=False)).eval()
    state = {name: tensor.float() for name, tensor in model.state_dict().items()}
    copy.load_state_dict(state | {"head.weight": model.head.weight})
    for name, layer in copy.named_modules():
        if isinstance(layer, nn.Linear) and weights != "own":
            meant = rounding(layer.weight, head_form(weights) if name == "head" else weights).meant()
            layer.weight.copy_(torch.from_numpy(meant[:, : layer.in_features]))
    return copy


class Pages(Pool):
    """The pages of an engine, given to texts as model/paged.py does; what they hold lies where a step finds it."""

    def __init__(self, config: ModelConfig, blocks: int, size: int, keys: np.ndarray, values: np.ndarray):
        super().__init__(config, blocks, size)
        self.keys, self.values = keys, values

    def take(self) -> int:
        block = super().take()
        self.clear(block, 0)
        return block

    def duplicate(self, block: int, fresh: int) -> None:
        self.keys[fresh], self.values[fresh] = self.keys[block], self.values[block]

    def clear(self, block: int, first: int) -> None:
        self.values[block, ..., first:, :] = 0  # they are multiplied by 0, and 0 times what is no number is none


class Tables(PagedCache):
    """A cache of an engine: which pages the rows have."""

    def __init__(self, config: ModelConfig, batch: int, pool: Pages):
        super().__init__(config, batch, pool)
        weakref.finalize(self, _give_back, self.rows, pool)

    def bytes(self) -> Bytes:
        page = self.pool.keys[0].nbytes + self.pool.values[0].nbytes  # pyrefly: ignore
        held = {block for row in self.rows for block in row.blocks}
        return Bytes(len(held) * page, page // self.pool.size)


def _give_back(rows: list[Row], pool: Pages) -> None:
    """The pages of a cache that nobody has any more."""
    for block in (block for row in rows for block in row.blocks):
        pool.drop(block)


class Fast:
    """A model that reads and writes fast on a CPU.

    `weights` is how they are stored: "own" is as they are, everything else rounds them. `activations` is what they are
    multiplied with: "float32" is exact, "int8" is not. All texts together hold at most `tokens`; by default
    two contexts, whose memory is taken as they grow.
    One caller at a time works; others wait. Beside it, `one_torch_thread`: after an operation torch's threads
    spin for a while, on the cores that the engine's threads need (80 instead of 350 tokens a second on two cores).
    """

    training = False

    def __init__(
        self,
        model: GPT,
        weights: Weights = "own",
        activations: Activations = "float32",
        threads: int | None = None,
        tokens: int | None = None,
    ):
        chosen(weights, get_args(Weights), "weights")
        chosen(activations, get_args(Activations), "activations")
        self.config = model.config
        self.threads = torch.get_num_threads() if threads is None else threads
        for name, value, most in (("threads", self.threads, 256), ("tokens", 1 if tokens is None else tokens, 1 << 24)):
            if not 0 < value <= most:
                raise ConfigError(f"{name} is {value}; the fast engine takes 1 to {most}")
        if reason := refusal(model):
            raise ConfigError(f"the fast engine cannot run: {reason}")
        self._start(model, weights, activations, tokens)

    def _start(self, model: GPT, weights: Weights, activations: Activations, tokens: int | None) -> None:
        from firsthand.infer.layout import PAGE
        from firsthand.infer.load import arguments
        from firsthand.infer.step import work
        from firsthand.infer.team import Team

        pages = 2 * -(-self.config.context_length // PAGE) if tokens is None else -(-tokens // PAGE)
        made = arguments(model, weights, activations, self.threads, AT_ONCE, pages)
        self.forms, self.weight_bytes, self.room, *compiled = made
        self.activations = activations
        self.pool = Pages(self.config, pages, PAGE, self.room.keys, self.room.values)
        self.team, self.lock = Team(self.threads, work, (*compiled, self.room, self.threads)), threading.Lock()
        self.close = weakref.finalize(self, self.team.close)

    def __str__(self) -> str:
        layers, head = self.forms
        stored = layers if layers == head else f"{layers}, head {head}"
        return f"fast engine, {stored} weights, {self.activations} activations, {self.threads} threads"

    def new_cache(self, batch: int = 1, length: int | None = None) -> Tables:
        """A cache for so many rows: a row takes the pages it needs."""
        return Tables(self.config, batch, self.pool)

    def train(self, mode: bool = True) -> None:
        """There is nothing that differs."""

    def __call__(self, ids: Tensor, cache: Cache | None = None, lengths: Tensor | None = None) -> Tensor:
        """Scores of every possible next token: (B, T) -> (B, T, V); 0 after an id that is not real."""
        if ids.dim() != 2:
            raise ModelError(f"ids have shape {tuple(ids.shape)}; give rows of ids (B, T), for one row ids[None]")
        (B, T), V = ids.shape, self.config.vocab_size
        scores = torch.zeros(B, T, V)
        counts, found = self._read(ids, cache, lengths, T)
        scores[torch.arange(T) < counts[:, None]] = found
        return scores

    def last(self, ids: Tensor, count: int, cache: Cache | None = None, lengths: Tensor | None = None) -> Tensor:
        """Scores after the last `count` real ids of every row: (B, T) -> (B, count, V)."""
        if not 0 < count <= (ids.shape[1] if lengths is None else int(lengths.min())):
            raise ModelError(f"no ids were given after which there are {count} scores; give {max(count, 1)} or more")
        return self._read(ids, cache, lengths, count)[1].view(len(ids), count, -1)

    def _read(self, ids: Tensor, cache: Cache | None, lengths: Tensor | None, last: int) -> tuple[Tensor, Tensor]:
        """Take new ids in; -> how many were real (B,), and the scores after the `last` of each, row by row."""
        (B, T), own = ids.shape, cache if cache is not None else self.new_cache(len(ids))
        if not isinstance(own, PagedCache) or own.pool is not self.pool:
            raise ModelError("this cache is not one of this engine; make it with engine.new_cache()")
        with self.lock:
            counts, held = real_counts(own, B, T, lengths), own.lengths.numpy()
            number, steps = counts.numpy()[:, None], np.arange(T)
            real = steps < number
            new = self._checked(ids.numpy()[real])
            own.reserve(counts)
            wanted = (steps >= number - last)[real]
            scores = self._through(new, (held[:, None] + steps)[real], own.rows, np.nonzero(real)[0], wanted)
            own.advance()
        return counts, scores

    def _through(
        self, ids: np.ndarray, at: np.ndarray, texts: list[Row], row: np.ndarray, wanted: np.ndarray
    ) -> Tensor:
        """All tokens of all rows, in steps of at most AT_ONCE: (N,) four times -> (wanted, V)."""
        room, V = self.room, self.config.vocab_size
        padded, found = -(-V // 16) * 16, []
        for first in range(0, len(ids), AT_ONCE):
            asked = wanted[first : first + AT_ONCE]
            order = first + np.argsort(asked, kind="stable")  # who is asked comes last
            rows, count = len(order), int(asked.sum())
            room.ids[:rows], room.at[:rows] = ids[order], at[order]
            for place, which in enumerate(row[order]):
                blocks = texts[which].blocks
                room.tables[place, : len(blocks)] = blocks
            scores = np.empty((1 if count == 1 else -(-count // 8) * 8, padded), np.float32)  # tiles are of 8 rows
            room.now[:] = rows, rows - count, scores.ctypes.data
            self.team.step()
            found.append(scores[:count, :V])
        return torch.from_numpy(found[0] if len(found) == 1 else np.concatenate([*found, np.empty((0, V), np.float32)]))

    def _checked(self, new: np.ndarray) -> np.ndarray:
        if len(new) and not 0 <= new.min() <= new.max() < self.config.vocab_size:
            raise ModelError(
                f"token id {new.max()} (smallest {new.min()}) is not in the model's vocabulary of "
                f"{self.config.vocab_size}; use the tokenizer saved beside the model",
                code=1,
            )
        return new
