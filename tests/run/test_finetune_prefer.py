"""A run that teaches preferences: what it reports, and that it begins at the reference or not at all."""

import json
import math
from copy import deepcopy

import pytest
import torch
from talkers import everything, jsonl, place, same

from firsthand.checkpoint import bundle
from firsthand.cli.main import main
from firsthand.errors import ConfigError, DataError, ModelError
from firsthand.linear import lora
from firsthand.linear.kinds import change
from firsthand.objectives.preference import Preference, answer_logps
from firsthand.run import finetune as tuning
from firsthand.run.tuning import read_tuning


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return everything(tmp_path_factory.mktemp("words"))["prefer"]


@pytest.fixture(scope="module")
def run(words, tmp_path_factory):
    return tuning.finetune(*words, "train.steps=30", place(tmp_path_factory.mktemp("runs") / "a"))


def base_of(words):
    return bundle.load(next(word for word in words if word.startswith("model=")).removeprefix("model="))


def metrics(run):
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def test_the_report_holds_rewards_and_log_probabilities_before_and_after(run):
    report = json.loads((run.path / "report.json").read_text())
    assert report == json.loads(json.dumps(run.report))
    test = report["test"]
    assert test["loss"]["untuned"]["mean"] == pytest.approx(math.log(2))
    assert test["loss"]["model_against_untuned"]["verdict"] == "better"
    assert test["reward_accuracy"]["model"]["mean"] == 1  # "yes" before "no" is easily learned
    low, high = test["reward_margin"]["model"]["interval_95"]
    assert 0 < low <= test["reward_margin"]["model"]["mean"] <= high
    margin = 0.1 * sum(
        sign * test[f"logps_{name}"]["model_against_untuned"]["difference"]
        for sign, name in ((1, "chosen"), (-1, "rejected"))
    )
    assert test["reward_margin"]["model"]["mean"] == pytest.approx(margin)
    assert test["loss"]["model"]["count"] == report["rows"]["test"] == 9
    assert test["logps_rejected"]["model_against_untuned"]["verdict"] == "better"  # it fell, as it should
    assert test["both_fell"] is (test["logps_chosen"]["model_against_untuned"]["difference"] < 0)


def test_the_log_probabilities_are_those_of_the_checkpoints_themselves(run, words):
    task = tuning.TASKS["prefer"](read_tuning([*words, f"out={run.path}"]))
    rows = task.examples(base_of(words))["test"]
    batch = Preference().collate(rows)
    for name, model in (("untuned", base_of(words).model), ("model", run.bundle.model)):
        chosen, rejected = answer_logps(model.eval(), batch).detach().chunk(2)
        assert run.report["test"]["logps_chosen"][name]["mean"] == pytest.approx(float(chosen.mean()), rel=1e-5)
        assert run.report["test"]["logps_rejected"][name]["mean"] == pytest.approx(float(rejected.mean()), rel=1e-5)


def test_training_and_validation_log_what_is_worth_watching(run):
    lines = metrics(run)
    names = {f"rewards/{name}" for name in ("chosen", "rejected", "margins", "accuracies")}
    names |= {"logps/chosen", "logps/rejected", "loss"}
    first = next(line for line in lines if "train/loss" in line)
    assert {f"train/{name}" for name in names} <= first.keys()
    assert first["train/loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert first["train/rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert {f"eval/{name}" for name in names} <= next(line for line in lines if "eval/loss" in line).keys()


def test_a_pair_moves_a_run_on_by_one_example(run):
    last = [line for line in metrics(run) if "train/epoch" in line][-1]
    assert last["train/epoch"] == pytest.approx(30 * 6 / run.report["rows"]["train"])


@pytest.mark.parametrize(("loss", "thaw"), [("ipo", "lora"), ("orpo", "all"), ("simpo", "lora")])
def test_every_loss_teaches(words, tmp_path, loss, thaw):
    made = tuning.finetune(*words, f"task.loss={loss}", f"task.thaw={thaw}", "train.steps=20", place(tmp_path / "a"))
    assert made.report["test"]["reward_accuracy"]["model"]["mean"] > 0.8
    assert made.report["settings"]["task"]["loss"] == loss


def test_the_preferred_model_can_be_merged_and_taught_further(words, tmp_path):
    first = tuning.finetune(*words, "task.thaw=lora", "train.steps=2", place(tmp_path / "a"))
    assert main(["merge", str(first.path), "--out", str(tmp_path / "merged")]) == 0
    again = tuning.finetune(*words, f"model={tmp_path / 'merged'}", "train.steps=2", place(tmp_path / "b"))
    assert again.report["test"]["loss"]["untuned"]["mean"] == pytest.approx(math.log(2))


# ---- the first step ----


def begun(words, adapters):
    model = base_of(words).model
    if adapters:
        change(model, "lora", ["attention.*"], {"rank": 2})
        lora.initialise(model, "default", seed=0)
    objective = Preference()
    objective.prepare(model)
    batch = objective.collate([(([1, 2, 3, 4], [0, 0, 1, 1]), ([1, 2, 5], [0, 0, 1]))])
    return model, objective, batch


@pytest.mark.parametrize("adapters", [False, True])
def test_a_run_begins_at_its_reference_which_stays_as_it_is(words, adapters):
    model, objective, batch = begun(words, adapters)
    before = deepcopy(model)
    objective.check(model, batch)
    assert same(model, before)


def test_a_reference_that_learns_too_is_refused(words):
    model, objective, batch = begun(words, False)
    objective.reference = model
    with pytest.raises(ModelError, match="the reference would learn together with the model"):
        objective.check(model, batch)
    model, objective, batch = begun(words, True)
    model.requires_grad_(True)
    with pytest.raises(ModelError, match="the reference would learn together with the model"):
        objective.check(model, batch)


def test_a_model_that_is_not_its_reference_is_refused(words):
    model, objective, batch = begun(words, True)
    for layer in lora.adapted(model):
        layer.adapter("default").b.data.normal_(generator=torch.Generator().manual_seed(0))
    with pytest.raises(
        ModelError, match=r"before the first step the margin is .*Merge adapters first: firsthand merge"
    ):
        objective.check(model, batch)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("task.learn=all", "task.learn belongs to task.kind=instruct, and the task is prefer"),
        ('data.labels=["a"]', "data.labels belongs to task.kind=classify"),
        ("task.thaw=head", "task.thaw=head is a new head of labels"),
        ("task.margin=0.7", "task.margin belongs to task.loss=simpo, and the loss is dpo"),
        ("task.smoothing=0.6", "task.smoothing is 0.6"),
        ("task.beta=0", "task.beta is 0"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(words, word, message):
    with pytest.raises(ConfigError) as caught:
        read_tuning([*words, word])
    assert message in str(caught.value)


def test_smoothing_is_for_dpo(words, tmp_path):
    with pytest.raises(ConfigError, match="smoothing belongs to dpo, and the loss is ipo"):
        tuning.plan(*words, "task.smoothing=0.1", "task.loss=ipo")


def test_too_many_pairs_of_one_answer_are_refused_and_a_few_counted(words, tmp_path):
    pair, none = {"prompt": "a", "chosen": "x", "rejected": "y"}, {"prompt": "b", "chosen": "x", "rejected": "x"}
    good = [{**pair, "prompt": f"{one}?"} for one in range(160)]
    planned = tuning.plan(*words, f"data.source={jsonl(tmp_path / 'a.jsonl', [*good, none])}")
    assert planned["dropped"] == 1
    with pytest.raises(DataError, match=r"2 of .* rows of the train part are bad \(2 same twice"):
        tuning.plan(*words, f"data.source={jsonl(tmp_path / 'b.jsonl', [*good, none, none])}")
