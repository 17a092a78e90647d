"""What a run tells: the file, the console, and trackers of others, none of which may stop it."""

import io
import json
import sys
import types

import pytest

from firsthand.errors import ConfigError
from firsthand.training.track import Lines, Live, Plain, WandbShaped, in_words, trackers

METRICS = {"train/loss": 2.5, "train/learning_rate": 3e-4, "train/grad_norm": 1.25, "train/tok_per_sec": 12345.6}


def test_a_line_is_json_even_of_a_nan(tmp_path):
    lines = Lines(tmp_path / "metrics.jsonl")
    lines.log({"train/loss": float("nan"), "train/grad_norm": 2.0}, step=3)
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
        "train/global_step": 3, "train/loss": None, "train/grad_norm": 2.0,
    }  # fmt: skip


def test_words_for_a_reader():
    assert in_words(METRICS) == "loss 2.5000  rate 0.0003  norm 1.25  12,346 tokens/s"
    assert in_words({"eval/loss": 1.5, "val/bpb": 0.75}) == "validation loss 1.5000  0.7500 bits per byte"


def test_a_plain_console_prints_a_line_an_interval_and_says_what_is_left():
    stream, now = io.StringIO(), 0.0
    plain = Plain(100, stream, lambda: now)
    for step in range(1, 31):
        plain.log(METRICS, step)
        now += 1.0
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == [
        "1/100",
        "6/100",
        "11/100",
        "16/100",
        "21/100",
        "26/100",
    ]
    assert stream.getvalue().splitlines()[1].endswith("1 min 34 s left")


def test_a_plain_console_never_misses_a_validation_or_the_end():
    stream = io.StringIO()
    plain = Plain(9, stream, lambda: 0.0)
    for step in range(1, 10):
        plain.log({"eval/loss": 1.0} if step == 4 else METRICS, step)
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["1/9", "4/9", "9/9"]


def test_a_closed_console_stops_nothing():
    stream = io.StringIO()
    stream.close()
    plain = Plain(3, stream)
    plain.log(METRICS, 3)
    plain.say("still here")


def test_a_live_console_shows_text_as_it_is(capsys):
    live = Live(5)
    live.log(METRICS, 2)
    live.log({"eval/loss": 1.5}, 2)
    live.say("[bold]not markup[/bold]")
    live.close()
    said = capsys.readouterr().err
    assert "validation loss 1.5000" in said and "[bold]not markup[/bold]" in said


def module_that_listens(name, monkeypatch):
    heard = []
    module = types.ModuleType(name)
    module.init = lambda project, name, config, **more: heard.append(("init", project, name, config, more))
    module.log = lambda metrics, step: heard.append(("log", metrics, step))
    module.finish = lambda: heard.append(("finish",))
    module.api = types.SimpleNamespace(api_key=None)
    monkeypatch.setitem(sys.modules, name, module)
    return heard


@pytest.mark.parametrize(("name", "more"), [("trackio", {}), ("swanlab", {}), ("wandb", {"mode": "offline"})])
def test_modules_shaped_like_wandb_are_used_and_never_asked_for_a_login(name, more, tmp_path, monkeypatch):
    heard = module_that_listens(name, monkeypatch)
    adapter = WandbShaped(name, tmp_path, {"steps": 5})
    adapter.log(METRICS, 1)
    adapter.say("hello")
    adapter.close()
    assert heard == [("init", "firsthand", tmp_path.name, {"steps": 5}, more), ("log", METRICS, 1), ("finish",)]


def test_an_unknown_tracker_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"track='tensorbord' is not known; .* Did you mean 'tensorboard'"):
        trackers("tensorbord", tmp_path, 5, {})


def test_a_tracker_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "swanlab", None)
    with pytest.raises(ConfigError, match=r"track=swanlab needs a package that is not .* pip install swanlab"):
        trackers("swanlab", tmp_path, 5, {})


def test_by_default_only_the_run_itself_and_the_console_listen(tmp_path):
    assert [type(each).__name__ for each in trackers("none", tmp_path, 5, {})] == ["Lines", "Plain"]
