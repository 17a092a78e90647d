"""Threads that work on one token together, without Python: claim, go, meet at barriers, spin a while, park.

A step of a small model takes a millisecond and has 150 places where threads wait for each other. Asking the system to
put a thread to sleep and wake it takes 50 microseconds; a thread that keeps asking "is it there yet?" goes on after a
quarter of one. So helpers *spin*: between the parts of a step, and for about a millisecond after it, because the next
token mostly comes at once. Then they *park*: a core that only asks is a core that nobody else can use. If threads are
more than cores, the one that is waited for may not be running at all: after some asking the others offer their core.

Each helper has a state, changed by single uninterruptible instructions:

    PARKED   sleeps in Python, on a semaphore; somebody must wake it
    READY    spins; will notice GO
    CLAIMED  spins, and may not park: a step is about to begin
    GO       works; then READY

The leader claims all helpers first and begins only if it got all. Otherwise it gives back those it has, returns to
Python, wakes who is parked, and tries again. All of a step, from the first claim to the last barrier, happens in one
call of compiled code: an interrupt comes before it or after it, never in between.
"""

import threading

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils

from firsthand.infer.pack import numbers
from firsthand.tokenizer.compiled import instruction, lean

PARKED, READY, CLAIMED, GO = range(4)
LINE = 16  # numbers a thread has for itself: two cache lines, so that nobody waits for what another writes
STATE, MET = 0, 1  # a thread's state; how many barriers it has reached
SPINS = 20_000  # times a helper asks before it parks: about a millisecond
PATIENCE = 2_000  # times a thread asks at a barrier before it offers its core
INTEGER = ir.IntType(64)


@instruction
def address(typing, array):
    """Where the numbers of an array are."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.ptrtoint(data, INTEGER)

    return types.int64(array), generate


def place(context, builder, kind, array, index):
    """The address of a number in an array of int64, for LLVM."""
    return builder.gep(context.make_array(kind)(context, builder, array).data, [index])


@instruction
def read(typing, array, index):
    """array[index], as every thread sees it now."""

    def generate(context, builder, signature, arguments):
        return builder.load_atomic(place(context, builder, signature.args[0], *arguments), "seq_cst", 8)

    return types.int64(array, types.int64), generate


@instruction
def write(typing, array, index, value):
    """array[index] = value, for every thread to see."""

    def generate(context, builder, signature, arguments):
        where = place(context, builder, signature.args[0], *arguments[:2])
        builder.store_atomic(arguments[2], where, "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), generate


@instruction
def exchange(typing, array, index, old, new):
    """If array[index] is `old`, make it `new`: whether that happened, in one instruction."""

    def generate(context, builder, signature, arguments):
        where = place(context, builder, signature.args[0], *arguments[:2])
        done = builder.extract_value(builder.cmpxchg(where, *arguments[2:], "seq_cst"), 1)
        return builder.zext(done, ir.IntType(8))

    return types.uint8(array, types.int64, types.int64, types.int64), generate


@instruction
def breathe(typing):
    """Tell the processor that this loop only waits, where it has a word for that."""

    def generate(context, builder, signature, arguments):
        if "x86" in binding.get_default_triple():
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), generate


@instruction
def offer_core(typing):
    """Let another thread run on this core, where the system has a word for that."""

    def generate(context, builder, signature, arguments):
        if binding.address_of_symbol("sched_yield"):
            kind = ir.FunctionType(ir.IntType(32), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), generate


@lean
def meet(lines, thread, threads):
    """A barrier: go on when all threads are here."""
    count = lines[thread * LINE + MET] + 1
    write(lines, thread * LINE + MET, count)
    for other in range(threads):
        asked = 0
        while read(lines, other * LINE + MET) < count:
            asked += 1
            if asked > PATIENCE:
                offer_core()
            else:
                breathe()


@lean
def claim(lines, threads):
    """Make all helpers ready to begin: whether all of them were awake; else none is claimed."""
    for helper in range(1, threads):
        asked = 0
        while not exchange(lines, helper * LINE + STATE, READY, CLAIMED):
            asked += 1
            if asked > PATIENCE and (asked > SPINS or read(lines, helper * LINE + STATE) == PARKED):
                for claimed in range(1, helper):
                    write(lines, claimed * LINE + STATE, READY)
                return False
            breathe()
    return True


@lean
def await_work(lines, thread):
    """Spin until there is work, or long enough: whether there is work. If not, the thread is parked now."""
    asked = 0
    while read(lines, thread * LINE + STATE) != GO:
        asked += 1
        # a claimed thread cannot park: the exchange fails, and it goes on asking
        if asked > SPINS and exchange(lines, thread * LINE + STATE, READY, PARKED):
            return False
        breathe()
    return True


class Team:
    """Helpers 1 to `threads` - 1 of a leader, who is whatever thread asks for a step.

    `serve(thread, lines, *arguments)` is compiled: it works until it has parked. `lead(lines, *arguments)` makes a step
    and says whether it could.
    """

    def __init__(self, threads: int, lead, serve, arguments: tuple):
        self.lines = numbers((threads * LINE,), np.int64)  # all PARKED
        self.lead, self.arguments, self.closed = lead, arguments, False
        self.bells = [threading.Semaphore(0) for _ in range(threads)]
        for thread in range(1, threads):
            threading.Thread(target=self._help, args=(thread, serve), daemon=True, name=f"firsthand-{thread}").start()

    def _help(self, thread: int, serve) -> None:
        while True:
            self.bells[thread].acquire()
            if self.closed:
                return
            serve(thread, self.lines, *self.arguments)

    def step(self) -> None:
        """One step by all."""
        while not self.lead(self.lines, *self.arguments):
            for thread, bell in enumerate(self.bells):
                if thread and self.lines[thread * LINE + STATE] == PARKED:
                    bell.release()

    def close(self) -> None:
        """End the helpers; they notice within a millisecond."""
        self.closed = True
        for bell in self.bells:
            bell.release()
