"""Learning a vocabulary: exact against the slow form and against rustbpe, whatever way the text arrives."""

import random
from collections import Counter

import pytest
from peers import MULTILINGUAL

from firsthand.errors import DataError, TokenizerError
from firsthand.lessons import bpe as lesson
from firsthand.tokenizer import learn
from firsthand.tokenizer.bpe import Tokenizer
from firsthand.tokenizer.split import PATTERNS, pattern_code, split


@pytest.fixture(scope="module")
def corpus(shared):
    """Prose, other scripts, and code: 190 kB."""
    prose = (shared / "tinyshakespeare.txt").read_text(encoding="utf-8")[:150_000]
    return prose + MULTILINGUAL + learn.Path(learn.__file__).read_text(encoding="utf-8") + MULTILINGUAL


def table(words):
    """What the compiled loops have counted, as a Counter."""
    starts, counts = words.rows[: words.known + 1, 0].tolist(), words.rows[: words.known, 1].tolist()
    return Counter({bytes(words.arena[a:b]): n for a, b, n in zip(starts, starts[1:], counts, strict=False)})


# ---------------------------------------------------------------- by hand


def test_worked_by_hand():
    tokenizer = learn.train("aaabdaaabac", 256 + 3 + 1)
    assert tokenizer.merges == [(97, 97), (97, 98), (256, 257)]
    assert tokenizer.special_tokens == {"<|endoftext|>": 259}
    assert tokenizer.encode("aaabdaaabac").tolist() == [258, 100, 258, 97, 99]


def test_of_equal_counts_the_smaller_pair_is_first():
    assert learn.train("ba ba dc", 258, special_tokens=()).merges == [(98, 97), (32, 100)]  # " d" < " ba" and "dc"
    assert learn.train("dcba", 257, special_tokens=()).merges == [(98, 97)]  # every pair once


def test_pairs_that_overlap_are_counted_as_neighbours():
    assert learn.train("aaaaa", 259, special_tokens=()).merges == [(97, 97), (256, 97), (256, 257)]


# ---------------------------------------------------------------- against slower and foreign forms


@pytest.mark.parametrize("pattern", PATTERNS)
def test_words_are_counted_as_python_counts_them(corpus, pattern):
    want = Counter(piece.encode() for piece in split(corpus, pattern))
    assert table(learn.count_words(corpus, pattern)) == want


@pytest.mark.parametrize("seed", range(40))
def test_random_words_give_the_merges_of_the_lesson(seed):
    draw = random.Random(seed)
    letters = draw.choice(["ab", "abc", "aé日", "abcdefgh"])
    text = " ".join("".join(draw.choices(letters, k=draw.randrange(1, 12))) for _ in range(draw.randrange(1, 60)))
    tokenizer = learn.train(text, 256 + 80, special_tokens=(), allow_fewer=True)
    assert tokenizer.merges == lesson.train(split(text, "gpt2"), 80)


def test_rustbpe_learns_the_same_merges(corpus):
    rustbpe = pytest.importorskip("rustbpe", reason="rustbpe is a peer of the benchmarks: pip install rustbpe")
    theirs = rustbpe.Tokenizer()
    theirs.train_from_iterator(iter([corpus]), 3000, pattern=PATTERNS["gpt2"])
    ours = learn.train(corpus, 3000, special_tokens=())
    assert ours.tokens == [bytes(token) for token, _ in sorted(theirs.get_mergeable_ranks(), key=lambda pair: pair[1])]


def test_the_text_is_written_with_fewer_tokens_the_more_were_learned(corpus):
    lengths = [len(learn.train(corpus, size).encode(corpus)) for size in (257, 300, 600, 1200, 2400)]
    assert lengths == sorted(lengths, reverse=True) and lengths[0] == len(corpus.encode()) > 2.5 * lengths[-1]


# ---------------------------------------------------------------- the way the text arrives changes nothing


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("chunk", [7, 64, 1000])
def test_chunks_give_the_counts_of_the_whole(corpus, pattern, chunk, monkeypatch, tmp_path):
    text = corpus[:3000] + MULTILINGUAL + "a.\n\nb \n c\n\n\nd\r\n\r\ne.\n\tf 。\n字 \u3000\n x" * 20
    want = Counter(piece.encode() for piece in split(text, pattern))
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8", newline="")
    monkeypatch.setattr(learn, "CHUNK", chunk)
    assert table(learn.count_words(text, pattern)) == want
    assert table(learn.count_words(path, pattern)) == want
    assert len(list(learn.documents(text))) > 3000 / max(chunk, 100)


def test_random_signs_are_never_cut_inside_a_piece(monkeypatch):
    monkeypatch.setattr(learn, "CHUNK", 8)
    draw = random.Random(0)
    for _ in range(300):
        text = "".join(draw.choices(" \n\r\t.,'sS1aé日。\u3000\xa0\u2028ſ🙂", k=60))
        for pattern in PATTERNS:
            parts = [piece for chunk in learn.documents(text) for piece in split(chunk.decode(), pattern)]
            assert parts == split(text, pattern), (text, pattern)


def test_documents_are_apart_and_their_order_means_nothing(corpus, tmp_path):
    halves = [corpus[:90_000], corpus[90_000:]]
    path = tmp_path / "half.txt"
    path.write_text(halves[1], encoding="utf-8", newline="")
    want = learn.train(halves, 900).fingerprint
    assert learn.train(halves[::-1], 900).fingerprint == want
    assert learn.train(iter([halves[0], path]), 900).fingerprint == want
    assert learn.train(["a", "b"] * 50, 257).merges == []  # "ab" never stood in one document


def test_threads_change_nothing(corpus, monkeypatch):
    want = learn.train([corpus] * 4, 900).merges
    monkeypatch.setattr(learn, "MOST_THREADS", 1)
    assert learn.train([corpus] * 4, 900).merges == want


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfab ab")
    assert table(learn.count_words(tmp_path / "a.txt", "gpt2")) == {b"ab": 1, b" ab": 1}


def test_a_text_that_cannot_be_cut_is_learned_whole():
    assert table(learn.count_words("x" * 3_000_000, "gpt2")) == {b"x" * 3_000_000: 1}


def test_no_token_grows_beyond_what_a_vocabulary_may_hold():
    tokenizer = learn.train("x" * 30_000, 4096, special_tokens=(), allow_fewer=True)
    assert tokenizer.tokens[256:266] == [b"x" * (2 << doubled) for doubled in range(10)]
    assert max(map(len, tokenizer.tokens)) == 1024
    assert tokenizer.merges[10:] == [(260, 259), (263, 266)]  # 30,000 = 29 x 1024 + 256 + 32 + 16


def test_special_tokens_are_at_the_end_and_learned_from_no_text(corpus):
    tokenizer = learn.train(corpus + "<|endoftext|>" * 50, 500, special_tokens=["<|user|>", "<|endoftext|>"])
    assert tokenizer.special_tokens == {"<|user|>": 498, "<|endoftext|>": 499}
    assert tokenizer.vocab_size == 500 and len(tokenizer.merges) == 500 - 256 - 2
    assert 499 not in tokenizer.encode("<|endoftext|>")


def test_train_of_the_class_is_this_one(corpus):
    assert Tokenizer.train(corpus, 400).fingerprint == learn.train(corpus, 400).fingerprint


# ---------------------------------------------------------------- refusals


def test_a_text_too_short_says_what_is_possible():
    with pytest.raises(
        TokenizerError, match=r"vocab_size 4,096 .* its 1 different words end in 260 entries. Use vocab_size=260"
    ):
        learn.train("abcd", 4096)
    assert learn.train("abcd", 260).vocab_size == 260
    assert learn.train("abcd", 4096, allow_fewer=True).vocab_size == 260
    with pytest.raises(TokenizerError, match="its 0 different words end in 257 entries"):
        learn.train([], 4096)


@pytest.mark.parametrize("size", [0, 256, 1 << 23])
def test_a_size_that_is_impossible_is_refused(size):
    with pytest.raises(TokenizerError, match=rf"vocab_size {size} is out of range: .* need 257"):
        learn.train("abc", size)


@pytest.mark.parametrize("special", ["<|endoftext|>", ["a", "a"], [""]])
def test_special_tokens_that_are_no_list_of_names_are_refused(special):
    with pytest.raises(TokenizerError, match="must be a list of different names"):
        learn.train("abc", 300, special_tokens=special)


def test_a_special_token_that_was_learned_is_refused():
    with pytest.raises(TokenizerError, match=r"special token 'ab' was also learned .* like '<\|ab\|>'"):
        learn.train("ab ab ab", 258, special_tokens=["ab"])


def test_a_pattern_without_scanner_is_refused():
    with pytest.raises(TokenizerError, match="Did you mean 'gpt2'"):
        learn.train("abc", 300, pattern="gpt-2")


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (b"good\nbad \xe9t\xe9\n", r"2:9 .*byte 0xE9"),
        (b"\xff", r"1:0 .*byte 0xFF"),
        (b"ok\n" * 700_000 + b"\xe6\x97", r"700001:2100000 .*byte 0xE6"),
        (b"x" * ((1 << 20) - 1) + b"\n" + b"\n\xc3\n", rf"3:{(1 << 20) + 1} .*byte 0xC3"),
        (b"x" * ((1 << 20) - 1) + b"\xc3\n\xa9", rf"1:{(1 << 20) - 1} .*byte 0xC3"),
    ],
)
def test_a_file_that_is_no_utf8_is_refused_with_line_and_byte(data, place, tmp_path):
    (tmp_path / "notes.txt").write_bytes(data)
    with pytest.raises(DataError, match=rf"notes.txt:{place}.*iconv .*\[FH028\]"):
        learn.train(tmp_path / "notes.txt", 300)


def test_a_place_that_is_no_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"is a folder; give its files"):
        learn.train(tmp_path, 300)
    with pytest.raises(DataError, match=r"nothing.txt is no file"):
        learn.train(tmp_path / "nothing.txt", 300)


def test_the_name_of_a_file_is_not_taken_for_a_text(tmp_path, monkeypatch):
    (tmp_path / "corpus.txt").write_text("abc")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TokenizerError, match=r"'corpus.txt' is a text of 10 characters here; .*Path\('corpus.txt'\)"):
        learn.train("corpus.txt", 300)


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(DataError, match=r"'\\ud800' at character 1,500,000"):
        learn.train("x" * 1_500_000 + "\ud800", 300)


def test_neither_text_nor_file_is_refused():
    with pytest.raises(TokenizerError, match=r"b'abc' is neither a text"):
        learn.train([b"abc"], 300)
    assert pattern_code("gpt2") == 0
