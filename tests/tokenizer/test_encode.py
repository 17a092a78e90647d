"""Our ids against tiktoken's and tokenizers'; special tokens; what a vocabulary may not be."""

import pickle
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import END, MULTILINGUAL, ours, python_files, theirs
from tokenizers import Tokenizer as Peer
from tokenizers import models, pre_tokenizers

from firsthand.errors import TokenizerError
from firsthand.tokenizer.bpe import Tokenizer
from firsthand.tokenizer.split import PATTERNS, split

BYTES = [bytes([byte]) for byte in range(256)]


def random_ranks(seed: int, count: int) -> dict[bytes, int]:
    """Parts of texts as tokens, their ranks shuffled: longer ones may come before their own parts."""
    random_number = random.Random(seed)
    text = (MULTILINGUAL * 2 + "banana bandana ababab  \n\n").encode()
    parts = {text[at : at + random_number.randint(2, 7)] for at in random_number.sample(range(len(text) - 8), count)}
    tokens = BYTES + sorted(parts)
    random_number.shuffle(tokens)
    return {token: rank for rank, token in enumerate(tokens)}


def test_ids_of_all_shared_data_are_those_of_tiktoken(shared, gpt2, oracle):
    files = [path for path in sorted(shared.rglob("*")) if path.is_file()]
    assert len(files) >= 7
    for path in files:
        text = path.read_bytes().decode("utf-8")
        assert np.array_equal(gpt2.encode(text), oracle.encode_ordinary(text)), path


def test_ids_of_the_standard_library_are_those_of_tiktoken(gpt2, oracle):
    for path in python_files():
        text = path.read_text(encoding="utf-8")
        assert np.array_equal(gpt2.encode(text), oracle.encode_ordinary(text)), path


def test_ids_of_many_languages_are_those_of_tiktoken(gpt2, oracle):
    assert gpt2.encode(MULTILINGUAL).tolist() == oracle.encode_ordinary(MULTILINGUAL)


@settings(max_examples=500, deadline=None)
@given(texts=st.lists(st.text(max_size=60), min_size=20, max_size=20))
def test_ids_of_ten_thousand_random_texts_are_those_of_tiktoken(texts, gpt2, oracle):
    for text in texts:
        assert gpt2.encode(text).tolist() == oracle.encode_ordinary(text)


@pytest.mark.parametrize("pattern", ["cl100k", "llama3", "qwen2"])
def test_ids_with_other_patterns_are_those_of_tiktoken(pattern, ranks):
    tokenizer, oracle = ours(ranks, pattern), theirs(ranks, pattern)
    code = "".join(path.read_text(encoding="utf-8") for path in python_files()[::6])
    for text in (MULTILINGUAL, code):
        assert np.array_equal(tokenizer.encode(text), oracle.encode_ordinary(text))


@pytest.mark.parametrize("seed", range(6))
def test_ranks_in_any_order_give_the_ids_of_tiktoken(seed):
    ranks = random_ranks(seed, 900)
    tokenizer, oracle = ours(ranks, "gpt2"), theirs(ranks, "gpt2")
    words = [word for word in MULTILINGUAL.split() if len(word) > 1]
    long = "".join(words)  # letters of many words in one piece: merged with a heap
    for text in (MULTILINGUAL, long, long * 5, "banana" * 100, "ab" * 700):
        assert tokenizer.encode(text).tolist() == oracle.encode_ordinary(text)


@pytest.mark.parametrize("seed", range(6))
def test_merges_in_any_order_give_the_ids_of_tokenizers(seed):
    random_number = random.Random(seed)
    tokens, merges = list(BYTES), []
    letters = [token for token in BYTES if token in b"abcde "]
    while len(merges) < 60:
        left, right = random_number.choices(letters, k=2)
        if left + right not in tokens:
            tokens.append(left + right)
            letters.append(left + right)
            merges.append((left, right))
    random_number.shuffle(merges)  # a merge may now stand before the one that makes its parts
    random_number.shuffle(tokens)
    ids = {token: at for at, token in enumerate(tokens)}
    tokenizer = Tokenizer(tokens, [(ids[left], ids[right]) for left, right in merges], "gpt2")
    shown = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    name = {token: shown.pre_tokenize_str(token.decode())[0][0] for token in tokens if token.isascii()}
    peer = Peer(
        models.BPE({name[token]: ids[token] for token in name}, [(name[left], name[right]) for left, right in merges])
    )
    peer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    for length in (8, 40, 200):
        text = "".join(random_number.choices("abcde ", k=length))
        assert tokenizer.encode(text).tolist() == peer.encode(text).ids


def test_a_word_merged_by_hand():
    tokenizer = Tokenizer([*BYTES, b"lo", b"ow", b"low"], [(ord("l"), ord("o")), (ord("o"), ord("w")), (256, ord("w"))])
    assert tokenizer.encode("low slow").tolist() == [258, 32, ord("s"), 258]
    assert tokenizer.encode("owl").tolist() == [257, ord("l")]
    assert tokenizer.merge_steps("low") == [[b"l", b"o", b"w"], [b"lo", b"w"], [b"low"]]


@pytest.mark.parametrize("as_ranks", [False, True])
def test_merge_steps_end_with_the_tokens(as_ranks, ranks, gpt2):
    tokenizer = ours(ranks, "cl100k") if as_ranks else gpt2
    text = "Unbelievable, it's 1234 straße\n"
    steps = tokenizer.merge_steps(text)
    assert steps[-1] == [tokenizer.token_bytes(token) for token in tokenizer.encode(text).tolist()]
    assert all(b"".join(step) == text.encode() for step in steps)
    assert steps[0] == [bytes([byte]) for byte in text.encode()]


def test_warm_and_cold_caches_give_the_same_ids(gpt2):
    texts = [MULTILINGUAL[at : at + 300] for at in range(0, len(MULTILINGUAL), 300)]
    warm = [gpt2.encode(text).tolist() for text in texts for _ in range(2)][1::2]
    assert warm == [pickle.loads(pickle.dumps(gpt2)).encode(text).tolist() for text in texts]


@pytest.mark.parametrize(("place", "bit"), [(0, 63), (1, 5), (2, 17), (3, 40), (4, 40)])
def test_a_word_in_the_cache_counts_only_if_every_byte_and_the_length_agree(place, bit):
    tokenizer = Tokenizer([*BYTES, b"ab"], [(97, 98)])
    text = "ab a a\0 a\0\0 abababab abababababababab " + "ab" * 12 + " " + "ab" * 15 + " c" * 40
    tokenizer.encode(text)
    rows = tokenizer._words.cache.reshape(-1, 16)
    assert (rows[:, 4] > 0).sum() >= 7
    rows[:, 5:] = 7  # wrong ids in every row, and one bit of each word, or of its length, turned round
    rows[:, place] ^= np.uint64(1 << bit)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_threads_give_the_ids_of_one_thread(gpt2, shared):
    text = (shared / "tinyshakespeare.txt").read_text()
    parts = [text[at : at + 20_000] for at in range(0, 400_000, 20_000)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(gpt2.encode, parts))
    assert all(np.array_equal(one, gpt2.encode(part)) for one, part in zip(together, parts, strict=True))


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=80))
def test_any_bytes_come_back(data, gpt2):
    assert gpt2.decode_bytes(gpt2.encode_bytes(data)) == data


@pytest.mark.parametrize("pattern", PATTERNS)
def test_ids_come_as_uint32_and_decode_to_the_text(pattern, ranks):
    tokenizer = ours(ranks, pattern)
    ids = tokenizer.encode(MULTILINGUAL)
    assert ids.dtype == np.uint32 and ids.ndim == 1 and ids.flags.owndata
    assert tokenizer.decode(ids) == MULTILINGUAL
    assert tokenizer.encode("").tolist() == [] and tokenizer.decode([]) == ""


def test_special_tokens_never_come_from_text_unless_allowed(gpt2, oracle):
    text = f"a{END}{END}b"
    assert gpt2.end_of_text == 50256
    assert 50256 not in gpt2.encode(text)
    assert gpt2.encode(text).tolist() == oracle.encode_ordinary(text)
    assert gpt2.encode(text, allow_special=True).tolist() == oracle.encode(text, allowed_special="all")
    assert gpt2.decode(gpt2.encode(text, allow_special=True)) == text


def test_of_two_special_names_the_longer_is_found():
    tokenizer = Tokenizer([b"<s>", b"<s>>", *BYTES], None, "gpt2", {"<s>": 0, "<s>>": 1})
    assert tokenizer.encode("<s>><s>", allow_special=True).tolist() == [1, 0]


def test_fingerprint_follows_all_that_decides_the_ids(gpt2, ranks):
    small = [*BYTES, b"ab", b"bc", END.encode()]
    prints = {
        Tokenizer(small, [(97, 98), (98, 99)], "gpt2", {END: 258}).fingerprint,
        Tokenizer(small, [(98, 99), (97, 98)], "gpt2", {END: 258}).fingerprint,
        Tokenizer(small, [(97, 98), (98, 99)], "qwen2", {END: 258}).fingerprint,
        Tokenizer(small, [(97, 98), (98, 99)], "gpt2").fingerprint,
        Tokenizer(small, None, "gpt2", {END: 258}).fingerprint,
    }
    assert len(prints) == 5
    again = Tokenizer(list(small), ((97, 98), (98, 99)), "gpt2", {END: 258})
    assert again.fingerprint in prints and len(again.fingerprint) == 64


def test_half_a_surrogate_pair_is_refused_with_its_place(gpt2):
    with pytest.raises(TokenizerError, match=r"character 2 is U\+D83D, half of a surrogate pair: it has no UTF-8"):
        gpt2.encode("ab\ud83d")


@pytest.mark.parametrize("token", [-1, 50257, 1 << 40])
def test_an_id_outside_the_vocabulary_is_refused(token, gpt2):
    with pytest.raises(TokenizerError, match=rf"id {token} is no token; this vocabulary has the ids 0 to 50256"):
        gpt2.decode([token])


def test_an_unused_id_is_refused():
    with pytest.raises(TokenizerError, match="id 256 is no token"):
        Tokenizer([*BYTES, b"", b"ab"], None).decode([256])


REFUSED = {
    "2 of the 256 single bytes have no token, the first is 0x61": (BYTES[:97] + BYTES[99:], [], {}),
    "tokens 97 and 256 are both b'a'; each may come once": ([*BYTES, b"a"], [], {}),
    "token 256 has 1,025 bytes; at most 1024": ([*BYTES, b"x" * 1025], [], {}),
    "a vocabulary of 4,194,305 tokens; at most 4,194,304": ([b""] * (2**22 + 1), [], {}),
    "merge 0 joins b'a' and b'b', but what they make is no token": (BYTES, [(97, 98)], {}),
    "merge 0 joins ids 97 and 256, but not both are ordinary tokens": (BYTES, [(97, 256)], {}),
    "merge 1 joins ids 97 and -1, but not both": ([*BYTES, b"ab"], [(97, 98), (97, -1)], {}),
    "merge 0 joins ids 256 and 97, but not both": ([*BYTES, b"<s>", b"<s>a"], [(256, 97)], {"<s>": 256}),
    "special token '<s>' has id 97, but that entry of the vocabulary of 256 is not": (BYTES, [], {"<s>": 97}),
    "special token '<s>' has id 900, but": (BYTES, [], {"<s>": 900}),
    "special token '' has id 256, but": ([*BYTES, b""], [], {"": 256}),
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_vocabulary_that_cannot_be_is_refused(message):
    tokens, merges, special_tokens = REFUSED[message]
    with pytest.raises(TokenizerError) as caught:
        Tokenizer(tokens, merges, "gpt2", special_tokens)
    assert message in str(caught.value) and len(str(caught.value)) <= 240


def test_pieces_never_share_a_token(gpt2):
    for piece in split(MULTILINGUAL, "gpt2"):
        assert gpt2.decode(gpt2.encode(piece)) == piece
    pieces = [token for piece in split(MULTILINGUAL, "gpt2") for token in gpt2.encode(piece).tolist()]
    assert pieces == gpt2.encode(MULTILINGUAL).tolist()
