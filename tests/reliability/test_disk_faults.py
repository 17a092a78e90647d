"""R3 and R4: power cut at any moment, and an error of the disk at every call."""

import errno
import itertools
import os
import shutil
from pathlib import Path

import pytest
from disk_faults import Recorder, crash_states, lay_out, tree

from firsthand import files
from firsthand.errors import CheckpointError

ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EROFS": errno.EROFS, "EACCES": errno.EACCES}


def content(step):
    """A small checkpoint whose bytes name its step."""

    def write(file):
        file.write(bytes([step]) * 100)
        file.write(bytes([step]) * 200)

    return {"model.safetensors": write, "state.json": "{}"}


def save(run, step):
    return files.publish(run / f"step-{step:06d}", content(step), {"step": step})


def save_and_retire(run):
    """What a run does at step 2 when it keeps one checkpoint."""
    save(run, 2)
    files.retire(run, keep=1)


def replace_report(run):
    files.write_file(run / "report.html", "new " * 50)


def go_back(run):
    files.cut_lines(run / "metrics.jsonl", lambda record: record["step"] < 3)


def keep_damaged(run):
    files.set_aside(run / "step-000001")


def take_lock(run):
    with files.RunLock(run):
        pass


def log_a_line(run):
    files.append_line(run / "metrics.jsonl", {"step": 9})


@pytest.fixture
def run(tmp_path):
    """A run at step 1 with a report and a log."""
    run = tmp_path / "run"
    save(run, 1)
    files.write_file(run / "report.html", "old " * 50)
    for step in range(5):
        files.append_line(run / "metrics.jsonl", {"step": step})
    return run


def reported(run):
    return (run / "report.html").read_text()


def logged(run):
    return (run / "metrics.jsonl").read_text().count("\n")


# ---------------------------------------------------------------- R3: power


def recorded(run, work):
    """The state before, and every operation of `work`, whose end is marked."""
    before, recorder = tree(run), Recorder(run)
    with recorder.watching():
        work(run, recorder)
    return before, recorder.log


def violations(run, before, log, tmp_path, holds):
    """How many states there are, and those from which recovery fails."""
    count, bad = 0, []
    for marks, state in crash_states(run, before, log):
        folder = tmp_path / "state"
        lay_out(state, folder)
        if not holds(folder, marks):
            bad.append((marks, sorted(state)))
        shutil.rmtree(folder)
        count += 1
    return count, bad


def recovers(folder, marks):
    """Some checkpoint is whole, with its own bytes; the second one as soon as it was reported as saved."""
    found, _ = files.newest(folder)
    if found is None:
        return False
    step = int(found.name[5:])
    whole = (found / "model.safetensors").read_bytes() == bytes([step]) * 300
    return whole and (step == 2 or "saved" not in marks)


def test_a_power_cut_at_any_moment_of_a_save_leaves_a_whole_checkpoint(run, tmp_path):
    def work(run, recorder):
        save(run, 2)
        recorder.mark("saved")
        files.retire(run, keep=1)

    count, bad = violations(run, *recorded(run, work), tmp_path, recovers)
    print(f"{count} states, {len(bad)} violations")
    assert bad == [] and count >= 40


def test_the_first_save_of_a_run_survives_as_soon_as_it_is_reported(tmp_path):
    def work(base, recorder):
        save(base / "runs" / "new", 2)
        recorder.mark("saved")

    def holds(folder, marks):
        return "saved" not in marks or recovers(folder / "runs" / "new", marks)

    base = tmp_path / "base"
    base.mkdir()
    count, bad = violations(base, *recorded(base, work), tmp_path, holds)
    print(f"{count} states, {len(bad)} violations")
    assert bad == [] and count >= 30


@pytest.mark.parametrize(
    ("change", "look", "allowed", "after"),
    [(replace_report, reported, {"old " * 50, "new " * 50}, "new " * 50), (go_back, logged, {5, 3}, 3)],
)
def test_a_power_cut_leaves_the_old_file_or_the_new_one(run, tmp_path, change, look, allowed, after):
    def work(run, recorder):
        change(run)
        recorder.mark("saved")

    def holds(folder, marks):
        return look(folder) in ({after} if marks else allowed)

    count, bad = violations(run, *recorded(run, work), tmp_path, holds)
    assert bad == [] and count >= 6


@pytest.mark.parametrize("dropped", ["fsync of files", "fsync of directories", "rename", "every fsync"])
def test_the_power_cut_finds_a_protocol_that_lacks_a_step(run, tmp_path, dropped):
    """The proof that the tests above can fail: the same save, with a step left out, must lose something."""

    def weak_save(run, recorder):
        final = run / "step-000002"
        folder = final if dropped == "rename" else run / ".tmp-2"
        folder.mkdir()
        weights = bytes([2]) * 300
        manifest = (tmp_path / "other" / "step-000002" / "MANIFEST.json").read_bytes()
        for name, data in {"model.safetensors": weights, "state.json": b"{}", "MANIFEST.json": manifest}.items():
            put(folder / name, data, dropped not in ("fsync of files", "every fsync"))
        if dropped not in ("fsync of directories", "every fsync"):
            sync(folder)
        if dropped != "rename":
            folder.rename(final)
        if dropped not in ("fsync of directories", "every fsync"):
            sync(run)
        recorder.mark("saved")
        shutil.rmtree(run / "step-000001")

    save(tmp_path / "other", 2)
    count, bad = violations(run, *recorded(run, weak_save), tmp_path, recovers)
    if dropped == "rename":  # written in place, but the manifest comes last: the hashes alone still save us
        assert bad == []
    else:
        assert len(bad) > 0, f"{count} states and none is bad"


def put(path, data, force):
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    os.write(descriptor, data)
    if force:
        os.fsync(descriptor)
    os.close(descriptor)


def sync(folder):
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


# ---------------------------------------------------------------- R4: errors


@pytest.mark.parametrize(
    ("error", "stays"),
    [("ENOSPC", False), ("ENOSPC", True), ("EIO", False), ("EIO", True), ("EROFS", True), ("EACCES", False)],
)
@pytest.mark.parametrize("work", [save_and_retire, replace_report, go_back, keep_damaged, take_lock, log_a_line])
def test_an_error_at_any_call_is_one_line_and_loses_nothing(tmp_path, run, work, error, stays):
    ways = []
    for place in itertools.count(1):
        copy = tmp_path / "copy" / "run"
        shutil.copytree(run, copy)
        recorder = Recorder(copy, fail_at=place, error=ERRORS[error], stays=stays)
        failure = None
        with recorder.watching():
            try:
                work(copy)
            except CheckpointError as caught:
                failure = caught
        if not recorder.failed:
            assert failure is None and place > 3
            break
        ways.append((recorder.failed, failure is not None))
        check_nothing_lost(copy, work, failure)
        shutil.rmtree(copy.parent)
    silent = {name for name, told in ways if not told}
    # what is not told: failing to delete the old, or to look (then it counts as damaged, and is kept)
    assert silent <= {"unlink", "rmdir", "open", "close"}, ways


def check_nothing_lost(run, work, failure):
    found, _ = files.newest(run)
    if work is keep_damaged:
        found = found or run / "step-000001.bad"
        files.verify(found)
    assert found is not None
    if work is save_and_retire:
        step = int(found.name[5:])
        assert step == 2 or failure is not None, "it said that step 2 was saved"
        assert (found / "model.safetensors").read_bytes() == bytes([step]) * 300
    assert reported(run) in ("old " * 50, "new " * 50)
    assert logged(run) in (3, 5, 6)
    if failure is not None:
        text = str(failure)
        assert "\n" not in text and len(text) <= 240 and "/run" in text, text
    assert not [path.name for path in run.iterdir() if path.name.startswith(".tmp-")], failure


def test_a_disk_that_takes_few_bytes_at_a_time_still_gets_all(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data[:7])))
    target = save(tmp_path, 5)
    monkeypatch.undo()
    files.verify(target)
    assert (target / "model.safetensors").stat().st_size == 300


def test_a_real_disk_that_fills_up_leaves_no_stump(tmp_path):
    """The limit of the process on the size of a file stands in for a full disk: no administrator is needed."""
    resource = pytest.importorskip("resource")
    import signal

    save(tmp_path, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for limit in range(0, 300, 25):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
            with pytest.raises(CheckpointError, match=r"could not save .*step-000002: file too large") as error:
                save(tmp_path, 2)
            assert error.value.code == 12
            assert sorted(path.name for path in Path(tmp_path).iterdir()) == ["step-000001"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    files.verify(tmp_path / "step-000001")
