"""Text -> pieces: where the regular expression of GPT-2, GPT-4, Llama 3 or Qwen 2 would cut it, by a compiled scanner.

A merge never crosses the border of a piece, so the pattern decides what can ever become one token: a word with the
space before it, a few digits, a run of signs. Each scanner below is its regular expression, read alternative by
alternative, on UTF-8 bytes; it looks at every byte a bounded number of times, whatever the text.

    from firsthand.tokenizer.split import CLASSES, PATTERN_CODES, next_piece, padded      # inside njit code
    end = next_piece(data, start, stop, CLASSES, PATTERN_CODES["gpt2"])                  # data = padded(text.encode())
"""

import numpy as np
from numba import njit

from firsthand.errors import TokenizerError, nearest
from firsthand.tokenizer.unicode import LETTERS, NUMBERS, WHITESPACE

# What tokenizer.json carries. cl100k is tiktoken's: a run of white space at the very end stays whole, newlines and all.
# (tiktoken spells it with possessive "++" and "$", which mean something else to the engine of `tokenizers`.)
PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "cl100k": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s+\z|\s*[\r\n]+|\s+(?!\S)|\s+",
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
}
# Other published spellings of the same cuts -> our name for them.
SPELLINGS = {text: name for name, text in PATTERNS.items()} | {
    r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}]+| ?[\p{N}]+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": "gpt2",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": "gpt2",
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s": "gpt2",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s": "cl100k",
}
PATTERN_CODES = {name: code for code, name in enumerate(PATTERNS)}
GPT2, CL100K, LLAMA3, QWEN2 = range(4)

# Kinds of code points, ordered so that `kind >= SPACE` is the regular expression's \s.
OTHER, LETTER, NUMBER, SPACE, NEWLINE = range(5)
PADDING = 16  # zero bytes behind the text, so that a word of 16 bytes can be loaded wherever it starts


def classes() -> np.ndarray:
    """The kind of every code point: -> (0x110000,) uint8."""
    kinds = np.full(0x110000, OTHER, np.uint8)
    for kind, text in ((LETTER, LETTERS), (NUMBER, NUMBERS)):
        at = 0
        for word in text.split():
            gap, length = (int(number, 36) for number in word.split("."))
            kinds[at + gap : at + gap + length] = kind
            at += gap + length
    for first, length in WHITESPACE:
        kinds[first : first + length] = SPACE
    kinds[[ord("\n"), ord("\r")]] = NEWLINE
    return kinds


CLASSES = classes()


def padded(data: bytes) -> np.ndarray:
    """The bytes with PADDING zeros behind them, writable and contiguous: N bytes -> (N + 16,) uint8."""
    return np.frombuffer(bytearray(data) + bytes(PADDING), np.uint8)


@njit(cache=True, nogil=True)
def look(data, at, stop, classes):
    """The kind of the code point at `at`, and its width in bytes. A byte that is no UTF-8 is OTHER, alone."""
    lead = data[at]
    if lead < 0x80:
        return classes[lead], 1
    width = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    if lead < 0xC2 or lead > 0xF4 or at + width > stop:
        return np.uint8(OTHER), 1
    code = np.int64(lead) & (0x7F >> width)
    for step in range(1, width):
        byte = data[at + step]
        if byte & 0xC0 != 0x80:
            return np.uint8(OTHER), 1
        code = (code << 6) | (byte & 0x3F)
    if code >= 0x110000:
        return np.uint8(OTHER), 1
    return classes[code], width


@njit(cache=True, nogil=True)
def run(data, at, stop, classes, kind):
    """The end of the longest run of one kind that starts at `at`."""
    while at < stop:
        here, width = look(data, at, stop, classes)
        if here != kind:
            break
        at += width
    return at


@njit(cache=True, nogil=True)
def contraction(data, start, stop, any_case):
    """The end of 's 't 'm 'd 'll 've 're at `start`, or `start` where there is none.

    `any_case` also takes capitals, and the long s of U+017F: Unicode folds it to s.
    """
    if data[start] != ord("'") or start + 1 >= stop:
        return start
    fold = 0x20 if any_case else 0
    first = data[start + 1] | fold
    if first == ord("s") or first == ord("t") or first == ord("m") or first == ord("d"):
        return start + 2
    if start + 2 >= stop:
        return start
    second = data[start + 2] | fold
    if (
        (first == ord("l") and second == ord("l"))
        or (first == ord("v") and second == ord("e"))
        or (first == ord("r") and second == ord("e"))
        or (any_case and data[start + 1] == 0xC5 and data[start + 2] == 0xBF)
    ):
        return start + 3
    return start


@njit(cache=True, nogil=True)
def blank(data, start, stop, classes, keeps_newlines, keeps_end):
    r"""The end of white space: `\s+\z` if `keeps_end`, `\s*[\r\n]+` if `keeps_newlines`, `\s+(?!\S)`, `\s+`.

    All but the last character when a word follows: that one belongs to the word, or stands alone.
    """
    at, last, newline = start, start, start
    while at < stop:
        kind, width = look(data, at, stop, classes)
        if kind < SPACE:
            break
        last, at = at, at + width
        if kind == NEWLINE:
            newline = at
    if at == stop and (keeps_end or not keeps_newlines):
        return at
    if keeps_newlines and newline > start:
        return newline
    if at == stop or last == start:
        return at
    return last


@njit(cache=True, nogil=True)
def gpt2_piece(data, start, stop, classes):
    """The end of the piece at `start`, by GPT-2: words, numbers and signs, each with one space before it."""
    end = contraction(data, start, stop, False)
    if end > start:
        return end
    kind, width = look(data, start, stop, classes)
    at = start + width
    if data[start] == ord(" ") and at < stop:
        after, width = look(data, at, stop, classes)
        if after < SPACE:
            kind, at = after, at + width
    if kind >= SPACE:
        return blank(data, start, stop, classes, False, True)
    return run(data, at, stop, classes, kind)


@njit(cache=True, nogil=True)
def cl100k_piece(data, start, stop, classes, most_digits, keeps_end):
    """The end of the piece at `start`, by GPT-4 and its heirs: a word may begin with any one sign or space."""
    end = contraction(data, start, stop, True)
    if end > start:
        return end
    kind, width = look(data, start, stop, classes)
    at = start + width
    if kind == LETTER:
        return run(data, at, stop, classes, LETTER)
    if kind == NUMBER:
        for _ in range(most_digits - 1):
            if at < stop:
                after, width = look(data, at, stop, classes)
                if after == NUMBER:
                    at += width
        return at
    after = np.uint8(NEWLINE)
    if kind != NEWLINE and at < stop:
        after, _ = look(data, at, stop, classes)
    if after == LETTER:
        return run(data, at, stop, classes, LETTER)
    if kind == OTHER or (data[start] == ord(" ") and after == OTHER):
        at = run(data, at, stop, classes, OTHER)
        return run(data, at, stop, classes, NEWLINE)
    return blank(data, start, stop, classes, True, keeps_end)


@njit(cache=True, nogil=True)
def next_piece(data, start, stop, classes, pattern):
    """The end of the piece that starts at `start`: (N,) uint8 -> int, above `start`. `pattern` is a code."""
    if pattern == GPT2:
        return gpt2_piece(data, start, stop, classes)
    return cl100k_piece(data, start, stop, classes, 1 if pattern == QWEN2 else 3, pattern == CL100K)


@njit(cache=True, nogil=True)
def ends(data, stop, classes, pattern):
    """The ends of all pieces of data[:stop]: (N,) uint8 -> (pieces,) int64."""
    found = np.empty(stop, np.int64)
    count, at = 0, 0
    while at < stop:
        at = next_piece(data, at, stop, classes, pattern)
        found[count] = at
        count += 1
    return found[:count].copy()


def pattern_code(pattern: str) -> int:
    """The number of a pattern that has a scanner here, by name."""
    if pattern not in PATTERN_CODES:
        raise TokenizerError(
            f"pattern {pattern[:60]!r} has no scanner here; allowed: {', '.join(PATTERNS)}.{nearest(pattern, PATTERNS)}"
        )
    return PATTERN_CODES[pattern]


def split(text: str, pattern: str) -> list[str]:
    """The pieces of a text, in order; joined they are the text again. "I'm 42" -> ["I", "'m", " 42"]."""
    data = text.encode()
    borders = ends(padded(data), len(data), CLASSES, pattern_code(pattern)).tolist()
    return [data[start:end].decode() for start, end in zip([0, *borders], borders, strict=False)]
