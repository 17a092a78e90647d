"""Examples of ids, some of which are to be learned -> one batch of rows, padded on the right.

B rows, T positions. An example is (ids, mask), of one length; mask says which ids the model shall learn to say.
"""

from collections.abc import Sequence

import torch

from firsthand.errors import DataError
from firsthand.objectives.base import IGNORE, Batch

Example = tuple[Sequence[int], Sequence[bool]]


def rows(examples: Sequence[Example]) -> Batch:
    """Inputs (B, T) and, one token later, targets (B, T), IGNORE where nothing is learned; count: the learned targets.

    [5, 6, 7, 8] with 7 and 8 learned: inputs 5 6 7, targets - 7 8. What pads a row is never learned, and no real token
    can see it, for it stands on the right.
    """
    lengths = torch.tensor([len(ids) - 1 for ids, _ in examples])
    inputs = torch.zeros(len(examples), int(lengths.max()), dtype=torch.long)
    targets = torch.full_like(inputs, IGNORE)
    for row, (ids, mask) in enumerate(examples):
        whole, learned = torch.as_tensor(list(ids)), torch.as_tensor(list(mask), dtype=torch.bool)[1:]
        if not learned.any():
            raise DataError(f"an example of {len(ids)} tokens has none to learn; firsthand data check says which")
        inputs[row, : len(whole) - 1] = whole[:-1]
        targets[row, : len(whole) - 1] = torch.where(learned, whole[1:], IGNORE)
    return Batch(inputs, targets, lengths, int((targets != IGNORE).sum()))
