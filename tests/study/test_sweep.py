"""A sweep does every cell once, whatever happens between: interrupted, killed, or with a cell that fails."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sweeps import alive, snapshot
from test_page import assert_harmless

from firsthand import files
from firsthand.errors import CheckpointError, ConfigError
from firsthand.run.finetune import finetune
from firsthand.study import points, sweep_page
from firsthand.study.cells import Cell, cells
from firsthand.study.sweep import cost, folder_of, sweep

GRID = ["task.thaw=head,all"]
BIG = {"validation_loss", "scores", "seed", "point"}


def core(results):
    """What must not depend on how the cells were run."""
    return [{name: its for name, its in one.items() if name in BIG} for one in results]


@pytest.fixture(scope="module")
def swept(words, tmp_path_factory):
    """A sweep of two points and two seeds, one cell after the other: its folder, cells and results."""
    out = tmp_path_factory.mktemp("swept") / "s"
    planned = cells("finetune", words, GRID, [1, 2])
    import torch

    torch.set_num_threads(1)
    return out, planned, sweep(planned, out)


def test_every_cell_is_what_its_verb_makes_by_itself(swept, words, tmp_path):
    _, _, results = swept
    alone = finetune(*words, "task.thaw=all", "train.seed=2", f"out={tmp_path / 'a'}")
    (cell,) = [one for one in results if (one["point"], one["seed"]) == ("thaw=all", 2)]
    assert cell["scores"] == alone.report["test"]["examples"]
    assert cell["parameters_learned"] == alone.report["cost"]["parameters_learned"]


def test_finished_cells_are_measured_and_their_checkpoints_deleted(swept):
    out, planned, results = swept
    assert [one["error"] for one in results] == [None] * 4
    for cell, result in zip(planned, results, strict=True):
        folder = folder_of(cell, out)
        assert not files.checkpoints(folder)
        assert {"config.toml", "report.json", "metrics.jsonl", "result.json", "log.txt"} <= {
            path.name for path in folder.iterdir()
        }
        assert result["peak_bytes"] > 50e6  # torch alone takes more
        assert result["checkpoint_bytes"] > 4 * result["parameters_learned"]
        assert result["seconds"]["cell"] > result["seconds"]["training"] > 0


def test_the_same_command_does_nothing_again(swept):
    out, planned, results = swept
    before, heard = snapshot(out / "cells"), []
    assert sweep(planned, out, tell=heard.append) == results
    assert snapshot(out / "cells") == before
    assert heard == []


def test_two_at_once_give_the_same_numbers(swept, tmp_path, one_thread):
    _, planned, results = swept
    assert core(sweep(planned[1:3], tmp_path / "s", workers=2)) == core(results[1:3])


def test_a_killed_sweep_goes_on_and_touches_nothing_that_was_done(words, tmp_path, one_thread):
    out, words = tmp_path / "s", [*words, "train.steps=300", "train.save_every=20"]
    planned = cells("finetune", words, [], [1, 2])
    begin = f"sweep(cells('finetune', {words!r}, [], [1, 2]), Path({str(out)!r}))"
    lines = (
        "from pathlib import Path",
        "from firsthand.study.cells import cells",
        "from firsthand.study.sweep import sweep",
        f"if __name__ == '__main__':\n    {begin}",
    )
    (tmp_path / "go.py").write_text("\n".join(lines))
    parent = subprocess.Popen([sys.executable, tmp_path / "go.py"], env={**os.environ, "OMP_NUM_THREADS": "1"})
    first, second = (folder_of(cell, out) for cell in planned)
    while parent.poll() is None and not files.checkpoints(second):
        time.sleep(0.01)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    child = json.loads((second / ".lock").read_text())["pid"]
    deadline = time.monotonic() + 60
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)  # it saw that nobody waits for it
    before, heard = snapshot(first), []
    assert "result.json" in before
    assert "result.json" not in snapshot(second)
    result = sweep(planned, out, tell=heard.append)[1]
    assert snapshot(first) == before
    assert {event.cell.seed for event in heard} == {2}
    assert "going on from step-" in (second / "log.txt").read_text()
    whole = finetune(*words, "train.seed=2", f"out={tmp_path / 'whole'}")
    assert result["scores"] == whole.report["test"]["examples"]


def test_asked_to_stop_it_stops_its_cells_and_says_how_to_go_on(words, tmp_path):
    words = [*words, "train.steps=100000", "train.save_every=0", f"out={tmp_path}"]
    command = [sys.executable, "-m", "firsthand", "sweep", "finetune", *words[:-1], "--seeds", "1,2"]
    parent = subprocess.Popen([*command, "--out", tmp_path / "s"], stderr=subprocess.PIPE, text=True)
    folder = tmp_path / "s" / "cells" / "seed=1"
    while parent.poll() is None and not (folder / "metrics.jsonl").exists():
        time.sleep(0.05)
    parent.send_signal(signal.SIGTERM)
    said = parent.communicate(timeout=60)[1]
    assert parent.returncode == 143
    assert "stopped with 0 of 2 cells done. Go on by the same command" in said
    assert len(files.checkpoints(folder)) == 1  # saved before it went
    assert not alive(json.loads((folder / ".lock").read_text())["pid"])


def test_a_cell_that_fails_is_told_and_the_others_go_on(words, tmp_path):
    planned = [
        Cell("finetune", "fine", 1, (*words, "train.steps=1")),
        Cell("finetune", "wrong", 1, (*words, "train.steps=1", 'data.labels=["loud"]')),
        Cell("finetune", "fine", 2, (*words, "train.steps=1")),
    ]
    heard = []
    results = sweep(planned, tmp_path / "s", tell=heard.append)
    assert [bool(one["error"]) for one in results] == [False, True, False]
    assert "which is not in [loud]" in results[1]["error"]
    assert "\n" not in results[1]["error"]
    assert [(event.kind, event.done) for event in heard if event.kind == "ended"] == [
        ("ended", 1), ("ended", 2), ("ended", 3),
    ]  # fmt: skip
    facts = sweep_page.sweep_facts(results, "firsthand sweep ...")
    assert facts["points"][1] == {"point": "wrong", "seeds": [], "failed": 1}
    page = sweep_page.write(tmp_path / "s", "A sweep", facts, sweep_page.sweep_sections(facts)).read_text()
    assert "which is not in [loud]" in page
    again = []
    sweep(planned, tmp_path / "s", tell=again.append)
    assert {event.cell.point for event in again} == {"wrong"}  # what failed is tried again, and nothing else


def test_a_cell_that_dies_without_a_word_is_told_too(words, tmp_path):
    planned = [Cell("finetune", "a", 1, (*words, "train.steps=100000"))]
    out = tmp_path / "s"

    def kill(event):
        lock = folder_of(event.cell, out) / ".lock"
        if event.step and lock.exists():
            os.kill(json.loads(lock.read_text())["pid"], signal.SIGKILL)

    (result,) = sweep(planned, out, tell=kill)
    assert "ended by signal 9 (memory may have run out" in result["error"]


def test_other_settings_in_the_same_folder_are_refused(swept, words):
    out, planned, _ = swept
    other = cells("finetune", [*words, "train.clip=2"], GRID, [1])
    before = snapshot(out)
    with pytest.raises(ConfigError, match=r"was begun with other settings than train.clip=2"):
        sweep(other, out)
    after = snapshot(out)
    assert {name: its for name, its in after.items() if ".lock" not in name} == {
        name: its for name, its in before.items() if ".lock" not in name
    }
    assert planned


def test_a_wrong_setting_is_refused_before_any_cell_begins(words, tmp_path):
    planned = cells("finetune", words, ["task.thaw=head,heed"], [1])
    with pytest.raises(ConfigError, match=r"task.thaw is 'heed'"):
        sweep(planned, tmp_path / "s")
    assert not (tmp_path / "s" / "cells").exists()
    with pytest.raises(ConfigError, match="--workers is 0"):
        sweep(planned[:1], tmp_path / "s", workers=0)


def test_one_folder_has_one_sweep(swept):
    out, planned, _ = swept
    with files.RunLock(out), pytest.raises(CheckpointError, match="is being written by pid"):
        sweep(planned, out)


def test_the_cost_counts_what_is_left(swept, words, tmp_path):
    out, planned, _ = swept
    assert cost(planned, out)["done"] == 4
    assert cost(planned, out)["disk_bytes"] == 0
    fresh, kept = cost(planned, tmp_path / "a"), cost(planned, tmp_path / "a", keep=True)
    assert (fresh["cells"], fresh["done"]) == (4, 0)
    assert fresh["seconds_about"] > 0
    assert kept["disk_bytes"] > 2 * fresh["disk_bytes"] > 0


def test_models_are_kept_where_they_are_asked_for(words, tmp_path):
    planned = [Cell("finetune", "a", 1, (*words, "train.steps=1"))]
    sweep(planned, tmp_path / "s", keep=True)
    folder = folder_of(planned[0], tmp_path / "s")
    assert [path.name for path in files.checkpoints(folder)] == ["step-000001"]
    sweep(planned, tmp_path / "s")
    assert not files.checkpoints(folder)


def test_pretraining_runs_are_compared_by_their_validation_loss(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{a} and {b} make {a + b}.\n" for a in range(40) for b in range(20)))
    tiny = (
        f"data.source={text}", "tokenizer.kind=char", "model.n_layer=1", "model.n_head=2", "model.d_model=16",
        "model.context_length=16", "train.batch_size=4", "train.steps=4", "train.warmup=1", "train.sample_every=0",
    )  # fmt: skip
    planned = cells("train", tiny, [], [1, 2])
    results = sweep(planned, tmp_path / "s")
    assert [one["error"] for one in results] == [None, None]
    (point,) = points.points(results)
    mean, _, by_seed = point.mean("validation_loss")
    assert by_seed == [one["validation_loss"] for one in results]
    assert mean == pytest.approx(sum(by_seed) / 2)


def test_the_report_opens_and_asks_for_nothing(swept, tmp_path):
    _, _, results = swept
    hostile = [{**one, "point": f"<script>{one['point']}</script>"} for one in results]
    facts = sweep_page.sweep_facts(hostile, "firsthand sweep '<img src=x onerror=alert(1)>'")
    target = sweep_page.write(tmp_path, "A sweep", facts, sweep_page.sweep_sections(facts))
    assert_harmless(target.read_text())
    assert json.loads((tmp_path / "report.json").read_text())["verdict"] == facts["verdict"]


def test_the_command_tells_its_cells_before_and_its_verdict_after(swept, words, tmp_path, capsys):
    from firsthand.cli.main import main

    out, _, _ = swept
    shutil.copytree(out, tmp_path / "s")
    model, *rest = words
    line = ["sweep", "finetune", model.removeprefix("model="), *rest, "--grid", *GRID, "--seeds", "1,2"]
    assert main([*line, "--out", str(tmp_path / "new"), "--dry-run"]) == 0
    said = capsys.readouterr()
    assert said.out.split() == ["thaw=head,seed=1", "thaw=head,seed=2", "thaw=all,seed=1", "thaw=all,seed=2"]
    assert "4 cells, 0 done before, about" in said.err
    assert not (tmp_path / "new" / "cells").exists()
    assert main([*line, "--out", str(tmp_path / "s")]) == 0
    said = capsys.readouterr()
    assert "4 cells, 4 done before" in said.err
    assert "By validation loss thaw=" in said.out
    assert Path(said.out.split("wrote ")[1].strip()) == tmp_path / "s" / "report.html"
