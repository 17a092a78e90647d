"""Text -> token shards: split into chunks, encode them in processes, join the parts, publish.

    out/train.tokens  out/validation.tokens  out/tokenizer.json  out/MANIFEST.json

A corpus of any size passes in bounded memory: a chunk is a few MiB, cut where cutting cannot change an id (cuts.py).
Each finished chunk lies beside `out` with its hash, so a prepare that was killed goes on where it stopped. The shards
are the same bytes for any number of workers and any number of interruptions.
"""

import hashlib
import json
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from firsthand import files
from firsthand.data import sources as reader
from firsthand.data.encode import SIDES, Chunk, Encoder, Part, Side, Span, Tokenizer, begin, run
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
    validation: Path | None
    tokenizer: Path
    counts: Counts
    split: str  # in words, to be said aloud
    ids: dict[str, int] = field(default_factory=dict)  # per side
    reused: bool = False  # True if `out` already held exactly this


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
    text, keyed by `seed`, is small: twins always stay together, and a longer corpus keeps old decisions. One text alone
    is split by position, its end being the validation side. Raises DataError where nothing usable is left on a side.
    """
    out, reading, counts = Path(out), reading or Reading(), Counts()
    with tempfile.TemporaryDirectory(prefix="firsthand-") as spool:
        found = list(reader.check(sources, Path(spool), reading, counts))
        if not found:
            counts.check(reader.named(sources))
        position = split == "position" or (split == "auto" and _is_few(found, reading))
        work = Encoder(tuple(found), reading, seed, validation_fraction, _parts_folder(out))
        settings = (asdict(reading), validation_fraction, position, seed, chunk_bytes, tokenizer.fingerprint)
        plan = hashlib.sha256(json.dumps([[(s.digest, s.kind) for s in found], settings]).encode()).hexdigest()
        if out.exists():
            return _existing(out, plan)
        chunks = list(_chunks(found, reading, chunk_bytes, validation_fraction if position else None))
        with files.RunLock(work.folder):
            _encode_all(work, tokenizer, plan, chunks, workers, progress)
            _refuse_changed(found)
            return _join(work, tokenizer, plan, chunks, out, counts, position, reader.named(sources))


def _is_few(found: list[Source], reading: Reading) -> bool:
    return len(found) < FEW and reading.separator is None and all(source.kind == "text" for source in found)


def _parts_folder(out: Path) -> Path:
    return out.parent / f".{out.name}-parts"


def _chunks(found: list[Source], reading: Reading, chunk_bytes: int, fraction: float | None) -> Iterator[Chunk]:
    """Units of about `chunk_bytes`: parts of large files, or many small files together.

    With a `fraction`, one boundary lies where that share of all bytes remains, and every chunk belongs to one side.
    """
    total = sum(source.size - source.start for source in found)
    cut = total if fraction is None else round(total * (1 - fraction))
    side: Side | None = None if fraction is None else "train"
    spans: list[Span] = []
    passed, filled, index = 0, 0, 0
    for number, source in enumerate(found):
        at = source.start
        if fraction is not None and source.kind in ("csv", "tsv"):
            raise DataError(f"{source.name} is a table, which cannot be split by position. Use data.split=document.")
        while at < source.size:
            end = source.size if source.kind in ("csv", "tsv") else min(source.size, at + chunk_bytes - filled)
            if passed < cut < passed + end - at:
                end = at + cut - passed
            spans.append(Span(number, at, end))
            passed, filled, at = passed + end - at, filled + end - at, end
            if filled >= chunk_bytes or passed in (cut, total):
                yield Chunk(index, tuple(spans), side)
                spans, filled, index = [], 0, index + 1
                side = "validation" if fraction is not None and passed >= cut else side


def _encode_all(
    work: Encoder, tokenizer: Tokenizer, plan: str, chunks: list[Chunk], workers: int, progress: Progress | None
) -> None:
    """Encode every chunk that has no valid part yet, in this process or in `workers` others."""
    path = work.folder / "plan"
    if not path.is_file() or path.read_text() != plan:
        for old in work.folder.glob("[0-9]*"):
            old.unlink()
        tokenizer.save(work.folder / "tokenizer.json")
        files.write_file(path, plan)
    total = sum(chunk.size for chunk in chunks)
    todo = [chunk for chunk in chunks if not work.is_finished(chunk.index)]
    done = total - sum(chunk.size for chunk in todo)
    for chunk in _finished(work, tokenizer, todo, workers):
        done += chunk.size
        if progress:
            progress(done, total)


def _finished(work: Encoder, tokenizer: Tokenizer, todo: list[Chunk], workers: int) -> Iterator[Chunk]:
    """Each chunk once its part is written; in order, so that the first fault reported is the first of the corpus."""
    if workers == 1 or len(todo) < 2:
        for chunk in todo:
            work.encode(chunk, tokenizer)
            yield chunk
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy locks that other threads hold
    pool = ProcessPoolExecutor(min(workers, len(todo)), context, begin, (work,))
    try:
        yield from pool.map(run, todo)
    except BrokenProcessPool:
        raise DataError(
            f"a process that encoded text was killed, usually for want of memory. What is finished is kept: run the "
            f"same command again, with data.workers={workers // 2}."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _refuse_changed(found: list[Source]) -> None:
    for source in found:
        if source.stamp != source.path.stat().st_mtime_ns:
            raise DataError(f"{source.name} was changed while it was read. Run the same command again.")


def _join(
    work: Encoder,
    tokenizer: Tokenizer,
    plan: str,
    chunks: list[Chunk],
    out: Path,
    counts: Counts,
    position: bool,
    what: str,
) -> Prepared:
    """Check what all parts together hold, write the two shards from them, and publish the directory."""
    parts = [work.part(chunk.index) for chunk in chunks]
    for part in parts:
        counts.add(part.counts)
    counts.check(what)
    lowest = min(part.lowest for part in parts)
    headers = {side: _header(work, side, parts, tokenizer) for side in SIDES}
    fraction = work.fraction
    for side, header in headers.items():
        if header.count == 0 and (side == "train" or fraction > 0):
            raise DataError(_empty_side(side, fraction, counts, position, lowest), code=30)
    ids = {side: header.count for side, header in headers.items()}
    words = f"the last {fraction:.0%} of the text" if position else f"documents whose hash is below {fraction}"
    split = f"{ids['validation']:,} of {sum(ids.values()):,} tokens for validation: {words}"
    about = {"plan": plan, "counts": asdict(counts), "split": split, "ids": ids}
    content: dict[str, files.Content] = {
        f"{side}.tokens": _Shard(work, side, header, len(parts)) for side, header in headers.items() if header.count
    }
    content["tokenizer.json"] = (work.folder / "tokenizer.json").read_bytes()
    expected = sum(ids.values()) * smallest_dtype(tokenizer.vocab_size).itemsize
    files.publish(out, content, about, expected)
    files.discard(work.folder)
    return _result(out, about, counts, reused=False)


@dataclass(frozen=True)
class _Shard:
    """Writes one side's shard from the parts, a part at a time."""

    work: Encoder
    side: Side
    header: Header
    count: int

    def __call__(self, file: BinaryIO) -> None:
        write_header(file, self.header)
        for ids in self.work.ids(self.side, self.count):
            file.write(ids)


def _header(work: Encoder, side: Side, parts: list[Part], tokenizer: Tokenizer) -> Header:
    """Everything the shard of one side will say of itself; reads its ids once, for their hash."""
    digest = hashlib.sha256()
    for ids in work.ids(side, len(parts)):
        digest.update(ids)
    totals = [part.of(side) for part in parts]
    data = hashlib.sha256("".join(source.digest for source in work.sources).encode()).hexdigest()
    return Header(
        dtype=smallest_dtype(tokenizer.vocab_size).name,
        count=sum(total.ids for total in totals),
        documents=sum(total.documents for total in totals),
        text_bytes=sum(total.text_bytes for total in totals),
        vocab_size=tokenizer.vocab_size,
        tokenizer=tokenizer.fingerprint,
        end_of_text=tokenizer.end_of_text,
        data_sha256=data,
        ids_sha256=digest.hexdigest(),
    )


def _empty_side(side: Side, fraction: float, counts: Counts, position: bool, lowest: float) -> str:
    given = f"data.validation_fraction={fraction} of {counts.used:,} documents leaves none for {side}"
    if position:
        return f"{given}: the text has no place to cut there. Give more text, or another fraction."
    if side == "validation":
        return f"{given}. Use data.validation_fraction={lowest + 0.005:.2f} or more, or data.split=position."
    return f"{given}. Use a smaller data.validation_fraction, such as 0.1."


def _existing(out: Path, plan: str) -> Prepared:
    """What `out` holds, if it was made from the same text in the same way."""
    about = files.verify(out)["about"]
    if about.get("plan") != plan:
        raise DataError(
            f"{files.shown(out)} already holds shards of another text, tokenizer, or setting. "
            f"Choose another folder, or delete it: rm -r {files.shown(out)}",
            code=25,
        )
    return _result(out, about, Counts.of(about["counts"]), reused=True)


def _result(out: Path, about: dict, counts: Counts, reused: bool) -> Prepared:
    validation = out / "validation.tokens" if about["ids"]["validation"] else None
    names = out / "train.tokens", validation, out / "tokenizer.json"
    return Prepared(*names, counts, about["split"], about["ids"], reused)
