"""One piece -> its ids, compiled: the table of pairs, and merging by looking at every pair or with a heap.

Two neighbouring ids that may merge have a `score`: their priority in the upper 32 bits (lowest first), the id they
become in the lower 32. Encoding = the bytes as ids, then again and again the leftmost pair of the lowest score merged.
"""

from typing import NamedTuple

import numpy as np

from firsthand.tokenizer.compiled import compiled, lean

NEVER = np.uint64(0xFFFFFFFFFFFFFFFF)  # the score of a pair that does not merge; as a key, an empty place
HALF, LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio: spreads numbers over the upper bits
SCANNED = 100  # pieces up to so many bytes merge by looking at every pair; longer ones with a heap


@lean
def place_of(left, right, table):
    """Where the table has a pair, or the empty place where it would be; and the key of the pair."""
    key = np.uint64(left) << HALF | np.uint64(right)
    mask = np.uint64(len(table) // 2 - 1)
    mixed = key * MIX
    place = (mixed ^ (mixed >> HALF)) & mask
    while table[2 * place] != key and table[2 * place] != NEVER:
        place = (place + np.uint64(1)) & mask
    return 2 * place, key


@lean
def score_of(left, right, table):
    """The score of two neighbouring ids, NEVER if they do not merge."""
    place, _ = place_of(left, right, table)
    return table[place + np.uint64(1)]  # an empty place holds NEVER twice


@compiled
def fill_table(table, pairs):
    """Put pairs into an empty table: left, right, score (P, 3). Of a pair that comes twice the first counts."""
    for row in range(len(pairs)):
        place, key = place_of(pairs[row, 0], pairs[row, 1], table)
        if table[place] == NEVER:
            table[place], table[place + np.uint64(1)] = key, pairs[row, 2]


def build_table(pairs: np.ndarray) -> np.ndarray:
    """The table of pairs, open addressing, at most half full: (P, 3) -> (size,) key, score, key, score, ..."""
    table = np.full(2 << max(4, (2 * len(pairs)).bit_length()), NEVER, np.uint64)
    fill_table(table, pairs)
    return table


@lean
def merge_short(ids, first, count, table, scores):
    """Merge ids[first : first + count] in place, looking at every pair each time: -> how many are left."""
    for at in range(count - 1):
        scores[at] = score_of(ids[first + at], ids[first + at + 1], table)
    while count > 1:
        best, where = scores[0], np.int64(0)
        for at in range(1, count - 1):
            if scores[at] < best:
                best, where = scores[at], at
        if best == NEVER:
            break
        count -= 1
        for at in range(where + 1, count):
            ids[first + at], scores[at] = ids[first + at + 1], scores[at + 1]
        ids[first + where] = best & LOW
        for at in range(max(where - 1, 0), min(where + 1, count - 1)):
            scores[at] = score_of(ids[first + at], ids[first + at + 1], table)
    return count


class Links(NamedTuple):
    """Room to merge a long piece: four (N,) int64. `heap` holds places, `where` says where each stands in the heap."""

    after: np.ndarray
    ahead: np.ndarray
    heap: np.ndarray
    where: np.ndarray


@lean
def comes_first(one, other, scores):
    """Whether the pair at `one` merges before the pair at `other`."""
    return scores[one] < scores[other] or (scores[one] == scores[other] and one < other)


@lean
def settle(links, at, size, scores):
    """Move the pair `at`, whose score has changed, up or down the heap until it stands right."""
    heap, where = links.heap, links.where
    spot = where[at]
    while spot > 0 and comes_first(at, heap[(spot - 1) >> 1], scores):
        heap[spot] = heap[(spot - 1) >> 1]
        where[heap[spot]] = spot
        spot = (spot - 1) >> 1
    while 2 * spot + 1 < size:
        below = 2 * spot + 1
        if below + 1 < size and comes_first(heap[below + 1], heap[below], scores):
            below += 1
        if not comes_first(heap[below], at, scores):
            break
        heap[spot] = heap[below]
        where[heap[spot]] = spot
        spot = below
    heap[spot], where[at] = at, spot


@lean
def merge_long(ids, first, count, table, scores, links):
    """Merge ids[first : first + count] in place with a heap over a linked list, in n log n: -> how many are left.

    Every place keeps its entry in the heap; one where no pair begins that merges has the score NEVER, and sinks.
    """
    after, ahead = links.after, links.ahead
    for at in range(count):
        after[at], ahead[at], links.where[at] = at + 1, at - 1, at
        scores[at] = NEVER if at == count - 1 else score_of(ids[first + at], ids[first + at + 1], table)
        settle(links, at, at + 1, scores)
    while scores[links.heap[0]] != NEVER:
        at = links.heap[0]
        gone = after[at]
        ids[first + at] = scores[at] & LOW
        after[at] = after[gone]
        scores[gone] = NEVER
        settle(links, gone, count, scores)
        for left in (ahead[at], at):  # the pairs that the new id ends and begins
            if left >= 0:
                right = after[left]
                scores[left] = score_of(ids[first + left], ids[first + right], table) if right < count else NEVER
                settle(links, left, count, scores)
        if after[at] < count:
            ahead[after[at]] = at
    kept, at = np.int64(0), np.int64(0)
    while at < count:
        ids[first + kept] = ids[first + at]
        kept, at = kept + 1, after[at]
    return kept
