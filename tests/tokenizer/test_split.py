"""Our cuts against those of tiktoken, tokenizers and Python's own words, for every pattern."""

from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from make_unicode import CODE_POINTS, source
from peers import MULTILINGUAL, PUBLISHED, python_files
from tokenizers import Regex, pre_tokenizers

from firsthand.errors import TokenizerError
from firsthand.tokenizer import unicode
from firsthand.tokenizer.kernels import chunks
from firsthand.tokenizer.split import CLASSES, LETTER, NEWLINE, NUMBER, PATTERNS, SPACE, SPELLINGS, split

TRICKY = st.text(
    st.sampled_from("abzsStTdDmMlLvVeErRſK'''   \t\r\n\n019½٣ßéж日\u0301\u3000\u00a0\u0085!.,-🎉\u200d\0"), max_size=14
)


def cut_by_tiktoken(text: str, pattern: str) -> list[str]:
    """The pieces of tiktoken: with every part of the text a token, each piece is one id."""
    data = text.encode()
    parts = {data[start:end] for start in range(len(data)) for end in range(start + 1, len(data) + 1)}
    ranks = {bytes([byte]): byte for byte in range(256)}
    for part in sorted(part for part in parts if len(part) > 1):
        ranks[part] = len(ranks)
    encoding = tiktoken.Encoding("parts", pat_str=PUBLISHED[pattern], mergeable_ranks=ranks, special_tokens={})
    return [encoding.decode_single_token_bytes(token).decode() for token in encoding.encode_ordinary(text)]


def cut_by_tokenizers(text: str, pattern: str) -> list[str]:
    """The pieces of the `tokenizers` library, by the spelling that our tokenizer.json carries."""
    splitter = pre_tokenizers.Split(Regex(PATTERNS[pattern]), "isolated")
    return [piece for piece, _ in splitter.pre_tokenize_str(text)]


def cut_by_smollm(text: str) -> list[str]:
    """The pieces of SmolLM2's own tokenizer.json: every digit apart, then GPT-2's cuts inside of what is between."""
    splitter = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Split(Regex(PATTERNS["gpt2"]), "isolated")]
    )
    return [piece for piece, _ in splitter.pre_tokenize_str(text)]


@pytest.mark.parametrize("pattern", PATTERNS)
@settings(max_examples=150, deadline=None)
@given(text=TRICKY)
def test_pieces_are_those_of_tiktoken(pattern, text):
    assert split(text, pattern) == cut_by_tiktoken(text, pattern)


@pytest.mark.parametrize("pattern", PATTERNS)
@settings(max_examples=400, deadline=None)
@given(text=TRICKY)
def test_pieces_are_those_of_tokenizers(pattern, text):
    assert split(text, pattern) == cut_by_tokenizers(text, pattern)


@settings(max_examples=600, deadline=None)
@given(text=TRICKY)
def test_pieces_of_smollm_are_those_of_its_two_steps(text):
    assert split(text, "smollm") == cut_by_smollm(text)


def test_numbers_of_smollm_are_those_of_its_two_steps_but_for_those_of_unicode_17():
    everything = "xx".join(["", *map(chr, CODE_POINTS), ""])
    kept = pre_tokenizers.Digits(individual_digits=True).pre_tokenize_str(everything)
    alone = {ord(piece) for piece, _ in kept if len(piece) == 1}
    assert alone ^ set(np.flatnonzero(CLASSES == NUMBER).tolist()) == {
        *range(0x11DE0, 0x11DEA),
        *range(0x16FF4, 0x16FF7),
    }


@pytest.mark.parametrize("pattern", PATTERNS)
def test_pieces_of_long_texts_are_those_of_tokenizers(pattern):
    code = "".join(path.read_text(encoding="utf-8") for path in python_files()[:12])
    for text in (MULTILINGUAL, code):
        assert split(text, pattern) == cut_by_tokenizers(text, pattern)


def test_one_sentence_cut_by_hand():
    text = "I'LL  pay 1234€\n\n x"
    assert split(text, "gpt2") == ["I", "'", "LL", " ", " pay", " 1234", "€", "\n\n", " x"]
    assert split(text, "llama3") == ["I", "'LL", " ", " pay", " ", "123", "4", "€\n\n", " x"]
    assert split(text, "qwen2") == ["I", "'LL", " ", " pay", " ", "1", "2", "3", "4", "€\n\n", " x"]
    assert split(text, "smollm") == ["I", "'", "LL", " ", " pay", " ", "1", "2", "3", "4", "€", "\n\n", " x"]
    assert split("a  12 b", "smollm") == ["a", "  ", "1", "2", " b"]  # GPT-2 would keep one of the spaces for 12


def test_only_cl100k_keeps_white_space_at_the_end_whole():
    assert split("a\n  ", "cl100k") == ["a", "\n  "]
    assert split("a\n  ", "llama3") == ["a", "\n", "  "]


@pytest.mark.parametrize("pattern", PATTERNS)
@settings(max_examples=200, deadline=None)
@given(texts=st.lists(st.one_of(TRICKY, st.just(" ")), max_size=8), size=st.integers(1, 9))
def test_cutting_chunk_by_chunk_gives_the_same_pieces(pattern, texts, size):
    data = "x".join(texts).encode()
    pieces = [piece for start, end in chunks(data, size) for piece in split(data[start:end].decode(), pattern)]
    assert pieces == split(data.decode(), pattern)


def test_no_text_has_no_pieces():
    assert split("", "gpt2") == []


def test_letters_and_numbers_are_those_of_tiktoken():
    assert source() == Path(unicode.__file__).read_text(encoding="utf-8")


def test_letters_numbers_and_spaces_are_those_of_tokenizers():
    everything = "".join(map(chr, CODE_POINTS))
    for pattern, kinds in ((r"\p{L}", [LETTER]), (r"\p{N}", [NUMBER]), (r"\s", [SPACE, NEWLINE])):
        kept = pre_tokenizers.Split(Regex(pattern), "removed").pre_tokenize_str(everything)
        rest = {ord(character) for piece, _ in kept for character in piece}
        assert set(CODE_POINTS) - rest == set(np.flatnonzero(np.isin(CLASSES, kinds)).tolist())


def test_every_published_spelling_is_known():
    assert {SPELLINGS[text] for name, text in PUBLISHED.items() if name != "smollm"} == set(PATTERNS) - {"smollm"}


def test_an_unknown_pattern_is_refused_by_name():
    with pytest.raises(
        TokenizerError, match=r"pattern 'gpt3' has no scanner here; allowed: gpt2, .* Did you mean 'gpt2'\?"
    ):
        split("a", "gpt3")
