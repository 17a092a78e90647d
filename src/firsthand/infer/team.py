"""Threads that work on one token together, without Python: claim, go, meet at barriers, spin a while, park.

A step of a small model takes a millisecond and has 150 places where threads wait for each other. Asking the system to
put a thread to sleep and wake it takes 50 microseconds; a thread that keeps asking "is it there yet?" goes on after a
quarter of one. So helpers *spin*: between the parts of a step, and for a few milliseconds after it, because the next
token mostly comes soon. Then they *park*: a core that only asks is a core that nobody else can use. If threads are
more than cores, the one that is waited for may not be running at all: after some asking the others offer their core.

Each helper has a state, changed by single uninterruptible instructions:

    PARKED   sleeps in Python, on a semaphore; somebody must wake it
    RUNG     must be woken, or is on its way
    READY    spins; will notice GO
    CLAIMED  spins, and may not park: a step is about to begin
    GO       works; then READY

The leader claims all helpers first and begins only if it got all. Otherwise it gives back those it has, returns to
Python, rings whoever is RUNG, and tries again. All of a step, from the first claim to the last barrier, happens in one
call of compiled code: an interrupt comes before it or after it, never in between. Python changes no state, so one that
comes before a bell costs nothing: the next step rings it.
"""

import threading
from collections.abc import Callable

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils

from firsthand.infer.pack import numbers
from firsthand.tokenizer.compiled import instruction, lean

PARKED, READY, CLAIMED, GO, RUNG = range(5)
LINE = 16  # numbers a thread has for itself: two cache lines, so that nobody waits for what another writes
STATE, MET = 0, 1  # a thread's state; how many barriers it has reached
SPINS = 100_000  # times a helper asks before it parks: two to five milliseconds
PATIENCE = 2_000  # times a thread asks for another before it offers its core
NAPS = 100  # times the leader then offers it before it looks again who is parked: about five milliseconds
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
    """Sleep for the shortest time there is, where the system has a word for that (Windows has not).

    Merely to yield does not help where cores are busy: who yields is soon chosen again, and who is waited for is not.
    """

    def generate(context, builder, signature, arguments):
        if binding.address_of_symbol("usleep"):
            kind = ir.FunctionType(ir.IntType(32), [ir.IntType(32)])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "usleep"), [ir.IntType(32)(1)])
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
    """Make all helpers ready to begin: whether all of them were awake; else none is claimed, and sleepers are RUNG."""
    asleep = 0
    for helper in range(1, threads):
        asleep += exchange(lines, helper * LINE + STATE, PARKED, RUNG)
    if asleep:
        return False
    for helper in range(1, threads):
        asked = 0
        while not exchange(lines, helper * LINE + STATE, READY, CLAIMED):
            asked += 1
            # one that parked a moment ago must be rung at once; waiting for it would take all the patience there is
            if read(lines, helper * LINE + STATE) == PARKED or asked > PATIENCE + NAPS:
                for claimed in range(1, helper):
                    write(lines, claimed * LINE + STATE, READY)
                return False
            if asked > PATIENCE:
                offer_core()
            else:
                breathe()
    return True


@lean
def await_work(lines, thread, woken):
    """Spin until there is work, or long enough: whether there is work. If not, the thread is parked now.

    Who was woken for work waits a hundred times longer for it: on busy cores the helpers do not wake together, and if
    the first were asleep again before the last is awake, no step would ever begin.
    """
    asked = 0
    while read(lines, thread * LINE + STATE) != GO:
        asked += 1
        if asked <= SPINS:
            breathe()
        elif woken and asked < SPINS + 100 * NAPS:
            offer_core()
        # a claimed thread cannot park: the exchange fails, and it goes on asking
        elif exchange(lines, thread * LINE + STATE, READY, PARKED):
            return False
        else:
            offer_core()
    return True


class Team:
    """Helpers 1 to `threads` - 1 of a leader, who is whatever thread asks for a step.

    `work(thread, lines, *arguments)` is compiled. As thread 0 it makes a step and says whether it could; as another it
    works until it has parked.
    """

    def __init__(self, threads: int, work: Callable[..., bool], arguments: tuple):
        self.lines = numbers((threads * LINE,), np.int64)  # all PARKED
        self.work, self.arguments, self.closed = work, arguments, False
        self.bells = [threading.Semaphore(0) for _ in range(threads)]
        for thread in range(1, threads):
            threading.Thread(
                target=self._help, args=(thread,), daemon=True, name=f"firsthand-{id(self)}-{thread}"
            ).start()

    def _help(self, thread: int) -> None:
        bell = self.bells[thread]
        while True:
            bell.acquire()
            while bell.acquire(blocking=False):
                pass  # it was rung more than once before this thread was awake
            if self.closed:
                return
            self.work(thread, self.lines, *self.arguments)

    def step(self) -> None:
        """One step by all."""
        while not self.work(0, self.lines, *self.arguments):
            for thread, bell in enumerate(self.bells):
                if self.lines[thread * LINE + STATE] == RUNG:  # the leader never is
                    bell.release()

    def close(self) -> None:
        """End the helpers; they notice within milliseconds."""
        self.closed = True
        for bell in self.bells:
            bell.release()
