"""Settings: merged left to right, refused together, given back as they were."""

from dataclasses import field
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from firsthand import config
from firsthand.errors import ConfigError

STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=STRICT)
class Inner:
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 3e-4
    schedule: Literal["cosine", "wsd"] = "cosine"
    window: int | None = None
    betas: tuple[float, float] = (0.9, 0.95)
    name: str = ""


@dataclass(frozen=True, config=STRICT)
class Outer:
    out: str = "runs/x"
    train: Inner = field(default_factory=Inner)


def refusal(*words: str) -> str:
    with pytest.raises(ConfigError) as error:
        config.read(Outer, words)
    assert error.value.exit_code == 2
    return str(error.value)


def test_a_later_word_wins(tmp_path):
    first, second = tmp_path / "a.toml", tmp_path / "b.toml"
    first.write_text('out = "one"\n[train]\nlearning_rate = 0.5\nwindow = 3\n')
    second.write_text("[train]\nlearning_rate = 0.25\n")
    read = config.read(Outer, [first, second, "train.window=7"])
    assert (read.out, read.train.learning_rate, read.train.window) == ("one", 0.25, 7)


def test_a_word_is_toml_where_it_reads_as_toml():
    read = config.read(Outer, ["out=plain/path", "train.betas=[0.8, 0.9]", "train.schedule=wsd"])
    assert (read.out, read.train.betas, read.train.schedule) == ("plain/path", (0.8, 0.9), "wsd")


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"])),
    st.floats(1e-9, 1),
    st.none() | st.integers(1, 99),
)
def test_what_is_written_is_read_back(tmp_path_factory, name, rate, window):
    before = Outer(out=name, train=Inner(learning_rate=rate, window=window, name=name))
    path = tmp_path_factory.mktemp("config") / "config.toml"
    path.write_text(config.write(before), encoding="utf-8")
    assert config.read(Outer, [path]) == before


def test_all_problems_are_told_at_once_each_with_its_place(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text("# a comment\n[train]\nlearnig_rate = 3\nschedule = 'cosin'\n")
    message = refusal(str(path), "train.window=wide", "tran.x=1")
    assert message.startswith("4 problems in the settings:")
    assert f"unknown key 'train.learnig_rate' ({path}:3). Did you mean 'learning_rate'?" in message
    assert f"train.schedule is 'cosin' ({path}:4); it must be 'cosine' or 'wsd'. Did you mean 'cosine'?" in message
    assert "train.window is 'wide' (train.window=wide); it must be a valid integer" in message
    assert "unknown key 'tran' (tran.x=1). Did you mean 'train'?" in message


def test_a_value_out_of_range_names_the_range():
    assert refusal("train.learning_rate=3") == (
        "train.learning_rate is 3 (train.learning_rate=3); it must be less than or equal to 1. [FH033]"
    )


def test_a_word_that_is_nothing_says_what_a_word_can_be():
    message = refusal("nowhere.toml")
    assert "'nowhere.toml' is neither a TOML file nor section.key=value" in message
    assert "train.steps=200" in message


def test_broken_toml_names_file_and_line(tmp_path):
    path = tmp_path / "d.toml"
    path.write_text("[train\n")
    assert f"{path} is not TOML" in refusal(str(path))
    assert "line 1" in refusal(str(path))


def test_differences_name_only_what_changed():
    old, new = Outer(), Outer(train=Inner(window=5))
    assert config.differences(old, new) == ["train.window: None -> 5"]
