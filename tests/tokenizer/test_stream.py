"""The stream decoder: text as it becomes certain, never half a character."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import MULTILINGUAL

from firsthand.errors import TokenizerError
from firsthand.tokenizer.bpe import Tokenizer

BYTES = Tokenizer([bytes([byte]) for byte in range(256)], None)


def test_a_streamed_text_is_the_decoded_text(gpt2):
    stream = gpt2.stream()
    pieces = [stream.push(token) for token in gpt2.encode(MULTILINGUAL).tolist()]
    assert "".join(pieces) + stream.flush() == MULTILINGUAL
    assert pieces.count("") > 100  # ids that end in the middle of a character


def test_half_a_character_waits_for_its_end():
    stream = BYTES.stream()
    assert [stream.push(byte) for byte in "é€🎉".encode()] == ["", "é", "", "", "€", "", "", "", "🎉"]


def test_bytes_that_never_become_a_character_are_shown_at_the_end():
    stream = BYTES.stream()
    assert [stream.push(byte) for byte in b"a\xf0\x9f"] == ["a", "", ""]
    assert stream.flush() == "\ufffd"
    assert stream.push(ord("b")) == "b" and stream.flush() == ""


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=24))
def test_a_stream_of_any_bytes_is_what_decode_gives(data):
    stream = BYTES.stream()
    assert "".join(map(stream.push, data)) + stream.flush() == BYTES.decode(data)


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=30))
def test_every_streamed_piece_is_a_beginning_of_the_text(text):
    stream, shown = BYTES.stream(), ""
    for byte in text.encode():
        shown += stream.push(byte)
        assert text.startswith(shown)


def test_an_id_outside_the_vocabulary_stops_the_stream():
    with pytest.raises(TokenizerError, match="id 256 is no token"):
        BYTES.stream().push(256)
