"""Text -> token shards: split into chunks, encode them in processes, join the parts, publish.

    out/train.tokens  out/validation.tokens  out/tokenizer.json  out/MANIFEST.json

A corpus of any size passes in bounded memory: a chunk is a few MiB, cut where cutting cannot change an id (cuts.py).
Each finished chunk lies beside `out` with its hash, so a prepare that was killed goes on where it stopped. The shards
are the same bytes for any number of workers, any size of chunk, and any number of interruptions.
"""

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from firsthand import files
from firsthand.data import sources as reader
from firsthand.data.chunks import SIDES, Chunk, Side, chunks
from firsthand.data.encode import Encoder, Part, Tokenizer, begin, run
from firsthand.data.ledger import Counts, Reading, Source
from firsthand.data.tokens import Header, smallest_dtype, write_header
from firsthand.errors import DataError

CHUNK = 4 << 20  # bytes of text in one unit of work
FEW = 20  # below this many whole files, a split by document would be a lottery

Progress = Callable[[int, int], None]  # (bytes done, bytes in all)


@dataclass(frozen=True)
class Prepared:
    """Where the shards lie, and what became of the text."""

    train: Path
    validation: Path | None  # None if no validation side was asked for
    tokenizer: Path
    counts: Counts
    split: str  # in words, to be said aloud
    ids: dict[str, int]  # per side
    reused: bool  # True if `out` already held exactly this


def prepare(
    sources: Sequence[Path | str],
    tokenizer: Tokenizer,
    out: Path | str,
    *,
    reading: Reading | None = None,
    validation_fraction: float = 0.1,
    split: Literal["auto", "document", "position"] = "auto",
    seed: int = 0,
    workers: int = 1,
    chunk_bytes: int = CHUNK,
    progress: Progress | None = None,
) -> Prepared:
    """Encode files, folders, or standard input ('-') into a train and a validation shard under `out`.

    Each document is followed by the tokenizer's end-of-text. A document goes to the validation side if the hash of its
    text, keyed by `seed`, is small: twins always stay together, and a longer corpus keeps old decisions. A text alone
    (or a few) is split by position, its end being the validation side.
    """
    if not 0 <= validation_fraction < 1:
        raise DataError(f"data.validation_fraction={validation_fraction} must be at least 0 and below 1; try 0.1.")
    out, reading, counts = Path(out), reading or Reading(), Counts()
    folder = out.parent / f".{out.name}-parts"
    with files.RunLock(folder):
        try:
            found = tuple(reader.check(sources, folder / "input", reading, counts))
            if not found:
                counts.check(reader.named(sources))
            position = split == "position" or (split == "auto" and _is_few(found, reading))
            work = Encoder(found, reading, seed, validation_fraction, folder)
            job = _Job(work, tokenizer, out, reader.named(sources), counts, position, chunk_bytes)
            return job.existing() if out.exists() else job.make(workers, progress or _silent)
        finally:
            if out.exists() or not any(folder.glob("[0-9]*.json")):  # finished, or nothing worth keeping
                files.discard(folder)


def _is_few(found: Sequence[Source], reading: Reading) -> bool:
    return len(found) < FEW and reading.separator is None and all(source.kind == "text" for source in found)


def _silent(done: int, total: int) -> None:
    pass


@dataclass(frozen=True)
class _Job:
    """One corpus on its way into shards."""

    work: Encoder
    tokenizer: Tokenizer
    out: Path
    name: str  # the corpus, in messages
    counts: Counts
    position: bool  # split by position, not by document
    chunk_bytes: int

    @property
    def plan(self) -> str:
        """A hash of everything that decides the shards: the same plan, the same bytes."""
        texts = [(source.digest, source.kind) for source in self.work.sources]
        how = (asdict(self.work.reading), self.work.fraction, self.position, self.work.seed, self.chunk_bytes)
        return hashlib.sha256(json.dumps([texts, how, self.tokenizer.fingerprint]).encode()).hexdigest()

    def existing(self) -> Prepared:
        """What `out` holds, if it was made by the same plan."""
        about = files.verify(self.out)["about"]
        if about.get("plan") != self.plan:
            raise DataError(
                f"{files.shown(self.out)} already holds something else: another text, tokenizer, or setting. "
                f"Choose another folder, or delete it: rm -r {files.shown(self.out)}",
                code=25,
            )
        return _prepared(self.out, about, reused=True)

    def make(self, workers: int, progress: Progress) -> Prepared:
        todo = list(chunks(self.work.sources, self.chunk_bytes, self.work.fraction if self.position else None))
        self._encode(todo, workers, progress)
        for source in self.work.sources:
            if source.stamp != source.path.stat().st_mtime_ns:
                raise DataError(f"{source.name} was changed while it was read. Run the same command again.")
        return self._join([self.work.part(chunk.index) for chunk in todo])

    def _encode(self, every: list[Chunk], workers: int, progress: Progress) -> None:
        """Encode every chunk that has no valid part of this plan yet."""
        note = self.work.folder / "plan"
        if not note.is_file() or note.read_text() != self.plan:
            for old in self.work.folder.glob("[0-9]*"):
                old.unlink()
            self.tokenizer.save(self.work.folder / "tokenizer.json")
            files.write_file(note, self.plan)
        todo = [chunk for chunk in every if not self.work.is_finished(chunk.index)]
        total = sum(chunk.size for chunk in every)
        done = total - sum(chunk.size for chunk in todo)
        for chunk in self._finished(todo, min(workers, len(todo))):
            done += chunk.size
            progress(done, total)

    def _finished(self, todo: list[Chunk], workers: int) -> Iterator[Chunk]:
        """Each chunk once its part is written; in order, so that the first fault reported is the corpus's first."""
        if workers <= 1:
            for chunk in todo:
                self.work.encode(chunk, self.tokenizer)
                yield chunk
            return
        context = multiprocessing.get_context("spawn")  # a fork would copy locks that other threads hold
        pool = ProcessPoolExecutor(workers, context, begin, (self.work,))
        try:
            yield from pool.map(run, todo)
        except BrokenProcessPool:
            raise DataError(
                f"a process that encoded text was killed, usually for want of memory. What is finished is kept: "
                f"run the same command again, with --workers {max(1, workers // 2)}."
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)

    def _join(self, parts: list[Part]) -> Prepared:
        """Check what all parts together hold, write the two shards from them, and publish the directory."""
        for part in parts:
            self.counts.add(part.counts)
        self.counts.check(self.name)
        headers = {side: self._header(side, parts) for side in SIDES}
        fraction = self.work.fraction
        for side in SIDES:
            if headers[side].count == 0 and (side == "train" or fraction > 0):
                raise DataError(self._emptiness(side, min(part.lowest for part in parts)), code=30)
        ids = {side: header.count for side, header in headers.items()}
        how = f"the last {fraction:.0%} of the text" if self.position else "chosen by the hash of each document"
        split = f"{ids['validation']:,} of {sum(ids.values()):,} tokens for validation: {how}"
        about = {"plan": self.plan, "counts": asdict(self.counts), "split": split, "ids": ids}
        shards: dict[str, files.Content] = {
            f"{side}.tokens": _Shard(self.work, side, header, len(parts))
            for side, header in headers.items()
            if header.count
        }
        saved = (self.work.folder / "tokenizer.json").read_bytes()
        expected = sum(ids.values()) * smallest_dtype(self.tokenizer.vocab_size).itemsize
        files.publish(self.out, {**shards, "tokenizer.json": saved}, about, expected)
        return _prepared(self.out, about, reused=False)

    def _header(self, side: Side, parts: list[Part]) -> Header:
        """Everything the shard of one side will say of itself; reads its ids once, for their hash."""
        totals = [part.of(side) for part in parts]
        digest = hashlib.sha256()
        for ids in self.work.ids(side, len(parts)):
            digest.update(ids)
        return Header(
            dtype=smallest_dtype(self.tokenizer.vocab_size).name,
            count=sum(total.ids for total in totals),
            documents=sum(total.documents for total in totals),
            text_bytes=sum(total.text_bytes for total in totals),
            vocab_size=self.tokenizer.vocab_size,
            tokenizer=self.tokenizer.fingerprint,
            end_of_text=self.tokenizer.end_of_text,
            data_sha256=hashlib.sha256("".join(source.digest for source in self.work.sources).encode()).hexdigest(),
            ids_sha256=digest.hexdigest(),
        )

    def _emptiness(self, side: Side, lowest: float) -> str:
        given = (
            f"data.validation_fraction={self.work.fraction} of {self.counts.used:,} documents leaves none for {side}"
        )
        if self.position:
            return f"{given}: the text has no place to cut there. Give more text, or another fraction."
        if side == "validation":
            return f"{given}. Use data.validation_fraction={lowest + 0.005:.2f} or more, or give more documents."
        return f"{given}. Use a smaller data.validation_fraction, such as 0.1."


@dataclass(frozen=True)
class _Shard:
    """Writes one side's shard from the parts, a part at a time."""

    work: Encoder
    side: Side
    header: Header
    parts: int

    def __call__(self, file: BinaryIO) -> None:
        write_header(file, self.header)
        for ids in self.work.ids(self.side, self.parts):
            file.write(ids)


def _prepared(out: Path, about: dict, reused: bool) -> Prepared:
    validation = out / "validation.tokens" if about["ids"]["validation"] else None
    names = out / "train.tokens", validation, out / "tokenizer.json"
    return Prepared(*names, Counts.of(about["counts"]), about["split"], about["ids"], reused)
