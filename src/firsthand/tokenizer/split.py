"""Text -> pieces: where the regular expression of GPT-2, GPT-4, Llama 3, Qwen 2 or SmolLM would cut it, compiled.

A merge never crosses the border of a piece, so the pattern decides what can ever become one token: a word with the
space before it, a few digits, a run of signs. First the kind of every byte is written down (a letter of three bytes is
three times LETTER); after that no scanner needs to know UTF-8, and a run of one kind is found eight bytes at a time.
GPT-2's cuts follow from each byte's neighbours, so they are marked for the whole text at once, without a branch.

    inside compiled code, for pieces of data = np.frombuffer(text.encode(), np.uint8):
    kinds, marks = np.empty(len(data) + PADDING, np.uint8), np.empty(len(data) + PADDING, np.uint8)
    look(data, CLASSES, pattern, kinds, marks)                      # pattern = PATTERN_CODES["gpt2"]
    end = next_piece(data, kinds, marks, at, pattern)               # from at = np.int64(0) until at == len(data)

Numbers that start a loop are written np.int64(0): a bare 0 has a type of its own, and all below would compile twice.
"""

import numpy as np

from firsthand.errors import TokenizerError, nearest
from firsthand.tokenizer.compiled import ONES, compiled, lean, load64, trailing_zeros
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
    # GPT-2's, after every digit became a piece of its own: so white space before a digit stays whole, as at the end.
    "smollm": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+",
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
GPT2, CL100K, LLAMA3, QWEN2, SMOLLM = range(5)
APOSTROPHE, BLANK = np.uint8(0x27), np.uint8(0x20)
D, E, L, M, R, S, T, V = (np.uint8(letter) for letter in b"delmrstv")
UNMARKED = np.uint8(0)

# Kinds of code points, ordered so that `kind >= SPACE` is the regular expression's \s. END stands behind the text.
OTHER, LETTER, NUMBER, SPACE, NEWLINE, END = (np.uint8(kind) for kind in range(6))
PADDING = 16  # bytes behind the kinds and marks of a text, so that eight can be loaded wherever one starts


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


@lean
def decode(data, at, stop, classes):
    """The kind of the code point of several bytes at `at`, and its width. A byte that is no UTF-8 is OTHER, alone."""
    lead = data[at]
    width = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    if lead < 0xC2 or lead > 0xF4 or at + width > stop:
        return OTHER, 1
    code = np.int64(lead) & (0x7F >> width)
    for step in range(1, width):
        byte = data[at + step]
        if byte & 0xC0 != 0x80:
            return OTHER, 1
        code = (code << 6) | (byte & 0x3F)
    return (classes[code], width) if code < 0x110000 else (OTHER, 1)


@lean
def classify(data, classes, kinds):
    """Write the kind of every byte, and END behind them: (N,) uint8 -> kinds (N + 16,)."""
    at, stop = np.int64(0), len(data)
    while at < stop:
        byte = data[np.uint64(at)]
        if byte < 0x80:
            kinds[np.uint64(at)] = classes[byte]
            at += 1
        else:
            kind, width = decode(data, at, stop, classes)
            for _ in range(width):
                kinds[np.uint64(at)] = kind
                at += 1
    for behind in range(stop, stop + PADDING):
        kinds[behind] = END


@lean
def mark(data, kinds, marks, pattern):
    r"""Write 1 where a piece of GPT-2's pattern starts (contractions apart): (N,) and (N + 16,) -> marks (N + 16,).

    A piece starts where the kind changes, except behind the one space that a word takes along; and at the last
    character of white space before a word: `\s+(?!\S)` leaves it. White space of several bytes starts with C2 or E1-E3.
    SmolLM's: also wherever a number's first byte stands, and a number is no word that takes a space along.
    """
    single, words = (NUMBER, NUMBER) if pattern == SMOLLM else (END, SPACE)  # kinds below `words` take a space
    stop = np.uint64(len(data))
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
    marks[0] = 1
    for at in range(one, stop):  # nothing but bytes and no branch: becomes vector instructions
        kind, before = min(kinds[at], SPACE), min(kinds[at - one], SPACE)
        byte = data[at]
        last = (
            ((byte < np.uint8(0x80)) & (kinds[at + one] < words))
            | ((byte == np.uint8(0xC2)) & (kinds[at + two] < words))
            | ((byte >= np.uint8(0xE1)) & (kinds[at + three] < words))
        )
        changes = (kind != before) & ((data[at - one] != np.uint8(0x20)) | (kind == SPACE))
        alone = (kind == single) & ((byte & np.uint8(0xC0)) != np.uint8(0x80))
        marks[at] = changes | ((kind == SPACE) & last) | alone
    for behind in range(len(data), len(data) + PADDING):
        marks[behind] = 1


@lean
def run(kinds, at, kind):
    """The end of the run of one kind that starts at `at`."""
    want = np.uint64(kind) * np.uint64(ONES)
    differs = load64(kinds, at) ^ want
    while differs == 0:
        at += 8
        differs = load64(kinds, at) ^ want
    return at + (trailing_zeros(differs) >> 3)


@lean
def contraction(data, start, pattern):
    """The end of 's 't 'm 'd 'll 've 're at `start`, or `start` where there is none.

    All but GPT-2 and SmolLM also take capitals, and the long s of U+017F: Unicode folds it to s.
    """
    if data[start] != APOSTROPHE or start + 1 >= len(data):
        return start
    fold = np.uint8(0 if pattern in (GPT2, SMOLLM) else 0x20)
    first = data[start + 1] | fold
    if first in (S, T, M, D):
        return start + 2
    if start + 2 >= len(data):
        return start
    second = data[start + 2] | fold
    if (
        (first == L and second == L)
        or (first in (V, R) and second == E)
        or (fold > 0 and data[start + 1] == 0xC5 and data[start + 2] == 0xBF)
    ):
        return start + 3
    return start


@lean
def step_over(data, at):
    """Where the next code point starts."""
    at += 1
    while at < len(data) and data[at] & 0xC0 == 0x80:
        at += 1
    return at


@lean
def blank(data, kinds, start, pattern):
    r"""The end of white space: `\s+\z` in cl100k, `\s*[\r\n]+`, `\s+(?!\S)`, `\s+`, whichever is first to match.

    All but the last character when a word follows: that one belongs to the word, or stands alone.
    """
    at = newline = start
    while kinds[at] == SPACE or kinds[at] == NEWLINE:
        at = run(kinds, at, SPACE)
        if kinds[at] == NEWLINE:
            at = newline = run(kinds, at, NEWLINE)
    if newline > start and not (pattern == CL100K and at == len(data)):
        return newline
    last = at - 1
    while data[last] & 0xC0 == 0x80:
        last -= 1
    return at if at == len(data) or last == start else last


@lean
def gpt2_piece(data, marks, start, pattern):
    """The end of the piece at `start`, by GPT-2: the next mark, unless a contraction comes first."""
    if data[np.uint64(start)] == APOSTROPHE:
        end = contraction(data, start, pattern)
        if end > start:
            return end
    return run(marks, start + 1, UNMARKED)


@lean
def cl100k_piece(data, kinds, start, pattern):
    """The end of the piece at `start`, by GPT-4 and its heirs: a word may begin with any one sign or space."""
    end = contraction(data, start, pattern)
    if end > start:
        return end
    kind = kinds[start]
    if kind == LETTER:
        return run(kinds, start, LETTER)
    if kind == NUMBER:
        for _ in range(1 if pattern == QWEN2 else 3):
            if kinds[end] == NUMBER:
                end = step_over(data, end)
        return end
    after = step_over(data, start)
    if kind != NEWLINE and kinds[after] == LETTER:
        return run(kinds, after, LETTER)
    if kind == OTHER or (data[start] == BLANK and kinds[after] == OTHER):
        return run(kinds, run(kinds, after, OTHER), NEWLINE)
    return blank(data, kinds, start, pattern)


@lean
def look(data, classes, pattern, kinds, marks):
    """Prepare `next_piece`: the kinds of all bytes of a text, and GPT-2's marks."""
    classify(data, classes, kinds)
    if pattern in (GPT2, SMOLLM):
        mark(data, kinds, marks, pattern)


@lean
def next_piece(data, kinds, marks, start, pattern):
    """The end of the piece that starts at `start`, after `look`. `pattern` is one of PATTERN_CODES."""
    if pattern in (GPT2, SMOLLM):
        return gpt2_piece(data, marks, start, pattern)
    return cl100k_piece(data, kinds, start, pattern)


@compiled
def ends(data, classes, pattern):
    """The ends of all pieces: (N,) uint8 -> (pieces,) int64."""
    kinds, marks = np.empty(len(data) + PADDING, np.uint8), np.empty(len(data) + PADDING, np.uint8)
    look(data, classes, pattern, kinds, marks)
    found = np.empty(len(data), np.int64)
    count, at = 0, np.int64(0)
    while at < len(data):
        at = next_piece(data, kinds, marks, at, pattern)
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
    borders = ends(np.frombuffer(data, np.uint8), CLASSES, pattern_code(pattern)).tolist()
    return [data[start:end].decode() for start, end in zip([0, *borders], borders, strict=False)]
