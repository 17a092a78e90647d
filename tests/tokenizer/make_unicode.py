"""Writes src/firsthand/tokenizer/unicode.py: which code points are letters and which are numbers, asked of tiktoken.

    python tests/tokenizer/make_unicode.py > src/firsthand/tokenizer/unicode.py

The interpreter's own `unicodedata` would not do: Python 3.11 knows Unicode 14, and a text would get other ids on 3.13.
"""

from textwrap import wrap

import tiktoken

CODE_POINTS = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
HEAD = '''"""Letters and numbers of Unicode 16.0 as ranges: what tiktoken 0.14 and tokenizers 0.23 go by.

Written by tests/tokenizer/make_unicode.py; a test compares it with both peers. `gap.length` in base 36: skip so many
code points, then so many belong. White space is short enough to be written out.
"""

# fmt: off
WHITESPACE = ((0x9, 5), (0x20, 1), (0x85, 1), (0xA0, 1), (0x1680, 1), (0x2000, 11),
              (0x2028, 2), (0x202F, 1), (0x205F, 1), (0x3000, 1))  # (first, how many)
'''


def members(pattern: str) -> set[int]:
    """The code points that tiktoken's regular expressions count to `pattern`."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding("classes", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    kept = encoding.encode_ordinary("".join(map(chr, CODE_POINTS)))  # what the pattern does not match is dropped
    return {ord(character) for character in bytes(kept).decode()}


def base36(number: int) -> str:
    """A number in the digits 0-9a-z."""
    digits = ""
    while number or not digits:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits


def ranges(codes: set[int]) -> str:
    """The set as `gap.length` words: {5, 6, 9} -> "5.2 2.1"."""
    words, after = [], 0
    for first in sorted(code for code in codes if code - 1 not in codes):
        end = first
        while end in codes:
            end += 1
        words.append(f"{base36(first - after)}.{base36(end - first)}")
        after = end
    return " ".join(words)


def source() -> str:
    """The whole text of the module."""
    lines = [HEAD]
    for name, pattern in (("LETTERS", r"\p{L}"), ("NUMBERS", r"\p{N}")):
        body = "\n".join(f'    "{line} "' for line in wrap(ranges(members(pattern)), 110))
        lines.append(f"{name} = (\n{body}\n)\n")
    return "".join(lines)


if __name__ == "__main__":
    print(source(), end="")
