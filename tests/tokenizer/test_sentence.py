"""Llama 2's kind of tokenizer: ids as of `tokenizers`, whatever the text, in any number of words."""

import json
import pickle
import time

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import MULTILINGUAL
from tokenizers import decoders, models, normalizers, processors, trainers

from firsthand.data.encode import _encode
from firsthand.data.ledger import Document, Source
from firsthand.errors import TokenizerError
from firsthand.tokenizer import formats, tokenizer_json
from firsthand.tokenizer.chat import Chat, Turn
from firsthand.tokenizer.sentence import SentenceTokenizer, byte_name
from firsthand.tokenizer.simple import CharTokenizer

SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [byte_name(byte) for byte in range(256)]
TEXT = MULTILINGUAL + "   two  \n\n▁ the 🫠 \x00\x7f \U00030000<s>x </s>  "


@pytest.fixture(scope="module")
def theirs():
    """A tokenizer of Llama 2's form, trained by `tokenizers` on words, then applied to whole texts, as Llama's is."""
    learned = tokenizers.Tokenizer(models.BPE())
    learned.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=[*SPECIAL, *BYTES], show_progress=False)
    words = [f"▁{word}" for word in MULTILINGUAL.split() if word.isascii() or "й" in word] * 3 + ["▁▁", "▁▁▁▁"] * 9
    learned.train_from_iterator(words, trainer)
    document = json.loads(learned.to_str())
    model = models.BPE(
        vocab=document["model"]["vocab"],
        merges=[tuple(merge) for merge in document["model"]["merges"]],
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    theirs = tokenizers.Tokenizer(model)
    theirs.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    theirs.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    theirs.add_special_tokens([tokenizers.AddedToken(name, normalized=False, special=True) for name in SPECIAL])
    theirs.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    return theirs


@pytest.fixture(scope="module")
def ours(theirs):
    return tokenizer_json.read(json.loads(theirs.to_str()))


def test_ids_are_those_of_tokenizers(theirs, ours):
    assert ours.kind == "sentence" and ours.begin == 1 and ours.end_of_text == 2
    ids = ours.encode(TEXT, allow_special=True).tolist()
    assert ids == theirs.encode(TEXT, add_special_tokens=False).ids
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)
    stream = ours.stream()
    assert "".join(map(stream.push, ids)) + stream.flush() == " " + ours.decode(ids)


@settings(max_examples=300, deadline=None)
@given(text=st.one_of(st.text(max_size=20), st.text("thesan  ▁\nй日", max_size=20)))
def test_ids_of_any_text_are_those_of_tokenizers(theirs, ours, text):
    assert ours.encode(text).tolist() == theirs.encode(text, add_special_tokens=False).ids
    assert ours.decode(ours.encode(text)) == text.replace("▁", " ")


def test_written_back_the_ids_are_the_same(theirs, ours, tmp_path):
    ours.save(tmp_path)
    again = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert again.encode(TEXT).ids == theirs.encode(TEXT).ids
    loaded = formats.load(tmp_path)
    assert loaded.fingerprint == ours.fingerprint == pickle.loads(pickle.dumps(ours)).fingerprint
    assert (loaded.begin, loaded.shown, loaded.prefix) == (1, frozenset(), True)


def test_merges_by_hand():
    pieces = ["<s>", *BYTES, "▁", "a", "b", "ab", "▁ab"]
    tokenizer = SentenceTokenizer(pieces, [(258, 259), (257, 260)], {"<s>": 0})
    assert tokenizer.encode("ab é").tolist() == [261, 257, 1 + 0xC3, 1 + 0xA9]  # ▁ab ▁ and é as two bytes
    assert tokenizer.decode([261, 257, 1 + 0xC3, 1 + 0xA9]) == "ab é"
    assert tokenizer.encode("").tolist() == []
    assert SentenceTokenizer(pieces, [], {"<s>": 0}, prefix=False).encode("a b").tolist() == [258, 257, 259]


def test_scores_say_the_same_as_merges(ours):
    again = SentenceTokenizer.from_scores(ours.pieces, ours.scores(), ours.special_tokens, begin=1)
    assert again.encode(TEXT).tolist() == ours.encode(TEXT).tolist()


def test_cutting_into_chunks_changes_no_id_and_time_grows_with_the_text(ours):
    seconds = []
    for words in (20_000, 160_000):
        text = "the sense  of an end " * (words // 5)
        began = time.perf_counter()
        ids = ours.encode(text)
        seconds.append(time.perf_counter() - began)
        assert ours.decode(ids) == text
    assert seconds[1] < 24 * seconds[0] + 0.1
    half = ours.encode(text[: len(text) // 2])
    assert np.array_equal(ids[: len(half) - 1], half[:-1])
    assert len(ours.encode("a" * 500_000)) <= 500_001  # one word without any place to cut


def test_a_text_in_parts_is_refused_where_each_would_get_a_space(ours, tmp_path):
    source = Source(tmp_path / "x.txt", "x.txt", "text", 0, 9, "", 0)
    assert _encode(Document("the end", source, 0), ours).tolist() == ours.encode("the end").tolist()
    with pytest.raises(TokenizerError, match=r"x\.txt is too large to be one text, and a tokenizer of Llama 2's kind"):
        _encode(Document("the end", source, 0, ends=False), ours)


def test_padding_adds_reserved_tokens(ours):
    padded = ours.padded(ours.vocab_size + 2)
    assert padded.special_tokens.keys() - ours.special_tokens.keys() == {"<|reserved_0|>", "<|reserved_1|>"}
    assert padded.encode(TEXT).tolist() == ours.encode(TEXT).tolist() and padded.begin == 1
    assert formats.padded(ours, ours.vocab_size + 2).fingerprint == padded.fingerprint
    with pytest.raises(TokenizerError, match=r"\[FH001\]"):
        ours.padded(5)
    with pytest.raises(TokenizerError, match="a char tokenizer of 2 ids cannot have 5 rows"):
        formats.padded(CharTokenizer.train("ab"), 5)


def test_a_chat_of_llama_2_gives_the_ids_of_tokenizers(theirs, ours):
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content.strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}"
    )
    chat = Chat(template, ours)
    turns = [Turn("user", "Who's  there? </s>"), Turn("assistant", "Me."), Turn("user", "Who?")]
    wanted = theirs.encode("<s>[INST] Who's  there? ", add_special_tokens=False).ids
    assert chat.prompt(turns)[: len(wanted) - 2] == wanted[:-2] and chat.prompt(turns).count(2) == 1
    ids, mask = chat.example(turns)
    assert ours.decode([id for id, on in zip(ids, mask, strict=True) if on]) == "Me. </s>"
    asked = [Turn("user", "Who's there?")]
    assert chat.prompt(asked) == theirs.encode(chat.text(asked), add_special_tokens=False).ids


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (["normalizer"], {"type": "NFKC"}, "normalizer .* of this byte_fallback file is none we know"),
        (["pre_tokenizer"], {"type": "Metaspace"}, "pre_tokenizer .* of this byte_fallback file is none we know"),
        (["added_tokens", 1, "normalized"], True, "added token '<s>' is normalized"),
        (["model", "vocab", "<0x41>"], 9999, "token '<0x41>' has id 9999|there is no piece"),
        (["model", "merges", 0], ["<s>", "a"], "merge 0 joins '<s>', which is no ordinary token"),
    ],
)
def test_what_cannot_be_read_exactly_is_refused(theirs, place, value, message):
    document = json.loads(theirs.to_str())
    inner = document
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    with pytest.raises(TokenizerError, match=message):
        tokenizer_json.read(document)


def test_a_missing_byte_is_named():
    with pytest.raises(TokenizerError, match="there is no piece <0xFF>, so some texts could not be encoded"):
        SentenceTokenizer(["<s>", *BYTES[:255]], [], {"<s>": 0})
