"""One chunk of text -> one part file of ids, in whichever process; and the parts read back.

A part is two files: NUMBER.ids holds the train ids, then the validation ids; NUMBER.json, written after it, holds its
SHA-256 and the counts. A part counts only if the two agree, so a kill at any moment costs at most that chunk.
"""

import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from firsthand import files
from firsthand.data.chunks import SIDES, Chunk, Side
from firsthand.data.ledger import Counts, Document, Reading, Source
from firsthand.data.records import documents
from firsthand.data.tokens import smallest_dtype
from firsthand.errors import CheckpointError, TokenizerError


class Tokenizer(Protocol):
    """What preparing needs to know of a tokenizer."""

    @property
    def fingerprint(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def end_of_text(self) -> int | None: ...
    def encode(self, text: str) -> np.ndarray: ...
    def save(self, path: Path) -> object: ...


@dataclass(frozen=True)
class Total:
    """How much lies on one side."""

    ids: int = 0
    documents: int = 0
    text_bytes: int = 0


@dataclass(frozen=True)
class Part:
    """What a finished chunk says of itself."""

    sha256: str
    train: Total
    validation: Total
    counts: Counts
    lowest: float  # the smallest share that would have put one of its documents on the validation side

    def of(self, side: Side) -> Total:
        return self.train if side == "train" else self.validation


@dataclass(frozen=True)
class Encoder:
    """Everything a process must know to encode a chunk."""

    sources: tuple[Source, ...]
    reading: Reading
    seed: int
    fraction: float
    folder: Path

    def encode(self, chunk: Chunk, tokenizer: Tokenizer) -> None:
        """Encode one chunk and write its part."""
        dtype = smallest_dtype(tokenizer.vocab_size)
        counts, lowest = Counts(), 1.0
        pieces: dict[Side, list[np.ndarray]] = {side: [] for side in SIDES}
        totals = {side: Total() for side in SIDES}
        for document in self._documents(chunk, counts):
            share = self.share(document)
            lowest = min(lowest, share)
            side = chunk.side or ("validation" if share < self.fraction else "train")
            ids = _encode(document, tokenizer).astype(dtype)
            if document.ends and tokenizer.end_of_text is not None:
                ids = np.append(ids, dtype.type(tokenizer.end_of_text))
            pieces[side].append(ids)
            old, size = totals[side], len(document.text.encode())
            totals[side] = Total(old.ids + len(ids), old.documents + document.ends, old.text_bytes + size)
        data = np.concatenate([np.empty(0, dtype), *pieces["train"], *pieces["validation"]]).tobytes()
        part = Part(hashlib.sha256(data).hexdigest(), totals["train"], totals["validation"], counts, lowest)
        files.write_file(self.folder / f"{chunk.index:06}.ids", data)
        files.write_file(self.folder / f"{chunk.index:06}.json", json.dumps(asdict(part)))

    def share(self, document: Document) -> float:
        """A number in [0, 1) that depends on the document's text and the seed alone; small ones are for validation."""
        whole_file = document.source.kind == "text" and self.reading.separator is None
        digest = document.source.digest if whole_file else hashlib.sha256(document.text.encode()).hexdigest()
        keyed = hashlib.blake2b(digest.encode(), digest_size=8, key=str(self.seed).encode())
        return int.from_bytes(keyed.digest(), "little") / 2**64

    def part(self, index: int) -> Part:
        """A finished part's account of itself."""
        values = json.loads((self.folder / f"{index:06}.json").read_text())
        counts = Counts.of(values["counts"])
        train, validation = Total(**values["train"]), Total(**values["validation"])
        return Part(values["sha256"], train, validation, counts, values["lowest"])

    def ids(self, side: Side, count: int) -> Iterator[bytes]:
        """The ids of one side as bytes, from `count` parts in order."""
        for index in range(count):
            part, data = self.part(index), (self.folder / f"{index:06}.ids").read_bytes()
            width = len(data) // max(1, part.train.ids + part.validation.ids)
            middle = part.train.ids * width
            yield data[:middle] if side == "train" else data[middle:]

    def is_finished(self, index: int) -> bool:
        """Whether a chunk's part is there, and whole."""
        try:
            return self.part(index).sha256 == files.sha256(self.folder / f"{index:06}.ids")
        except (OSError, ValueError, KeyError, TypeError, CheckpointError):  # not written, or torn: encode it again
            return False

    def _documents(self, chunk: Chunk, counts: Counts) -> Iterator[Document]:
        for span in chunk.spans:
            yield from documents(self.sources[span.source], span.start, span.end, self.reading, counts)


def _encode(document: Document, tokenizer: Tokenizer) -> np.ndarray:
    if not document.ends:
        from firsthand.tokenizer.sentence import SentenceTokenizer

        if isinstance(tokenizer, SentenceTokenizer):  # every part would get a space before it
            raise TokenizerError(
                f"{document.source.name} is too large to be one text, and a tokenizer of Llama 2's kind cannot take it "
                "in parts; cut it into documents: data.reading.separator=..."
            )
    try:
        return tokenizer.encode(document.text)
    except TokenizerError as error:
        error.args = (f"{document.source.name}: {error}",)
        raise


_state: tuple[Encoder, Tokenizer] | None = None  # of this worker process


def begin(work: Encoder) -> None:
    """Called once in every worker process: load the tokenizer that lies with the parts; live no longer than asked."""
    from firsthand.tokenizer.bpe import Tokenizer as Saved

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent: it lets every chunk end
    threading.Thread(target=_end_with_parent, daemon=True).start()
    global _state
    _state = work, Saved.load(work.folder / "tokenizer.json")


def _end_with_parent() -> None:
    """A parent that was killed closes no queue: without this its workers would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def run(chunk: Chunk) -> Chunk:
    """Called in a worker process for every chunk."""
    assert _state is not None
    _state[0].encode(chunk, _state[1])
    return chunk
