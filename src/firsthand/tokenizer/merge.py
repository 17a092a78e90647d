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
    """Merge ids[first : first + count] in place, given the scores of all pairs, and looking at every one each time."""
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
    """Room to merge a long piece of N bytes."""

    after: np.ndarray  # (N,) int32: where the next id stands
    ahead: np.ndarray  # (N,) int32: where the one before stands
    heap: np.ndarray  # (2N,) uint64: priority and place of pairs, 4 below each, so that one step down is one cache line


@lean
def push(heap, size, key):
    """Put a key into the heap of `size`."""
    at = np.int64(size)
    while at > 0 and heap[(at - 1) >> 2] > key:
        heap[at] = heap[(at - 1) >> 2]
        at = (at - 1) >> 2
    heap[at] = key


@lean
def pop(heap, size):
    """Take the lowest key off the heap of `size`: the last one sinks from the top to its place."""
    last, at = heap[size - 1], np.int64(0)
    while 4 * at + 1 < size - 1:
        best = 4 * at + 1
        for other in range(best + 1, min(best + 4, size - 1)):
            if heap[other] < heap[best]:
                best = other
        if heap[best] >= last:
            break
        heap[at] = heap[best]
        at = best
    heap[at] = last


@lean
def offer(ids, first, at, count, table, scores, links, size):
    """Score the pair that begins at `at`, and put it into the heap if it merges: -> the size of the heap."""
    right = np.int64(links.after[at])
    scores[at] = score_of(ids[first + at], ids[first + right], table) if right < count else NEVER
    if scores[at] == NEVER:
        return size
    push(links.heap, size, (scores[at] & ~LOW) | np.uint64(at))
    return size + 1


@lean
def merge_long(ids, first, count, table, scores, links):
    """Merge ids[first : first + count] in place with a heap over a linked list, in n log n: -> how many are left."""
    size = np.int64(0)
    for at in range(count):
        links.after[at], links.ahead[at] = at + 1, at - 1
        size = offer(ids, first, at, count, table, scores, links, size)
    while size > 0:
        key = links.heap[0]
        pop(links.heap, size)
        size -= 1
        at = np.int64(key & LOW)
        if scores[at] >> HALF != key >> HALF:  # the pair that began here has changed since
            continue
        ids[first + at] = scores[at] & LOW
        gone, left = np.int64(links.after[at]), np.int64(links.ahead[at])
        scores[gone] = NEVER
        links.after[at] = links.after[gone]
        if links.after[at] < count:
            links.ahead[links.after[at]] = at
        size = offer(ids, first, at, count, table, scores, links, size)
        if left >= 0:
            size = offer(ids, first, left, count, table, scores, links, size)
    kept, at = np.int64(0), np.int64(0)
    while at < count:
        ids[first + kept] = ids[first + at]
        kept, at = kept + 1, np.int64(links.after[at])
    return kept
