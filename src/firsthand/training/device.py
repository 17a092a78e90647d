"""Which hardware, which arithmetic: the only place that asks what there is; it measures, chooses, and says so.

A processor may have two or three ways to multiply matrices that differ by a factor of two to eight in speed, and the
fastest may be as exact as the slowest, or not: only a product compared with float64 tells.
"""

import ctypes
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from firsthand.errors import DeviceError
from firsthand.training.parallel import Ranks

EXACT = 3e-6  # float32 products end near 5e-7; a way that is further off than this is not float32
WORTH = 1.2  # a faster way must be this much faster to be worth another rounding


@dataclass(frozen=True)
class Arithmetic:
    """How matrix products are computed: on which device, in which type, by which route, and how good that is."""

    device: str
    dtype: str  # "float32", "bfloat16", "float16": of the products; weights are float32 always
    route: str = "none"  # torch.backends.mkldnn.matmul.fp32_precision: "none" is torch's own choice
    gigaflops: float = 0.0
    error: float = 0.0  # largest difference from float64, relative to the largest result
    instead: str = ""  # what else there was

    def __str__(self) -> str:
        kind = {"float32": "float32", "bfloat16": "bfloat16 products, float32 weights"}.get(
            self.dtype, "float16 products with a loss scale, float32 weights"
        )
        route = " by oneDNN" if self.route != "none" else ""
        measured = f": {self.gigaflops:,.0f} GFLOP/s, error {self.error:.1e}" if self.gigaflops else ""
        return f"{kind}{route} on {self.device}{measured}{self.instead}"

    def autocast(self, enabled: bool = True) -> AbstractContextManager[object]:
        """Inside, products run in `dtype`; a weight is rounded once, and the rounded one is kept until the end."""
        if self.dtype == "float32":
            return nullcontext()
        kind = torch.device(self.device).type
        return torch.autocast(kind, getattr(torch, self.dtype), enabled=enabled)

    @contextmanager
    def products(self) -> Iterator[None]:
        """Inside, float32 products take this route; outside it is as before (one row at a time is slower by it)."""
        switch: Any = torch.backends.mkldnn.matmul  # pyrefly: ignore
        before = switch.fp32_precision
        switch.fp32_precision = self.route
        try:
            yield
        finally:
            switch.fp32_precision = before

    def facts(self) -> dict[str, str]:
        """What must be the same again for the same bits."""
        return {"device": self.device, "dtype": self.dtype, "route": self.route}


PLAIN = Arithmetic("cpu", "float32")


def pick(name: str) -> torch.device:
    """The device that is asked for, or for "auto" the best there is."""
    count = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda:0" if count else "mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not index.isdecimal()):
        raise DeviceError(f"device {name!r} is not known; use auto, cpu, cuda, cuda:1 or mps")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise DeviceError(f"device=mps asked, but this machine has no Apple GPU that torch can use; {TRY_CPU}", code=8)
    if kind == "cuda" and not count:
        build = "is CPU-only" if torch.version.cuda is None else "finds no GPU"
        raise DeviceError(f"device={name} asked, but this torch build {build} ({torch.__version__}). {TRY_CPU}", code=8)
    if kind == "cuda" and int(index or 0) >= count:
        names = ", ".join(f"cuda:{i}" for i in range(count))
        raise DeviceError(f"device={name}: this machine has {count} GPUs ({names}). Choose one of them.", code=9)
    return torch.device(kind, int(index)) if index else torch.device(kind)


TRY_CPU = "Run with train.device=cpu (expect it to be much slower), or install a torch build for your GPU."


def choose(device: str, dtype: str, rows: int = 1024, width: int = 768) -> Arithmetic:
    """The arithmetic for products of `rows` x `width` with `width` x 4 `width`, the commonest of a training step.

    `dtype` "auto" is the fastest there is; a named one is kept, and on a processor its fastest exact route is found.
    """
    place = pick(device)
    if place.type == "cuda":
        return _on_cuda(str(place), dtype)
    if place.type == "mps":
        return Arithmetic("mps", "float32" if dtype == "auto" else dtype)
    ways = [Arithmetic("cpu", "float32"), Arithmetic("cpu", "float32", "bf16"), Arithmetic("cpu", "bfloat16")]
    if dtype != "auto":
        ways = [way for way in ways if way.dtype == dtype] or [Arithmetic("cpu", dtype)]
    return best([measure(way, min(rows, 1024), min(width, 1024)) for way in ways])


def _on_cuda(place: str, dtype: str) -> Arithmetic:
    """bfloat16 where the chip has it; older chips emulate it, slowly, and take float16 with a loss scale instead."""
    real = torch.cuda.is_bf16_supported(including_emulation=False)
    if dtype == "bfloat16" and not real:
        return Arithmetic(place, "float16", instead="; bfloat16 asked, but this GPU only emulates it")
    return Arithmetic(place, ("bfloat16" if real else "float16") if dtype == "auto" else dtype)


def best(ways: list[Arithmetic]) -> Arithmetic:
    """The fastest of several measured ways; another way of float32 must be as exact as float32 is."""
    base = ways[0]
    good = [way for way in ways[1:] if way.dtype != "float32" or way.error <= EXACT]
    for way in sorted(good, key=lambda way: -way.gigaflops):
        if way.gigaflops >= WORTH * base.gigaflops:
            instead = f" ({base.dtype}: {base.gigaflops:,.0f} GFLOP/s, error {base.error:.1e})"
            return replace(way, instead=instead)
    return base


def agree(own: Arithmetic, ranks: Ranks) -> Arithmetic:
    """The first rank's choice: every rank measured for itself, and another type would be another run."""
    kinds = [("float32", "none"), ("float32", "bf16"), ("bfloat16", "none"), ("float16", "none")]
    dtype, route = kinds[ranks.largest(kinds.index((own.dtype, own.route)) if ranks.rank == 0 else 0)]
    return own if (own.dtype, own.route) == (dtype, route) else Arithmetic(own.device, dtype, route)


def measure(way: Arithmetic, rows: int, width: int) -> Arithmetic:
    """One linear layer forward and back, as a training step does it: speed, and error against float64."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, width, generator=generator, requires_grad=True)
    weight = (torch.randn(4 * width, width, generator=generator) * width**-0.5).requires_grad_()
    slope = torch.randn(rows, 4 * width, generator=generator)

    def turn() -> Tensor:
        with way.autocast():
            y = F.linear(x, weight)
        down = slope.to(y.dtype)  # a hook that held y itself would keep it for ever
        y.register_hook(lambda _: down)  # as y.backward(down), which would load torch's compiler: 0.4 s
        y.sum().backward()
        return y

    with way.products():
        y = turn().detach().double()
        seconds = _shortest(turn)
    with torch.no_grad():
        exact = x.double() @ weight.double().mT
    error = (y - exact).abs().max() / exact.abs().max()
    speed = 3 * 2 * rows * width * 4 * width / seconds / 1e9
    return Arithmetic(way.device, way.dtype, way.route, speed, float(error))


def _shortest(turn: Callable[[], object]) -> float:
    """Seconds of the fastest of a few turns: a busy machine only ever makes one slower, a small one thirty times."""
    seconds: list[float] = []
    while len(seconds) < 3 or (len(seconds) < 20 and sum(seconds) < 0.3):
        begin = time.perf_counter()
        turn()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def keep_memory() -> None:
    """Let this process keep what it frees: a step takes and frees gigabytes, and the kernel clears each page anew.

    A seventh of the time of a GPT-2 step on a processor. glibc only; elsewhere nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(M_MMAP_MAX, 0)  # no block in a mapping of its own, which goes back to the kernel as soon as it is freed
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # as in malloc.h


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on any device; a processor says it in words only."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def memory(device: torch.device) -> tuple[int, int] | None:
    """Bytes that torch holds at most so far, and bytes free, where the device can tell."""
    if device.type != "cuda":
        return None
    return torch.cuda.max_memory_allocated(device), torch.cuda.mem_get_info(device)[0]


def peak_memory() -> int:
    """The most bytes this process has held so far: on the GPU if it used one, else as the kernel counts them."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.is_file() else []
    peak = next((line for line in lines if line.startswith("VmHWM:")), None)  # getrusage would count the parent's too
    scale = 1 if sys.platform == "darwin" else 1024
    return int(peak.split()[1]) * 1024 if peak else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
