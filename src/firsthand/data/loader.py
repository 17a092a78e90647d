"""In which order a run sees its examples: a pure function of (seed, global index); one number is all there is to save.

Sample g of a run is `dataset[permute(g % n, n, seed, epoch=g // n)]`. Micro-batch m of rank r holds the samples

    g = start + (m * world + r) * batch_size + row           row = 0 .. batch_size-1

so all ranks together consume g in order. Resume, another world size, or prefetching cannot change what is learned.
"""

import queue
import threading
from collections.abc import Iterator, Sequence
from math import isqrt
from typing import Generic, TypeVar

Example = TypeVar("Example")

ROUNDS = 6
WORD = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def permute(index: int, n: int, seed: int, epoch: int = 0) -> int:
    """Where `index` goes in a shuffle of range(n), computed without a table: a bijection for every (seed, epoch).

    A Feistel network on pairs (left, right), left < a and right < b, a * b >= n: each round adds to one half a hash of
    the other, which can be undone, whatever the hash. An image outside range(n) is sent through again until it is in.
    Source: Black & Rogaway 2002, "Ciphers with Arbitrary Finite Domains", sections 3 (cycle walking) and 4.
    """
    a = isqrt(max(n - 1, 0)) + 1
    b = -(-n // a)
    key = _mix(_mix(seed & WORD) ^ epoch)
    while True:
        left, right = divmod(index, b)
        for turn in range(0, ROUNDS, 2):
            left = (left + _mix(key + turn ^ right * GOLDEN)) % a
            right = (right + _mix(key + turn + 1 ^ left * GOLDEN)) % b
        index = left * b + right
        if index < n:
            return index


def _mix(x: int) -> int:
    """Sixty-four bits stirred until every one depends on all. Source: Steele et al. 2014, SplitMix64, figure 16."""
    x = (x + GOLDEN) & WORD
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & WORD
    return x ^ x >> 31


class Loader(Generic[Example]):
    """An endless stream of micro-batches for one rank: `next(loader)` is a list of `batch_size` examples.

    `position` is how many samples all ranks together have taken: give it back as `start` and the stream goes on there,
    with any world size. With `prefetch` > 0 a thread reads that many micro-batches ahead; `position` counts only what
    was taken, so what lay ready at a crash is read again.
    """

    def __init__(
        self,
        dataset: Sequence[Example],
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
        prefetch: int = 0,
    ):
        assert len(dataset) > 0 and batch_size > 0 and 0 <= rank < world
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.rank, self.world, self.position = rank, world, start
        self._ahead = _Ahead(self._batches(start), prefetch) if prefetch else None
        self._source: Iterator[list[Example]] = self._ahead or self._batches(start)

    def __iter__(self) -> "Loader[Example]":
        return self

    def __next__(self) -> list[Example]:
        batch = next(self._source)
        self.position += self.batch_size * self.world
        return batch

    def indices(self, position: int) -> list[int]:
        """Which examples of the data set the micro-batch at global sample `position` holds, on this rank."""
        n = len(self.dataset)
        first = position + self.rank * self.batch_size
        return [permute(g % n, n, self.seed, g // n) for g in range(first, first + self.batch_size)]

    def close(self) -> None:
        """Stop the reading thread, if there is one."""
        if self._ahead:
            self._ahead.close()

    def _batches(self, position: int) -> Iterator[list[Example]]:
        while True:
            yield [self.dataset[index] for index in self.indices(position)]
            position += self.batch_size * self.world


class _Ahead(Iterator[Example]):
    """Reads an iterator in a thread of its own, at most `depth` items ahead; an error there is raised here."""

    def __init__(self, items: Iterator[Example], depth: int):
        self._ready: queue.Queue[Example | BaseException] = queue.Queue(depth)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(items,), daemon=True, name="firsthand-loader")
        self._thread.start()

    def __next__(self) -> Example:
        item = self._ready.get()
        if isinstance(item, BaseException):
            self._put(item)  # and again for whoever asks next
            raise item
        return item

    def close(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _read(self, items: Iterator[Example]) -> None:
        try:
            for item in items:
                if not self._put(item):
                    return
        except BaseException as error:  # handed over, not swallowed: `__next__` raises it
            self._put(error)

    def _put(self, item: Example | BaseException) -> bool:
        """Wait for room, but never longer than `close` allows."""
        while not self._stopped.is_set():
            try:
                self._ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False
