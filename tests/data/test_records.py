"""Files become documents; every fault is named with file:line:byte, or counted; the counts add up."""

import json
import os
import resource
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firsthand.data import records, sources
from firsthand.data.ledger import Counts, Fault, Reading
from firsthand.data.records import documents
from firsthand.errors import DataError


def read(path: Path | list, counts: Counts | None = None, **how) -> list[str]:
    """The documents of a file or folder, pieces joined."""
    reading, counts = Reading(**how), counts if counts is not None else Counts()
    given_sources = path if isinstance(path, list) else [path]
    found, open_document = [], ""
    spool = Path(os.environ["PYTEST_SPOOL"])
    for source in sources.check(given_sources, spool, reading, counts):
        for document in documents(source, source.start, source.size, reading, counts):
            open_document += document.text
            if document.ends:
                found.append(open_document)
                open_document = ""
    counts.check(sources.named(given_sources))
    assert counts.read == counts.used + sum(counts.dropped.values())
    return found


@pytest.fixture(autouse=True)
def spool(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PYTEST_SPOOL", str(tmp_path_factory.mktemp("spool")))


@pytest.fixture
def write(tmp_path):
    def write(name: str, data: bytes | str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    return write


# ---- what is read ----


def test_a_text_file_is_one_document(write):
    assert read(write("a.txt", "One.\n\nTwo.\n")) == ["One.\n\nTwo.\n"]


def test_a_folder_is_read_in_order_with_every_known_kind_and_nothing_else(write, tmp_path):
    write("b/x.md", "# x")
    write("a.txt", "first")
    write("b/rows.jsonl", '{"text": "row 1"}\n{"text": "row 2"}\n')
    write("b/table.csv", 'id,text\n1,"a ""quoted"", line\nand another"\n')
    write("b/table.tsv", 'text\tid\na "quote\t1\n')
    write("c.py", "x = 1\n")
    write("photo.jpg", b"\xff\xd8")
    write(".git/config.txt", "hidden")
    assert read(tmp_path) == ["first", "row 1", "row 2", 'a "quoted", line\nand another', 'a "quote', "# x", "x = 1\n"]


def test_windows_and_old_mac_line_ends_become_newlines(write):
    assert read(write("a.txt", b"one\r\ntwo\rthree\n")) == ["one\ntwo\nthree\n"]


def test_a_byte_order_mark_is_no_text(write):
    assert read(write("a.txt", b"\xef\xbb\xbfHello")) == ["Hello"]
    assert read(write("a.jsonl", b'\xef\xbb\xbf{"text": "Hello"}')) == ["Hello"]
    assert read(write("a.csv", b"\xef\xbb\xbftext\nHello\n")) == ["Hello"]


def test_a_separator_line_cuts_a_text_into_documents(write):
    path = write("stories.txt", "Once.\nUpon.\n<|endoftext|>\n\nTwice. <|endoftext|> stays\n<|endoftext|>\r\nEnd")
    assert read(path, separator="<|endoftext|>") == ["Once.\nUpon.", "\nTwice. <|endoftext|> stays", "End"]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le", "utf-32"])
def test_other_encodings_are_read_when_named(write, encoding):
    text = "Größe: 12 µm, naïve café\n" * 30
    assert read(write("a.txt", text.encode(encoding)), encoding=encoding) == [text]


def test_standard_input_is_read_like_a_file(write, monkeypatch):
    with write("in", '{"text": "piped"}\n').open() as pipe:
        monkeypatch.setattr("sys.stdin", pipe)
        assert read(["-"], kind="jsonl") == ["piped"]


def test_the_sms_collection_is_read_whole_with_its_quotes(shared, write):
    given_text = (shared / "SMSSpamCollection").read_bytes()
    counts = Counts()
    found = read(write("sms.tsv", given_text), counts, text_column="SMS")
    assert counts.read == counts.used == len(found) == 5574  # the number its authors give
    assert found == [line.split("\t", 1)[1] for line in given_text.decode().split("\n")[1:-1]]


def test_ranges_of_a_file_give_together_what_the_whole_gives(write):
    """The slower form reads at once; every size of range must agree with it, in every kind of file."""
    lines = [f"line {i} " + "é" * (i % 7) for i in range(60)]
    jsonl = write("a.jsonl", "".join(json.dumps({"text": line}) + "\n" * (1 + i % 2) for i, line in enumerate(lines)))
    text = write("a.txt", "".join(line + ("\n--\n" if i % 4 == 0 else "\n") for i, line in enumerate(lines)))
    for path, how in ((jsonl, {}), (text, {"separator": "--"}), (text, {})):
        whole, reading = "|".join(read(path, **how)), Reading(**how)
        if path == text and not how:
            whole = whole.replace("|", "")
        [source] = sources.check([path], Path(), reading, Counts())
        for size in (1, 3, 17, 64, 501):
            counts, parts = Counts(), []
            for start in range(0, source.size, size):
                end = min(start + size, source.size)
                parts += [part.text for part in documents(source, start, end, reading, counts)]
            assert ("" if path == text and not how else "|").join(parts) == whole, (path, how, size)
            assert counts.used == (1 if path == text and not how else len(parts))


# ---- what is refused: every message names the place and a mend that works ----

JSON = '{"text": "good"}\n'
HOSTILE = {
    "latin-1": ("a.txt", b"fine\nna\xefve\n", r"a.txt:2:3 is not UTF-8 \(byte 0xEF\); it looks like latin-1.*data.reading.encoding=latin-1.*FH028"),  # noqa: E501
    "cp1252": ("a.txt", b"\x93quoted\x94", r"a.txt:1:1 .*looks like cp1252"),
    "utf-16": ("a.txt", "words".encode("utf-16"), r"a.txt:1:1 is UTF-16 \(byte-order mark 0xFF 0xFE\).*encoding=utf-16.*FH028"),  # noqa: E501
    "utf-16 without mark": ("a.txt", "w\u00e4rds".encode("utf-16-be"), r"(utf-16|NUL)"),
    "cesu": ("a.txt", b"half \xed\xa0\xbd a character", r"a.txt:1:6 is not UTF-8 \(byte 0xED\)"),
    "cut character": ("a.txt", "naïve"[:3].encode()[:-1], r"a.txt:1:3 is not UTF-8 \(byte 0xC3\)"),
    "nul": ("a.txt", b"one\ntwo\0three", r"a.txt:2:4 has a NUL byte.*on_bad=skip"),
    "gzip": ("a.txt", b"\x1f\x8b\x08\0\0\0\0\0", r"a.txt is gzip, not text. Unpack"),
    "zip": ("a.csv", b"PK\x03\x04....", r"a.csv is zip, not text"),
    "parquet": ("a.jsonl", b"PAR1....", r"a.jsonl is Parquet, not text"),
    "empty": ("a.txt", b"", r"a.txt has 0 usable documents \(1 read: 1 blank\).*FH026"),
    "blanks": ("a.txt", b" \n\t\r\n \n", r"0 usable documents \(1 read: 1 blank\)"),
    "blank lines": ("a.jsonl", b"\n\n  \n", r"a.jsonl has 0 usable documents \(3 read: 3 blank\).*FH026"),
    "bad json": ("a.jsonl", JSON + '{"text": "x" "y"}\n', r"a.jsonl:2:1 is not JSON \(column 14: Expecting ',' delimiter\).*FH027"),  # noqa: E501
    "json in latin-1": ("a.jsonl", JSON.encode() + b'{"text": "na\xefve"}\n', r"a.jsonl:2:13 is not UTF-8"),
    "nan": ("a.jsonl", '{"text": NaN}', r"a.jsonl:1:1 is not strict JSON \(NaN is not a JSON number\)"),
    "1e999": ("a.jsonl", '{"text": "x", "n": 1e999}', r"1e999 is larger than any float"),
    "long integer": ("a.jsonl", '{"text": "x", "n": ' + "9" * 5000 + "}", r"is not strict JSON"),
    "key twice": ("a.jsonl", '{"text": "a", "text": "b"}', r"key 'text' stands there twice"),
    "deep": ("a.jsonl", "[" * 100_000, r"a.jsonl:1:1 is nested too deeply"),
    "surrogate": ("a.jsonl", JSON + r'{"text": "\ud800"}', r"a.jsonl:2:1 holds \\ud800, half of a surrogate pair"),
    "nul in json": ("a.jsonl", r'{"text": "a\u0000b"}', r"a.jsonl:1:1 has a NUL character"),
    "array": ("a.jsonl", '["text"]', r"a.jsonl:1:1 is a JSON list, not an object"),
    "no text": ("a.jsonl", '{"texts": "x"}', r"has keys \['texts'\], but no 'text'. Did you mean 'texts'\?.*FH004"),
    "number": ("a.jsonl", '{"text": 7}', r"has a int under 'text', not a text"),
    "columns": ("a.csv", "txt,lbl\nhi,1\n", r"a.csv has columns \['txt', 'lbl'\], but \['text'\] is needed.*text_column='lbl'.*FH004"),  # noqa: E501
    "ragged": ("a.csv", "text,n\nhi,1\nho\n", r"a.csv:3:1 has 1 columns, the first line has 2.*FH004"),
    "open quote": ("a.csv", 'text\n"never closed\n' + "x\n" * 50, r"a.csv:2:1 is not CSV"),
    "csv in latin-1": ("a.csv", b"text\nfine\nna\xefve\n", r"a.csv:3:3 is not UTF-8"),
}  # fmt: skip


def test_an_endless_integer_is_refused_even_where_python_would_take_it():
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)  # as some libraries do for the whole process
    try:
        with pytest.raises(Fault) as fault:
            records.parse_object('{"text": "x", "n": ' + "9" * 5000 + "}", 0)
        assert "an integer of 5,000 digits" in fault.value.detail
    finally:
        sys.set_int_max_str_digits(before)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_with_its_place_and_a_mend(write, name):
    file, data, message = HOSTILE[name]
    with pytest.raises(DataError, match=message) as caught:
        read(write(file, data))
    text = str(caught.value).replace(str(write(file, data).parent) + "/", "")
    assert len(text) <= 240 and "\n" not in text


@pytest.mark.parametrize("name", sorted(set(HOSTILE) - {"columns"}))
def test_a_hostile_file_among_good_ones_is_skipped_and_counted(write, tmp_path, name):
    file, data, _ = HOSTILE[name]
    write("good.jsonl", JSON * 400)
    write(f"bad-{file}", data)
    counts = Counts()
    found = read(tmp_path, counts, on_bad="skip")
    dropped = sum(counts.dropped.values())
    assert dropped >= 1 and found.count("good") >= 400
    assert all("bad-" in place for place in counts.first)


def test_more_than_one_percent_bad_is_refused_even_when_skipping(write):
    with pytest.raises(
        DataError, match=r"4 of 304 documents of .* are bad .*first: .*a.jsonl:301:1 not JSON.*at most 1 %"
    ):
        read(write("a.jsonl", JSON * 300 + "?\n" * 4), on_bad="skip")
    counts = Counts()
    assert len(read(write("a.jsonl", JSON * 300 + "?\n" * 3), counts, on_bad="skip")) == 300
    assert counts.dropped == {"not JSON": 3} and counts.first[2].endswith("a.jsonl:303:1 not JSON")


def test_only_the_first_five_places_are_kept(write):
    counts = Counts()
    read(write("a.jsonl", JSON * 1000 + "?\n" * 9), counts, on_bad="skip")
    assert [place.split(":")[1] for place in counts.first] == ["1001", "1002", "1003", "1004", "1005"]


def test_pipes_links_to_nowhere_and_loops_do_not_hang(write, tmp_path):
    write("good.txt", "good")
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(DataError, match=r"pipe.txt is a pipe. To read a pipe, use '-'"):
        read(tmp_path)
    (tmp_path / "pipe.txt").unlink()
    (tmp_path / "link.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"link.txt cannot be read \(No such file or directory\)"):
        read(tmp_path)
    (tmp_path / "link.txt").unlink()
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "self.txt").symlink_to(tmp_path / "self.txt")
    with pytest.raises(DataError, match=r"self.txt cannot be read \(Too many levels"):
        read(tmp_path)
    (tmp_path / "self.txt").unlink()
    assert read(tmp_path) == ["good"]


def test_a_missing_file_and_an_empty_folder_say_what_else_to_do(tmp_path):
    with pytest.raises(DataError, match=r"no file or folder .*nothing.txt.*pydocs"):
        read(tmp_path / "nothing.txt")
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(DataError, match=r"has no .txt .md .py .jsonl .csv .tsv file \(1 others\).*FH026"):
        read(tmp_path)


def test_a_wrong_encoding_is_refused_by_name(write):
    path = write("a.txt", b"text")
    with pytest.raises(DataError, match=r"encoding='latin-one' is no encoding. Use utf-8, latin-1, cp1252, or utf-16"):
        read(path, encoding="latin-one")
    with pytest.raises(DataError, match="is not utf-16"):
        read(write("b.txt", b"odd"), encoding="utf-16-le")


def test_a_line_of_any_length_costs_no_more_memory_than_the_limit(write, tmp_path):
    """A sparse file without a line end: refused, in little memory."""
    path = tmp_path / "huge.jsonl"
    with path.open("wb") as file:
        file.write(JSON.encode())
        file.truncate(300 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=r"huge.jsonl:2:1 begins a line longer than 16.8 MB.*max_line_bytes"):
        read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


def test_a_long_line_is_skipped_and_the_next_one_read(write):
    counts = Counts()
    path = write("a.jsonl", JSON * 200 + '{"text": "' + "x" * 500 + '"}\n' + '{"text": "after"}\n')
    assert read(path, counts, on_bad="skip", max_line_bytes=300)[-1] == "after"
    assert counts.dropped == {"too long": 1}


def test_a_quote_that_is_never_closed_costs_one_row_only(write):
    counts = Counts()
    path = write("a.csv", "text\n" + "good\n" * 300 + '"never closed\n' + '"quoted, ""well"""\n' + "good\n" * 300)
    assert read(path, counts, on_bad="skip") == ["good"] * 300 + ['quoted, "well"'] + ["good"] * 300
    assert counts.dropped == {"not CSV": 1}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=30), max_size=12))
def test_counts_add_up_for_any_bytes(tmp_path_factory, lines):
    folder = tmp_path_factory.mktemp("fuzz")
    for suffix in (".jsonl", ".csv", ".tsv", ".txt"):
        path = folder / f"a{suffix}"
        good = JSON.encode() * 2000 if suffix == ".jsonl" else b"text\n" + b"good\n" * 2000
        path.write_bytes(good + b"\n".join(lines))
        os.environ["PYTEST_SPOOL"] = str(folder)
        try:
            read(path, on_bad="skip")
        except DataError as error:
            assert len(str(error)) < 400
