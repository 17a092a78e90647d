"""What frozen layers make of a data set, computed once: every epoch after the first has only the upper layers to do.

The streams lie in one file, row after row, and only the rows of a batch are in memory. A text is known by its ids, so
equal texts share a row, and neither order nor padding can change what is found. Dropout is off in what is frozen.

B rows, T positions, C width.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from firsthand import files
from firsthand.model.gpt import GPT
from firsthand.objectives.base import Batch

Progress = Callable[[int, int], None]  # bytes done, bytes in all
ROOM = 4_096  # tokens computed at once


class Trunk:
    """The streams above the first `blocks` blocks of a model, for rows of ids that were given beforehand."""

    def __init__(self, folder: Path, rows: Sequence[Sequence[int]], blocks: int):
        known = {np.asarray(row, np.int64).tobytes(): len(row) for row in rows}
        order = sorted(known, key=lambda key: (known[key], key))  # by length: hardly any padding
        starts = np.cumsum([0, *(known[key] for key in order)])
        self.starts = dict(zip(order, starts.tolist(), strict=False))
        self.order, self.tokens, self.blocks, self.folder = order, int(starts[-1]), blocks, folder
        self.path = folder
        self.kept = torch.empty(0)

    def bytes(self, model: GPT) -> int:
        """What the file takes."""
        return self.tokens * model.config.d_model * model.embed.weight.element_size()

    def fill(self, model: GPT, progress: Progress | None = None) -> None:
        """Compute what is not there yet, and open it; `model` is in the state in which its frozen part stays."""
        self.path, shape = self.folder / f"trunk-{self._fingerprint(model)}.bin", (self.tokens, model.config.d_model)
        if not self.path.exists():
            files.require_space(self.path, self.bytes(model))
            files.write_file(self.path, lambda file: self._write(file, model, progress))
        dtype = np.dtype(str(model.embed.weight.dtype).removeprefix("torch."))
        self.kept = torch.from_numpy(np.memmap(self.path, dtype, "c", shape=shape))

    def forget(self) -> None:
        """Delete the file: the run is over."""
        self.kept = torch.empty(0)
        self.path.unlink(missing_ok=True)

    def _fingerprint(self, model: GPT) -> str:
        """A hash of the rows and of every frozen weight: another model or text has another file."""
        digest = hashlib.sha256(b"|".join([str(model.config).encode(), *self.order]))
        for part in (model.embed, *([model.positions] if model.positions else []), *model.blocks[: self.blocks]):
            for weight in part.state_dict().values():
                digest.update(memoryview(weight.detach().cpu().contiguous().numpy()).cast("B"))
        return f"{self.blocks}-{digest.hexdigest()[:16]}"

    @torch.inference_mode()
    def _write(self, file: BinaryIO, model: GPT, progress: Progress | None) -> None:
        training, done = model.training, 0
        model.eval()
        for keys in _chunks(self.order):
            rows = [torch.frombuffer(bytearray(key), dtype=torch.long) for key in keys]
            inputs = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # (B, T)
            stream = model.stream(inputs.to(model.embed.weight.device), self.blocks)
            for row, x in zip(rows, stream, strict=True):
                file.write(x[: len(row)].contiguous().cpu().numpy().data)
                done += x[: len(row)].nbytes
            if progress is not None:
                progress(done, self.bytes(model))
        model.train(training)

    def hidden(self, model: Any, batch: Batch) -> Tensor:
        """What the head reads, the frozen part looked up: (B, T) -> (B, T, C)."""
        stream = self.kept.new_zeros(batch.inputs.numel(), self.kept.shape[1])
        for at, ids in zip(batch.starts.tolist(), batch.texts, strict=True):
            start = self.starts[ids.cpu().numpy().tobytes()]
            stream[at : at + len(ids)] = self.kept[start : start + len(ids)]
        stream = stream.view(*batch.inputs.shape, -1).to(batch.inputs.device)
        return model.finish(stream, self.blocks, batch.positions)


def hidden_of(model: Any, batch: Batch, trunk: Trunk | None) -> Tensor:
    """What the head reads of a batch, by the whole model or from a trunk upwards: (B, T) -> (B, T, C)."""
    return model.hidden(batch.inputs, positions=batch.positions) if trunk is None else trunk.hidden(model, batch)


def _chunks(order: list[bytes]) -> list[list[bytes]]:
    """Rows in groups of at most ROOM tokens, padding included; always the same, so that the bits are."""
    chunks: list[list[bytes]] = [[]]
    for key in order:
        if (len(chunks[-1]) + 1) * len(key) // 8 > ROOM and chunks[-1]:
            chunks.append([])
        chunks[-1].append(key)
    return chunks
