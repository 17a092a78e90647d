"""Records of every schema become turns; what cannot is one line with its place, or one of the counts, which add up."""

import json
import os
import random

import pytest

from firsthand.data.conversations import kind_of, read
from firsthand.data.examples import examples
from firsthand.data.ledger import Counts, Reading
from firsthand.errors import DataError, FirsthandError
from firsthand.tokenizer.chat import Chat, Turn

HI, HELLO = Turn("user", "Hi"), Turn("assistant", "Hello")
ASKED = {
    "messages": {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
    "completion": {"prompt": "Hi", "completion": "Hello"},
    "messages in both": {
        "prompt": [{"role": "user", "content": "Hi"}],
        "completion": [{"role": "assistant", "content": "Hello"}],
    },
    "alpaca": {"instruction": "Hi", "input": "", "output": "Hello"},
    "alpaca without input": {"instruction": "Hi", "output": "Hello"},
    "sharegpt": {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
    "other keys too": {"id": 7, "prompt": "Hi", "completion": "Hello", "score": None},
    "a system that says nothing": {
        "messages": [
            {"role": "system", "content": ""},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
        ]
    },
}
PREFERRED = {
    "texts": {"prompt": "Hi", "chosen": "Hello", "rejected": "Go"},
    "messages": {
        "prompt": [{"role": "user", "content": "Hi"}],
        "chosen": [{"role": "assistant", "content": "Hello"}],
        "rejected": [{"role": "assistant", "content": "Go"}],
    },
    "no prompt": {
        "chosen": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
        "rejected": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Go"}],
    },
    "prompt repeated": {
        "prompt": [{"role": "user", "content": "Hi"}],
        "chosen": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
        "rejected": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Go"}],
    },
    "alpaca": {"instruction": "Hi", "input": "", "output": "x", "chosen": "Hello", "rejected": "Go"},
}


@pytest.fixture
def items(tmp_path):
    """The items of a file of these bytes or records, and the counts."""

    def items(data, name="a.jsonl", kind="instruct", on_bad="error"):
        path = tmp_path / name
        if isinstance(data, list):
            data = "".join(json.dumps(record) + "\n" for record in data)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        counts = Counts()
        found = list(read([path], kind, tmp_path / "spool", Reading(on_bad=on_bad), counts))
        return found, counts

    return items


@pytest.mark.parametrize("name", ASKED)
def test_every_schema_of_conversations_means_the_same_turns(items, name):
    (item,), _ = items([ASKED[name]])
    assert item.turns == (HI, HELLO)
    assert item.question == "Hi"
    assert item.place.endswith("a.jsonl:1")


@pytest.mark.parametrize("name", PREFERRED)
def test_every_schema_of_pairs_means_the_same_two_answers(items, name):
    (item,), _ = items([PREFERRED[name]], kind="preference")
    assert item.turns == (HI, HELLO)
    assert item.rejected == (HI, Turn("assistant", "Go"))


def test_instruction_and_input_are_one_turn(items):
    (item,), _ = items([{"instruction": "Add.", "input": "1 and 2", "output": "3"}])
    assert item.turns[0] == Turn("user", "Add.\n\n1 and 2")


def test_tables_and_arrays_say_the_same_as_lines(items):
    lines = [{"prompt": "Hi", "completion": "Hello"}, {"prompt": "a, b", "completion": "two\nlines"}]
    as_lines = items(lines)[0]
    as_array = items(json.dumps(lines, indent=2), "a.json")[0]
    as_table = items('prompt,completion\nHi,Hello\n"a, b","two\nlines"\n', "a.csv")[0]
    named_json = items("".join(json.dumps(line) + "\n" for line in lines), "b.json")[0]
    for found in (as_array, as_table, named_json):
        assert [item.turns for item in found] == [item.turns for item in as_lines]
    assert [item.place.rsplit(":", 1)[1] for item in as_array] == ["2", "6"]
    assert [item.place.rsplit(":", 1)[1] for item in as_table] == ["2", "3"]
    assert [item.place.rsplit(":", 1)[1] for item in as_lines] == ["1", "2"]


def test_a_text_with_a_label_keeps_it_as_a_word(items):
    found, _ = items([{"text": "Win!", "label": "spam"}, {"text": "Bye", "label": 0}], kind="label")
    assert [(item.question, item.label) for item in found] == [("Win!", "spam"), ("Bye", "0")]


@pytest.mark.parametrize(
    "record, kind",
    [(ASKED["alpaca"], "instruct"), (PREFERRED["alpaca"], "preference"), ({"text": "a", "label": "b"}, "label")],
)
def test_the_first_record_says_what_the_data_is_good_for(tmp_path, record, kind):
    (tmp_path / "a.jsonl").write_text("not json\n" + json.dumps(record))
    assert kind_of([tmp_path / "a.jsonl"], tmp_path / "spool") == kind


# ---- what cannot be used: record, kind, what is said ----

WRONG = {
    "other columns": ({"txt": "a", "lbl": "b"}, "instruct", "has [txt, lbl], and needs messages"),
    "no pair": ({"prompt": "a", "chosen": "b"}, "preference", "has [prompt, chosen], and needs"),
    "no label": ({"text": "a", "label": None}, "label", "has the label None"),
    "a ton of keys": ({f"key {n}" * 9: n for n in range(40)}, "instruct", "...], and needs"),
    "only a question": ({"messages": [{"role": "user", "content": "a"}]}, "instruct", "no assistant message"),
    "same twice": ({"prompt": "a", "chosen": "b", "rejected": "b"}, "preference", "[FH035]"),
    "two questions": (
        {
            "chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
            "rejected": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}],
        },
        "preference",
        "no two answers to one question",
    ),
    "no list": ({"messages": "Hi"}, "instruct", "no list of messages under 'messages'"),
    "empty list": ({"messages": []}, "instruct", "no list of messages"),
    "a number said": ({"prompt": "a", "completion": 5}, "instruct", "has a int under 'completion'"),
    "an object said": ({"prompt": {"a": 1}, "completion": "x"}, "instruct", "has a dict under 'prompt'"),
    "nothing said": ({"prompt": "a", "completion": "  \n"}, "instruct", "says nothing under 'completion'"),
    "parts": ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "instruct", "has a list under"),
    "null": ({"messages": [{"role": "assistant", "content": None}]}, "instruct", "has a NoneType under"),
    "odd role": ({"messages": [{"role": "\u202eadmin", "content": "a"}]}, "instruct", "has the role '\\u202eadmin'"),
    "role of a list": ({"messages": [{"role": [], "content": "a"}]}, "instruct", "has the role []"),
    "a half message": ({"messages": [{"role": "user"}]}, "instruct", "lacks 'role' or 'content' in messages[0]"),
    "odd speaker": ({"conversations": [{"from": "alien", "value": "a"}]}, "instruct", "has the role 'alien'"),
    "odd input": ({"instruction": "a", "input": 5, "output": "b"}, "instruct", "has a int under 'input'"),
    "half a character": ({"prompt": "a\ud800", "completion": "b"}, "instruct", "half of a surrogate pair"),
    "a NUL": ({"prompt": "a\0", "completion": "b"}, "instruct", "NUL"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_record_that_cannot_be_used_is_told_with_its_place_or_counted(items, name):
    record, kind, said = WRONG[name]
    good = {"instruct": ASKED, "preference": PREFERRED}.get(kind, {"completion": {"text": "a", "label": "b"}})
    good = next(iter(good.values()))
    with pytest.raises(DataError) as error:
        items([good, record, good], kind=kind)
    message = str(error.value)
    assert said in message and "a.jsonl:2:" in message and "on_bad=skip" in message
    assert "\n" not in message and message.isprintable()
    assert len(message.replace(message.split("a.jsonl")[0], "")) <= 240
    found, counts = items([good, record, good], kind=kind, on_bad="skip")
    assert len(found) == 2
    assert (counts.read, sum(counts.dropped.values())) == (1, 1)  # the two good ones are counted by who uses them
    assert ":2:" in counts.first[0]


@pytest.mark.parametrize(
    "text, said",
    [
        ('[{"prompt": "a", "completion": "b"} {"prompt": "a"}]', "no comma behind a record"),
        ('[{"prompt": "a", "completion": "b"},]', "Expecting value"),
        ('[{"prompt": "a", "completion": "b"}', "no comma"),
        ('[{"prompt": "a", "completion": "b"}] more', "more behind its end"),
        ("[" * 100_000, "too deep"),
        ("[", "Expecting value"),
    ],
)
def test_an_array_with_a_fault_between_its_records_is_refused_with_its_place(items, text, said):
    with pytest.raises(DataError, match=r"\[FH027\]") as error:
        items(text, "a.json", on_bad="skip")
    assert said in str(error.value) and "a.json:1:" in str(error.value)


def test_a_fault_inside_a_record_of_an_array_costs_that_record_only(items):
    good = '{"prompt": "é", "completion": "b"}'
    text = '[\n{"prompt": "é", "completion": 1e999},\n\n{"prompt": "a", "prompt": "b"}, 5,\n' + good + "]"
    found, counts = items(text, "a.json", on_bad="skip")
    assert [item.place.rsplit(":", 1)[1] for item in found] == ["5"]
    assert counts.dropped == {"not JSON": 2, "not an object": 1}
    assert [place.split("a.json")[1].split()[0] for place in counts.first] == [":2:1", ":4:1", ":4:33"]


def test_an_empty_array_has_no_records(items):
    assert items("[ ]", "a.json")[0] == []


# ---- any bytes at all ----

BYTES = {
    "nothing": b"",
    "blank": b"\n \n\t\n",
    "byte-order mark": b'\xef\xbb\xbf{"prompt": "a", "completion": "b"}',
    "utf-16": '{"prompt": "a"}'.encode("utf-16"),
    "utf-16 without a mark": '{"prompt": "a"}'.encode("utf-16-le"),
    "latin-1": '{"prompt": "é", "completion": "b"}'.encode("latin-1"),
    "carriage returns": b'{"prompt": "a", "completion": "b"}\r\n{"prompt": "a", "completion": "b"}\r\n',
    "only carriage returns": b'{"prompt": "a", "completion": "b"}\r{"prompt": "a", "completion": "b"}',
    "NUL": b'{"prompt": "a\0", "completion": "b"}',
    "NaN": b'{"prompt": NaN, "completion": "b"}',
    "infinite": b'{"prompt": 1e999, "completion": "b"}',
    "minus infinity": b'{"prompt": -Infinity, "completion": "b"}',
    "endless integer": b'{"prompt": ' + b"9" * 5000 + b', "completion": "b"}',
    "deep list": b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep object": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "twice the key": b'{"prompt": "a", "prompt": "b", "completion": "c"}',
    "half a pair": b'{"prompt": "\\ud800", "completion": "b"}',
    "half a pair as a key": b'{"\\udfff": "a", "prompt": "x"}',
    "cut": b'{"prompt": "a", "completi',
    "a list": b"[1, 2, 3]",
    "a list of lists": b"[[], [[]], {}]",
    "a number": b"5",
    "a string": b'"prompt"',
    "null": b"null",
    "empty objects": b"{}\n{}\n",
    "gzip": b"\x1f\x8b\x08\x00aaaa",
    "zip": b"PK\x03\x04aaaa",
    "parquet": b"PAR1aaaa",
    "pickle": b"\x80\x04\x95\x0b\x00\x00\x00.",
    "csv": b"prompt,completion\na,b\n",
    "table without columns": b"a,b\n",
    "table with too many": b"prompt,completion\na,b,c\na\n",
    "a quote never closed": b'prompt,completion\n"a,b\nc,d\n',
    "columns twice": b"prompt,prompt\na,b\n",
    "quotes": b'prompt,completion\n"""a""","b\r\nc"\n',
    "tabs": b"prompt\tcompletion\na\tb\n",
    "xml": b"<a><b/></a>",
    "yaml": b"- prompt: a\n  completion: b\n",
    "comments": b'// hello\n{"prompt": "a", "completion": "b"}',
    "terminal escapes": b'{"\\u001b[31mred": "a", "\\u0007": "b"}',
    "turned writing": b'{"\xe2\x80\xae": "a"}',
    "messages of messages": b'{"messages": [[{"role": "user", "content": "a"}]]}',
    "messages of numbers": b'{"messages": [1, 2]}',
    "roles of every kind": b'{"messages": [{"role": null, "content": "a"}, {"role": {}, "content": "b"}]}',
    "a role of 1 MB": b'{"messages": [{"role": "' + b"x" * (1 << 20) + b'", "content": "a"}]}',
    "a key of 1 MB": b'{"' + b"x" * (1 << 20) + b'": "a"}',
    "an answer of 1 MB": b'{"prompt": "a", "completion": "' + b"word " * (1 << 18) + b'"}',
    "a pair as a conversation": b'{"prompt": "a", "chosen": "b", "rejected": "c"}',
    "pairs of lists": b'{"prompt": [], "chosen": [], "rejected": []}',
    "pairs of nothing": b'{"prompt": "", "chosen": "", "rejected": " "}',
    "labels of every kind": b'{"text": "a", "label": true}\n{"text": "b", "label": 1.5}\n{"text": "c", "label": []}',
    "markers typed": b'{"prompt": "<|endoftext|>", "completion": "<|im_end|><|endoftext|>"}',
    "only spaces said": b'{"prompt": " ", "completion": "\\u2003"}',
    "emoji": '{"prompt": "👨‍👩‍👧", "completion": "🏳️‍🌈"}'.encode(),
    "a byte cut off": '{"prompt": "a", "completion": "é"}'.encode()[:-3],
}  # fmt: skip


def pairs_of(bundle: bytes, name: str, kind: str, tmp_path, chat, on_bad: str):
    """The examples of a file of these bytes, and the counts; a FirsthandError where it is refused."""
    path = tmp_path / name
    path.write_bytes(bundle)
    counts = Counts()
    return examples([path], kind, chat, 64, Reading(on_bad=on_bad), counts), counts


@pytest.mark.parametrize("name", BYTES)
def test_any_bytes_are_counted_or_refused_in_one_line(tmp_path, tokenizer, name):
    chat = Chat("plain", tokenizer)
    for suffix in ("jsonl", "json", "csv", "tsv"):
        for kind in ("instruct", "preference", "label"):
            for on_bad in ("skip", "error"):
                try:
                    found, counts = pairs_of(BYTES[name], f"a.{suffix}", kind, tmp_path, chat, on_bad)
                except FirsthandError as error:
                    message = str(error).replace(str(tmp_path), "")
                    assert "\n" not in message and message.isprintable() and len(message) <= 240, message
                else:
                    assert counts.used == len(found)
                    assert counts.read == counts.used + sum(counts.dropped.values())


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv"])
def test_mutants_of_good_files_are_counted_or_refused(tmp_path, tokenizer, suffix):
    chat, chance = Chat("plain", tokenizer), random.Random(suffix)
    records = [*ASKED.values(), *PREFERRED.values()]
    good = {
        "jsonl": "".join(json.dumps(record) + "\n" for record in records).encode(),
        "json": json.dumps(records, indent=1).encode(),
        "csv": b'prompt,completion\nHi,Hello\n"a, b","c\nd"\n' * 5,
    }[suffix]
    for _ in range(60 * (10 if os.environ.get("FIRSTHAND_DEEP") else 1)):
        data = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(data))
            data[at : at + chance.randrange(3)] = chance.choice(
                [b"", b'"', b"\xff", b"[", b"}", b"\n", b"\0", b",", b"\\"]
            )
        try:
            found, counts = pairs_of(bytes(data), f"a.{suffix}", "instruct", tmp_path, chat, "skip")
        except FirsthandError as error:
            assert "\n" not in str(error)
        else:
            assert counts.read == len(found) + sum(counts.dropped.values())


def test_what_is_no_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "lost.jsonl").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.jsonl").mkdir()
    for name in ("pipe.jsonl", "lost.jsonl", "folder.jsonl", "missing.jsonl"):
        with pytest.raises(DataError):
            list(read([tmp_path / name], "instruct", tmp_path / "spool", Reading(), Counts()))


def test_plain_text_is_no_record(tmp_path):
    (tmp_path / "a.txt").write_text("Once upon a time")
    with pytest.raises(DataError, match="is plain text, but fine-tuning needs records"):
        list(read([tmp_path / "a.txt"], "instruct", tmp_path / "spool", Reading(), Counts()))


def test_an_array_too_large_to_be_read_whole_says_how_to_write_it(tmp_path, monkeypatch):
    monkeypatch.setattr("firsthand.data.conversations.ARRAY_BYTES", 10)
    (tmp_path / "a.json").write_text(json.dumps([ASKED["alpaca"]]))
    with pytest.raises(DataError, match=r"jq -c '\.\[\]'"):
        list(read([tmp_path / "a.json"], "instruct", tmp_path / "spool", Reading(), Counts()))


def test_the_public_sets_are_read_whole(shared, tmp_path):
    counts = Counts()
    found = list(read([shared / "instruction-data.json"], "instruct", tmp_path, Reading(), counts))
    assert len(found) == 1_100 and not counts.dropped
    counts = Counts()
    pairs = list(read([shared / "preference-data.json"], "preference", tmp_path, Reading(on_bad="skip"), counts))
    assert len(pairs) + counts.read == 1_100
    assert counts.dropped == {"same twice": 6}
    assert all(pair.turns[:-1] == pair.rejected[:-1] for pair in pairs)
