"""One id a character, one id a word: exact, and open to the `tokenizers` library."""

import pickle

import numpy as np
import pytest
import tokenizers

from firsthand.errors import TokenizerError
from firsthand.tokenizer.bpe import Tokenizer
from firsthand.tokenizer.simple import CharTokenizer, WordTokenizer

TEXT = "Hello, world. Is this-- a test? (It's one.)\n\tÄpfel 日本 🙂\u00a0x\x1cy"


def test_characters_by_hand():
    tokenizer = CharTokenizer.train("hello")
    assert tokenizer.entries == ["e", "h", "l", "o"]
    assert tokenizer.encode("hello").tolist() == [1, 0, 2, 2, 3]
    assert tokenizer.encode("hello").dtype == np.uint32
    assert tokenizer.decode([1, 0, 2, 2, 3]) == "hello"


def test_words_by_hand():
    tokenizer = WordTokenizer.train("b, a")
    assert tokenizer.entries == [",", "a", "b", "<|unk|>", "<|endoftext|>"]
    assert tokenizer.encode("a zebra, b").tolist() == [1, 3, 0, 2]
    assert tokenizer.decode([1, 3, 0, 2]) == "a <|unk|>, b"


def test_words_are_cut_as_in_the_book():
    cut = WordTokenizer.train([]).encode
    assert len(cut('Hello, world. Is this-- a "test"?')) == 12


@pytest.mark.parametrize("kind", [CharTokenizer, WordTokenizer])
def test_tokenizers_gives_the_same_ids(kind, tmp_path):
    tokenizer = kind.train([TEXT, TEXT[::-1]], ["<|unk|>", "<|endoftext|>"])
    tokenizer.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = TEXT + "<|endoftext|>" + TEXT
    assert theirs.encode(text).ids == tokenizer.encode(text, allow_special=True).tolist()


@pytest.mark.parametrize("kind", [CharTokenizer, WordTokenizer])
def test_saved_and_loaded_it_is_the_same(kind, tmp_path):
    tokenizer = kind.train(TEXT)
    tokenizer.save(tmp_path / "new" / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "new")
    assert (loaded.kind, loaded.fingerprint) == (tokenizer.kind, tokenizer.fingerprint)
    assert loaded.encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()
    assert pickle.loads(pickle.dumps(loaded)).fingerprint == tokenizer.fingerprint


def test_characters_lose_nothing(shared):
    text = (shared / "tinyshakespeare.txt").read_text(encoding="utf-8")
    tokenizer = CharTokenizer.train(text)
    assert tokenizer.vocab_size == 65
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode_bytes(tokenizer.encode_bytes(text.encode())) == text.encode()


@pytest.mark.parametrize("kind", [CharTokenizer, WordTokenizer])
def test_streaming_gives_the_text_of_decode(kind):
    tokenizer = kind.train(TEXT)
    ids, stream = tokenizer.encode(TEXT).tolist(), tokenizer.stream()
    assert "".join(map(stream.push, ids)) + stream.flush() == tokenizer.decode(ids)
    assert "".join(map(stream.push, ids)) == tokenizer.decode(ids), "flush makes it as new"


def test_signs_stand_where_a_reader_expects_them():
    tokenizer = WordTokenizer.train(TEXT)
    text = "Hello, world. Is this a test? (It's one.)"
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("kind", [CharTokenizer, WordTokenizer])
def test_special_tokens_come_only_when_allowed(kind):
    tokenizer = kind.train(["a <|endoftext|> b"], ["<|unk|>", "<|endoftext|>"])
    end = tokenizer.end_of_text
    assert end == tokenizer.vocab_size - 1 and tokenizer.token_bytes(end) == b"<|endoftext|>"
    assert end not in tokenizer.encode("a <|endoftext|> b")
    assert tokenizer.encode("<|endoftext|>", allow_special=True).tolist() == [end]


def test_nothing_becomes_nothing():
    for tokenizer in (CharTokenizer.train("a"), CharTokenizer([]), WordTokenizer.train("a")):
        assert tokenizer.encode("").tolist() == [] and tokenizer.decode([]) == ""


def test_an_unknown_character_is_named():
    with pytest.raises(TokenizerError, match=r"character '\\xe9' \(place 3\) is not among the 3 characters"):
        CharTokenizer.train("caf").encode("café")


def test_an_unknown_word_is_named_where_there_is_no_word_for_it():
    with pytest.raises(TokenizerError, match=r"word 'zebra' is not among the 1 words"):
        WordTokenizer.train("a", []).encode("a zebra")


@pytest.mark.parametrize("token", [-1, 5])
def test_an_id_that_is_none_is_refused(token):
    for tokenizer in (CharTokenizer.train("hello"), WordTokenizer(["a"], ["<|unk|>"])):
        with pytest.raises(TokenizerError, match=f"id {token} is no token"):
            tokenizer.decode([token])


@pytest.mark.parametrize(
    ("tokens", "special", "message"),
    [
        (["a", "a"], [], r"holds \['a'\] twice"),
        (["a", ""], [], "twice, or empty"),
        (["a"], ["a"], "twice"),
        (["a"], "abc", "special_tokens a list"),
        (["\ud800"], [], "half of a surrogate pair"),
    ],
)
def test_a_vocabulary_with_a_fault_is_refused(tokens, special, message):
    for kind in (CharTokenizer, WordTokenizer):
        with pytest.raises(TokenizerError, match=message):
            kind(tokens, special)


def test_characters_are_single():
    with pytest.raises(TokenizerError, match="no single character"):
        CharTokenizer(["ab"])
