"""Cutting a text at a safe place changes no id: for every pattern, against encoding the whole."""

import re

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from firsthand.data import cuts
from firsthand.errors import DataError

# The patterns as their makers published them (openai/tiktoken, meta-llama/llama3, Qwen): an oracle apart from ours.
PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
    "cl100k": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
        r"|\s+(?!\S)|\s"
    ),
    "llama3": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    ),
    "qwen2": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    ),
}
MERGES = [b" a", b"aa", b"\n\n", b"\r\n", b"  ", b".\n", b" \n", b"'s", b"\n ", b"11", b" .", b"a\n", b"\na"]
NASTY = ["a", "B", " ", " ", "\n", "\r\n", "\r", "\t", "1", ".", "'", "s", "é", "。", "你", "\u3000", "\xa0", "²", "Ⅷ",
         "\x1c", "\x85", "ǅ", "́", "\u2028", "😀", "_"]  # fmt: skip


@pytest.fixture(scope="module", params=PATTERNS)
def encoding(request) -> tiktoken.Encoding:
    ranks = {bytes([byte]): byte for byte in range(256)} | {merge: 256 + i for i, merge in enumerate(MERGES)}
    return tiktoken.Encoding(request.param, pat_str=PATTERNS[request.param], mergeable_ranks=ranks, special_tokens={})


def unix(data: bytes) -> str:
    return data.decode().replace("\r\n", "\n").replace("\r", "\n")


def every_cut(data: bytes) -> list[int]:
    found, at = [], 0
    while (cut := cuts.first_cut(data, at)) is not None:
        found.append(cut)
        at = cut + 1
    return found


@settings(max_examples=1500, deadline=None)
@given(st.lists(st.sampled_from(NASTY), max_size=24).map("".join))
def test_parts_of_a_text_encode_to_the_ids_of_the_whole(encoding, text):
    data = text.encode()
    whole = encoding.encode_ordinary(unix(data))
    for cut in every_cut(data):
        left, right = encoding.encode_ordinary(unix(data[:cut])), encoding.encode_ordinary(unix(data[cut:]))
        assert left + right == whole, (text, cut)


def test_places_found_by_hand():
    """Not before the blank line, not before two spaces, not before a digit."""
    text = "one two.\nThree\n\nfour\r\nfive  6 7"
    assert every_cut(text.encode()) == [3, 9, 22]
    assert text[3:].startswith(" two") and text[9:].startswith("Three") and text[22:].startswith("five")
    assert every_cut("12 é. ü".encode()) == [2, 6]


def test_other_scripts_are_cut_at_line_ends_too():
    text = "猫は座る。\n犬は走る。\n\u3000\nまた"
    assert [text.encode()[:cut].decode() for cut in every_cut(text.encode())] == ["猫は座る。\n"]


def test_a_superscript_two_is_no_letter():
    assert re.match(r"\w", "²") and every_cut("x\n²".encode()) == []  # Python's \w would have cut there


@pytest.mark.parametrize("window", [16, 23, 64])
def test_the_first_place_does_not_depend_on_how_much_is_read_at_once(tmp_path, monkeypatch, window):
    data = ("words and\nlines é\nöre\r\nlast. " * 9 + "x" * 90 + " y").encode()
    path = tmp_path / "text"
    path.write_bytes(data)
    monkeypatch.setattr(cuts, "WINDOW", window)
    for offset in range(len(data)):
        expected = cuts.first_cut(data, offset)
        found = cuts.next_cut(path, offset, len(data), "text")
        assert found == (len(data) if expected is None else expected)


def test_a_text_without_any_safe_place_is_refused_with_its_position(tmp_path):
    path = tmp_path / "base64.txt"
    path.write_bytes(b"x" * 400_000)
    with pytest.raises(DataError, match=r"base64 has no place to cut for 0 MiB after byte 7 .*data.reading.separator"):
        cuts.next_cut(path, 7, 400_000, "base64", limit=100_000)
