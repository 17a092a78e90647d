"""A grid becomes cells: expanded by hand, named, and refused where two would be one."""

import pytest

from firsthand.errors import ConfigError
from firsthand.study.cells import Cell, axis, cells, seeds_of


def test_a_grid_of_two_keys_and_two_seeds_by_hand():
    made = cells("finetune", ["model=m"], ["lora.rank=8,16", "train.learning_rate=1e-4,3e-4"], [1, 2])
    assert [(cell.point, cell.seed) for cell in made] == [
        ("rank=8,learning_rate=1e-4", 1), ("rank=8,learning_rate=1e-4", 2),
        ("rank=8,learning_rate=3e-4", 1), ("rank=8,learning_rate=3e-4", 2),
        ("rank=16,learning_rate=1e-4", 1), ("rank=16,learning_rate=1e-4", 2),
        ("rank=16,learning_rate=3e-4", 1), ("rank=16,learning_rate=3e-4", 2),
    ]  # fmt: skip
    assert made[3].words == ("model=m", "lora.rank=8", "train.learning_rate=3e-4")
    assert made[3].name == "rank=8,learning_rate=3e-4,seed=2"
    assert len({cell.name for cell in made}) == 8


def test_no_grid_is_one_point():
    (only,) = cells("train", [], [], [7])
    assert (only.point, only.name, only.words) == ("", "seed=7", ())


def test_a_value_may_hold_commas_inside_brackets_or_quotes():
    assert axis('lora.patterns=["attention.*","mlp.*"],["attention.q"]') == (
        "lora.patterns", ['["attention.*","mlp.*"]', '["attention.q"]'],
    )  # fmt: skip
    assert axis('task.frame="{text}, so?",{text}') == ("task.frame", ['"{text}, so?"', "{text}"])


def test_keys_with_the_same_last_part_keep_their_section():
    made = cells("finetune", [], ["data.seed=1,2", "model.seed=3"], [0])
    assert made[0].point == "data.seed=1,model.seed=3"


def test_what_a_folder_cannot_hold_gets_a_hash_and_stays_apart():
    names = {Cell("finetune", f"source=a{sign}b", 1, ()).name for sign in ("/", "\\", "\t", "\n")}
    assert len(names) == 4
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_,=-") for name in names)
    assert Cell("finetune", "a, b c", 1, ()).name == "a,b-c,seed=1"
    assert len(Cell("finetune", "x" * 500, 1, ()).name) < 100


@pytest.mark.parametrize(
    ("verb", "words", "grid", "message"),
    [
        ("finetun", [], [], "'finetun' cannot be swept; use finetune or train. Did you mean 'finetune'?"),
        ("finetune", [], ["train.seed=1,2"], "train.seed is set by the sweep itself; leave it out, and use --seeds"),
        ("finetune", ["out=a"], [], "out is set by the sweep itself; leave it out, and use --out DIR"),
        ("finetune", ["lora.rank=4"], ["lora.rank=8,16"], "lora.rank is set twice"),
        ("finetune", [], ["a.b=1", "a.b=2"], "a.b is set twice"),
        ("finetune", [], ["lora.rank"], "--grid 'lora.rank' is not a key with values; as in"),
        ("finetune", [], ["lora.rank="], "is not a key with values"),
        ("finetune", [], ["lora.rank=8,8"], "names a value twice"),
    ],
)
def test_what_cannot_be_swept_is_refused(verb, words, grid, message):
    with pytest.raises(ConfigError) as error:
        cells(verb, words, grid, [1])
    assert message in str(error.value)


@pytest.mark.parametrize(("text", "message"), [("1,x", "not a list of whole numbers"), ("", "not a"), ("2,2", "twice")])
def test_seeds_that_are_none_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        seeds_of(text)
