"""The preflight says what would go wrong, refuses what must not begin, and shows the mask as it is."""

import json
import random
import time
from dataclasses import replace

import pytest

from firsthand.data import duplicates
from firsthand.data.audit import Part, audit, histogram, quantiles
from firsthand.data.conversations import Item
from firsthand.data.examples import Example, as_asked, ends_trained, examples, render, trained
from firsthand.data.ledger import Counts, Reading
from firsthand.data.mask import roles, views
from firsthand.errors import DataError
from firsthand.run import audit as runs
from firsthand.tokenizer import template
from firsthand.tokenizer.bpe import Tokenizer
from firsthand.tokenizer.chat import STYLES, Chat, Turn

MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"]
MARKS += ["<|eot_id|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]


@pytest.fixture(scope="session")
def marked() -> Tokenizer:
    """A tokenizer with the special tokens of every style."""
    text = "The cat sat on the mat. User: Assistant: What is this? Nothing.\n\n\n" * 20
    return Tokenizer.train([text], vocab_size=300, pattern="llama3", special_tokens=MARKS)


@pytest.fixture
def chat(marked) -> Chat:
    return Chat("chatml", marked)


def talk(*said: str) -> Item:
    """A conversation of user and assistant in turns."""
    return Item("a.jsonl:1", tuple(Turn(("user", "assistant")[at % 2], text) for at, text in enumerate(said)))


def example(item: Item, chat: Chat, room: int = 200) -> Example:
    made = render(item, chat, room)
    assert made is not None
    return made


def part(chat: Chat, *questions: str) -> Part:
    """Examples that answer "Yes." to these questions."""
    made = [example(replace(talk(question, "Yes."), place=f"{at}"), chat) for at, question in enumerate(questions, 1)]
    return Part(made, Counts(len(made), len(made)))


# ---- examples ----


def test_what_does_not_fit_is_shortened_at_a_turn_and_keeps_its_end(chat):
    item = talk("What is this?", "The cat.", "Sat?", "On the mat.", "And?", "Nothing.")
    whole = example(item, chat, 500)
    lengths = [len(chat.example(item.turns[:end])[0]) for end in (2, 4, 6)]
    assert len(whole.ids) == lengths[2] and not whole.cut
    for room in range(lengths[0], lengths[2]):
        cut = example(item, chat, room)
        assert len(cut.ids) <= room and cut.cut
        assert len(cut.turns) == (2 if room < lengths[1] else 4)
        assert cut.ids == whole.ids[: len(cut.ids)]
        assert ends_trained((cut.ids, cut.mask), chat.ends)
    assert render(item, chat, lengths[0] - 1) is None


def test_a_pair_fits_as_a_whole_or_not_at_all(chat):
    long = replace(talk("What?", "Yes."), rejected=(Turn("user", "What?"), Turn("assistant", "No, never, nothing.")))
    size = max(len(chat.example(turns)[0]) for turns in (long.turns, long.rejected))
    pair = example(long, chat, size)
    assert len(pair.rows) == 2 and pair.row == ((pair.ids, pair.mask), pair.rejected)
    assert render(long, chat, size - 1) is None


def test_the_first_token_of_a_row_is_never_learned():
    assert trained([True, False, True, True]) == 2


def test_every_answer_must_be_learned_with_its_end():
    assert ends_trained(([1, 2, 9, 3, 9], [False, True, True, False, False]), [9])
    assert not ends_trained(([1, 2, 9, 3, 4], [False, True, True, False, True]), [9])
    assert not ends_trained(([1, 2, 9], [False, True, False]), [9])
    assert not ends_trained(([1, 2], [False, False]), [9])


@pytest.mark.parametrize("style", STYLES)
def test_in_every_style_questions_are_asked_as_they_were_rendered_and_ends_are_learned(marked, style):
    chat = Chat(style, marked)
    for item in (talk("What is this?", "The cat."), talk("a", "b", "c", "d"), talk("Sat", "On\n\nthe mat.")):
        made = example(item, chat)
        assert as_asked(made, chat), style
        assert ends_trained((made.ids, made.mask), chat.ends)


def test_an_answer_that_melts_into_its_opening_is_noticed(marked):
    """In a style of words alone, white space that begins an answer becomes one token with what stands before it."""
    chat = Chat("plain", marked)
    assert not as_asked(example(talk("What?", "\n\n\nYes."), chat), chat)


def test_a_pattern_that_cuts_an_opening_otherwise_before_an_answer_is_noticed():
    """GPT-2's pattern makes one token of two line breaks at the end, and two of them before a word."""
    text = "The cat sat on the mat.\n\n\n" * 40
    chat = Chat("llama3", Tokenizer.train([text], vocab_size=282, pattern="gpt2", special_tokens=MARKS))
    made = example(talk("What is this?", "The cat."), chat)
    assert not as_asked(made, chat)
    found = audit({"train": Part([made], Counts(1, 1))}, "instruct", chat, 100)
    assert found.findings[0].what == "1 of 1 questions are written otherwise when the model answers"
    assert not found.findings[0].gate


def test_the_input_of_alpaca_is_named_where_the_style_does(tmp_path, marked):
    (tmp_path / "a.jsonl").write_text(json.dumps({"instruction": "Add.", "input": "1 2", "output": "3"}))
    for style, joint in (("alpaca", "Add.\n\n### Input:\n1 2"), ("chatml", "Add.\n\n1 2")):
        (made,) = examples([tmp_path / "a.jsonl"], "instruct", Chat(style, marked), 200)
        assert made.turns[0].content == joint


def test_too_long_and_refused_rows_are_counted_or_told(tmp_path, marked):
    rows = [talk("a", "b"), talk("a" * 999, "b")]
    lines = [{"messages": [turn._asdict() for turn in row.turns]} for row in rows]
    lines.append({"messages": [{"role": "tool", "content": "x"}, {"role": "assistant", "content": "y"}]})
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    counts = Counts()
    made = examples([tmp_path / "a.jsonl"], "instruct", Chat("plain", marked), 60, Reading(on_bad="skip"), counts)
    assert len(made) == counts.used == 1 and counts.read == 3
    assert counts.dropped == {"longer than the context": 1, "refused by the chat template": 1}
    with pytest.raises(DataError, match=r"a\.jsonl:3 turn 0 has the role 'tool'.*on_bad=skip"):
        examples([tmp_path / "a.jsonl"], "instruct", Chat("plain", marked), 60)


# ---- the same, and nearly the same ----


def test_what_does_not_make_a_text_another_one_is_folded():
    assert duplicates.normal(" Is  this\nIT? ") == duplicates.normal("is this it") == "is this it"
    assert duplicates.normal("“Win!”") == duplicates.normal("win")
    for one, other in (("12 + 7", "12 - 7"), ("5.2", "52"), ("1,000", "1 000"), ("a", "b"), ("é", "e")):
        assert duplicates.normal(one) != duplicates.normal(other)


def test_near_texts_are_those_that_share_most_of_their_words():
    text = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    texts = [
        text,
        text + " seventeen",
        text.replace("one", "first"),
        "something else entirely, I should say",
        text.upper(),
    ]
    assert duplicates.near(texts) == [(0, 1), (0, 2), (1, 2)]  # 14 of 15 shingles, 13 of 15, 13 of 16


def test_near_finds_what_comparing_all_with_all_finds():
    words = [letter * 3 for letter in "abcdefghijklmnopqrs"]
    texts = [" ".join([*words[:at], str(at % 7), *words[at:], str(at)]) for at in range(18)] * 2
    texts = [text + f" {at // 18}" for at, text in enumerate(texts)]
    sets = [duplicates._shingles(duplicates.normal(text)) for text in texts]
    alike = {
        (a, b)
        for a in range(len(texts))
        for b in range(a + 1, len(texts))
        if duplicates._resemblance(sets[a], sets[b]) >= duplicates.ALIKE
    }
    found = set(duplicates.near(texts))
    assert found <= alike and len(found) >= 0.95 * len(alike) > 0


def test_ten_thousand_texts_are_compared_in_seconds_also_when_they_are_alike():
    texts = [f"please convert {at} kilometers to meters and give the number" for at in range(10_000)]
    start = time.process_time()
    duplicates.near(texts)
    assert time.process_time() - start < 20


def test_a_split_keeps_equal_texts_together_and_hangs_on_nothing_else():
    texts = [f"text {at % 70}" + "." * (at % 3) for at in range(200)]
    parts = duplicates.split(texts, {"test": 0.2, "validation": 0.1}, seed=3)
    assert sorted(index for part in parts.values() for index in part) == list(range(200))
    where = {}
    for name, part in parts.items():
        for index in part:
            assert where.setdefault(duplicates.normal(texts[index]), name) == name
    assert 40 <= len(parts["test"]) < 44 and 20 <= len(parts["validation"]) < 24
    assert parts == duplicates.split(texts, {"test": 0.2, "validation": 0.1}, seed=3)
    assert parts != duplicates.split(texts, {"test": 0.2, "validation": 0.1}, seed=4)


def test_what_a_random_split_leaks_is_what_it_leaks_on_average():
    texts = [f"text {at % 50}" for at in range(120)]  # 20 texts three times, 30 twice
    generator, leaked = random.Random(0), []
    for _ in range(2_000):
        sides = generator.choices(["train", "test", "validation"], [0.7, 0.2, 0.1], k=len(texts))
        known = {text for text, side in zip(texts, sides, strict=True) if side == "train"}
        leaked.append(sum(text in known for text, side in zip(texts, sides, strict=True) if side == "test"))
    by_hand = 60 * 0.2 * (1 - 0.3**2) + 60 * 0.2 * 0.7
    assert duplicates.expected_leaks(texts, test=0.2, train=0.7) == pytest.approx(by_hand)
    assert by_hand == pytest.approx(sum(leaked) / len(leaked), abs=0.3)


# ---- the preflight ----


def test_a_clean_set_is_ready_and_its_numbers_are_those_of_the_rows(chat):
    parts = {"train": part(chat, "One?", "Two?"), "test": part(chat, "Three?")}
    made = audit(parts, "instruct", chat, 100)
    assert made.findings == [] and made.facts()["ready"]
    made.refuse()
    train = made.parts["train"]
    assert (train.read, train.kept, train.truncated, train.dropped) == (2, 2, 0, {})
    assert train.tokens == sum(len(one.ids) for one in parts["train"].examples)
    assert train.trained == sum(trained(one.mask) for one in parts["train"].examples)
    assert train.ends_missing == train.asked_otherwise == 0 and train.compared == 2
    assert sum(train.histogram.values()) == 2
    json.dumps(made.facts())


def test_lengths_by_hand():
    assert histogram([1, 8, 9, 16, 17, 100]) == {8: 2, 16: 2, 32: 1, 128: 1}
    assert quantiles([5, 1, 3]) == {"shortest": 1, "median": 3, "95 %": 5, "longest": 5}
    assert quantiles([]) == histogram([]) == {} or histogram([]) == {}


def masked(chat: Chat, mask: bool) -> Part:
    one = example(talk("a", "b"), chat)
    return Part([replace(one, mask=[mask] * len(one.ids))], Counts(1, 1))


def test_nothing_learned_everything_learned_and_no_end_are_refused(chat):
    refusals = {
        "0 % of the tokens are learned": masked(chat, False),
        "100 % of the tokens are learned": masked(chat, True),
    }
    for what, train in refusals.items():
        with pytest.raises(DataError, match=what):
            audit({"train": train}, "instruct", chat, 100).refuse()
    everything = audit({"train": part(chat, "One?")}, "instruct", chat, 100, learn="all")
    assert everything.findings == []
    assert everything.parts["train"].trained == everything.parts["train"].tokens - 1
    one = example(talk("a", "b"), chat)
    last = max(at for at, now in enumerate(one.mask) if now)
    endless = replace(one, mask=[now and at != last for at, now in enumerate(one.mask)])
    with pytest.raises(DataError, match=r"never learned, so the model would never stop.*--style chatml"):
        audit({"train": Part([endless], Counts(1, 1))}, "instruct", chat, 100).refuse()
    half = audit({"train": Part([endless, one], Counts(2, 2))}, "instruct", chat, 100)
    half.refuse()
    assert "1 of 2 examples learn an answer without its end" in half.findings[0].what


def test_a_question_in_two_parts_is_refused_unless_allowed(chat):
    parts = {
        "train": part(chat, "One?", "Two?"),
        "validation": part(chat, "Four?"),
        "test": part(chat, "  ONE", "Four"),
    }
    made = audit(parts, "instruct", chat, 100)
    assert made.leaks == {"validation in train": 0, "test in train": 1, "test in validation": 1}
    with pytest.raises(
        DataError, match=r"1 of 2 questions of the test part stand in train too \(1 = 1\).*--allow-leakage"
    ):
        made.refuse()
    audit(parts, "instruct", chat, 100, allow_leakage=True).refuse()


def test_an_empty_part_and_too_many_bad_rows_are_refused(chat):
    good = part(chat, *(f"Question {at}?" for at in range(98)))
    empty = Part([], Counts(3, 0, 0, {"not JSON": 3}, ["b.jsonl:1:1 not JSON"]))
    with pytest.raises(
        DataError, match=r"the test part is empty: 3 rows read: 3 not JSON; first: b\.jsonl:1:1 not JSON"
    ):
        audit({"train": good, "test": empty}, "instruct", chat, 100).refuse()
    bad = Part(good.examples, Counts(100, 98, 0, {"no answer": 2}, ["b.jsonl:7:1 no answer"]))
    with pytest.raises(DataError, match="2 of 100 rows of the train part are bad"):
        audit({"train": bad}, "instruct", chat, 100).refuse()
    long = Part(good.examples, Counts(148, 98, 0, {"longer than the context": 50}))
    made = audit({"train": long}, "instruct", chat, 100)
    made.refuse()
    assert "50 of 148 training rows do not fit" in made.findings[0].what


def test_rows_that_repeat_and_labels_out_of_balance_are_said(chat):
    rows = [Item(f"a:{at}", (Turn("user", f"text {at % 9}"),), label="ham" if at else "spam") for at in range(10)]
    made = [example(row, chat) for row in rows]
    found = audit({"train": Part(made, Counts(10, 10))}, "label", chat, 100)
    assert found.parts["train"].labels == {"ham": 9, "spam": 1}
    assert [finding.what for finding in found.findings] == [
        "1 training rows repeat an earlier one (a:0 = a:9)",
        "always saying 'ham' would be right 90.0% of the time",
    ]
    one = [example(replace(row, label="ham"), chat) for row in rows]
    with pytest.raises(DataError, match="all rows have the label 'ham'"):
        audit({"train": Part(one, Counts(10, 10))}, "label", chat, 100).refuse()


# ---- the microscope ----


@pytest.mark.parametrize("style", STYLES)
def test_every_token_has_the_role_of_the_turn_it_was_written_in(marked, style):
    chat = Chat(style, marked)
    turns = [
        Turn("system", "Sys."),
        Turn("user", "What?"),
        Turn("assistant", "Yes."),
        Turn("user", "a"),
        Turn("assistant", "b"),
    ]
    ids, mask = chat.example(turns)
    found = roles(turns, ids, chat)
    assert len(found) == len(ids)
    texts = {
        role: chat.tokenizer.decode([id for id, its in zip(ids, found, strict=True) if its == role])
        for role in set(found)
    }
    assert "Sys." in texts["system"] and "What?" in texts["user"] and "Yes." in texts["assistant"]
    assert "Sys." not in texts["user"] and "What?" not in texts["assistant"] and "Yes." not in texts["user"]
    assert {role for role, now in zip(found, mask, strict=True) if now} == {"assistant"}


def test_the_weights_of_a_batch_sum_to_one(chat):
    pair = replace(talk("What?", "Yes."), rejected=(Turn("user", "What?"), Turn("assistant", "No.")))
    for batch in ([example(talk("a", "b"), chat), example(talk("c", "d", "e", "f"), chat)], [example(pair, chat)]):
        rows = views(batch, chat)
        assert sum(token.weight for row in rows for token in row.tokens) == pytest.approx(1)
        assert all((token.weight > 0) == token.trained for row in rows for token in row.tokens)
    assert [row.answer for row in rows] == ["chosen", "rejected"]


# ---- from files ----


@pytest.fixture
def folder(tmp_path, marked):
    marked.save(tmp_path / "tokenizer")
    for name, first, last in (("train", 0, 40), ("validation", 40, 45), ("test", 45, 50)):
        lines = (json.dumps({"prompt": f"Question {at}?", "completion": "Yes."}) + "\n" for at in range(first, last))
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    return tmp_path


def test_a_folder_with_train_validation_and_test_is_read_as_these(folder):
    made = runs.check(str(folder), tokenizer=str(folder / "tokenizer"), style="chatml", kind="instruct")
    assert {name: part.kept for name, part in made.parts.items()} == {"train": 40, "validation": 5, "test": 5}
    assert made.style == "chatml" and made.kind == "instruct"


def test_one_file_is_split_without_leaks_and_named_parts_are_taken_as_they_are(folder):
    train, test = str(folder / "train.jsonl"), str(folder / "test.jsonl")
    made = runs.check(train, tokenizer=str(folder / "tokenizer"), style="phi")
    assert {name: part.kept for name, part in made.parts.items()} == {"train": 32, "validation": 4, "test": 4}
    assert not any(made.leaks.values())
    named = runs.check(train, tokenizer=str(folder / "tokenizer"), style="phi", test=test)
    assert {name: part.kept for name, part in named.parts.items()} == {"train": 40, "test": 5}
    leaky = runs.check(train, tokenizer=str(folder / "tokenizer"), style="phi", test=train)
    assert leaky.leaks == {"test in train": 40}


OWN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content | trim }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant: {% endif %}"
)


def test_a_template_of_its_own_writes_many_conversations_in_few_processes(marked, tmp_path, monkeypatch):
    rows = [{"prompt": f"Question {at}?", "completion": "Yes."} for at in range(70)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chat, started = Chat(OWN, marked, [marked.special_tokens["<|im_end|>"]]), []
    assert chat.style is None
    alone = [Chat(OWN, marked).example([Turn("user", row["prompt"]), Turn("assistant", "Yes.")]) for row in rows[::35]]
    ask = template.ask
    monkeypatch.setattr(template, "ask", lambda request: started.append(1) or ask(request))
    made = examples([tmp_path / "a.jsonl"], "instruct", chat, 200)
    found = audit({"train": Part(made, Counts(70, 70))}, "instruct", chat, 200)
    assert len(started) == 4  # two batches, to render and to compare
    assert [one.row for one in made[::35]] == alone
    assert found.findings == [] and found.parts["train"].compared == 70
    assert views(made[:2], chat)[0].tokens[0].role == "user"
