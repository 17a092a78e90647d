"""A run that teaches answers: what it reports, what it refuses, and a model in fewer bits that learns by adapters."""

import json
from pathlib import Path

import pytest
import torch
from talkers import END, SHAPE, THINGS, WORDS, everything, jsonl, place, same, speaker, text

from firsthand.checkpoint import bundle
from firsthand.data.tasks import tasks
from firsthand.errors import ConfigError, DataError, ModelError
from firsthand.evaluate.answering import answer_loss, replies
from firsthand.infer.generate import Sampling, Writer
from firsthand.linear.shrink import shrink
from firsthand.model import sizes
from firsthand.run import finetune as tuning
from firsthand.run.instruct import verified
from firsthand.run.tuning import read_tuning
from firsthand.tokenizer.chat import Chat, Turn

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return everything(tmp_path_factory.mktemp("words"))["instruct"]


@pytest.fixture(scope="module")
def run(words, tmp_path_factory):
    return tuning.finetune(*words, "train.steps=60", place(tmp_path_factory.mktemp("runs") / "a"))


def base_of(words):
    return Path(next(word for word in words if word.startswith("model=")).removeprefix("model="))


def test_the_report_holds_every_measure_for_the_model_and_for_the_untuned_one(run):
    report = json.loads((run.path / "report.json").read_text())
    assert report == json.loads(json.dumps(run.report))
    assert (
        report["rows"]["train"] + report["rows"]["validation"] + report["rows"]["test"] == report["rows"]["rows"] == 91
    )
    assert (report["seed"], report["steps"], report["task"]) == (0, 60, "instruct")
    assert report["tokens"] > 60 * 6 * 20
    for name in ("answer_loss", "exact_match", "rouge_l"):
        for who in ("model", "untuned"):
            low, high = report["test"][name][who]["interval_95"]
            assert low <= report["test"][name][who]["mean"] <= high
        against = report["test"][name]["model_against_untuned"]
        apart = report["test"][name]["model"]["mean"] - report["test"][name]["untuned"]["mean"]
        assert against["difference"] == pytest.approx(apart)
        assert against["interval_95"][0] <= against["difference"] <= against["interval_95"][1]
    assert report["test"]["answer_loss"]["model_against_untuned"]["verdict"] == "better"
    assert report["test"]["answer_loss"]["model"]["count"] == report["rows"]["test"] == 9
    assert report["test"]["asked"] == report["test"]["rouge_l"]["model"]["count"] == 5
    bits = report["forgetting"]["bits_per_byte"]
    apart = bits["model"]["mean"] - bits["untuned"]["mean"]
    assert bits["model_against_untuned"]["difference"] == pytest.approx(apart)
    assert bits["model_against_untuned"]["verdict"] == ("better" if apart < 0 else "worse")
    assert report["preflight"]["ready"] is True
    assert set(report["cost"]["seconds"]) == {"trunk", "training", "test", "all"}


def test_the_loss_before_and_after_is_that_of_the_checkpoints_themselves(run, words):
    task = tuning.TASKS["instruct"](read_tuning([*words, f"out={run.path}"]))
    rows = task.examples(bundle.load(base_of(words)))["test"]
    for name, model in (("untuned", bundle.load(base_of(words)).model), ("model", run.bundle.model)):
        assert run.report["test"]["answer_loss"][name]["mean"] == pytest.approx(answer_loss(model, rows).loss)


def test_what_was_learned_can_be_spoken_to_and_ends_its_answers(run):
    chat = Chat(run.bundle.template, run.bundle.tokenizer, run.bundle.ends)
    asked = [chat.prompt([Turn("user", f"{a} moon?")]) for a in THINGS]
    assert all(len(said) < 5 for said in replies(run.bundle, asked, chat.ends, 20))  # it learned that there is an end
    assert json.loads((run.path / "answers.jsonl").read_text().splitlines()[0]).keys() == {
        "question", "wanted", "model", "untuned",
    }  # fmt: skip


def test_many_answers_at_once_are_those_given_one_by_one(run):
    spoken = bundle.Bundle(run.bundle.model.double(), run.bundle.tokenizer, run.bundle.about, run.path)
    chat = Chat(run.bundle.template, spoken.tokenizer, spoken.ends)
    asked = [chat.prompt([Turn("user", text)]) for text in ("a?", "boat coat?", "A longer question, is it?", "kite b?")]
    writer = Writer(spoken, Sampling(9, temperature=0, top_k=0), ends=chat.ends)
    apart = ["".join(token.text for token in writer.answer(prompt)) for prompt in asked]
    assert replies(spoken, asked, chat.ends, 9) == apart
    assert replies(spoken, asked, chat.ends, 9, batch_size=2) == apart
    full = asked[0] + [97] * (72 - len(asked[0]))  # the context is full: one token can still be said
    said = spoken.tokenizer.decode([int(spoken.model(torch.tensor([full]))[0, -1].argmax())])
    assert replies(spoken, [full, asked[0]], [], 9)[0] == said
    run.bundle.model.float()


def test_the_answers_of_tasks_are_checked_by_the_program(tmp_path):
    base = speaker(tmp_path / "model", context_length=160)
    words = (*WORDS, f"model={base}", "data.source=tasks", "task.kind=instruct", "train.steps=1", "task.asked=46")
    report = tuning.finetune(
        *words, "task.answer_tokens=2", f"data.general={text(tmp_path / 'general.txt')}", place(tmp_path / "a")
    ).report
    assert (report["rows"]["train"], report["rows"]["validation"], report["rows"]["test"]) == (552, 138, 368)
    solved = report["test"]["tasks_solved"]
    assert solved["model"]["count"] == sum(kind["count"] for kind in solved["model"]["kinds"].values()) == 46
    assert len(solved["model"]["kinds"]) == 23
    assert solved["model_against_untuned"]["verdict"] == "not distinguishable"


def test_tasks_can_be_asked_besides(run, words, tmp_path):
    with pytest.raises(ConfigError, match=r"tasks of up to \d+ tokens, and the context has 72; use task\.solve=0"):
        tuning.finetune(*words, "task.solve=23", place(tmp_path / "a"))
    base = speaker(tmp_path / "model", context_length=160)
    asked = (*words, f"model={base}", "task.solve=23", "task.answer_tokens=4")
    report = tuning.finetune(*asked, "train.steps=1", place(tmp_path / "b")).report
    solved = report["test"]["tasks_solved"]
    assert solved["model"]["count"] == solved["untuned"]["count"] == 23
    assert len(report["test"]["examples"]["tasks_named"]) == len(report["test"]["examples"]["tasks_solved"]) == 23
    assert "tasks_solved" not in run.report["test"]
    with pytest.raises(ConfigError, match=r"the test part is tasks already; use task\.asked"):
        tuning.finetune(*asked, "data.source=tasks", place(tmp_path / "c"))


def test_an_answer_in_a_sentence_names_a_solution_and_is_none():
    given = tasks("test")[:3]
    said = [given[0].answer, f"I think that it is {given[1].answer}, indeed.", "Nobody knows."]
    examples = verified(given, {"model": said})["examples"]
    assert (examples["tasks_solved"], examples["tasks_named"]) == ([1, 0, 0], [1, 1, 0])


def test_a_frozen_trunk_gives_the_loss_of_the_whole_model(words, tmp_path, monkeypatch):
    with_trunk = tuning.finetune(*words, "task.thaw=block", place(tmp_path / "a"))
    monkeypatch.setattr(tuning, "_trunk", lambda *given: None)
    without = tuning.finetune(*words, "task.thaw=block", place(tmp_path / "b"))
    before, after = bundle.load(base_of(words)).model, with_trunk.bundle.model
    for part in ("embed", "blocks.0", "blocks.1"):
        assert same(before.get_submodule(part), after.get_submodule(part))
    assert not same(before.blocks[2], after.blocks[2])
    a, b = (run.report["test"]["answer_loss"]["model"]["mean"] for run in (with_trunk, without))
    assert a == pytest.approx(b, rel=1e-4)


def test_a_style_is_kept_with_the_model(words, tmp_path):
    base, rows = speaker(tmp_path / "model", context_length=260), [{"prompt": t, "completion": "y"} for t in THINGS]
    asked = (f"model={base}", f"data.source={jsonl(tmp_path / 'rows.jsonl', rows)}", "task.style=alpaca")
    made = tuning.finetune(*words, *asked, "train.steps=1", "task.asked=0", place(tmp_path / "a"))
    assert "### Instruction:" in (made.bundle.template or "")
    assert made.report["rows"]["written_as"] == "alpaca"
    assert made.bundle.ends == (256,)


def test_a_plan_says_rows_and_cost_and_writes_nothing(run, words, tmp_path):
    planned = tuning.plan(*words, "train.steps=60", f"out={tmp_path / 'planned'}")
    for key in ("train", "test", "learned_share", "parameters_learned", "training_tokens"):
        assert planned[key] == (run.report["rows"] | run.report["cost"])[key]
    assert not (tmp_path / "planned").exists()


# ---- what is refused ----

TEMPLATES = {
    "0 % of the tokens are learned": "{% for m in messages %}{{ m.content }}" + END + "{% endfor %}{% generation %}"
    "{% endgeneration %}",
    "100 % of the tokens are learned, the questions too": "{% generation %}{% for m in messages %}{{ m.content }}"
    + END
    + "{% endfor %}{% endgeneration %}",
    "the token that ends an answer is never learned": "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}{% endgeneration %}" + END + "{% else %}{{ m.content }}{% endif %}{% endfor %}",
}  # fmt: skip


@pytest.mark.parametrize("what", TEMPLATES)
def test_a_mask_that_cannot_teach_is_refused_before_the_first_step(words, tmp_path, what):
    base, told = speaker(tmp_path / "model", TEMPLATES[what]), []
    with pytest.raises(DataError, match=what):
        tuning.finetune(*words, f"model={base}", place(tmp_path / "a"), tell=lambda name, facts: told.append(name))
    assert told == ["rows"]  # what was found is shown also where it is refused
    assert not list((tmp_path / "a").glob("step-*"))


def test_everything_may_be_learned_if_that_is_asked_for(words, tmp_path):
    what = "100 % of the tokens are learned, the questions too"
    base = speaker(tmp_path / "model", TEMPLATES[what])
    made = tuning.finetune(*words, f"model={base}", "task.learn=all", "train.steps=1", place(tmp_path / "a"))
    assert made.report["rows"]["learned_share"] == 1


def test_a_question_in_two_parts_is_refused_unless_allowed(words, tmp_path):
    test = jsonl(
        tmp_path / "test.jsonl", [{"prompt": "BOAT boat", "completion": "bo"}, {"prompt": "x", "completion": "y"}]
    )
    with pytest.raises(DataError, match=r"questions of the test part stand in train.*data.allow_leakage=true"):
        tuning.finetune(*words, f"data.test={test}", place(tmp_path / "a"))
    allowed = (*words, f"data.test={test}", "data.allow_leakage=true", "train.steps=1")
    made = tuning.finetune(*allowed, place(tmp_path / "b"))
    assert made.report["rows"]["test_questions_also_in_training"] >= 1
    assert made.report["rows"]["test"] == 2


def test_an_empty_part_is_refused(words, tmp_path):
    few = jsonl(tmp_path / "few.jsonl", [{"prompt": "x", "completion": "y"}])
    with pytest.raises(DataError, match="part is empty"):
        tuning.finetune(*words, f"data.source={few}", place(tmp_path / "a"))


def test_what_is_too_long_is_shortened_or_dropped_and_counted(words, tmp_path):
    rows = [{"prompt": f"{a} {b}?", "completion": a[:2]} for a in THINGS for b in THINGS[:3]]
    long = {"prompt": "far " * 30, "completion": "no"}
    turns = [{"role": role, "content": text} for role, text in (("user", "hm?"), ("assistant", "oh"))]
    path = jsonl(tmp_path / "rows.jsonl", [*rows, long, {"messages": turns + turns}])
    planned = tuning.plan(*words, f"data.source={path}", "data.longest=48", f"out={tmp_path / 'a'}")
    assert (planned["dropped"], planned["shortened"]) == (1, 1)
    assert "rows.jsonl:40 longer than the context" in planned["first_dropped"][0]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("task.frame={text} so?", "task.frame belongs to task.kind=classify, and the task is instruct; leave it out"),
        ("task.weights=balanced", "task.weights belongs to task.kind=classify"),
        ("data.balance=all", "data.balance belongs to task.kind=classify"),
        ("task.beta=0.2", "task.beta belongs to task.kind=prefer"),
        ("task.thaw=head", "task.thaw=head is a new head of labels"),
        ("task.learn=some", "task.learn is 'some'"),
        ("task.style=poem", "task.style is 'poem'"),
    ],
)
def test_a_key_of_another_task_is_refused_in_one_line(words, word, message):
    with pytest.raises(ConfigError) as caught:
        read_tuning([*words, word])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_of_a_task_follow_from_it_and_adapters_learn_faster():
    full, slow = (read_tuning([CONFIGS / name, "model=any"]) for name in ("instruct.toml", "prefer.toml"))
    assert (full.task.kind, full.data.source, full.data.test_fraction) == ("instruct", "instruction-data", 0.1)
    assert (slow.task.kind, slow.data.source, slow.task.thaw) == ("prefer", "preference-data", "lora")
    usual = [read_tuning(["model=any", "task.kind=instruct", f"task.thaw={thaw}"]) for thaw in ("all", "lora")]
    assert usual[0].train.learning_rate < usual[1].train.learning_rate
    assert read_tuning([CONFIGS / "instruct-lora.toml", "model=any"]).task.thaw == "lora"


# ---- a model in fewer bits ----


@pytest.mark.parametrize("kind", ["int8", pytest.param("int4", marks=pytest.mark.deep), "nf4"])
def test_a_model_in_fewer_bits_learns_by_adapters_and_keeps_its_whole_numbers(words, tmp_path, kind):
    base = bundle.load(base_of(words))
    settings = {"int8": {}, "int4": {"group": 8, "symmetric": False}, "nf4": {"group": 8}}[kind]
    shrink(base.model, kind, settings)
    small = bundle.save(tmp_path / "small", base.model, base.tokenizer, base.about, template=base.template)
    made = tuning.finetune(
        *words, f"model={small}", "task.thaw=lora", "lora.rank=2", "train.steps=30", place(tmp_path / "a")
    )
    assert made.report["test"]["answer_loss"]["model_against_untuned"]["verdict"] == "better"
    task = tuning.TASKS["instruct"](read_tuning([*words, f"out={made.path}"]))
    rows = task.examples(bundle.load(small))["test"]  # measured with plain layers, which must not change a number
    assert made.report["test"]["answer_loss"]["model"]["mean"] == pytest.approx(
        answer_loss(made.bundle.model, rows).loss
    )
    before, after = bundle.load(small).model.state_dict(), made.bundle.model.state_dict()
    kept = [name for name in after if ".adapters." not in name]
    assert len(kept) == len(before)
    assert made.report["cost"]["parameters"] - made.report["cost"]["parameters_learned"] == sizes.parameters(SHAPE)
    assert all(torch.equal(after[name], before[name.replace(".base.", ".")]) for name in kept)
    with pytest.raises(ModelError, match=r"is quantized .*task.thaw=all would learn them. Use task.thaw=lora"):
        tuning.finetune(*words, f"model={small}", "task.thaw=all", place(tmp_path / "b"))


def test_a_model_with_adapters_is_to_be_merged_first(words, tmp_path):
    first = tuning.finetune(*words, "task.thaw=lora", "lora.rank=2", "train.steps=1", place(tmp_path / "a"))
    for thaw in ("all", "lora"):
        with pytest.raises(ConfigError, match="has adapters already; merge them first: firsthand merge"):
            tuning.finetune(*words, f"model={first.path}", f"task.thaw={thaw}", place(tmp_path / thaw))
