"""One token of every row of a batch, by several threads, as one compiled function.

A library of operators makes a dozen calls a layer, and between two of them Python chooses, checks and allocates: at one
row that costs more than the arithmetic. Here the whole way, from ids to scores, is one call without Python, without
allocation and without a look at the types. Every thread runs all of it, and takes its share of each part:

    q, k, v        whole heads; also their norm and their turn      | barrier
    attention      heads                                            | barrier
    o              blocks of 16 numbers of the stream               | barrier
    gate, up       blocks of 32 inner numbers; also the bend        | barrier
    down           blocks of 16 numbers of the stream               | barrier
    head           blocks of 16 scores

What is short (norms, rounding to integers) every thread does for itself: a barrier more would cost longer.

The keys of a page are kept like a matrix in blocks of 16 positions, the values like one in blocks of 16 features: so
attention is two products of the same kind as all others, and no sum goes across a register there either.
In a prompt all new tokens are rows of one step with the same table of pages. Their keys and values are written before
the barrier, and each looks only as far as itself.

The letters are those of layout.py.
"""

from functools import partial

import numpy as np

from firsthand.infer.codes import GROUP
from firsthand.infer.kernels import ROWS
from firsthand.infer.layout import DOWN, FIRST, GATE, GELU, LOGITS, PAGE, QKV, SWIGLU, TOKENS, UP, O
from firsthand.infer.parts import exponential, f32, largest_of, lean, many, normalise, part, product, ready, up
from firsthand.infer.team import GO, LINE, READY, STATE, address, await_work, claim, meet, write
from firsthand.tokenizer.compiled import ALONE, compiled


@lean
def share(count, thread, threads):
    """The part of `count` things that belongs to a thread."""
    return thread * count // threads, (thread + 1) * count // threads


@part
def finish_head(x, shape, norm, turn):
    """The norm and the turn of one query or key, in place."""
    D, half = shape.d_head, shape.d_head // 2
    if shape.qk_norm:
        square = f32(0)
        for i in range(D):
            square += x[i] * x[i]
        scale = f32(1) / np.sqrt(square / f32(D) + f32(shape.eps))
        for i in range(D):
            x[i] *= scale * norm[i]
    if shape.rotary:
        for i in range(half):
            a, b = x[i], x[i + half]
            x[i] = a * turn[0, i] - b * turn[1, i]
            x[i + half] = b * turn[0, i] + a * turn[1, i]


@part
def look(form, shape, weights, room, layer, x, rows, thread, threads):
    """Queries, keys and values of a thread's heads: the first to their place, the others into the cache."""
    H, G, D, C = shape.n_head, shape.n_kv_head, shape.d_head, shape.d_model
    wide = up(D, ROWS)
    first, last = share(H + 2 * G, thread, threads)
    blocks, width = wide // ROWS, room.raw.shape[1]
    product(
        form.layers,
        form,
        weights.places[layer, QKV],
        x,
        rows,
        up(C, GROUP) // GROUP,
        first * blocks,
        last * blocks,
        address(room.raw),
        width,
    )
    for row in range(rows):
        at = room.at[row]
        page, place = room.tables[row, at // PAGE], at % PAGE
        for head in range(first, last):
            new = room.raw[row, head * wide : head * wide + D]
            bias = weights.biases[layer, QKV, head * wide : head * wide + D]
            for i in range(D):
                new[i] += bias[i]
            if head < H + G:
                finish_head(new, shape, weights.head_norms[layer, 0 if head < H else 1], weights.turns[at])
            if head < H:
                query, scale = room.queries[row, head], f32(1) / np.sqrt(f32(D))
                for i in range(D):
                    query[i] = new[i] * scale
            elif head < H + G:
                key = room.keys[page, layer, head - H, place // ROWS]
                for i in range(D):
                    key[i, place % ROWS] = new[i]
            else:
                value = room.values[page, layer, head - H - G]
                for i in range(D):
                    value[i // ROWS, place, i % ROWS] = new[i]


@lean
def soften(scores, low, high):
    """Scores -> weights that sum to 1; zeros before `low` and from `high` on."""
    # slices: in an array that may be indexed from its end, LLVM would not see that neighbours are neighbours
    seen, total = scores[low:high], f32(0)
    largest = largest_of(seen)
    for i in range(len(seen)):
        seen[i] = exponential(seen[i] - largest)
        total += seen[i]
    scale = f32(1) / total
    for i in range(len(seen)):
        seen[i] *= scale
    scores[:low] = f32(0)
    scores[high:] = f32(0)


@part
def look_back(shape, room, layer, row, first, count, thread):
    """Attention of a row's heads `first` to `first + count`, which are of one group: into `mixed`."""
    D, at, pages = shape.d_head, room.at[row], room.tables[row]
    low, high = max(0, at + 1 - shape.window), at + 1
    start, end = low // PAGE, up(high, PAGE) // PAGE
    group = first // (shape.n_head // shape.n_kv_head)
    scores, mixed = room.scores[thread], room.head[thread]
    N, wide, deep = scores.shape[1], mixed.shape[1], room.keys.shape[4]
    query, to, out = address(room.queries[row, first]), address(scores), address(mixed)
    for page in range(start, end):
        keys = address(room.keys[pages[page], layer, group])
        ahead = address(room.keys[pages[min(page + 1, end - 1)], layer, group]) - keys
        for block in range(PAGE // ROWS):
            here = to + 4 * (PAGE * page + ROWS * block)
            many((0,), keys + 64 * deep * block, query, deep, deep // GROUP, here, 4 * N, count, ahead)
    for head in range(count):
        soften(scores[head, PAGE * start : PAGE * end], low - PAGE * start, high - PAGE * start)
        mixed[head] = f32(0)
    for page in range(start, end):
        values = address(room.values[pages[page], layer, group])
        ahead = address(room.values[pages[min(page + 1, end - 1)], layer, group]) - values
        for block in range(wide // ROWS):
            here, weight = values + 64 * PAGE * block, to + 4 * PAGE * page
            many((0, 0), here, weight, N, PAGE // GROUP, out + 64 * block, 4 * wide, count, ahead)
    for head in range(count):
        to_stream = room.mixed[row, (first + head) * D : (first + head + 1) * D]
        for i in range(D):
            to_stream[i] = mixed[head, i]


@part
def attend(shape, room, layer, rows, thread, threads):
    """A thread's share of all heads of all rows, those of one group together: its keys are then read once."""
    H, size = shape.n_head, shape.n_head // shape.n_kv_head
    item, last = share(rows * H, thread, threads)
    while item < last:
        row, head = item // H, item % H
        count = min(last - item, size - head % size, 8)
        look_back(shape, room, layer, row, head, count, thread)
        item += count


@part
def add_product(form, shape, weights, room, layer, which, x, rows, groups, thread, threads):
    """A matrix that writes into the stream: the thread's blocks of it, added there."""
    C, raw = shape.d_model, room.raw
    first, last = share(up(C, ROWS) // ROWS, thread, threads)
    product(form.layers, form, weights.places[layer, which], x, rows, groups, first, last, address(raw), raw.shape[1])
    low, high = first * ROWS, min(last * ROWS, C)
    bias = weights.biases[layer, which, low:high]
    for row in range(rows):
        stream, new = room.stream[row, low:high], raw[row, low:high]
        for i in range(len(bias)):
            stream[i] += new[i] + bias[i]


@part
def bent(bend, inner, gate, bias, gate_bias):
    """The bend of the feed-forward layer, in place."""
    for i in range(len(inner)):
        inner[i] += bias[i]
    if bend == SWIGLU:
        for i in range(len(inner)):
            g = gate[i] + gate_bias[i]
            inner[i] *= g / (f32(1) + exponential(-g))
    elif bend == GELU:
        for i in range(len(inner)):
            h = inner[i]
            u = f32(1.5957691216057308) * (h + f32(0.044715) * h * h * h)  # 2 sqrt(2 / pi); h (1 + tanh(u / 2)) / 2
            inner[i] = h / (f32(1) + exponential(-u))
    else:
        for i in range(len(inner)):
            inner[i] = max(inner[i], f32(0)) * max(inner[i], f32(0))


@part
def think(form, shape, weights, room, layer, x, rows, thread, threads):
    """The inner numbers of the feed-forward layer, bent."""
    groups, width = up(shape.d_model, GROUP) // GROUP, room.inner.shape[1]
    first, last = share(width // GROUP, thread, threads)
    places, bias = weights.places[layer], weights.biases[layer]
    blocks = 2 * first, min(2 * last, up(shape.d_ff, ROWS) // ROWS)
    product(form.layers, form, places[UP], x, rows, groups, *blocks, address(room.inner), width)
    if shape.bend == SWIGLU:
        product(form.layers, form, places[GATE], x, rows, groups, *blocks, address(room.gate), width)
    low, high = first * GROUP, min(last * GROUP, shape.d_ff)
    for row in range(rows):
        bent(shape.bend, room.inner[row, low:high], room.gate[row, low:high], bias[UP, low:high], bias[GATE, low:high])


@part
def step(form, shape, weights, room, lines, thread, threads):
    """All of it, as one thread of several."""
    rows, L, C = room.now[TOKENS], shape.n_layer, shape.d_model
    stream, normed = room.stream, room.normed[thread]
    wide, mixed, inner = up(C, GROUP) // GROUP, room.mixed.shape[1] // GROUP, room.inner.shape[1] // GROUP
    first, last = share(C, thread, threads)
    for row in range(rows):
        token, at = weights.embed[room.ids[row], first:last], room.at[row]
        here, position = stream[row, first:last], weights.positions[at, first:last]
        for i in range(len(here)):
            here[i] = token[i] + position[i]
    meet(lines, thread, threads)
    for layer in range(L):
        normalise(stream, shape, weights.norms[2 * layer], rows, normed)
        x = ready(form.layers, form.digits, normed, rows, wide, room, thread)
        look(form, shape, weights, room, layer, x, rows, thread, threads)
        meet(lines, thread, threads)
        attend(shape, room, layer, rows, thread, threads)
        meet(lines, thread, threads)
        x = ready(form.layers, form.digits, room.mixed, rows, mixed, room, thread)
        add_product(form, shape, weights, room, layer, O, x, rows, mixed, thread, threads)
        meet(lines, thread, threads)
        normalise(stream, shape, weights.norms[2 * layer + 1], rows, normed)
        x = ready(form.layers, form.digits, normed, rows, wide, room, thread)
        think(form, shape, weights, room, layer, x, rows, thread, threads)
        meet(lines, thread, threads)
        x = ready(form.layers, form.digits, room.inner, rows, inner, room, thread)
        add_product(form, shape, weights, room, layer, DOWN, x, rows, inner, thread, threads)
        meet(lines, thread, threads)
    wanted = rows - room.now[FIRST]
    if wanted > 0:
        normalise(stream[room.now[FIRST] :], shape, weights.norms[2 * L], wanted, normed)
        x = ready(form.head, form.digits, normed, wanted, wide, room, thread)
        V = up(weights.embed.shape[0], ROWS)
        first, last = share(V // ROWS, thread, threads)
        product(form.head, form, weights.places[L, 0], x, wanted, wide, first, last, room.now[LOGITS], V)
    meet(lines, thread, threads)


@partial(compiled, options=ALONE)
def work(thread, lines, form, shape, weights, room, threads):
    """Thread 0, the leader: one step, and whether all helpers were awake. A helper: steps, until it has parked."""
    if thread == 0:
        if not claim(lines, threads):
            return False
        for helper in range(1, threads):
            write(lines, helper * LINE + STATE, GO)
        step(form, shape, weights, room, lines, thread, threads)
        return True
    write(lines, thread * LINE + STATE, READY)
    woken = True
    while await_work(lines, thread, woken):
        step(form, shape, weights, room, lines, thread, threads)
        write(lines, thread * LINE + STATE, READY)
        woken = False
    return True
