"""A cache in blocks, as an operating system keeps memory in pages: no row reserves room it does not use.

A `Pool` owns blocks of a few tokens each and counts who refers to them. A row is a table of blocks; rows that begin
with the same tokens refer to the same blocks, and a shared block is copied when one of them writes into it. A block
nobody refers to is free but keeps its content, until it is needed, for the next row that begins alike.
Source: Kwon et al. 2023, arXiv:2309.06180, section 4.

L layers, B batch, T new positions, S positions attended to, G key-value heads, D head width.
"""

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import torch
from torch import Tensor

from firsthand.errors import ModelError
from firsthand.model.cache import Bytes, Places, chosen, shortened
from firsthand.model.config import ModelConfig


class Pool:
    """`blocks` blocks of `size` tokens, and one more that is never given away: it holds 0, to be read where nothing is.

    Memory comes with the first use, in the type and on the device of the keys.
    """

    def __init__(self, config: ModelConfig, blocks: int, size: int = 16):
        if blocks < 1 or size < 1:
            raise ModelError(f"a pool of {blocks} blocks of {size} tokens holds nothing; use 1 or more of both")
        self.config, self.blocks, self.size = config, blocks, size
        self.free = dict.fromkeys(range(blocks))  # in the order they became free: the first is taken first
        self.references = [0] * blocks
        self.named: dict[bytes, int] = {}  # blocks whose tokens, and all before them, are known
        self.names: dict[int, bytes] = {}  # the same, by block
        self.store: Tensor | None = None  # (2, L, blocks + 1, size, G, D)

    def take(self) -> int:
        """A free block, whose content nobody will find any more."""
        block = next(iter(self.free))
        self.forget(block)
        self.share(block)
        return block

    def share(self, block: int) -> None:
        """One more row refers to a block."""
        self.references[block] += 1
        self.free.pop(block, None)

    def drop(self, block: int) -> None:
        """One row less refers to a block."""
        self.references[block] -= 1
        if not self.references[block]:
            self.free[block] = None

    def name(self, block: int, name: bytes) -> None:
        """Let a full block be found by what it holds; the first of two equal ones is kept."""
        if name not in self.named:
            self.named[name], self.names[block] = block, name

    def forget(self, block: int) -> None:
        """What a block holds is about to change."""
        self.named.pop(self.names.pop(block, b""), None)

    def copy(self, block: int) -> int:
        """The block to write into instead of one that others read too."""
        fresh = self.take()
        self.duplicate(block, fresh)
        self.drop(block)
        return fresh

    def duplicate(self, block: int, fresh: int) -> None:
        """Let one block hold what another holds."""
        if self.store is not None:
            self.store[:, :, fresh] = self.store[:, :, block]

    def clear(self, block: int, first: int) -> None:
        """What stands in a block from its token `first` on belongs to no text: here it is never read."""

    def tokens(self, layer: int, like: Tensor) -> Tensor:
        """Keys and values of a layer, token by token: (2, tokens, G, D)."""
        if self.store is None:
            G, D = like.shape[1], like.shape[3]
            self.store = like.new_zeros(2, self.config.n_layer, self.blocks + 1, self.size, G, D)
        return self.store[:, layer].flatten(1, 2)

    def chain(self, ids: Sequence[int]) -> list[bytes]:
        """A name for every full block of a text, made from its tokens and all before them."""
        names, name = [], b""
        for end in range(self.size, len(ids) + 1, self.size):
            name = blake2b(name + array("q", ids[end - self.size : end]).tobytes(), digest_size=16).digest()
            names.append(name)
        return names


@dataclass
class Row:
    """One text: its blocks in order, the tokens it has taken, and the names its blocks will have when full."""

    blocks: list[int] = field(default_factory=list)
    length: int = 0
    names: list[bytes] = field(default_factory=list)
    torn: bool = False  # whether the last block may hold more than the tokens taken


class PagedCache:
    """Rows of any length in the blocks of a pool, of their own or a common one.

    `admit` begins a text in an empty row and shares what is already there; `release` ends it. `at` is a cache of some
    of the rows, in any order, for a forward of those alone.
    """

    def __init__(self, config: ModelConfig, batch: int = 1, pool: Pool | None = None):
        self.config, self.capacity, self.window = config, config.context_length, None
        self.pool = pool or Pool(config, max(1, batch) * -(-config.context_length // 16))
        self.rows = [Row() for _ in range(batch)]

    @property
    def lengths(self) -> Tensor:
        return torch.tensor([row.length for row in self.rows])

    def at(self, rows: Sequence[int]) -> "PagedCache":
        """The same rows under other numbers: what happens to them there happens here."""
        if len(set(rows)) < len(rows):
            raise ModelError(f"rows {list(rows)} name a row twice; name each once, or copy rows with select")
        view = PagedCache(self.config, 0, self.pool)
        view.rows = [self.rows[row] for row in chosen(torch.tensor(rows), len(self.rows))]
        return view

    def admit(self, row: int, ids: Sequence[int]) -> int:
        """Begin a text in an empty row, and say how many of its tokens are there already: give the model the others.

        At least one is left, for the model must answer. The blocks it fills can then be found by later rows.
        """
        this, pool = self.rows[row], self.pool
        if this.length:
            raise ModelError(f"row {row} holds {this.length} tokens; release it before another text begins in it")
        self._shorten(this, 0)  # blocks that an interrupted forward has taken
        this.names = pool.chain(ids)
        for name in this.names[: (len(ids) - 1) // pool.size]:
            if name not in pool.named:
                break
            this.blocks.append(pool.named[name])
            pool.share(this.blocks[-1])
        this.length = len(this.blocks) * pool.size
        return this.length

    def release(self, row: int) -> None:
        """End the text of a row; its blocks are free, unless others share them."""
        self._shorten(self.rows[row], 0)

    def reserve(self, counts: Tensor) -> None:
        """Take the blocks for so many new tokens of each row: (B,)."""
        self.counts = counts.tolist()
        self._check_blocks()
        for row, count in zip(self.rows, self.counts, strict=True):
            self._make_room(row, count)

    def begin(self, counts: Tensor, T: int) -> Tensor:
        self.reserve(counts)
        size = self.pool.size
        ends, nothing = self.lengths + counts, self.pool.blocks
        keys = torch.arange(max(1, int(ends.max())))
        width = -(-len(keys) // size)
        tables = torch.tensor([(row.blocks + [nothing] * width)[:width] for row in self.rows])
        read = (tables[:, keys // size] * size + keys % size).where(keys < ends[:, None], nothing * size)  # (B, S)
        self.places = Places.of(self.lengths, counts, T)
        self.read, self.write = read, read[self.places.rows, self.places.positions]
        return keys

    def _check_blocks(self) -> None:
        """Refuse, before anything changes, what the free blocks cannot hold."""
        size, pool, needed, writers = self.pool.size, self.pool, 0, Counter()
        for row, count in zip(self.rows, self.counts, strict=True):
            needed += max(0, -(-(row.length + count) // size) - len(row.blocks))
            if count and row.length // size < len(row.blocks):
                writers[row.blocks[row.length // size]] += 1
        # of those who share a block and write, the last one need not copy it
        needed += sum(min(count, pool.references[block] - 1) for block, count in writers.items())
        if needed > len(pool.free):
            raise ModelError(
                f"{sum(self.counts)} tokens need {needed} more blocks of {size}, and {len(pool.free)} of {pool.blocks} "
                "are free; release a row or give the pool more blocks"
            )

    def _make_room(self, row: Row, count: int) -> None:
        at = row.length // self.pool.size
        if not count:
            return
        if at < len(row.blocks):
            if self.pool.references[row.blocks[at]] > 1:
                row.blocks[at] = self.pool.copy(row.blocks[at])
            self.pool.forget(row.blocks[at])
            if row.torn:
                self.pool.clear(row.blocks[at], row.length % self.pool.size)
        row.torn = True  # until what comes now has come to its end
        while len(row.blocks) * self.pool.size < row.length + count:
            row.blocks.append(self.pool.take())

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        self.read, self.write, self.places = (one.to(k.device) for one in (self.read, self.write, self.places))
        tokens, (rows, steps, *_) = self.pool.tokens(layer, k), self.places
        keys, values = tokens[0], tokens[1]  # (tokens, G, D) each
        keys[self.write], values[self.write] = k[rows, :, steps], v[rows, :, steps]
        return keys[self.read].transpose(1, 2), values[self.read].transpose(1, 2)  # (B, G, S, D)

    def advance(self) -> None:
        for row, count in zip(self.rows, self.counts, strict=True):
            full = row.length // self.pool.size
            row.length += count
            row.torn = row.torn and not count
            for at in range(full, min(row.length // self.pool.size, len(row.names))):
                self.pool.name(row.blocks[at], row.names[at])

    def rewind(self, lengths: Tensor | int) -> None:
        for row, length in zip(self.rows, shortened(self.lengths, lengths).tolist(), strict=True):
            self._shorten(row, length)

    def _shorten(self, row: Row, length: int) -> None:
        kept = -(-length // self.pool.size)
        for block in row.blocks[kept:]:
            self.pool.drop(block)
        if length < row.length or not length:  # what comes next may be another text
            row.names = row.names[: length // self.pool.size]
        row.torn = row.torn or length < row.length
        row.blocks, row.length = row.blocks[:kept], length

    def select(self, rows: Tensor) -> None:
        copies = [
            Row([*old.blocks], old.length, [*old.names], old.torn)
            for old in (self.rows[row] for row in chosen(rows, len(self.rows)))
        ]
        for block in (block for row in copies for block in row.blocks):
            self.pool.share(block)
        for row in self.rows:
            self._shorten(row, 0)
        self.rows += [Row() for _ in range(len(copies) - len(self.rows))]
        del self.rows[len(copies) :]
        for row, copy in zip(self.rows, copies, strict=True):  # into the same rows: a cache made by `at` shares them
            row.blocks, row.length, row.names, row.torn = copy.blocks, copy.length, copy.names, copy.torn

    def bytes(self) -> Bytes:
        """Of the blocks that rows hold, each once though many share it. The pool itself is allocated whole."""
        store = self.pool.store
        block = 0 if store is None else store.nbytes // (self.pool.blocks + 1)
        return Bytes(len({block for row in self.rows for block in row.blocks}) * block, block // self.pool.size)
