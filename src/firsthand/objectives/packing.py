"""A batch in one row, so that none of it is padding: no text sees another, and each begins at position 0.

    one text a row     5 6 7 8          inputs, padded to the longest
                       1 2 - -
    packed             5 6 7 8 1 2      positions 0 1 2 3 0 1

The same examples make the same batch, so the order of the data, the sums and the gradients stay what they were.

N texts, T positions, P tokens of all texts.
"""

from dataclasses import replace

import torch

from firsthand.objectives.base import Batch


def packed(batch: Batch) -> Batch:
    """Inputs (N, T), targets (N, T) or (N,) -> inputs (1, P), targets (1, P) or (N,), positions (1, P)."""
    places = torch.arange(batch.inputs.shape[1]).expand_as(batch.inputs)
    real = places < batch.lengths[:, None]
    targets = batch.targets[real][None] if batch.targets.dim() == 2 else batch.targets
    return replace(batch, inputs=batch.inputs[real][None], targets=targets, positions=places[real][None])
