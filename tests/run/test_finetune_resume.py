"""A run of any task that was stopped goes on to the same bits, with adapters and without, above a frozen trunk too."""

import json

import pytest
from talkers import everything, place, same

from firsthand.run import finetune as tuning
from firsthand.training.job import Job

WAYS = [
    ("instruct", "all"), ("instruct", "lora"), ("instruct", "block"),
    ("prefer", "all"), ("prefer", "lora"), pytest.param("prefer", "two", marks=pytest.mark.deep),
]  # fmt: skip
TIMES = ("train/tok_per_sec",)  # the only thing in a log that may differ


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return everything(tmp_path_factory.mktemp("words"))


def logged(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


@pytest.mark.parametrize(("kind", "thaw"), WAYS)
def test_a_stopped_run_goes_on_to_the_same_bits(words, tmp_path, monkeypatch, kind, thaw):
    asked = (*words[kind], f"task.thaw={thaw}", "lora.rank=3", "lora.dropout=0.1", "train.accumulate=2")
    whole = tuning.finetune(*asked, place(tmp_path / "whole"))
    note = Job.note

    def stop_after_seven(job, record):
        note(job, record)
        if record.step == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(Job, "note", stop_after_seven)
    with pytest.raises(KeyboardInterrupt):
        tuning.finetune(*asked, place(tmp_path / "b"))
    monkeypatch.undo()
    assert bool(list((tmp_path / "b").glob("trunk-*.bin"))) == (thaw in ("block", "two"))
    went_on = tuning.finetune(*asked, f"out={tmp_path / 'b'}", resume=True)
    assert same(went_on.bundle.model, whole.bundle.model)
    assert logged(tmp_path / "b") == logged(tmp_path / "whole")
    for part in ("test", "forgetting", "rows"):
        assert went_on.report[part] == whole.report[part]
    assert not list((tmp_path / "b").glob("trunk-*.bin"))
