"""Pieces -> ids, compiled: the table of pairs, the two ways to merge, and the cache of words.

A pair of neighbours that may merge has a `score`: its priority in the upper 32 bits (lowest first), the id it becomes
in the lower 32. Encoding a word = its bytes as ids, then again and again the leftmost pair of the lowest score merged.
Most words were met before: the cache holds their ids, and a hit counts only after all bytes were compared.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from firsthand.tokenizer.split import next_piece

NEVER = np.uint64(0xFFFFFFFFFFFFFFFF)  # the score of a pair that does not merge; as a key: an empty place
MIX = np.uint64(0x9E3779B97F4A7C15)
MIX2 = np.uint64(0xD6E8FEB86659FD93)
SCANNED = 100  # words up to so many bytes merge by looking at every pair; longer ones with a heap

CACHE_BITS = 15  # 2^15 sets of two words
LONGEST = 32  # bytes of a word that can be cached
MOST = 22  # ids of a word that can be cached
ROW = 16  # uint64 a cached word: 4 of bytes, 1 of length and count, 11 of ids: two cache lines


@intrinsic
def load64(typing, data, at):
    """Eight bytes of `data` from any position as one number, the first byte lowest."""

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.gep(array.data, [arguments[1]])
        return builder.load(builder.bitcast(place, ir.IntType(64).as_pointer()), align=1)

    return types.uint64(data, types.int64), generate


@njit(cache=True, nogil=True)
def place_of(key, mask):
    """Where the search for a pair begins."""
    mixed = key * MIX
    mixed = (mixed ^ (mixed >> np.uint64(29))) * MIX2
    return np.int64((mixed >> np.uint64(32)) & np.uint64(mask))


@njit(cache=True, nogil=True)
def build_pairs(left, right, score, size):
    """The table of pairs, open addressing: three (P,) arrays -> (size, 2) uint64 of key and score. The first entry wins."""
    table = np.full((size, 2), NEVER, np.uint64)
    for pair in range(len(left)):
        key = np.uint64(left[pair]) << np.uint64(32) | np.uint64(right[pair])
        place = place_of(key, size - 1)
        while table[place, 0] != NEVER and table[place, 0] != key:
            place = (place + 1) & (size - 1)
        if table[place, 0] == NEVER:
            table[place, 0], table[place, 1] = key, score[pair]
    return table


@njit(cache=True, nogil=True)
def score_of(left, right, table):
    """The score of two neighbouring ids, NEVER if they do not merge."""
    key = np.uint64(left) << np.uint64(32) | np.uint64(right)
    mask = table.shape[0] - 1
    place = place_of(key, mask)
    while table[place, 0] != NEVER:
        if table[place, 0] == key:
            return table[place, 1]
        place = (place + 1) & mask
    return NEVER


@njit(cache=True, nogil=True)
def merge_short(ids, scores, count, table):
    """Merge `count` ids in place by looking at every pair each time; -> how many are left."""
    for at in range(count - 1):
        scores[at] = score_of(ids[at], ids[at + 1], table)
    while count > 1:
        best, where = NEVER, 0
        for at in range(count - 1):
            if scores[at] < best:
                best, where = scores[at], at
        if best == NEVER:
            break
        ids[where] = best & np.uint64(0xFFFFFFFF)
        for at in range(where + 1, count - 1):
            ids[at], scores[at] = ids[at + 1], scores[at + 1]
        count -= 1
        if where > 0:
            scores[where - 1] = score_of(ids[where - 1], ids[where], table)
        if where < count - 1:
            scores[where] = score_of(ids[where], ids[where + 1], table)
    return count


@njit(cache=True, nogil=True)
def push(heap_scores, heap_places, size, score, place):
    """Put a pair into the binary heap of `size`, ordered by score and then from left to right."""
    at = size
    while at > 0:
        above = (at - 1) >> 1
        if heap_scores[above] < score or (heap_scores[above] == score and heap_places[above] < place):
            break
        heap_scores[at], heap_places[at] = heap_scores[above], heap_places[above]
        at = above
    heap_scores[at], heap_places[at] = score, place


@njit(cache=True, nogil=True)
def pop(heap_scores, heap_places, size):
    """Take the top off the heap; its last entry sinks from there to its place."""
    last = size - 1
    score, place = heap_scores[last], heap_places[last]
    at = 0
    while 2 * at + 1 < last:
        below = 2 * at + 1
        right = below + 1
        if right < last and (
            heap_scores[right] < heap_scores[below]
            or (heap_scores[right] == heap_scores[below] and heap_places[right] < heap_places[below])
        ):
            below = right
        if score < heap_scores[below] or (score == heap_scores[below] and place < heap_places[below]):
            break
        heap_scores[at], heap_places[at] = heap_scores[below], heap_places[below]
        at = below
    heap_scores[at], heap_places[at] = score, place


@njit(cache=True, nogil=True)
def merge_long(ids, count, table):
    """Merge `count` ids in place with a heap of pairs over a linked list, n log n; -> how many are left."""
    after = np.arange(1, count + 1)
    before = np.arange(-1, count - 1)
    scores = np.full(count, NEVER, np.uint64)  # of the pair that starts here; NEVER too where nothing starts any more
    heap_scores = np.empty(2 * count, np.uint64)
    heap_places = np.empty(2 * count, np.int64)
    size = 0
    for at in range(count - 1):
        scores[at] = score_of(ids[at], ids[at + 1], table)
        if scores[at] != NEVER:
            push(heap_scores, heap_places, size, scores[at], at)
            size += 1
    while size > 0:
        score, at = heap_scores[0], heap_places[0]
        pop(heap_scores, heap_places, size)
        size -= 1
        if scores[at] != score:  # the pair has changed since it was put here
            continue
        gone = after[at]
        ids[at] = score & np.uint64(0xFFFFFFFF)
        after[at] = after[gone]
        scores[gone] = NEVER
        scores[at] = NEVER
        if after[at] < count:
            before[after[at]] = at
            scores[at] = score_of(ids[at], ids[after[at]], table)
            if scores[at] != NEVER:
                push(heap_scores, heap_places, size, scores[at], at)
                size += 1
        left = before[at]
        if left >= 0:
            scores[left] = score_of(ids[left], ids[at], table)
            if scores[left] != NEVER:
                push(heap_scores, heap_places, size, scores[left], left)
                size += 1
    kept, at = 0, 0
    while at < count:
        ids[kept] = ids[at]
        kept, at = kept + 1, after[at]
    return kept


@njit(cache=True, nogil=True)
def word_bytes(data, start, length, stop):
    """Up to eight bytes from `start` as one number, zeros above; 0 where `length` <= 0."""
    if length <= 0:
        return np.uint64(0)
    if start + 8 <= stop:
        if length >= 8:
            return load64(data, start)
        return load64(data, start) & ((np.uint64(1) << np.uint64(8 * length)) - np.uint64(1))
    word = np.uint64(0)
    for at in range(min(length, 8)):
        word |= np.uint64(data[start + at]) << np.uint64(8 * at)
    return word


@njit(cache=True, nogil=True)
def merge_piece(data, start, end, byte_ids, table, scratch, scores):
    """Encode one piece into `scratch`; -> how many ids."""
    length = end - start
    for at in range(length):
        scratch[at] = byte_ids[data[start + at]]
    if length <= SCANNED:
        return merge_short(scratch, scores, length, table)
    return merge_long(scratch, length, table)


@njit(cache=True, nogil=True)
def encode_pieces(data, classes, pattern, byte_ids, table, cache, out):
    """All ids of a text: (N,) uint8 -> the first `count` of out (>= N + MOST,) uint32. Returns the count."""
    stop = len(data)
    scratch = np.empty(SCANNED, np.uint32)
    scores = np.empty(SCANNED, np.uint64)
    shift = np.uint64(64 - CACHE_BITS)
    count, at = 0, 0
    while at < stop:
        end = next_piece(data, at, stop, classes, pattern)
        length = end - at
        if length > LONGEST:
            if length > len(scratch):
                scratch = np.empty(length, np.uint32)
            kept = merge_piece(data, at, end, byte_ids, table, scratch, scores)
            for step in range(kept):
                out[count + step] = scratch[step]
            count += kept
            at = end
            continue
        k0 = word_bytes(data, at, length, stop)
        k1 = word_bytes(data, at + 8, length - 8, stop)
        k2 = word_bytes(data, at + 16, length - 16, stop)
        k3 = word_bytes(data, at + 24, length - 24, stop)
        mixed = k0 * MIX + k1 * MIX2 + k2 * np.uint64(0xA0761D6478BD642F) + k3 * np.uint64(0xE7037ED1A0B428DB)
        mixed ^= mixed >> np.uint64(32)
        first = np.int64((mixed * MIX) >> shift) * 2
        found = -1
        for way in range(2):
            row = cache[first + way]
            if row[0] == k0 and row[1] == k1 and row[2] == k2 and row[3] == k3 and row[4] >> np.uint64(32) == length:
                found = first + way
                break
        if found >= 0:
            row = cache[found]
            kept = np.int64(row[4] & np.uint64(0xFFFFFFFF))
            for step in range((kept + 1) >> 1):
                two = row[5 + step]
                out[count + 2 * step] = two & np.uint64(0xFFFFFFFF)
                out[count + 2 * step + 1] = two >> np.uint64(32)
            count += kept
        else:
            kept = merge_piece(data, at, end, byte_ids, table, scratch, scores)
            for step in range(kept):
                out[count + step] = scratch[step]
            count += kept
            if kept <= MOST:
                cache[first + 1] = cache[first]
                row = cache[first]
                row[0], row[1], row[2], row[3] = k0, k1, k2, k3
                row[4] = np.uint64(length) << np.uint64(32) | np.uint64(kept)
                for step in range((kept + 1) >> 1):
                    low = np.uint64(scratch[2 * step])
                    high = np.uint64(scratch[2 * step + 1]) if 2 * step + 1 < kept else np.uint64(0)
                    row[5 + step] = low | high << np.uint64(32)
        at = end
    return count
