"""The hot loops of BPE training, compiled: counting the different words, and joining the commonest pair, M times.

W different words, M merges, N = cells: one for each byte of the different words, and one border around each word.

A token is written twice into `cells`, at its first and at its last byte; between them is VOID. So the token to the
right of place p begins at p + its length, the token to the left ends at p - 1, and no list of neighbours is needed.
"""

import numpy as np

from firsthand.tokenizer.compiled import compiled, inlined, lean, load64
from firsthand.tokenizer.split import PADDING, look, next_piece

VOID = -1  # the border of a word or the inside of a token: equal to no id
BYTES = 256
LEFT, RIGHT = range(2)
COUNT, PAIR, FIRST, SIZE = range(4)  # a row of the heap: how often, left << 32 | right, and its places in the pool
MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio
TAG = np.uint64(0xFFFFFFFF00000000)  # the half of a hash that a slot keeps


# ---------------------------------------------------------------- counting words
# slots (power of two,)   hash table: upper half of a word's hash | its number + 1; at most half full
# rows (> W, 2)           where a word's bytes begin in the arena, how often it occurred; one row more for the end
# arena (bytes,)          the bytes of all different words


@lean
def hash_of(data, start, length):
    """A number that is nearly always different for different words. Reads up to 7 bytes past the end."""
    value = np.uint64(length)
    for at in range(0, length, 8):
        eight = load64(data, start + at)
        if length - at < 8:
            eight &= (np.uint64(1) << np.uint64(8 * (length - at))) - np.uint64(1)
        value = (value ^ eight) * MIX
        value ^= value >> np.uint64(32)
    return value


@lean
def same(data, start, other, first, length):
    """Whether two words of one length are equal, byte by byte (eight at a time)."""
    for at in range(0, length, 8):
        difference = load64(data, start + at) ^ load64(other, first + at)
        if length - at < 8:
            difference <<= np.uint64(8 * (8 - length + at))
        if difference != 0:
            return False
    return True


@lean
def slot_of(data, start, length, value, slots, rows, arena):
    """The slot of a word, or the free one where it belongs. The words are compared, never only their hashes."""
    mask = np.uint64(len(slots) - 1)
    slot = value & mask
    while slots[slot] != 0:
        if slots[slot] & TAG == value & TAG:
            word = np.int64(slots[slot] & ~TAG) - 1
            first = rows[word, 0]
            if rows[word + 1, 0] - first == length and same(data, start, arena, first, length):
                break
        slot = (slot + np.uint64(1)) & mask
    return slot


@lean
def add_word(data, start, length, times, slots, rows, arena, known):
    """Count a word `times` more: -> how many words are known now, or -1, and nothing done, if a table is full."""
    value = hash_of(data, start, length)
    slot = slot_of(data, start, length, value, slots, rows, arena)
    if slots[slot] != 0:
        rows[np.int64(slots[slot] & ~TAG) - 1, 1] += times
        return known
    first = rows[known, 0]
    if 2 * known >= len(slots) or known + 2 > len(rows) or first + length + PADDING > len(arena):
        return -1
    slots[slot] = (value & TAG) | np.uint64(known + 1)
    for step in range(length):
        arena[first + step] = data[start + step]
    rows[known, 1] = times
    rows[known + 1, 0] = first + length
    return known + 1


@compiled
def count_pieces(data, classes, pattern, slots, rows, arena, known):
    """Count the pieces of a text until a table is full: -> (where it stopped, words known). Reads 7 bytes on."""
    kinds, marks = np.empty(len(data) + PADDING, np.uint8), np.empty(len(data) + PADDING, np.uint8)
    look(data, classes, pattern, kinds, marks)
    at, once = np.int64(0), np.int64(1)  # a plain 0 is a type of its own to Numba, and everything is compiled twice
    while at < len(data):
        end = next_piece(data, kinds, marks, at, pattern)
        now = add_word(data, at, end - at, once, slots, rows, arena, known)
        if now < 0:
            break
        at, known = end, now
    return at, known


@compiled
def count_words(other_rows, other_arena, word, others, slots, rows, arena, known):
    """Add the counts of words `word` to `others` of another table until this one is full: -> as count_pieces."""
    while word < others:
        first = other_rows[word, 0]
        length = other_rows[word + 1, 0] - first
        now = add_word(other_arena, first, length, other_rows[word, 1], slots, rows, arena, known)
        if now < 0:
            break
        word, known = word + 1, now
    return word, known


@compiled
def rehash(rows, arena, known, slots):
    """Put all words into a new hash table, whose slots are all zero."""
    mask = np.uint64(len(slots) - 1)
    for word in range(known):
        value = hash_of(arena, rows[word, 0], rows[word + 1, 0] - rows[word, 0])
        slot = value & mask
        while slots[slot] != 0:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = (value & TAG) | np.uint64(word + 1)


@compiled
def lay_out(rows, arena, known, cells, weights):
    """Write every word as ids between borders, and the count of its word beside each id: -> cells, weights (N,)."""
    cells[0] = VOID
    for word in range(known):
        for at in range(rows[word, 0], rows[word + 1, 0]):
            cells[at + word + 1] = arena[at]
            weights[at + word + 1] = rows[word, 1]
        cells[rows[word + 1, 0] + word + 1] = VOID


# ---------------------------------------------------------------- the heap of pairs


@lean
def before(count, pair, heap, at):
    """The rule: the higher count is merged first; of equal counts the smaller left id, then the smaller right id."""
    return count > heap[at, COUNT] or (count == heap[at, COUNT] and pair < heap[at, PAIR])


@lean
def put(heap, at, count, pair, first, size):
    """Write one row of the heap."""
    heap[at, COUNT], heap[at, PAIR], heap[at, FIRST], heap[at, SIZE] = count, pair, first, size


@lean
def push(heap, rows, count, pair, first, size):
    """Put a pair into the heap of `rows` rows."""
    at = rows
    while at > 0:
        above = (at - 1) >> 1
        if not before(count, pair, heap, above):
            break
        put(heap, at, heap[above, COUNT], heap[above, PAIR], heap[above, FIRST], heap[above, SIZE])
        at = above
    put(heap, at, count, pair, first, size)


@lean
def sink(heap, rows, count, pair, first, size):
    """Put a pair in the place of the top row and let it sink to where it belongs."""
    at = 0
    while 2 * at + 1 < rows:
        below = 2 * at + 1
        if below + 1 < rows and before(heap[below + 1, COUNT], heap[below + 1, PAIR], heap, below):
            below += 1
        if before(count, pair, heap, below):
            break
        put(heap, at, heap[below, COUNT], heap[below, PAIR], heap[below, FIRST], heap[below, SIZE])
        at = below
    put(heap, at, count, pair, first, size)


# ---------------------------------------------------------------- joining pairs


@lean
def pairs_of_bytes(cells, weights, totals, cursor, pool, heap):
    """Fill the heap with all pairs of bytes, the pool with their places: -> (rows, places). Two (65536,) of zeros."""
    for place in range(len(cells) - 1):
        if cells[place] != VOID and cells[place + 1] != VOID:
            pair = cells[place] * BYTES + cells[place + 1]
            totals[pair] += weights[place]
            cursor[pair] += 1
    rows, used = np.int64(0), np.int64(0)
    for pair in range(len(totals)):
        if cursor[pair] > 0:
            places = cursor[pair]
            key = np.int64(pair // BYTES) << 32 | np.int64(pair % BYTES)
            push(heap, rows, totals[pair], key, used, places)
            cursor[pair] = used
            rows, used = rows + 1, used + places
    for place in range(len(cells) - 1):
        if cells[place] != VOID and cells[place + 1] != VOID:
            pair = cells[place] * BYTES + cells[place + 1]
            pool[cursor[pair]] = place
            cursor[pair] += 1
    return rows, used


@lean
def recount(cells, weights, lengths, pool, first, size, left, right):
    """How often a pair still occurs at its `size` places; drops the places where it is gone: -> (count, places)."""
    kept, count = 0, 0
    for at in range(first, first + size):
        place = pool[at]
        if cells[place] == left and cells[place + lengths[left]] == right:
            pool[first + kept] = place
            kept += 1
            count += weights[place]
    return count, kept


@lean
def replace(cells, lengths, pool, first, places, left, right, new):
    """Write the new id over every place of a pair, from left to right: -> how many there were. "aaa" holds one "aa"."""
    kept = 0
    for at in range(first, first + places):
        place = pool[at]
        middle = place + lengths[left]
        if cells[place] == left and cells[middle] == right:
            cells[middle - 1] = VOID
            cells[middle] = VOID
            cells[place] = new
            cells[place + lengths[new] - 1] = new
            pool[first + kept] = place
            kept += 1
    return kept


@lean
def beside(cells, lengths, place, new, side):
    """The pair that a new token at `place` makes with one neighbour: -> (neighbour's id or VOID, place of the pair)."""
    if side == RIGHT:
        return cells[place + lengths[new]], place
    neighbour = cells[place - 1]
    if neighbour in (VOID, new):  # two new tokens side by side: their pair is found from the left one
        return np.int32(VOID), place
    return neighbour, place - lengths[neighbour]


@lean
def new_pairs(cells, weights, lengths, pool, used, first, places, heap, rows, tally, new, side):
    """Put the pairs of a new token with its neighbours on one side into pool and heap: -> (rows, places used).

    `tally` (V, 3) is zero before and after: for each neighbour how many places, how much weight; and who was met.
    """
    met = 0
    for at in range(first, first + places):
        neighbour, place = beside(cells, lengths, pool[at], new, side)
        if neighbour != VOID:
            if tally[neighbour, 0] == 0:
                tally[met, 2] = neighbour
                met += 1
            tally[neighbour, 0] += 1
            tally[neighbour, 1] += weights[place]
    for who in range(met):
        neighbour = tally[who, 2]
        size = tally[neighbour, 0]
        pair = np.int64(new) << 32 | neighbour if side == RIGHT else neighbour << 32 | np.int64(new)
        push(heap, rows, tally[neighbour, 1], pair, used, size)
        tally[neighbour, 0], tally[neighbour, 1] = used, 0
        rows, used = rows + 1, used + size
    for at in range(first, first + places):
        neighbour, place = beside(cells, lengths, pool[at], new, side)
        if neighbour != VOID:
            pool[tally[neighbour, 0]] = place
            tally[neighbour, 0] += 1
    for who in range(met):
        tally[tally[who, 2], 0] = 0
    return rows, used


@inlined
def longer(array, needed):
    """The same numbers with room for `needed`, and for half as many again as now."""
    larger = np.empty(max(needed, len(array) + len(array) // 2), array.dtype)
    for at in range(len(array)):
        larger[at] = array[at]
    return larger


@compiled
def join(cells, weights, merges, lengths, tally, totals, cursor, pool, heap, longest):
    """Merge the commonest pair of at most `longest` bytes, again and again: -> how many of `merges` (M, 2) were made.

    Merge m makes id 256 + m. A pair can only become rarer after the merge that made it, since every later merge makes
    a newer id. So a row of the heap holds an upper bound: on top, it is counted anew, and merged only if still exact.
    """
    rows, used = pairs_of_bytes(cells, weights, totals, cursor, pool, heap)
    done = 0
    while done < len(merges) and rows > 0:
        pair, first = heap[0, PAIR], heap[0, FIRST]
        left, right, new = pair >> 32, pair & 0xFFFFFFFF, BYTES + done
        if lengths[left] + lengths[right] > longest:
            count, places = np.int64(0), np.int64(0)  # taken off the heap for ever
        else:
            count, places = recount(cells, weights, lengths, pool, first, heap[0, SIZE], left, right)
        exact = count == heap[0, COUNT]
        if exact or count == 0:
            rows -= 1
            sink(heap, rows, heap[rows, COUNT], heap[rows, PAIR], heap[rows, FIRST], heap[rows, SIZE])
        else:
            sink(heap, rows, count, pair, first, places)
        if not exact:
            continue
        merges[done, 0], merges[done, 1] = left, right
        lengths[new] = lengths[left] + lengths[right]
        done += 1
        places = replace(cells, lengths, pool, first, places, left, right, new)
        if used + 2 * places > len(pool):
            pool = longer(pool, used + 2 * places)
        if rows + 2 * min(places, len(tally)) > len(heap):
            heap = longer(heap.reshape(-1), 4 * (rows + 2 * places)).reshape(-1, 4)
        for side in (LEFT, RIGHT):
            rows, used = new_pairs(cells, weights, lengths, pool, used, first, places, heap, rows, tally, new, side)
    return done
