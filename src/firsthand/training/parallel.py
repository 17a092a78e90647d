"""Several processes as one: started by torchrun, each computes its own micro-batches, and their sums are added up.

Not torch's DistributedDataParallel, for two reasons: it takes the mean over ranks, where rows of unequal count need the
sum; and it watches `forward`, while an objective may call any part of the model. What is left is one addition a step.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

BUCKET = 2**24  # numbers sent at once


@dataclass(frozen=True)
class Ranks:
    """Which process this is, of how many."""

    rank: int = 0
    world: int = 1

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Every tensor becomes its sum over all ranks, in place; equal on all of them afterwards, to the bit."""
        if self.world == 1:
            return
        for bucket in _buckets(list(tensors)):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            dist.all_reduce(flat)
            for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def total(self, *numbers: float) -> list[float]:
        """Every number, summed over all ranks."""
        if self.world == 1:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(sums)
        return sums.tolist()

    def wait(self) -> None:
        """Go on when all ranks have come this far."""
        if self.world > 1:
            dist.barrier()

    def largest(self, number: int) -> int:
        """The largest of the numbers that the ranks hold."""
        if self.world == 1:
            return number
        largest = torch.tensor(number)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)


ALONE = Ranks()


def join(seconds: float = 120) -> Ranks:
    """This process among those that torchrun started, or alone; a rank that is silent for `seconds` ends the run."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return ALONE
    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=timedelta(seconds=seconds))
        dist.monitored_barrier()  # names the rank that did not come
    return Ranks(dist.get_rank(), world)


def leave() -> None:
    """End the group, so that no rank waits for one that has gone."""
    if dist.is_initialized():
        dist.destroy_process_group()


def local_device() -> str:
    """The GPU that belongs to this process, by torchrun's numbering."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def _buckets(tensors: list[Tensor]) -> Iterable[list[Tensor]]:
    """Tensors in order, cut where a bucket is full or the type changes."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and (tensor.dtype != bucket[0].dtype or sum(t.numel() for t in bucket) >= BUCKET):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
