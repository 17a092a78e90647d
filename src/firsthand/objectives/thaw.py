"""Which part of a model learns: everything, the blocks at its top, or adapters that were put in before.

head    nothing but a new head of labels
block   the last block and the norm after it        two     the last two blocks and the norm
all     everything                                  lora    the adapters
"""

from typing import Literal

from torch import nn

from firsthand.model.gpt import GPT

Thaw = Literal["head", "block", "two", "all", "lora"]
BLOCKS = {"head": 0, "block": 1, "two": 2}  # blocks at the top that learn; below them nothing does


def frozen_below(model: GPT, thaw: Thaw) -> tuple[int, list[nn.Module]]:
    """How many blocks at the bottom stay as they are, and the parts above them that learn, without the head."""
    count = len(model.blocks)
    if thaw not in BLOCKS:
        return 0, []
    first = max(0, count - BLOCKS[thaw])
    return first, [*model.blocks[first:], model.norm] if first < count else []


def only_upper(model: GPT, thaw: Thaw) -> None:
    """Freeze all but the upper blocks that `thaw` names; where it names no blocks, everything stays as it was."""
    parts = frozen_below(model, thaw)[1]
    if thaw in BLOCKS:
        model.requires_grad_(False)
    for part in parts:
        part.requires_grad_(True)
