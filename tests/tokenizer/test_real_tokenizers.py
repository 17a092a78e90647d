"""The forms of tokenizer.json that real models come with: GPT-2, SmolLM2, Llama 3, Qwen 2; ids as of `tokenizers`."""

import json
import pickle

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import MULTILINGUAL
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from firsthand.errors import TokenizerError
from firsthand.tokenizer import formats, tokenizer_json
from firsthand.tokenizer.bpe import Tokenizer
from firsthand.tokenizer.split import PATTERNS
from firsthand.tokenizer.tokenizer_json import raw
from firsthand.tokenizer.vocabulary import all_cuts

MIXED = MULTILINGUAL + "e\u0301 Å\u0323 \u1100\u1161 I'LL pay  1234€ ½ ٣  42<|im_start|>user<tool>\r\n\n x<|im_end|>"
BYTES = [bytes([byte]) for byte in range(256)]


def split_then_bytes(pattern):
    cut = pre_tokenizers.Split(tokenizers.Regex(PATTERNS[pattern]), "isolated")
    return pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def trained(family):
    """A small tokenizer of the very form of a family's tokenizer.json, made by `tokenizers` alone."""
    theirs = tokenizers.Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.pre_tokenizer = {
        "gpt2": level,
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), level]),
        "llama3": split_then_bytes("llama3"),
        "qwen2": split_then_bytes("qwen2"),
    }[family]
    theirs.decoder = decoders.ByteLevel()
    if family == "qwen2":
        theirs.normalizer = normalizers.NFC()
    first = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] if family == "smollm" else []
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=557, initial_alphabet=alphabet, special_tokens=first, show_progress=False)
    theirs.train_from_iterator([MULTILINGUAL], trainer)
    if family == "llama3":
        theirs = ranked(theirs)
    if family != "smollm":
        theirs.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    theirs.add_tokens([tokenizers.AddedToken("<tool>", normalized=False)])
    level = processors.ByteLevel(trim_offsets=False)
    start = processors.TemplateProcessing(
        single="<|im_start|> $A", pair="<|im_start|> $A <|im_start|>:1 $B:1", special_tokens=[("<|im_start|>", 558)]
    )
    theirs.post_processor = processors.Sequence([level, start]) if family == "llama3" else level
    return theirs


def ranked(theirs):
    """As transformers writes a file of ranks: every cut of each token, ordered by the ids of its parts."""
    document = json.loads(theirs.to_str())
    ids = {raw(name): number for name, number in document["model"]["vocab"].items()}
    names = {number: name for name, number in document["model"]["vocab"].items()}
    cuts = sorted(all_cuts(ids), key=lambda cut: (ids[cut[0] + cut[1]], ids[cut[0]], ids[cut[1]]))
    document["model"]["merges"] = [[names[ids[left]], names[ids[right]]] for left, right in cuts]
    document["model"]["ignore_merges"] = True
    return tokenizers.Tokenizer.from_str(json.dumps(document))


FAMILIES = ("gpt2", "smollm", "llama3", "qwen2")


@pytest.fixture(scope="module")
def pairs():
    made = {family: trained(family) for family in FAMILIES}
    return {family: (theirs, tokenizer_json.read(json.loads(theirs.to_str()))) for family, theirs in made.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_are_those_of_tokenizers(pairs, family):
    theirs, ours = pairs[family]
    assert ours.pattern == family and ours.shown == {"<tool>"}
    ids = ours.encode(MIXED, allow_special=True).tolist()
    assert ids == theirs.encode(MIXED, add_special_tokens=False).ids
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=20))
def test_ids_of_any_text_are_those_of_tokenizers(pairs, family, text):
    theirs, ours = pairs[family]
    assert ours.encode(text).tolist() == theirs.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("family", FAMILIES)
def test_written_back_the_ids_are_the_same(pairs, family, tmp_path):
    theirs, ours = pairs[family]
    ours.save(tmp_path)
    again = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert again.encode(MIXED).ids == theirs.encode(MIXED).ids  # with the token that stands before every text
    assert again.get_vocab() == theirs.get_vocab()
    loaded = formats.load(tmp_path)
    assert loaded.fingerprint == ours.fingerprint and pickle.loads(pickle.dumps(loaded)).shown == ours.shown
    assert loaded._habits == ours._habits


def test_what_stands_before_every_text_is_known(pairs):
    assert pairs["llama3"][1].begin == 558 and pairs["llama3"][1].whole
    assert pairs["gpt2"][1].begin is None and not pairs["gpt2"][1].whole
    with pytest.raises(TokenizerError, match="begin is id 3, which is no special token"):
        Tokenizer(BYTES, [], begin=3)


def test_nfc_is_applied_to_whole_texts_and_to_bytes():
    plain, form = Tokenizer(BYTES, []), Tokenizer(BYTES, [], nfc=True)
    assert form.encode("e\u0301").tolist() == list("é".encode()) == form.encode_bytes(b"e\xcc\x81").tolist()
    assert plain.encode("e\u0301").tolist() == list("e\u0301".encode())
    assert form.encode_bytes(b"\xff e\xcc\x81").tolist() == [255, 32, *"é".encode()]  # what is no UTF-8 stays
    assert form.merge_steps("e\u0301") == [[b"\xc3", b"\xa9"]]
    assert form.fingerprint != plain.fingerprint


def test_a_piece_that_is_a_token_is_taken_whole_only_if_the_tokenizer_does_so():
    tokens = [*BYTES, b"ab", b"bc", b"abc"]
    merges = [(98, 99), (256, 99)]  # bc first; ab + c is never reached, for ab has no merge
    assert Tokenizer(tokens, merges).encode("abc").tolist() == [97, 257]
    assert Tokenizer(tokens, merges, whole=True).encode("abc").tolist() == [258]
    assert Tokenizer(tokens, merges, whole=True).merge_steps("abc")[-1] == [b"abc"]


def test_a_byte_without_a_token_is_named_and_a_common_one_refused():
    tokens = [token for token in BYTES if token not in (b"\x04", b"\xff")]
    tokenizer = Tokenizer(tokens, [])
    assert tokenizer.decode(tokenizer.encode("a\x05é")) == "a\x05é"
    with pytest.raises(
        TokenizerError, match=r"byte 0x04 \(place 2\) has no token here; the vocabulary lacks 2 of the 256"
    ):
        tokenizer.encode("ab\x04")


def test_padding_adds_reserved_tokens_and_changes_no_id():
    tokens = [*BYTES, b"", b"<|reserved_1|>", b"<s>"]
    tokenizer = Tokenizer(tokens, [], "smollm", {"<s>": 258}, nfc=True, shown=["<s>"], begin=258)
    padded = tokenizer.padded(262)
    assert padded.vocab_size == 262 and padded._habits == tokenizer._habits
    assert padded.special_tokens == {
        "<s>": 258,
        "<|reserved_0|>": 256,
        "<|reserved_2|>": 259,
        "<|reserved_3|>": 260,
        "<|reserved_4|>": 261,
    }
    assert padded.encode("<|reserved_1|>").tolist() == tokenizer.encode("<|reserved_1|>").tolist()
    assert padded.decode(range(262)).endswith("<s><|reserved_2|><|reserved_3|><|reserved_4|>")
    with pytest.raises(
        TokenizerError, match=r"tokenizer has 259 tokens but the model has 258 embedding rows.*\[FH001\]"
    ):
        tokenizer.padded(258)


@pytest.mark.parametrize(
    ("after", "message"),
    [
        ({"type": "BertProcessing"}, "may only put one special token first"),
        (tokenizer_json.starting("<zzz>", 1), "may only put one special token first"),
        ({"type": "Sequence", "processors": 3}, "is none we know"),
    ],
)
def test_other_post_processors_are_refused(pairs, after, message):
    document = json.loads(pairs["qwen2"][0].to_str()) | {"post_processor": after}
    with pytest.raises(TokenizerError, match=message):
        tokenizer_json.read(document)


def test_the_real_smollm2_gives_the_ids_of_tokenizers(smollm2):
    gguf = pytest.importorskip("gguf")
    fields = gguf.GGUFReader(smollm2).fields
    names = fields["tokenizer.ggml.tokens"].contents()
    kinds = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    ids = {name: number for number, name in enumerate(names)}
    special = {name: number for number, (name, kind) in enumerate(zip(names, kinds, strict=True)) if kind == 3}
    tokens = [name.encode() if name in special else raw(name) for name in names]
    ours = Tokenizer(tokens, [(ids[left], ids[right]) for left, right in merges], "smollm", special)
    theirs = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=merges))
    theirs.pre_tokenizer = trained("smollm").pre_tokenizer
    theirs.add_special_tokens(list(special))
    text = MIXED.replace("\x1d", "").replace("\U0010ffff", "")  # it has no tokens for these bytes
    assert ours.encode(text, allow_special=True).tolist() == theirs.encode(text).ids
    assert [ours.token_bytes(token) for token in ours.encode("It costs  12 dollars")] == [
        b"It",
        b" costs",
        b"  ",
        b"1",
        b"2",
        b" dollars",
    ]
