"""Texts that are the same, or nearly: within one set they count twice, on both sides of a split they are a leak.

The same: equal after case, white space, and the punctuation of sentences are folded. Nearly: at least 80 % of all
shingles (three words in a row) are shared; candidates come from minhashes, so no text is compared with every other.
Source: Broder 1997, On the resemblance and containment of documents.
"""

import hashlib
import re
import unicodedata
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

SHINGLE = 3  # words
HASHES, BAND = (
    64,
    4,
)  # 16 bands of 4 find 64 % of the pairs that share half of their shingles, 99.98 % of those with 80 %
ALIKE = 0.8
LOOKED_AT = 100_000  # texts among which near ones are sought
CROWD = 50  # texts of one band compared with each other; of more, each only with the first
SENTENCE = re.compile(r"[.,](?!\d)|[!?;:'\"()\[\]…‘’“”]")  # not the point in 3.5, not + - * / %


def normal(text: str) -> str:
    """The text without what does not make it another one: case, white space, punctuation of sentences."""
    return " ".join(SENTENCE.sub(" ", unicodedata.normalize("NFKC", text).casefold()).split())


def same(texts: Sequence[str]) -> list[list[int]]:
    """The groups of equal texts, as indices; only those with more than one."""
    groups = defaultdict(list)
    for index, text in enumerate(texts):
        groups[normal(text)].append(index)
    return [group for group in groups.values() if len(group) > 1]


def near(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of different texts that are nearly the same, among the first 100,000."""
    kept = {normal(text): index for index, text in reversed(list(enumerate(texts[:LOOKED_AT])))}  # one of equal ones
    shingles = [_shingles(text) for text in kept]
    indices = list(kept.values())
    found = set()
    for a, b in _candidates(shingles):
        if (a, b) not in found and _resemblance(shingles[a], shingles[b]) >= ALIKE:
            found.add((a, b))
    return sorted((min(indices[a], indices[b]), max(indices[a], indices[b])) for a, b in found)


def split(texts: Sequence[str], fractions: dict[str, float], seed: int = 0) -> dict[str, list[int]]:
    """The indices of each part of a random split in which equal texts stay together; what is left over is "train".

    A text's place hangs on itself and the seed alone: more data moves hardly anything. {"test": 0.1} -> test, train
    """
    groups = defaultdict(list)
    for index, text in enumerate(texts):
        groups[hashlib.sha256(f"{seed} {normal(text)}".encode()).digest()].append(index)
    parts: dict[str, list[int]] = {name: [] for name in [*fractions, "train"]}
    wanted = {name: round(fraction * len(texts)) for name, fraction in fractions.items()}
    for key in sorted(groups):
        name = next((name for name, count in wanted.items() if len(parts[name]) < count), "train")
        parts[name] += groups[key]
    return {name: sorted(indices) for name, indices in parts.items()}


def expected_leaks(texts: Sequence[str], test: float, train: float) -> float:
    """How many texts of the test part would stand in train too, if every row were put somewhere by chance.

    One of a group of g equal texts leaks if it comes to the test part, and any of the g - 1 others to train.
    """
    sizes = map(len, same(texts))
    return sum(size * test * (1 - (1 - train) ** (size - 1)) for size in sizes)


def _shingles(text: str) -> np.ndarray:
    """The different runs of three words, as numbers; the words themselves of a shorter text."""
    words = text.split()
    runs = {" ".join(words[at : at + SHINGLE]) for at in range(max(len(words) - SHINGLE + 1, 1))}
    return np.unique(np.array([zlib.crc32(run.encode()) for run in runs], dtype=np.uint64))


def _resemblance(a: np.ndarray, b: np.ndarray) -> float:
    """The share of shingles that both have, of those that either has."""
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)


def _candidates(shingles: list[np.ndarray]) -> Iterator[tuple[int, int]]:
    """Pairs that agree in all four minhashes of some band, and might be near."""
    if not shingles:
        return
    generator = np.random.default_rng(0)
    factors = generator.integers(1, 1 << 32, size=HASHES, dtype=np.uint64) | np.uint64(1)
    shifts = generator.integers(0, 1 << 32, size=HASHES, dtype=np.uint64)
    starts = np.cumsum([0, *map(len, shingles)])[:-1]
    every = np.concatenate(shingles)
    least = np.stack([_least(every * factor + shift, starts) for factor, shift in zip(factors, shifts, strict=True)])
    for band in range(0, HASHES, BAND):
        buckets = defaultdict(list)
        for index, key in enumerate(map(bytes, np.ascontiguousarray(least[band : band + BAND].T))):
            buckets[key].append(index)
        for bucket in buckets.values():
            if len(bucket) > CROWD:
                yield from ((bucket[0], other) for other in bucket[1:])
            else:
                yield from combinations(bucket, 2)


def _least(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The least hash of every text: the upper half of the products, which all bits of the factors reach."""
    return np.minimum.reduceat((values >> np.uint64(32)).astype(np.uint32), starts)
