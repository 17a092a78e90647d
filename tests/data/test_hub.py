"""A model of the hub is what the hub promised, or it is not there: against a server that behaves as the hub does."""

import hashlib
import http.server
import json
import threading
from pathlib import Path

import pytest

from firsthand import files
from firsthand.data import catalog, fetch, hub
from firsthand.data.rows import File, Hub, Row
from firsthand.errors import CheckpointError, DownloadError, FirsthandError

COMMIT, OLDER = "0123456789abcdef" * 2 + "01234567", "f" * 40
CONFIG = b'{"model_type": "llama"}'
WEIGHTS = bytes(range(256)) * 1500  # 384 kB
REPOSITORY = {"config.json": CONFIG, "model.safetensors": WEIGHTS, "README.md": b"# A model", "onnx/model.onnx": b"x"}
TOKEN = "hf_secretSECRETsecret"


def git_sum(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """A small hub, whose faults can be switched on."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.commit = dict(REPOSITORY), COMMIT
        self.listed: dict = {}  # what the list says beyond the truth
        self.cut, self.statuses, self.elsewhere = None, {}, ""
        self.asked: list[tuple[str, str | None, str | None]] = []  # (path, Range, Authorization)

    def handle_error(self, request, client_address):
        """A client that hangs up early is one of the cases, not an error."""

    def entry(self, name: str) -> dict:
        data = self.files[name]
        entry = {"rfilename": name, "size": len(data), "blobId": git_sum(data)}
        if name.endswith(".safetensors"):  # a large file: Git has only a pointer of it
            entry |= {"blobId": "0" * 40, "lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}}
        return entry

    def answer(self) -> bytes:
        listed = {"sha": self.commit, "siblings": [self.entry(name) for name in self.files]}
        return json.dumps(listed | self.listed).encode()


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append((self.path, wanted, self.headers.get("Authorization")))
        name = self.path.rsplit("/", 1)[-1]
        status = next((status for part, status in server.statuses.items() if part in self.path), 200)
        large = name.endswith(".safetensors") and "/resolve/" in self.path
        if status != 200 or large:  # large files lie on another machine, as those of the hub do
            self.send_response(302 if status == 200 else status)
            self.send_header("Location", f"{server.elsewhere}/cdn/{name}")
            self.end_headers()
            return
        body = server.answer() if "/api/" in self.path else server.files[name]
        first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", f'"{git_sum(body)}"')
        self.send_header("Content-Length", str(len(body) - first))
        self.end_headers()
        self.wfile.write(body[first:][: server.cut if large or "/cdn/" in self.path else None])

    def log_message(self, *words):
        pass


@pytest.fixture
def servers(monkeypatch):
    """The hub, and the other machine where its large files lie."""
    started = [Server(), Server()]
    for server in started:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    first, second = started
    first.elsewhere = f"http://localhost:{second.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{first.server_port}")
    yield started
    for server in started:
        server.shutdown()
        server.server_close()


@pytest.fixture
def server(servers) -> Server:
    return servers[0]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FIRSTHAND_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def refusal(name: str = "some/model", **named) -> DownloadError:
    with pytest.raises(DownloadError) as caught:
        hub.get(name, **named)
    assert len(str(caught.value)) <= 240 and "\n" not in str(caught.value)
    return caught.value


# ---- what is fetched ----


def test_a_model_lies_under_its_commit_with_the_files_we_need(server, home):
    steps = []
    folder = hub.get("some/model", progress=lambda *step: steps.append(step))
    assert folder == home / "hub" / "some--model" / COMMIT
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", files.MANIFEST}
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert files.verify(folder)["about"] == {"hub": "some/model", "revision": "main", "commit": COMMIT}
    assert steps[-1] == ("model.safetensors", len(WEIGHTS), len(WEIGHTS))
    assert server.asked[0][0] == "/api/models/some/model/revision/main?blobs=true"
    assert server.asked[1][0] == f"/some/model/resolve/{COMMIT}/config.json"
    assert not list(home.glob(".parts/*"))


def test_git_names_a_blob_as_worked_by_hand():
    """`echo 'test content' | git hash-object --stdin`, from the Git book, chapter 10.2."""
    assert git_sum(b"test content\n") == "d670460b4b4aece5915caf5c68d12f560a9fe3e4"


def test_what_is_here_needs_no_network(servers, monkeypatch):
    folder = hub.get("some/model")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = len(servers[0].asked)
    assert hub.get("some/model") == hub.get("some/model@main") == hub.get(f"some/model@{COMMIT}") == folder
    assert len(servers[0].asked) == asked
    assert "not asked, HF_HUB_OFFLINE is set" in str(refusal("some/model@v2"))


def test_force_asks_for_the_newest_commit(server):
    old = hub.get("some/model")
    server.commit, server.files["config.json"] = OLDER, CONFIG + b"\n"
    assert hub.get("some/model") == old
    new = hub.get("some/model", force=True)
    assert new.name == OLDER and (new / "config.json").read_bytes() == CONFIG + b"\n"
    assert hub.get("some/model") == new and hub.get(f"some/model@{COMMIT}") == old


def test_a_damaged_copy_is_fetched_again(server):
    folder = hub.get("some/model")
    (folder / "model.safetensors").write_bytes(WEIGHTS[:-1] + b"x")
    assert (hub.get("some/model") / "model.safetensors").read_bytes() == WEIGHTS


def test_shards_are_fetched_with_their_index(servers):
    shards = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}
    for server in servers:
        del server.files["model.safetensors"]
        server.files |= dict.fromkeys(shards | {"consolidated.safetensors"}, WEIGHTS)
        server.files["model.safetensors.index.json"] = b"{}"
    found = {path.name for path in hub.get("some/model").iterdir()}
    assert found == shards | {"model.safetensors.index.json", "config.json", files.MANIFEST}


def test_a_row_of_the_catalog_may_be_a_model_of_the_hub(server, home, monkeypatch):
    row = Row("tiny", "a tiny model", "MIT", (File("*", 10**6, (Hub("some/model", COMMIT),)),), instead="Use another.")
    monkeypatch.setattr(catalog, "ROWS", (row,))
    assert not catalog.here("tiny")
    assert catalog.get("tiny") == home / "hub" / "some--model" / COMMIT and catalog.here("tiny")
    assert hub.get(f"some/model@{COMMIT}") == catalog.get("tiny")
    assert sum("/resolve/" in path for path, *_ in server.asked) == 2
    server.statuses = {"/api/": 503}
    with pytest.raises(
        DownloadError, match=r"tiny could not be fetched \(huggingface.co answered 503 .*\). Use another"
    ):
        catalog.get("tiny", force=True)


# ---- cut, changed, redirected ----


def test_a_download_that_broke_off_goes_on_next_time(servers):
    first, second = servers
    second.cut = 100_000
    assert f"no connection (ended after 300,000 of {len(WEIGHTS):,}" in str(refusal())
    second.cut = None
    hub.get("some/model")
    assert [wanted for path, wanted, _ in second.asked][-1] == "bytes=300000-"
    assert sum(path.endswith("config.json") for path, *_ in first.asked) == 1  # checked, named, and not asked for again


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_other_bytes_than_promised_get_no_name(servers, home, name):
    for server in servers:
        server.files[name] = server.files[name][:-1] + b"x"
    servers[0].listed["siblings"] = [{"rfilename": "config.json", "size": len(CONFIG), "blobId": git_sum(CONFIG)}]
    large = {"sha256": hashlib.sha256(WEIGHTS).hexdigest()}
    servers[0].listed["siblings"].append({"rfilename": "model.safetensors", "size": len(WEIGHTS), "lfs": large})
    kind = "sha1" if name == "config.json" else "sha256"
    assert f"gave other bytes for {name}: {kind} " in str(refusal())
    assert not (home / "hub").exists() and not list(home.glob(f".parts/*/{name}"))


def test_a_file_of_another_size_is_refused(servers):
    servers[1].files["model.safetensors"] = WEIGHTS + b"x"
    assert "more than the 384.0 kB expected" in str(refusal())
    servers[1].files["model.safetensors"] = WEIGHTS[:-1]
    assert "gave other bytes for model.safetensors: sha256 383,999" in str(refusal())


def test_a_redirect_out_of_bounds_is_not_followed(server):
    server.elsewhere = "http://example.org"
    assert "only https is followed" in str(refusal())


# ---- the token ----


def test_the_token_goes_to_the_hub_and_to_nobody_else(servers, home, monkeypatch):
    first, second = servers
    monkeypatch.setenv("HF_TOKEN", f" {TOKEN}\n")
    hub.get("some/model")
    assert {token for *_, token in first.asked} == {f"Bearer {TOKEN}"}
    assert second.asked and {token for *_, token in second.asked} == {None}
    for path in home.rglob("*"):
        assert path.is_dir() or TOKEN.encode() not in path.read_bytes()


@pytest.mark.parametrize("token", ["hf_x\r\nHost: evil", "hf_x y", "hf_é"])
def test_a_token_that_is_none_is_not_sent_and_not_shown(server, monkeypatch, token):
    monkeypatch.setenv("HF_TOKEN", token)
    message = str(refusal())
    assert "HF_TOKEN is no token" in message and "hf_" not in message and not server.asked


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_model_says_where_its_terms_are_and_what_is_open(server, monkeypatch, status):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    server.statuses = {"/resolve/": status}
    message = str(refusal())
    assert f"'some/model' could not be fetched (answered {status} " in message and TOKEN not in message
    assert (
        "Accept its terms at https://huggingface.co/some/model and set HF_TOKEN, or use HuggingFaceTB/Smol" in message
    )


# ---- refusals ----


def test_a_model_that_is_not_there_is_refused(server):
    server.statuses = {"/api/": 404}
    assert "answered 404 Not Found). Check owner, name and revision at" in str(refusal())


def test_without_a_network_the_message_says_what_works(monkeypatch):
    def no_network(*words):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(fetch, "ask", no_network)
    assert "(no connection (Network is unreachable)). This works here: smollm2-135m-instruct" in str(refusal())


@pytest.mark.parametrize(
    "name",
    [
        "gpt2",
        "a/b/c",
        "../b",
        "a/..",
        "a/.b",
        "-a/b",
        "a--b/c",
        "a/b..c",
        "a/b c",
        "a/b?x=1",
        "a/b#x",
        "/a/b",
        "a\\b/c",
        "a/b@../x",
        "a/b@",
        "a/b@x//y",
        "a/b@-x",
        "é/b",
        "a/b\n",
        "a/" + "b" * 97,
        "https://huggingface.co/a/b",
    ],
)
def test_a_name_that_is_none_is_refused_before_anything_is_asked(server, name):
    assert "is no name of a model on the hub; give owner/name or owner/name@revision" in str(refusal(name))
    assert not hub.is_name(name) and not server.asked


@pytest.mark.parametrize("name", ["a/b", "HuggingFaceTB/SmolLM2-135M", "a_b/c.d-e_f", "a/b@v1.0", "a/b@refs/pr/1"])
def test_names_of_the_hub_are_known(name):
    assert hub.is_name(name)


def test_a_revision_is_one_part_of_the_address(server):
    hub.get("some/model@refs/pr/1")
    assert server.asked[0][0] == "/api/models/some/model/revision/refs%2Fpr%2F1?blobs=true"


CONFIG_ENTRY = {"rfilename": "config.json", "size": len(CONFIG), "blobId": git_sum(CONFIG)}
WEIGHTS_ENTRY = {"rfilename": "model.safetensors", "size": 5, "lfs": {"sha256": "0" * 64}}


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ({"sha": "../../x"}, "gave no commit with a list of files for 'main'"),
        ({"sha": None}, "gave no commit"),
        ({"siblings": None}, "gave no commit"),
        ({"siblings": [CONFIG_ENTRY, WEIGHTS_ENTRY, CONFIG_ENTRY]}, "names a file twice, or not at all"),
        ({"siblings": [CONFIG_ENTRY, {"rfilename": ["x"]}]}, "names a file twice, or not at all"),
        ({"siblings": [5]}, "names a file twice, or not at all"),
        ({"siblings": [CONFIG_ENTRY]}, "has no model.safetensors of this name; other forms, such as pickles"),
        (
            {"siblings": [{"rfilename": "../model.safetensors"}, {"rfilename": "/config.json"}]},
            "has no model.safetenso",
        ),
        ({"siblings": [CONFIG_ENTRY | {"size": 10**9}, WEIGHTS_ENTRY]}, "says that config.json has 1000000000 bytes"),
        ({"siblings": [CONFIG_ENTRY, WEIGHTS_ENTRY | {"size": 10**20}]}, "model.safetensors has 1000000000000000000"),
        ({"siblings": [CONFIG_ENTRY | {"size": -1}, WEIGHTS_ENTRY]}, "config.json has -1 bytes"),
        ({"siblings": [CONFIG_ENTRY | {"size": True}, WEIGHTS_ENTRY]}, "config.json has True bytes"),
        ({"siblings": [CONFIG_ENTRY | {"blobId": "../x"}, WEIGHTS_ENTRY]}, "config.json has the sha1 '../x'"),
        ({"siblings": [CONFIG_ENTRY, WEIGHTS_ENTRY | {"lfs": {}}]}, "model.safetensors has the sha256 None"),
    ],
)
def test_a_hostile_list_is_refused(server, home, listed, said):
    server.listed = listed
    assert said in str(refusal())
    assert not (home / "hub").exists() and not any("/resolve/" in path for path, *_ in server.asked)


def test_names_that_lead_elsewhere_are_not_taken(server, home):
    hostile = ["../config.json", "/etc/model.safetensors", "a\\..\\config.json", "model-00001-of-00002.safetensors/x"]
    entries = [server.entry(name) for name in REPOSITORY]
    server.listed = {"siblings": entries + [{"rfilename": name, "size": 1, "blobId": "0" * 40} for name in hostile]}
    folder = hub.get("some/model")
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", files.MANIFEST}


def test_more_than_the_disk_holds_is_refused_before_the_first_file(server):
    server.listed = {"siblings": [CONFIG_ENTRY, WEIGHTS_ENTRY | {"size": 1 << 49}]}
    with pytest.raises(CheckpointError, match=r"needs 1,125.9 TB, its disk has"):
        hub.get("some/model")
    assert not any("/resolve/" in path for path, *_ in server.asked)


def test_a_commit_asked_for_is_the_commit_given(server):
    assert "gave no commit" in str(refusal(f"some/model@{OLDER}"))


def test_a_list_that_is_no_json_is_refused(server, monkeypatch):
    monkeypatch.setattr(Server, "answer", lambda self: b"<html>")
    with pytest.raises(FirsthandError, match="gave no list of files: list of files: not valid JSON"):
        hub.get("some/model")


@pytest.mark.deep
def test_the_real_hub_gives_a_real_model():
    """Needs the hub; skips, with the reason, where it cannot be reached."""
    try:
        folder = hub.get(f"{hub.OPEN}@main")
    except DownloadError as error:
        pytest.skip(str(error))
    assert (folder / "model.safetensors").exists()
