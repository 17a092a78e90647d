"""A shard says whose ids it holds and refuses the wrong tokenizer; windows slide over it as the paper's loop would."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firsthand.data.tokens import Header, Tokens, show_windows, smallest_dtype, windows, write_header
from firsthand.errors import DataError


@pytest.fixture
def shard(tmp_path, tokenizer):
    def shard(ids: list[int], dtype: str = "uint16", **changes) -> Tokens:
        data = np.array(ids, dtype)
        digest = hashlib.sha256(data.tobytes()).hexdigest()
        header = Header(dtype, len(ids), 2, 31, 300, tokenizer.fingerprint, 299, "0" * 64, digest)
        path = tmp_path / "train.tokens"
        with path.open("wb") as file:
            write_header(file, Header(**{**vars(header), **changes}))
            file.write(data.tobytes())
        return Tokens(path)

    return shard


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_a_shard_gives_back_its_ids_and_header(shard, dtype):
    ids = [0, 1, 65535, 7] if dtype == "uint16" else [0, 1, 4_000_000, 7]
    tokens = shard(ids, dtype)
    assert tokens.ids.tolist() == ids and tokens.ids.dtype == dtype and len(tokens) == 4
    assert isinstance(tokens.ids, np.memmap) and tokens.ids.offset % 64 == 0
    assert (tokens.header.documents, tokens.header.text_bytes, tokens.header.end_of_text) == (2, 31, 299)
    tokens.verify()


def test_the_first_bytes_are_as_documented(shard):
    raw = shard([3, 258]).path.read_bytes()
    assert raw[:8] == b"FHTOKENS"
    length = int.from_bytes(raw[8:16], "little")
    assert (16 + length) % 64 == 0 and json.loads(raw[16 : 16 + length])["count"] == 2
    assert raw[16 + length :] == bytes([3, 0, 2, 1])  # 258 = 2 + 1 * 256


def test_an_empty_shard_is_a_shard(shard):
    assert len(shard([])) == 0 and shard([]).ids.tolist() == []


def test_two_bytes_an_id_while_every_id_fits():
    assert [smallest_dtype(size).name for size in (1, 65536, 65537)] == ["uint16", "uint16", "uint32"]


@pytest.mark.parametrize("cut", [-1, -3, 2])
def test_a_shard_of_another_size_than_promised_is_refused(shard, cut):
    path = shard([1, 2, 3]).path
    data = path.read_bytes()
    path.write_bytes(data[:cut] if cut < 0 else data + b"xx")
    with pytest.raises(DataError, match=r"its header promises .*Delete .* and run the same command again.*FH019"):
        Tokens(path)


def test_every_flipped_bit_of_the_ids_is_found(shard):
    path = shard([1, 2, 3]).path
    data = bytearray(path.read_bytes())
    for bit in range(48):
        data[-6 + bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with pytest.raises(DataError, match="is damaged"):
            Tokens(path).verify()
        data[-6 + bit // 8] ^= 1 << bit % 8


@pytest.mark.parametrize("changes", [{"dtype": "object"}, {"count": -1}, {"count": True}, {"count": "3"}])
def test_a_header_that_lies_is_refused(shard, changes):
    with pytest.raises(DataError, match="damaged header"):
        shard([1, 2, 3], **changes)


MAGIC = b"FHTOKENS"


@pytest.mark.parametrize("data", [b"", MAGIC, b"PK\3\4" * 9, MAGIC + b"\xff" * 8, MAGIC + b"\2" + b"\0" * 7 + b"[]"])
def test_other_files_are_refused(tmp_path, data):
    path = tmp_path / "x.tokens"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"is not a token shard|damaged header"):
        Tokens(path)
    with pytest.raises(DataError, match=r"no token shard at .*firsthand data prepare"):
        Tokens(tmp_path / "nothing")


def test_another_tokenizer_is_refused_and_the_right_one_named(shard, tokenizer):
    shard([1]).check(tokenizer)
    with pytest.raises(DataError, match=r"made with tokenizer abcdef01 \(300 tokens\).*tokenizer.json.*FH001"):
        shard([1], tokenizer="abcdef0123").check(tokenizer)


def test_four_windows_by_hand():
    data = windows(np.arange(10, dtype=np.uint16), context_length=4, stride=2)
    assert [window.tolist() for window in data] == [[0, 1, 2, 3, 4], [2, 3, 4, 5, 6], [4, 5, 6, 7, 8]]
    assert data.unused == 1  # the last id, 9: a window from 6 would need 10
    assert [window.tolist() for window in windows(np.arange(9), 4)] == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]]
    assert windows(np.arange(9), 4).unused == 0


@given(st.integers(2, 90), st.integers(1, 40), st.integers(1, 50))
def test_windows_agree_with_the_loop_of_the_textbook(count, context_length, stride):
    ids = np.arange(count, dtype=np.uint16)
    loop = [ids[i : i + context_length + 1].tolist() for i in range(0, count - context_length, stride)]
    if not loop:
        with pytest.raises(DataError, match=r"FH029"):
            windows(ids, context_length, stride)
        return
    data = windows(ids, context_length, stride)
    assert [window.tolist() for window in data] == loop and len(data) == len(loop)
    assert data.unused == count - loop[-1][-1] - 1
    with pytest.raises(IndexError):
        data[len(data)]


def test_a_text_shorter_than_a_window_says_which_length_works(shard):
    tokens = shard(list(range(30)))
    with pytest.raises(DataError, match=r"30 tokens, less than one window of 64 \+ 1. Use model.context_length=15"):
        windows(tokens, 64)
    assert len(windows(tokens, 15)) == 1
    with pytest.raises(DataError, match="must be at least 1"):
        windows(tokens, 0)


def test_a_window_is_a_copy_the_model_may_change(shard):
    data = windows(shard(list(range(30))), 8)
    data[0][:] = 0
    assert data[0].tolist() == list(range(9))


def test_shown_windows_put_every_input_beside_its_target(shard, tokenizer):
    text = "The cat sat on the mat.\nThe other cat didn't"
    ids = tokenizer.encode(text).tolist()
    [first, second] = show_windows(windows(shard(ids), 6, 3), tokenizer, [0, 1])
    assert first.input_ids == ids[:6] and first.target_ids == ids[1:7] and second.input_ids == ids[3:9]
    assert first.inputs == [tokenizer.decode([id]) for id in ids[:6]] and first.inputs[1:] == first.targets[:-1]
    assert first.text == tokenizer.decode(ids[:6]) and text.startswith(first.text)
