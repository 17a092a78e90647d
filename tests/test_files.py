"""The one writer and the careful reader: whole or not at all, and nothing believed."""

import errno
import hashlib
import io
import json
import os
import signal
import stat
import subprocess
import sys
import time

import pytest

from firsthand import files
from firsthand.errors import CheckpointError, FirsthandError


def leftovers(folder):
    return [path.name for path in folder.rglob(".*") if path.name.startswith((".tmp-", ".trash-"))]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def publish(run, step, **content):
    return files.publish(run / f"step-{step:06d}", content or {"a.bin": b"A" * 100, "b.json": '{"step": 7}'})


# ---------------------------------------------------------------- writing


@pytest.mark.parametrize("content", [b"caf\xc3\xa9", "café", lambda file: file.write(b"caf\xc3\xa9")])
def test_a_file_is_written_from_bytes_text_or_a_function(tmp_path, content):
    files.write_file(tmp_path / "deep" / "menu.txt", content)
    assert (tmp_path / "deep" / "menu.txt").read_bytes() == b"caf\xc3\xa9"
    assert leftovers(tmp_path) == []


def test_a_file_is_replaced_as_a_whole_and_keeps_the_mode_of_the_umask(tmp_path):
    path = tmp_path / "report.html"
    files.write_file(path, "old " * 1000)
    before = os.umask(0o027)
    try:
        files.write_file(path, "new")
    finally:
        os.umask(before)
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_function_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "report.html"
    files.write_file(path, "old")

    def half(file):
        file.write(b"new and")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write_file(path, half)
    assert path.read_text() == "old" and names(tmp_path) == ["report.html"]


def test_text_wrappers_and_empty_pieces_can_write_into_the_writer(tmp_path):
    def write(file):
        file.write(b"")
        text = io.TextIOWrapper(io.BufferedWriter(file), encoding="utf-8")
        text.write("ä" * 3)
        text.detach().detach()  # both flush

    files.write_file(tmp_path / "a.txt", write)
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "äää"


def test_a_link_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "elsewhere").write_text("mine")
    (tmp_path / "a").symlink_to("elsewhere")
    files.write_file(tmp_path / "a", "ours")
    assert (tmp_path / "elsewhere").read_text() == "mine" and (tmp_path / "a").read_text() == "ours"


def test_a_published_directory_lists_bytes_and_hashes(tmp_path):
    target = files.publish(tmp_path / "run" / "step-000007", {"a.bin": b"abc"}, {"why": "test"})
    # SHA-256 of "abc": the first test vector of FIPS 180-2, appendix B.1
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    manifest = files.verify(target)
    assert manifest["files"] == {"a.bin": [3, digest]} and manifest["about"] == {"why": "test"}
    assert files.sha256(target / "a.bin") == digest
    assert json.loads((target / "MANIFEST.json").read_text())["format"] == 1
    assert leftovers(tmp_path) == []


def test_the_manifest_is_sealed_by_a_hash_of_itself(tmp_path):
    target = publish(tmp_path, 1)
    manifest = json.loads((target / "MANIFEST.json").read_text())
    seal = manifest.pop("seal")
    assert seal == hashlib.sha256(json.dumps(manifest, indent=1).encode()).hexdigest()


def test_what_is_there_is_never_overwritten_by_a_directory(tmp_path):
    target = publish(tmp_path, 3)
    with pytest.raises(CheckpointError, match="step-000003 is there already; remove it, or choose another name"):
        publish(tmp_path, 3)
    files.verify(target)


def test_a_directory_that_is_not_accepted_leaves_nothing(tmp_path):
    def refuse(folder):
        assert folder.name.startswith(".tmp-new-") and names(folder) == ["MANIFEST.json", "a.bin"]
        raise CheckpointError("not this one")

    with pytest.raises(CheckpointError, match="not this one"):
        files.publish(tmp_path / "new", {"a.bin": b"A"}, accept=refuse)
    assert names(tmp_path) == []
    files.publish(tmp_path / "new", {"a.bin": b"A"}, accept=lambda folder: None)
    assert names(tmp_path) == ["new"]


@pytest.mark.parametrize("name", ["../a", "a/b", "MANIFEST.json", "", "a\0b", "a\\b", ".."])
def test_a_directory_is_published_with_plain_names_only(tmp_path, name):
    with pytest.raises(CheckpointError):
        files.publish(tmp_path / "run" / "step-000001", {name: b"x"})
    assert not (tmp_path / "run" / "step-000001").exists() and leftovers(tmp_path) == []


def test_too_little_space_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(CheckpointError) as error:
        files.publish(tmp_path / "run" / "step-000001", {"a": lambda file: file.write(b"x")}, expected=10**18)
    assert error.value.code == 11
    assert "needs 1,000,000.0 TB, its disk has" in str(error.value) and "keep fewer checkpoints" in str(error.value)
    assert names(tmp_path) == []


def test_a_tenth_more_space_than_the_bytes_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1099})())
    with pytest.raises(CheckpointError, match=r"needs 1.0 kB, its disk has 1.1 kB free. Free 2 bytes"):
        files.require_space(tmp_path, 1000)
    files.require_space(tmp_path, 999)


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (errno.ENOSPC, 12, "no space left on device (5 bytes written, now removed)"),
        (errno.EDQUOT, 12, "free some space and run it again"),
        (errno.EIO, None, "input/output error"),
        (errno.EROFS, None, "read-only file system"),
        (errno.EACCES, None, "permission denied"),
    ],
)
def test_an_error_of_the_disk_is_one_line_with_path_and_bytes(tmp_path, monkeypatch, number, code, words):
    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CheckpointError) as error:
        files.write_file(tmp_path / "a.txt", "12345")
    text = str(error.value)
    assert f"could not save {tmp_path}/a.txt: " in text and words in text
    assert error.value.code == code and "\n" not in text and len(text) <= 240
    assert names(tmp_path) == []


def test_a_file_in_place_of_a_folder_is_one_line_too(tmp_path):
    (tmp_path / "runs").write_text("")
    for attempt in (
        lambda: files.write_file(tmp_path / "runs" / "a", b""),
        lambda: files.publish(tmp_path / "runs" / "a", {}),
        lambda: files.RunLock(tmp_path / "runs").__enter__(),
        lambda: files.append_line(tmp_path / "runs" / "a", {}),
        lambda: files.write_file(tmp_path, b""),
    ):
        with pytest.raises(CheckpointError, match="could not save"):
            attempt()


# ---------------------------------------------------------------- logs


def test_a_log_grows_by_whole_lines(tmp_path):
    log = tmp_path / "metrics.jsonl"
    files.append_line(log, {"step": 1, "loss": 0.5})
    files.append_line(log, {"step": 2})
    assert log.read_text() == '{"step": 1, "loss": 0.5}\n{"step": 2}\n'
    with pytest.raises(ValueError):
        files.append_line(log, {"loss": float("nan")})  # the caller must write None: JSON has no NaN


def test_going_back_cuts_later_and_torn_lines(tmp_path):
    log = tmp_path / "metrics.jsonl"
    for step in range(5):
        files.append_line(log, {"step": step})
    with log.open("ab") as file:
        file.write(b'{"step": 5, "lo')
    assert files.cut_lines(log, lambda record: record["step"] <= 2) == 1
    assert log.read_text() == '{"step": 0}\n{"step": 1}\n{"step": 2}\n'
    assert files.cut_lines(log, lambda record: True) == 0
    assert files.cut_lines(tmp_path / "none.jsonl", lambda record: True) == 0


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize(
    "name",
    [
        *("", "/etc/passwd", "..", "../a", "a/../../b", "a/..", ".", "./a", "a//b", "a/", "//a", "within/../.."),
        *("a\0", "a\\b", "C:\\x", "C:x", "a\nb", "a\x1b[2J", "\ud800", "\u202ea", "x" * 256),
        *("out", "out/inside", "loop", "pipe", "folder"),
    ],
)
def test_a_name_from_a_stranger_stays_inside_and_means_a_plain_file(tmp_path, name):
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (root / "out").symlink_to(tmp_path)
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "pipe")
    (tmp_path / "inside").write_text("secret")
    with pytest.raises(CheckpointError, match="is not the name of a plain file inside this folder"):
        files.safe_join(root, name)


def test_a_plain_name_is_joined_and_a_link_that_stays_inside_is_resolved(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "1f").write_text("x")
    (tmp_path / "model").symlink_to("blobs/1f")
    assert files.safe_join(tmp_path, "model") == (tmp_path / "blobs" / "1f").resolve()
    assert files.safe_join(tmp_path, "new/file.bin") == tmp_path.resolve() / "new" / "file.bin"
    assert files.safe_join(tmp_path, "ü 1.json") == tmp_path.resolve() / "ü 1.json"


def test_only_plain_files_are_opened_and_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("plain")
    (tmp_path / "plain").write_bytes(b"abc")
    for name, why in (
        ("pipe", "not a plain file"),
        ("link", "a link, which is not followed"),
        (".", "not a plain file|is a directory"),
        ("none", "no such file or directory"),
        ("x" * 300, "file name too long"),
    ):
        with pytest.raises(CheckpointError, match=why):
            files.read_file(tmp_path / name)
    assert files.read_file(tmp_path / "plain", limit=3) == b"abc"
    with pytest.raises(CheckpointError, match="larger than 2 bytes"):
        files.read_file(tmp_path / "plain", limit=2)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1",
        b"[1]",
        b"null",
        b'{"a": 1',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -1e999}',
        b'{"a": 1, "a": 2}',
        b'{"b": {"a": 1, "a": 1}}',
        b'{"a": "\xff"}',
        b"\xef\xbb\xbf{}",
        b'{"a":' + b"[" * 100_000,
        b'{"a": ' + b"1" * 5000 + b"}",
    ],
)
def test_loose_json_is_refused(data):
    with pytest.raises(CheckpointError, match=r"^name\.json: ") as error:
        files.parse_json(data, "name.json")
    assert len(str(error.value)) <= 240


def test_strict_json_is_read():
    assert files.parse_json(b'{"a": [1, 2.5, null, true, "\xc3\xa9"]}', "x") == {"a": [1, 2.5, None, True, "é"]}


def test_amounts_are_said_in_words():
    assert [files.amount(n) for n in (0, 999, 1000, 1_340_000_000, 2 * 10**15)] == [
        "0 bytes",
        "999 bytes",
        "1.0 kB",
        "1.3 GB",
        "2,000.0 TB",
    ]


# ---------------------------------------------------------------- checkpoints


def test_the_newest_valid_checkpoint_wins_and_the_damaged_are_named(tmp_path):
    assert files.newest(tmp_path / "none") == (None, [])
    for step in (5, 40, 300):
        publish(tmp_path, step)
    publish(tmp_path, 1_000_000)  # seven digits still sort by number
    assert [path.name for path in files.checkpoints(tmp_path)] == [
        "step-000005",
        "step-000040",
        "step-000300",
        "step-1000000",
    ]
    (tmp_path / "step-1000000" / "a.bin").write_bytes(b"A" * 99 + b"B")
    (tmp_path / "step-000300" / "b.json").unlink()
    good, damaged = files.newest(tmp_path)
    assert good == tmp_path / "step-000040"
    assert damaged == [
        (tmp_path / "step-1000000", "a.bin: sha256 differs"),
        (tmp_path / "step-000300", "b.json: no such file or directory"),
    ]
    with pytest.raises(CheckpointError, match=r"step-1000000 is damaged \(a.bin: sha256 differs\)") as error:
        files.verify(tmp_path / "step-1000000")
    assert error.value.code == 22


def test_a_file_that_was_cut_says_how_much_is_left(tmp_path):
    target = publish(tmp_path, 2)
    os.truncate(target / "a.bin", 40)
    with pytest.raises(CheckpointError, match=r"a.bin: 40 bytes, the manifest says 100"):
        files.verify(target)


def test_what_is_no_checkpoint_says_so(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(CheckpointError, match=r"is no finished directory of ours: it has no MANIFEST"):
            files.verify(folder)


def test_old_checkpoints_go_only_when_enough_newer_ones_are_valid(tmp_path):
    for step in (1, 2, 3, 4):
        publish(tmp_path, step)
    (tmp_path / "step-000004" / "a.bin").write_bytes(b"")
    files.retire(tmp_path, keep=2)
    assert [path.name for path in files.checkpoints(tmp_path)] == ["step-000002", "step-000003", "step-000004"]
    files.retire(tmp_path, keep=2)
    assert len(files.checkpoints(tmp_path)) == 3 and leftovers(tmp_path) == []


def test_a_damaged_checkpoint_is_kept_under_another_name(tmp_path):
    for suffix in ("bad", "bad1"):
        publish(tmp_path, 9)
        assert files.set_aside(tmp_path / "step-000009") == tmp_path / f"step-000009.{suffix}"
    assert files.checkpoints(tmp_path) == []
    files.verify(tmp_path / "step-000009.bad")


def test_sweeping_removes_what_a_killed_run_left(tmp_path):
    (tmp_path / ".tmp-step-000003-1f" / "deep").mkdir(parents=True)
    (tmp_path / ".trash-step-000001-1f").mkdir()
    (tmp_path / ".tmp-metrics-1f").write_text("half")
    publish(tmp_path, 2)
    files.sweep(tmp_path)
    assert names(tmp_path) == ["step-000002"]


def test_discarding_what_is_not_there_is_one_line(tmp_path):
    with pytest.raises(CheckpointError, match=r"could not remove .*step-000001: no such file"):
        files.discard(tmp_path / "step-000001")


# ---------------------------------------------------------------- the lock


def test_a_second_run_on_one_directory_is_told_who_holds_it(tmp_path):
    publish(tmp_path, 340)
    with files.RunLock(tmp_path):
        with pytest.raises(CheckpointError) as error, files.RunLock(tmp_path):
            pass
        assert error.value.code == 24
        assert f"{tmp_path} is being written by pid {os.getpid()} on host " in str(error.value)
        assert "(step-000340). Stop it, or choose another folder" in str(error.value)
    with files.RunLock(tmp_path):
        pass


def test_a_lock_note_that_is_torn_still_gives_one_line(tmp_path):
    with files.RunLock(tmp_path):
        (tmp_path / ".lock").write_bytes(b'{"pid": 1')
        with pytest.raises(CheckpointError, match=r"is being written by another process. Stop it"):
            files.RunLock(tmp_path).__enter__()


def test_a_forked_worker_does_not_keep_the_lock_of_its_killed_parent(tmp_path):
    code = (
        "import os, sys, time; from firsthand import files\n"
        "with files.RunLock(sys.argv[1]):\n"
        "    worker = os.fork()\n"
        "    if worker == 0: print(os.getpid(), flush=True)\n"
        "    time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    try:
        with pytest.raises(FirsthandError), files.RunLock(tmp_path):
            pass
        parent.kill()
        parent.wait()
        start = time.monotonic()
        with files.RunLock(tmp_path):
            assert time.monotonic() - start < 1
        os.kill(worker, 0)  # it is still alive
    finally:
        os.kill(worker, signal.SIGKILL)
        parent.stdout.close()
