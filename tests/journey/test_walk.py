"""The journey: every stage once, an instant second walk, and one that goes on after it was stopped."""

import hashlib
import json

import pytest

from firsthand import files
from firsthand.checkpoint import bundle
from firsthand.data.tasks import right, tasks
from firsthand.journey import faster, real, stages, tuned, walk
from firsthand.model.config import ModelConfig
from firsthand.model.gpt import GPT
from firsthand.run.finetune import finetune
from firsthand.study import tuned_chapters
from firsthand.tokenizer.bpe import Tokenizer
from firsthand.tokenizer.styles import STYLES

SMALL = (
    "tokenizer.vocab_size=300",
    "model.n_layer=2",
    "model.n_head=2",
    "model.d_model=32",
    "model.context_length=64",
    "train.steps=3",
    "train.batch_size=2",
    "train.dtype=float32",
    "train.eval_every=0",
    "train.sample_every=2",
    "data.source=small",
)
NAMES = ["tokenizer", "data", "attention", "model", "pretrain", "generate", "weights", "cache", "quantize"]
TAUGHT = ["classify", "instruct", "ranks", "mask", "preferences"]


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The real stages on a text of some kilobytes, so that a walk takes seconds."""
    text = tmp_path / "small"
    text.mkdir()
    (text / "a.txt").write_text(
        "The function returns a list of strings, or raises an error if the file is not there.\n" * 90
    )
    monkeypatch.setattr(stages, "SETTINGS", SMALL)
    monkeypatch.setattr(
        stages.texts, "locate", lambda source: text if source in ("pydocs", "small") else tmp_path / source
    )
    monkeypatch.setattr("firsthand.run.train.locate", lambda source: text if source == "small" else tmp_path / source)
    monkeypatch.setattr(real, "MODEL", str(chat_model(tmp_path / "chat")))
    monkeypatch.setattr(real, "TOKENS", 24)
    monkeypatch.setattr(faster, "TOKENS", 128)
    monkeypatch.setattr("firsthand.run.quantize.sample_text", lambda paths: (text / "a.txt").read_text())
    monkeypatch.setattr(walk, "STAGES", of(NAMES))
    return tmp_path / "journey"


def chat_model(folder):
    """A tiny model that knows turns, though it has nothing to say."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer.train(["to be or not to be"], 262, "gpt2", special)
    config = ModelConfig(vocab_size=262, context_length=256, n_layer=2, n_head=2, d_model=16)
    ends = {"ends": [tokenizer.special_tokens["<|im_end|>"]]}
    return bundle.save(folder, GPT(config), tokenizer, ends, template=STYLES["chatml"].jinja)


def of(names):
    """The stages of these names, in their order."""
    return tuple(stage for stage in stages.STAGES if stage.__name__ in names)


@pytest.fixture
def teaching(small, tmp_path, monkeypatch):
    """The stages that teach the real model, on a few rows and a few steps."""
    spam, ham = "win a free prize now call {} {}", "see you at {} after {} then"
    numbers = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
    pairs = [(a, b) for a in numbers for b in numbers if a < b]
    rows = [f"{name}\t{text.format(*pair)}\n" for pair in pairs for name, text in (("spam", spam), ("ham", ham))]
    (tmp_path / "messages.tsv").write_text("label\ttext\n" + "".join(rows))
    monkeypatch.setattr(tuned, "MESSAGES", str(tmp_path / "messages.tsv"))
    monkeypatch.setattr(tuned, "EVERY", 1)
    monkeypatch.setattr(tuned, "GENERAL", str(tmp_path / "small"))
    monkeypatch.setattr(tuned, "PREFERRED", "no-such-preferences")
    monkeypatch.setattr(tuned, "TASK_COUNTS", {"train": 2, "validation": 1, "test": 1})
    few = ("train.steps=3", "train.warmup=1", "train.dtype=float32")
    for name in ("SPAM", "ANSWERS", "RANKS", "MASK", "PAIRS"):
        monkeypatch.setattr(tuned, name, (*getattr(tuned, name), *few))
    monkeypatch.setattr(walk, "STAGES", of(["weights", *TAUGHT]))
    return small


def go(out, fresh: bool = False) -> list[tuple[str, dict]]:
    told = []
    walk.walk(out, fresh, lambda name, result: told.append((name, result)))
    return told


def test_a_walk_does_every_stage_and_a_second_one_does_none(small):
    first = go(small)
    assert [name for name, _ in first] == NAMES
    assert all("kept" not in result and result["lines"] for _, result in first)
    page = (small / "report.html").read_text()
    assert "The journey of a language model" in page
    assert "<script" not in page
    before = (small / "report.html").stat().st_mtime_ns
    second = go(small)
    assert all(result["kept"] for _, result in second)
    assert (small / "report.html").stat().st_mtime_ns == before
    ladder = dict(first)["attention"]["ladder"]
    assert len(ladder) == 5
    assert max(row["max_difference"] for row in ladder) < 1e-10


def test_a_walk_that_was_stopped_goes_on_where_it_stopped(small, monkeypatch):
    def stop(trip):
        raise KeyboardInterrupt

    stop.__name__ = "model"
    whole = walk.STAGES
    monkeypatch.setattr(walk, "STAGES", (*whole[:3], stop, *whole[4:]))
    with pytest.raises(KeyboardInterrupt):
        go(small)
    monkeypatch.setattr(walk, "STAGES", whole)
    told = go(small)
    assert [name for name, result in told if result.get("kept")] == NAMES[:3]


def test_a_changed_program_repeats_the_stages_and_fresh_moves_the_old_aside(small, monkeypatch):
    go(small)
    monkeypatch.setattr(walk, "program", lambda: "another program")
    assert not any(result.get("kept") for _, result in go(small))
    go(small, fresh=True)
    aside = [path for path in small.parent.iterdir() if path.name.startswith("journey.")]
    assert len(aside) == 1


def test_a_damaged_result_is_made_again(small):
    go(small)
    (small / "stages" / "3-attention.json").write_text("{")
    told = dict(go(small))
    assert "kept" not in told["attention"]
    assert json.loads((small / "stages" / "3-attention.json").read_text())["result"]["ladder"]


def test_the_real_model_is_proved_and_answers(small):
    found = dict(go(small))["weights"]
    assert found["proof"]["exact"]
    assert len(found["asked"]) == len(real.QUESTIONS)
    page = (small / "report.html").read_text()
    assert "Is every form the same model?" in page


def test_what_is_fast_and_small_is_measured_and_drawn(small):
    told = dict(go(small))
    times = told["cache"]["milliseconds"]
    assert set(times) == {"without a cache", "with a cache", "fast engine"}
    assert all(len(its) == len(told["cache"]["positions"]) == 3 for its in times.values())
    forms = [row["form"] for row in told["quantize"]["rows"]]
    assert forms[0] == "original" and "int4 gptq" in forms
    page = (small / "report.html").read_text()
    assert "What a cache saves" in page and "What fewer bits cost" in page and page.count("<svg") >= 10


def test_a_real_model_that_cannot_be_had_is_left_out_and_tried_again(small, monkeypatch, tmp_path):
    monkeypatch.setenv("FIRSTHAND_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(real, "MODEL", "gpt2")
    told = dict(go(small))
    assert "cannot be fetched here" in told["weights"]["lines"][0]
    assert "cannot be fetched here" in (small / "report.html").read_text()
    assert "kept" not in dict(go(small))["weights"]
    assert dict(go(small))["generate"]["kept"]


def test_the_real_model_is_taught_and_every_chapter_has_a_figure(teaching):
    told = dict(go(teaching))
    assert list(told) == ["weights", *TAUGHT]
    page = (teaching / "report.html").read_text()
    for name in TAUGHT:
        assert "left_out" not in told[name]
        title = tuned_chapters.MAKERS[name](told[name]).title
        assert "<svg" in page.partition(f"<h2>{title}</h2>")[2].partition("<h2>")[0], name
    assert "made of tasks" in told["preferences"]["lines"][0]
    assert told["instruct"]["scores"]["tasks_solved"]["model"]["count"] == len(told["instruct"]["asked"]) == 23
    assert not any(cell["error"] for name in ("ranks", "mask") for cell in told[name]["told"]["cells"])
    assert not list((teaching / "tuned").rglob("step-*"))
    assert len(list((teaching / "tuned").glob("*/report.json"))) == 5


def test_teaching_that_was_stopped_goes_on_from_its_checkpoint(teaching, monkeypatch):
    monkeypatch.setattr(walk, "STAGES", of(["weights"]))
    go(teaching)
    words = (*tuned.SPAM, f"data.source={tuned.MESSAGES}", "train.save_every=1", "train.keep=9")
    folder = teaching / "tuned" / f"classify-{hashlib.sha256(repr(words).encode()).hexdigest()[:8]}"
    finetune(f"model={teaching / 'real'}", f"out={folder}", *words)
    (folder / "report.json").unlink()  # as if it had been killed in step 3
    files.discard(folder / "step-000003")
    report, again = tuned.taught(teaching, "classify", words)
    records = [json.loads(line) for line in (again / "metrics.jsonl").read_text().splitlines()]
    assert again == folder and report["steps"] == 3
    assert [one["train/global_step"] for one in records if "train/loss" in one] == [1, 2, 3]
    assert not list(folder.glob("step-*"))


def test_without_the_real_model_nothing_is_taught(teaching, monkeypatch, tmp_path):
    monkeypatch.setenv("FIRSTHAND_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(real, "MODEL", "gpt2")
    told = dict(go(teaching))
    assert all(told[name]["left_out"] == told["weights"]["left_out"] for name in TAUGHT)
    assert not (teaching / "tuned").exists()


@pytest.mark.parametrize(("part", "count"), tuned.PAIR_COUNTS.items())
def test_a_made_pair_prefers_the_right_answer_to_a_wrong_one(part, count):
    made, known = tuned.made_pairs(part, count), {task.question: task for task in tasks(part)}
    assert len({pair["prompt"] for pair in made}) == count
    assert all(right(known[pair["prompt"]], pair["chosen"]) for pair in made)
    assert not any(right(known[pair["prompt"]], pair["rejected"]) for pair in made)
