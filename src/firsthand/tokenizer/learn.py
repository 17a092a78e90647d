r"""Learning a byte-level BPE vocabulary from text: count the different words, then join the commonest pair, M times.

The ids: 0 to 255 are the bytes themselves, 256 + m is the result of merge m, and the special tokens stand at the end.

The rule for ties, which makes the result depend on nothing but the counts of the words: the pair with the highest count
is merged; of equal counts the pair with the smaller left id; then the smaller right id. The word "aaabdaaabac" by hand
(a = 97, b = 98):

    a a a b d a a a b a c    aa 4 times, ab 2, others once           (97, 97)   -> 256 = aa
    256 a b d 256 a b a c    (97, 98) and (256, 97) twice, a tie     (97, 98)   -> 257 = ab
    256 257 d 256 257 a c    (256, 257) twice                        (256, 257) -> 258 = aaab
    258 d 258 a c            every pair once, a tie                  (97, 99)   -> 259 = ac

Source: Sennrich et al. 2016, arXiv:1508.07909, algorithm 1; on bytes as in Radford et al. 2019 (GPT-2), section 2.2.
"""

import os
import re
from codecs import BOM_UTF8, getincrementaldecoder
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event, Lock

import numpy as np

from firsthand.errors import DataError, TokenizerError
from firsthand.tokenizer import learn_kernels as kernels
from firsthand.tokenizer.bpe import Tokenizer
from firsthand.tokenizer.split import CLASSES, PADDING, pattern_code
from firsthand.tokenizer.vocabulary import LONGEST_TOKEN, MOST_TOKENS

Source = str | Path

CHUNK = 1 << 20  # bytes of text that are counted at a time
MOST_THREADS = 4  # each has its own table of words
MOST_BYTES = (1 << 31) - 1  # of all different words: places are 32-bit numbers

# Places that are a border between two pieces in every pattern we know, whatever comes later: before a space that
# follows something visible, and behind a single newline between two visible characters.
VISIBLE = rb"(?:[!-~]|[\xc3-\xdf][\x80-\xbf]|\xe0..|\xe3\x80[\x81-\xbf]|\xe3[\x81-\xbf].|[\xe4-\xef]..|[\xf0-\xf4]...)"
BORDER = re.compile(VISIBLE + rb"(?:(?= )|\n(?=[!-~\xc3-\xe0\xe4-\xf4]))", re.DOTALL)


def train(
    texts_or_paths: Source | Iterable[Source],
    vocab_size: int = 4096,
    pattern: str = "gpt2",
    special_tokens: Sequence[str] = ("<|endoftext|>",),
    allow_fewer: bool = False,
) -> Tokenizer:
    """A tokenizer of `vocab_size` entries, special tokens included, learned from texts (str) and UTF-8 files (Path).

    Each text and each file is a document of its own. A text too short for so many merges is an error that says how
    many it gives, unless `allow_fewer`. Every pair that occurs at all may be merged, even if it occurs only once; only
    tokens of more than 1,024 bytes are never made.
    """
    most = check_request(vocab_size, special_tokens)
    words = count_words(texts_or_paths, pattern)
    merges = join(words, most)
    if len(merges) < most and not allow_fewer:
        possible = 256 + len(merges) + len(special_tokens)
        raise TokenizerError(
            f"vocab_size {vocab_size:,} is more than this text gives: its {words.known:,} different words end in "
            f"{possible:,} entries. Use vocab_size={possible} or less, or more text"
        )
    tokens = [bytes([byte]) for byte in range(256)]
    for left, right in merges:
        tokens.append(tokens[left] + tokens[right])
    learned = set(tokens)
    for name in special_tokens:
        if name.encode() in learned:
            raise TokenizerError(
                f"special token {name!r} was also learned from the text; give it a name like '<|{name}|>'"
            )
    special = {name: len(tokens) + at for at, name in enumerate(special_tokens)}
    return Tokenizer(tokens + [name.encode() for name in special], merges, pattern, special)


def check_request(vocab_size: int, special_tokens: Sequence[str]) -> int:
    """The number of merges that were asked for; refuses what no text can give."""
    if isinstance(special_tokens, str) or len(set(special_tokens)) < len(special_tokens) or "" in special_tokens:
        raise TokenizerError(
            f"special_tokens {special_tokens!r:.60} must be a list of different names, like ['<|endoftext|>']"
        )
    least = 256 + len(special_tokens)
    if not least <= vocab_size <= MOST_TOKENS:
        raise TokenizerError(
            f"vocab_size {vocab_size} is out of range: 256 bytes and {len(special_tokens)} special tokens need "
            f"{least}, the most is {MOST_TOKENS}. Usual: 4096 to 50257"
        )
    return vocab_size - least


def join(words: "Words", most: int) -> list[tuple[int, int]]:
    """The merges, at most `most`: W counted words -> M pairs of ids. The work is done in `learn_kernels.join`."""
    size = int(words.rows[words.known, 0]) + words.known + 1
    cells, weights = np.empty(size, np.int32), np.zeros(size, np.int64)
    kernels.lay_out(words.rows, words.arena, words.known, cells, weights)
    merges, lengths, tally = (
        np.empty((most, 2), np.int32),
        np.ones(256 + most, np.int64),
        np.zeros((256 + most, 3), int),
    )
    totals, cursor = np.zeros(1 << 16, np.int64), np.zeros(1 << 16, np.int64)
    pool, heap = np.empty(2 * size, np.int32), np.empty((1 << 16, 4), np.int64)
    done = kernels.join(cells, weights, merges, lengths, tally, totals, cursor, pool, heap, LONGEST_TOKEN)
    return [(left, right) for left, right in merges[:done].tolist()]


# ---------------------------------------------------------------- counting the different words


class Words:
    """The different words of a text and how often each occurred, in flat arrays for the compiled loops."""

    def __init__(self):
        self.known = 0
        self.slots = np.zeros(1 << 13, np.uint64)
        self.rows = np.zeros((1 << 12, 2), np.int64)
        self.arena = np.zeros(1 << 16, np.uint8)

    def count(self, text: bytes, code: int) -> None:
        """Count the pieces of a text."""
        data = np.frombuffer(bytearray(text) + bytes(PADDING), np.uint8)[
            : len(text)
        ]  # eight bytes can be read wherever one starts
        while len(data):
            done, self.known = kernels.count_pieces(data, CLASSES, code, self.slots, self.rows, self.arena, self.known)
            data = data[done:]
            if len(data):
                self.grow(len(data))

    def add(self, other: "Words") -> None:
        """Add the counts of another table."""
        done = 0
        while done < other.known:
            done, self.known = kernels.count_words(
                other.rows, other.arena, done, other.known, self.slots, self.rows, self.arena, self.known
            )
            if done < other.known:
                self.grow(len(other.arena))

    def grow(self, needed: int) -> None:
        """Make room: for twice as many words, and for `needed` bytes of them at least."""
        used = int(self.rows[self.known, 0])
        if used + self.known > MOST_BYTES:
            raise TokenizerError(
                f"the different words of this text have more than {MOST_BYTES >> 30} GiB; learn from a sample of it"
            )
        if 2 * self.known >= len(self.slots):
            self.slots = np.zeros(2 * len(self.slots), np.uint64)
            kernels.rehash(self.rows, self.arena, self.known, self.slots)
        if self.known + 2 > len(self.rows):
            self.rows = np.concatenate([self.rows, np.empty_like(self.rows)])
        if used + needed + PADDING > len(self.arena):
            self.arena = np.concatenate([self.arena, np.empty(max(needed + PADDING, len(self.arena)), np.uint8)])


def count_words(sources: Source | Iterable[Source], pattern: str) -> Words:
    """Count the different words of all texts and files, on a few threads (compiled loops run without Python's lock)."""
    code, chunks, lock, stop = pattern_code(pattern), documents(sources), Lock(), Event()

    def drain() -> Words:
        words = Words()
        while not stop.is_set():
            with lock:
                chunk = next(chunks, None)
            if chunk is None:
                break
            words.count(chunk, code)
        return words

    threads = min(os.cpu_count() or 1, MOST_THREADS)
    with ThreadPoolExecutor(threads) as pool:
        try:
            first, *others = [work.result() for work in [pool.submit(drain) for _ in range(threads)]]
        finally:
            stop.set()  # an error or Ctrl-C: the other threads must not read on
    for other in others:
        first.add(other)
    return first


# ---------------------------------------------------------------- texts and files, in chunks


def documents(sources: Source | Iterable[Source]) -> Iterator[bytes]:
    """All texts and files as chunks of UTF-8, whose pieces are the pieces of the whole."""
    for source in [sources] if isinstance(sources, Source) else sources:
        if isinstance(source, Path):
            yield from cut(checked(source))
        elif not isinstance(source, str):
            raise TokenizerError(f"{source!r:.60} is neither a text (str) nor a file (pathlib.Path)")
        elif names_a_file(source):
            raise TokenizerError(
                f"{source!r} is a text of {len(source)} characters here; for the file write Path({source!r})"
            )
        else:
            yield from cut(encoded(source))


def names_a_file(text: str) -> bool:
    """Whether a text was probably meant to be a path."""
    with suppress(OSError):  # too long for a name
        return len(text) < 4096 and Path(text).is_file()
    return False


def cut(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes, cut only at borders of pieces; where there is none, a chunk grows until there is."""
    held, enough = bytearray(), CHUNK
    for part in parts:
        held += part
        if len(held) >= enough:
            border = last_border(held)
            yield bytes(held[:border])
            del held[:border]
            enough = max(CHUNK, 2 * len(held))  # doubled, not searched again at every part: the cost stays linear
    yield bytes(held)


def last_border(data: bytes | bytearray) -> int:
    """The last place where `data` may be cut, 0 if there is none."""
    for window in (1 << 12, len(data)):
        borders = [match.end() for match in BORDER.finditer(data, max(0, len(data) - window))]
        if borders:
            return borders[-1]
    return 0


def encoded(text: str) -> Iterator[bytes]:
    """A text as UTF-8, in parts; half a surrogate pair is refused, for it has no UTF-8."""
    for at in range(0, len(text), CHUNK):
        try:
            yield text[at : at + CHUNK].encode()
        except UnicodeEncodeError as error:
            place = at + error.start
            raise DataError(
                f"a text holds {text[place]!r} at character {place:,}, half of a surrogate pair, which has no UTF-8. "
                "Remove it: text.encode('utf-8', 'ignore').decode()"
            ) from None


def checked(path: Path) -> Iterator[bytes]:
    """The bytes of a file, in parts; what is not UTF-8 is refused with line and byte. A byte-order mark is left out."""
    if not path.is_file():
        kind = "is a folder; give its files: sorted(folder.rglob('*.txt'))" if path.is_dir() else "is no file"
        raise DataError(f"{path} {kind}")
    decoder, line, offset, part = getincrementaldecoder("utf-8")(), 1, 0, b"any"
    with path.open("rb") as file:
        while part:
            part = file.read(CHUNK)
            waiting = len(decoder.getstate()[0])  # bytes of a character that began in the part before
            try:
                decoder.decode(part, final=not part)
            except UnicodeDecodeError as error:
                at = error.start - waiting
                line += part.count(b"\n", 0, max(at, 0))
                raise DataError(
                    f"{path}:{line}:{offset + at} is not UTF-8 (byte 0x{error.object[error.start]:02X}). "
                    f"If it is latin-1, convert it: iconv -f latin1 -t utf8 {path.name}",
                    code=28,
                ) from None
            line += part.count(b"\n")
            yield part.removeprefix(BOM_UTF8) if offset == 0 else part
            offset += len(part)
