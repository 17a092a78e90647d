"""Every format opens in its own library with the same ids, comes back the same, and no damaged file does harm."""

import base64
import json
import random
import sys

import pytest
import tiktoken
import tokenizers
from peers import MULTILINGUAL, PUBLISHED
from tokenizers import decoders, models, pre_tokenizers, trainers

from firsthand.errors import TokenizerError
from firsthand.tokenizer import formats, learn, tokenizer_json
from firsthand.tokenizer.sentence import SentenceTokenizer, byte_name
from firsthand.tokenizer.simple import CharTokenizer, WordTokenizer
from firsthand.tokenizer.split import PATTERNS

TEXT = MULTILINGUAL + "<|endoftext|> don't <|endoftext|>\n\n  12345 x\r\n"


@pytest.fixture(scope="module")
def learned():
    return {pattern: learn.train(MULTILINGUAL, 700, pattern) for pattern in PATTERNS}


def plain(tokenizer):
    """A parsed tokenizer.json to damage."""
    return json.loads(tokenizer_json.write(tokenizer))


def put(folder, document, name="tokenizer.json"):
    path = folder / name
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


# ---------------------------------------------------------------- the same ids elsewhere


@pytest.mark.parametrize("pattern", PATTERNS)
def test_tokenizer_json_opens_in_tokenizers_with_the_same_ids(learned, pattern, tmp_path):
    learned[pattern].save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ids = learned[pattern].encode(TEXT, allow_special=True).tolist()
    assert theirs.encode(TEXT).ids == ids
    assert theirs.decode(ids, skip_special_tokens=False) == TEXT
    assert theirs.get_vocab_size() == learned[pattern].vocab_size


@pytest.mark.parametrize("pattern", PATTERNS)
def test_ranks_open_in_tiktoken_with_the_same_ids(learned, pattern, tmp_path):
    learned[pattern].save(tmp_path / "x.tiktoken")
    lines = (tmp_path / "x.tiktoken").read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}
    special = learned[pattern].special_tokens
    theirs = tiktoken.Encoding("x", pat_str=PUBLISHED[pattern], mergeable_ranks=ranks, special_tokens=special)
    ours = formats.load(tmp_path / "x.tiktoken", pattern, special)
    assert ours.encode(TEXT).tolist() == theirs.encode_ordinary(TEXT) == learned[pattern].encode(TEXT).tolist()
    assert ours.encode(TEXT, allow_special=True).tolist() == theirs.encode(TEXT, allowed_special="all")


def test_ranks_as_tokenizer_json_open_in_tokenizers_with_the_same_ids(learned, tmp_path):
    learned["llama3"].save(tmp_path / "x.tiktoken")
    ranks = formats.load(tmp_path / "x.tiktoken", "llama3", learned["llama3"].special_tokens)
    ranks.save(tmp_path / "folder")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "folder" / "tokenizer.json"))
    assert theirs.encode(TEXT).ids == ranks.encode(TEXT, allow_special=True).tolist()
    assert formats.load(tmp_path / "folder").fingerprint == ranks.fingerprint


def test_gpt2_from_its_two_files_is_gpt2(shared, gpt2):
    loaded = formats.load(shared / "gpt2-tokenizer")
    assert loaded.vocab_size == 50257 and loaded.special_tokens == {"<|endoftext|>": 50256}
    assert loaded.encode("Hello world").tolist() == [15496, 995]  # as in the paper's code
    assert loaded.encode(TEXT).tolist() == gpt2.encode(TEXT).tolist()


# ---------------------------------------------------------------- what other programs write


@pytest.mark.parametrize("pattern", PUBLISHED)
@pytest.mark.parametrize("form", ["strings", "pairs"])
def test_a_file_written_by_tokenizers_gives_its_ids(pattern, form, tmp_path):
    theirs = tokenizers.Tokenizer(models.BPE())
    if pattern in ("gpt2", "smollm"):
        theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        if pattern == "smollm":
            digits = pre_tokenizers.Digits(individual_digits=True)
            theirs.pre_tokenizer = pre_tokenizers.Sequence([digits, theirs.pre_tokenizer])
    else:
        cut = pre_tokenizers.Split(tokenizers.Regex(PATTERNS[pattern]), "isolated")
        theirs.pre_tokenizer = pre_tokenizers.Sequence(
            [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    theirs.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False
    )
    theirs.train_from_iterator([MULTILINGUAL], trainer)
    document = json.loads(theirs.to_str())
    if form == "strings":
        document["model"]["merges"] = [" ".join(merge) for merge in document["model"]["merges"]]
    ours = formats.load(put(tmp_path, document))
    assert ours.encode(TEXT, allow_special=True).tolist() == theirs.encode(TEXT).ids
    assert (ours.pattern, ours.special_tokens) == (pattern, {"<|endoftext|>": 0})


def test_special_tokens_may_stand_in_added_tokens_alone(learned, tmp_path):
    document = plain(learned["qwen2"])
    assert "<|endoftext|>" not in document["model"]["vocab"]
    document["added_tokens"].append({"id": 700, "content": "<tool>", "special": False})
    loaded = formats.load(put(tmp_path, document))
    assert loaded.special_tokens == {"<|endoftext|>": 699, "<tool>": 700}


# ---------------------------------------------------------------- there and back


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", ["folder", "tokenizer.json", "other.json"])
def test_saved_and_loaded_it_is_the_same(learned, pattern, name, tmp_path):
    formats.save(learned[pattern], tmp_path / name)
    assert formats.load(tmp_path / name).fingerprint == learned[pattern].fingerprint


def test_gpt2_files_come_back_byte_for_byte(shared, tmp_path):
    formats.save(formats.load(shared / "gpt2-tokenizer"), tmp_path / "vocab.bpe")
    for name in ("vocab.bpe", "encoder.json"):
        ours, theirs = (tmp_path / name).read_bytes(), (shared / "gpt2-tokenizer" / name).read_bytes()
        assert ours == theirs or json.loads(ours) == json.loads(theirs)


def test_the_pair_is_found_from_either_file(learned, tmp_path):
    learned["gpt2"].save(tmp_path / "vocab.bpe")
    want = learned["gpt2"].fingerprint
    assert formats.load(tmp_path / "vocab.bpe").fingerprint == want
    assert formats.load(tmp_path / "encoder.json").fingerprint == want
    (tmp_path / "vocab.bpe").rename(tmp_path / "merges.txt")
    (tmp_path / "encoder.json").rename(tmp_path / "vocab.json")
    assert formats.load(tmp_path).fingerprint == want


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (["model", "type"], "Unigram", "model.type is 'Unigram'; only 'BPE'"),
        (["model", "dropout"], 0.1, "model.dropout is 0.1"),
        (["model", "vocab", "a"], 1.5, "token 'a' has id 1.5; ids are numbers"),
        (["model", "vocab", "a"], 98, "tokens 'a' and 'b' share the id 98"),
        (["model", "vocab", "a"], 10**9, "token 'a' has id 1000000000"),
        (["model", "vocab", "日"], 700, r"holds '\\u65e5', which stands for no byte"),
        (["model", "vocab", "a" * 1025], 700, "token 700 has 1,025 bytes; at most 1024"),
        (["model", "merges", 3], "a", "merge 3 is 'a'; it must be two tokens"),
        (["model", "merges", 3], ["a", "zzz"], "merge 3 joins 'zzz', which is no ordinary token"),
        (["model", "merges", 3], ["Ġ", "#"], "what they make is no token"),
        (["model", "merges"], None, "merges is NoneType, must be list"),
        (["normalizer"], {"type": "Lowercase"}, "normalizer .* would change the text"),
        (["pre_tokenizer"], {"type": "Whitespace"}, "is none we know exactly"),
        (["pre_tokenizer"], None, "is none we know exactly"),
        (["pre_tokenizer", "pretokenizers", 0, "pattern", "Regex"], "(a+)+$", "is none we know exactly"),
        (["pre_tokenizer", "pretokenizers", 0, "behavior"], "Removed", "is none we know exactly"),
        (["pre_tokenizer", "pretokenizers", 1, "add_prefix_space"], True, "is none we know exactly"),
        (["added_tokens", 0, "lstrip"], True, "has lstrip, which cannot be done here"),
        (["added_tokens", 0, "id"], -1, "has id -1"),
        (["added_tokens", 0], 7, "added_tokens holds 7"),
    ],
)
def test_what_cannot_be_read_exactly_is_refused(learned, tmp_path, place, value, message):
    document = plain(learned["llama3"])
    *way, last = place
    inner = document
    for step in way:
        inner = inner[step]
    inner[last] = value
    with pytest.raises(TokenizerError, match=rf"tokenizer.json: .*{message}"):
        formats.load(put(tmp_path, document))


def test_a_missing_byte_is_named(learned, tmp_path):
    document = plain(learned["llama3"])
    del document["model"]["vocab"]["!"]
    document["model"]["merges"] = []
    with pytest.raises(TokenizerError, match="1 of the 256 single bytes have no token, the first is 0x21"):
        formats.load(put(tmp_path, document))


def test_a_merge_that_stands_twice_is_refused(learned, tmp_path):
    document = plain(learned["llama3"])
    document["model"]["merges"].append(document["model"]["merges"][0])
    with pytest.raises(TokenizerError, match="merge 443 stands twice"):
        formats.load(put(tmp_path, document))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model": {"a": 1, "a": 2}}', "a key stands twice"),
        ('{"model": NaN}', "not a finite number"),
        ("[" * 100_000, "not valid JSON"),
        ("", "not valid JSON"),
        ("[]", "must hold a JSON object"),
        ('{"model": {"type": "BPE", "vocab": {}, "merges": []}}', "is none we know exactly"),
        ('{"added_tokens": [{"id": 0, "content": "\\ud800"}]}', "model is NoneType"),
    ],
)
def test_json_that_is_none_is_refused(text, message, tmp_path):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(TokenizerError, match=message):
        formats.load(tmp_path)


def test_half_a_character_as_a_special_token_is_refused(learned, tmp_path):
    document = plain(learned["gpt2"])
    document["added_tokens"].append({"id": 700, "content": "\ud800"})
    with pytest.raises(TokenizerError, match="surrogates not allowed"):
        formats.load(put(tmp_path, document))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("IQ==", r"line 1 is b'IQ=='; it must be base64, a space, and a rank"),
        ("IQ== -1", "must be base64, a space, and a rank"),
        ("I*== 1", "must be base64, a space, and a rank"),
        ("IQ== 0\nIQ== 1", "line 2: the token '!' stands twice"),
        ("IQ== 0\nIg== 0", "share the id 0"),
        ("IQ== 4000000000", "has id 4000000000"),
        ("IQ== 0", "255 of the 256 single bytes have no token"),
        ("", "256 of the 256 single bytes"),
    ],
)
def test_ranks_with_a_fault_are_refused(lines, message, tmp_path):
    (tmp_path / "x.tiktoken").write_text(lines)
    with pytest.raises(TokenizerError, match=message):
        formats.load(tmp_path, "gpt2", {})


def test_ranks_need_a_pattern_and_other_files_bring_their_own(learned, tmp_path):
    learned["gpt2"].save(tmp_path / "mine.tiktoken")
    with pytest.raises(TokenizerError, match="does not say its pattern"):
        formats.load(tmp_path / "mine.tiktoken")
    with pytest.raises(TokenizerError, match="Did you mean 'cl100k'"):
        formats.load(tmp_path / "mine.tiktoken", "cl100")
    with pytest.raises(TokenizerError, match="rank 300 is the id of a special token too"):
        formats.load(tmp_path / "mine.tiktoken", "gpt2", {"<|x|>": 300})
    learned["gpt2"].save(tmp_path / "tokenizer.json")
    with pytest.raises(TokenizerError, match="says its own pattern"):
        formats.load(tmp_path / "tokenizer.json", "gpt2")


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path):
    with pytest.raises(TokenizerError, match=r"holds 0 \*.tiktoken and none of tokenizer.json, vocab.bpe"):
        formats.load(tmp_path)
    with pytest.raises(TokenizerError, match="no such file"):
        formats.load(tmp_path / "tokenizer.json")
    with pytest.raises(TokenizerError, match="name of no tokenizer; allowed: "):
        formats.load(tmp_path / "tokenizer.jsn")


def test_what_a_format_cannot_say_is_not_written(learned, tmp_path):
    with pytest.raises(TokenizerError, match="this has pattern 'llama3'"):
        learned["llama3"].save(tmp_path / "vocab.bpe")
    with pytest.raises(TokenizerError, match="unknown ending"):
        learned["llama3"].save(tmp_path / "x.bin")
    with pytest.raises(TokenizerError, match="holds only bpe"):
        formats.save(CharTokenizer.train("ab"), tmp_path / "x.tiktoken")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- mutants

TOO_BIG = [b"1" * 5000, b"18446744073709551616", b"-1", b"1e999", b"NaN", b"null", b"true", b'"\\ud800"', b"[]", b"{}"]


def mutant(data: bytes, random: random.Random) -> bytes:
    """The file with one or a few faults: bits, cuts, repeats, swapped words."""
    out = bytearray(data)
    for _ in range(random.choice([1, 1, 1, 2, 8])):
        at, length = random.randrange(len(out) or 1), random.choice([1, 2, 8, 40, 400])
        kind = random.randrange(6)
        if kind == 0 and out:
            out[at] ^= 1 << random.randrange(8)
        elif kind == 1:
            del out[at : at + length]
        elif kind == 2:
            out[at:at] = out[max(0, at - length) : at]
        elif kind == 3:
            out[at : at + random.randrange(5)] = random.choice(TOO_BIG)
        elif kind == 4:
            other = random.randrange(len(out) or 1)
            out[at : at + length] = out[other : other + length]
        else:
            del out[at:]
            out += b" "
    return bytes(out)


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "ranks.json", "word.json", "sentence.json", "vocab.bpe", "encoder.json", "x.tiktoken"]
)
def test_a_damaged_file_gives_a_tokenizer_error_or_a_tokenizer(name, tmp_path):
    tokenizer = learn.train(MULTILINGUAL, 300)
    if name == "ranks.json":
        tokenizer.save(tmp_path / "y.tiktoken")
        tokenizer = formats.load(tmp_path / "y.tiktoken", "llama3", {})
    if name == "word.json":
        tokenizer = WordTokenizer.train(MULTILINGUAL)
    if name == "sentence.json":
        pieces = ["<s>", *(byte_name(byte) for byte in range(256)), "\u2581", "t", "h", "th", "\u2581th"]
        tokenizer = SentenceTokenizer(pieces, [(258, 259), (257, 260)], {"<s>": 0}, begin=0)
    path = tmp_path / name
    tokenizer.save(tmp_path / "vocab.bpe" if name == "encoder.json" else path)
    data, seed, refused = path.read_bytes(), random.randrange(1 << 30), 0
    print(f"seed {seed}", file=sys.stderr)
    for number in range(1000):
        path.write_bytes(mutant(data, random.Random(seed + number)))
        try:
            arguments = ("gpt2", {"<|endoftext|>": 299}) if name == "x.tiktoken" else ()
            loaded = formats.load(path, *arguments)
            loaded.decode(loaded.encode(" the quick"))
        except TokenizerError as error:
            refused += 1
            assert str(error).isprintable() and len(str(error)) < 400
    assert refused > 200
