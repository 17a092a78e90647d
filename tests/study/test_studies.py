"""The ready studies: their cells, and what they conclude from numbers made by hand; one is run, with a tiny model."""

import json

import pytest
from test_page import assert_harmless

from firsthand.cli.main import main
from firsthand.run.tuning import read_tuning
from firsthand.study import lora_rank, mask, spam
from firsthand.study.ready import STUDIES, study
from firsthand.study.sweep_page import cells_of

GOOD, FAIR, BAD = [1] * 57 + [0] * 3, [1] * 56 + [0] * 4, [1] * 31 + [0] * 29
MINE = "https://example.org/<script>"


def result(point, seed, scores, loss=1.0, **more):
    return {
        "name": f"{point},seed={seed}", "point": point, "seed": seed, "words": [], "error": None,
        "validation_loss": loss, "scores": scores, "peak_bytes": 2_000_000_000, "parameters_learned": 50,
        "rows": {"test": 60, "test_texts_also_in_training": 9, "test_texts_like_one_in_training": 11},
        "seconds": {"cell": 9.0, "training": 7.0},
    } | more  # fmt: skip


def page_of(told, results, sections, tmp_path):
    """The page of a conclusion: it opens, and asks for nothing."""
    from firsthand.study.sweep_page import write

    told = {"command": f"firsthand study {MINE}", **told, "cells": cells_of(results)}
    content = write(tmp_path, "A study", told, sections(told)).read_text()
    assert_harmless(content)
    return content


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("size", ["short", "cpu", "gpu"])
def test_every_cell_of_every_study_is_a_run_that_can_be_read(name, size):
    made = study(name, ["train.clip=3"], [4, 5], size)
    cells = [*made.first, *made.later]
    assert len({cell.name for cell in cells}) == len(cells)
    for cell in cells:
        settings = read_tuning(cell.words)
        assert settings.train.clip == 3
        assert settings.train.steps > settings.train.warmup


def test_spam_compares_ten_arms_on_two_splits():
    made = spam.spam(seeds=(1, 2))
    assert len(made.first) == 2 * 10 * 2
    by_name = {cell.point: read_tuning(cell.words) for cell in made.first}
    assert by_name["leaky, random weights"].task.start == "random"
    assert by_name["leaky, random weights"].data.split == "leaky"
    assert by_name["leak-free, first token"].task.reads == "first"
    assert not by_name["leaky, padded"].data.pack
    assert by_name["leak-free, LoRA 16"].lora.rank == 16


def spam_results():
    arms = {"last block": GOOD, "head only": FAIR, "first token": BAD}
    return [
        result(f"{split}, {arm}", seed, {"accuracy": right, "loss": [0.1] * 60})
        for split in ("leak-free", "leaky")
        for arm, right in arms.items()
        for seed in (1, 2)
    ]


def test_spam_concludes_against_the_usual_arm_and_across_the_splits(tmp_path):
    results = spam_results()
    told = spam.conclude(results)
    pairs = {pair["first"]: pair["verdict"] for pair in told["splits"]["leak-free"]["comparisons"]}
    assert pairs == {"head only": "not distinguishable", "first token": "worse"}
    assert told["verdict"].startswith("Leak-free, training the last block reaches 95.0% [")
    assert "first token: worse; head only: not distinguishable." in told["verdict"]
    assert "with 9 of its 60 test texts also in training, says +0.0 points [" in told["verdict"]
    assert told["verdict"].endswith("not distinguishable.")
    content = page_of(told, results, spam.sections, tmp_path)
    for word in ("The leak-free split", "The leaky split", "What the leak is worth", "The arms"):
        assert word in content


def test_the_leak_is_a_difference_of_independent_numbers():
    clean = [[1] * 80 + [0] * 20, [1] * 80 + [0] * 20]
    leaky = [[1] * 99 + [0] * 1, [1] * 99 + [0] * 1]
    results = [
        result(f"{split}, last block", seed, {"accuracy": its[seed - 1], "loss": [0.0] * 100})
        for split, its in (("leak-free", clean), ("leaky", leaky))
        for seed in (1, 2)
    ]
    gap = spam.conclude(results)["leak"]["last block"]
    assert gap["difference"] == pytest.approx(0.19)
    low, high = gap["interval_95"]  # standard errors 0.04 and 0.00995: 1.96 * 0.0412 = 0.081 to each side
    assert low == pytest.approx(0.109, abs=0.015)
    assert high == pytest.approx(0.271, abs=0.015)


def test_spam_without_its_usual_arm_says_so():
    results = [one | ({"error": "no"} if "last block" in one["point"] else {}) for one in spam_results()]
    assert "last block did not end well on the leak-free split" in spam.conclude(results)["verdict"]


def rank_results(small, large, full):
    """Two ranks and full fine-tuning; per arm two rates under seed 1, of which the second is better, then seed 2."""
    layer = {"layer": "blocks.0.mlp.up", "relative": 0.1, "rank_for": {"0.9": 40}, "held": {"8": 0.5, "64": 0.95}}
    other = layer | {"layer": "blocks.1.mlp.up", "rank_for": {"0.9": 60}, "held": {"8": 0.3, "64": 0.85}}
    results = []
    for arm, right, learned in (("rank 8", small, 5), ("rank 16", large, 10), ("full", full, 100)):
        more = {"spectrum": [layer, other]} if arm == "full" else {}
        score = {"solved": right}
        results.append(result(f"{arm}, rate 1e-3", 1, {"solved": BAD}, 0.9, parameters_learned=learned))
        results.append(result(f"{arm}, rate 3e-3", 1, score, 0.7, parameters_learned=learned, **more))
        results.append(result(f"{arm}, rate 3e-3", 2, score, 0.8, parameters_learned=learned))
    return results


def test_a_rate_is_chosen_by_the_validation_loss_of_the_first_seed():
    results = rank_results(GOOD, GOOD, GOOD)
    results[0]["scores"] = {"solved": [1] * 60}  # the best on the test has no say
    assert lora_rank.choose(results) == {"rank 8": "3e-3", "rank 16": "3e-3", "full": "3e-3"}
    results[1]["error"] = "no"
    assert lora_rank.choose(results)["rank 8"] == "1e-3"


def test_the_cells_of_other_seeds_follow_the_chosen_rates():
    made = lora_rank.lora_rank(seeds=(1, 2, 3))
    assert len(made.first) == 5 * 3
    assert len(made.later) == 5 * 2
    results = [
        result(cell.point, cell.seed, {"solved": GOOD}, float(read_tuning(cell.words).train.learning_rate))
        for cell in made.first
    ]
    later = made.then(results)
    assert len(later) == len(made.later)
    rates = {cell.point.partition(",")[0]: read_tuning(cell.words).train.learning_rate for cell in later}
    assert rates == {"rank 8": 3e-4, "rank 16": 3e-4, "rank 32": 3e-4, "rank 128": 3e-4, "full": 3e-5}  # the lowest
    assert [cell.spectrum for cell in made.first].count(True) == 3  # of the full arm, whichever rate is chosen
    assert not any(cell.spectrum for cell in later)


def test_the_smallest_rank_that_is_not_worse_is_enough(tmp_path):
    results = rank_results(BAD, FAIR, GOOD)
    told = lora_rank.conclude(results)
    verdicts = {pair["first"]: pair["verdict"] for pair in told["comparisons"]}
    assert verdicts == {"rank 8": "worse", "rank 16": "not distinguishable"}
    assert told["verdict"].startswith(
        "Rank 16 is the smallest not told from full fine-tuning: solved 0.9333 against 0.95 (-0.0167 ["
    )
    assert "2 seeds), with 10.0% of the parameters and 2.0 instead of 2.0 GB" in told["verdict"]
    assert told["verdict"].endswith("to hold 90 % of full fine-tuning's change, the middle layer needs 50.")
    assert told["spectrum"]["held"] == {"8": pytest.approx(0.4), "64": pytest.approx(0.9)}
    assert told["rates"][0]["validation_loss"] == {"1e-3": 0.9, "3e-3": 0.7}
    assert told["rates"][0]["at_the_edge"]
    content = page_of(told, results, lora_rank.sections, tmp_path)
    for word in ("What full fine-tuning changed", "The learning rates", "perhaps not the best: rank 8, rank 16, full"):
        assert word in content


def test_no_rank_may_be_enough_and_a_study_may_fail():
    assert lora_rank.conclude(rank_results(BAD, BAD, GOOD))["verdict"].startswith("No rank tried is enough")
    failed = [one | {"error": "no"} for one in rank_results(GOOD, GOOD, GOOD)]
    assert lora_rank.conclude(failed)["verdict"].startswith("too few arms ended well")


@pytest.mark.parametrize(
    ("shift", "begins"),
    [(0.2, "Learn the answers only"), (-0.2, "Learn the questions too"), (0.0, "It makes no difference")],
)
def test_the_loss_of_the_answers_decides_about_the_mask(shift, begins, tmp_path):
    base = [1.0 + 0.01 * at for at in range(40)]
    results = [
        result(arm, seed, {"answer_loss": [one + extra for one in base], "echo": FAIR[:40]})
        for seed in (1, 2)
        for arm, extra in (("answer", 0.0), ("all", shift))
    ]
    told = mask.conclude(results)
    assert told["verdict"].startswith(begins)
    assert f"is {shift:+.4f} [" in told["verdict"]
    assert "echo +0 (not distinguishable); 2 seeds" in told["verdict"]
    page_of(told, results, mask.sections, tmp_path)
    broken = [one | {"error": "no"} if one["point"] == "all" else one for one in results]
    assert "only one of the two ended well" in mask.conclude(broken)["verdict"]


def test_a_study_is_one_command_and_goes_on(words, tmp_path, capsys):
    line = ["study", "spam", *words, "train.steps=2", "--size", "short", "--out", str(tmp_path / "s")]
    assert main([*line, "--dry-run"]) == 0
    said = capsys.readouterr()
    assert "leaky,first-token,seed=1" in said.out.splitlines()
    assert "6 cells, 0 done before" in said.err
    assert not (tmp_path / "s").exists()
    assert main(line) == 0
    said = capsys.readouterr()
    assert "One seed: what another would say is unknown." in said.out
    assert "[6/6] leaky,first-token,seed=1: validation loss" in said.err
    report = json.loads((tmp_path / "s" / "report.json").read_text())
    assert report["splits"]["leak-free"]["test"] > 0
    assert_harmless((tmp_path / "s" / "report.html").read_text())
    assert main(line) == 0
    assert "6 cells, 6 done before" in capsys.readouterr().err


def test_the_mask_study_runs_and_scores_every_answer(talking, tmp_path, capsys):
    out = tmp_path / "s"
    assert main(["study", "mask", *talking, "--size", "short", "--out", str(out), "--workers", "2"]) == 0
    report = json.loads((out / "report.json").read_text())
    assert "with the questions learned too, the loss of the test answers is" in capsys.readouterr().out
    assert [pair["score"] for pair in report["comparisons"]] == [
        "answer_loss", "exact_match", "rouge_l", "words", "echo", "tasks_solved", "tasks_named",
    ]  # fmt: skip
    run = json.loads((out / "cells" / "all,seed=1" / "report.json").read_text())
    sums, counts = run["test"]["examples"]["answer_loss"], run["test"]["example_sizes"]["answer_loss"]
    assert sum(sums) / sum(counts) == pytest.approx(run["test"]["answer_loss"]["model"]["mean"])
    assert report["points"][1]["scores"]["answer_loss"]["mean"] == pytest.approx(sum(sums) / sum(counts))
    assert "forgetting" not in run
    assert "untuned" not in run["test"]["answer_loss"]
    assert_harmless((out / "report.html").read_text())


def test_the_rank_study_runs_and_looks_at_what_full_fine_tuning_changed(talking, tmp_path, capsys):
    out = tmp_path / "s"
    assert main(["study", "lora-rank", *talking, "task.tested=3", "--size", "short", "--out", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["verdict"] in capsys.readouterr().out
    assert [point["point"] for point in report["points"]] == ["rank 2", "rank 16", "full"]
    assert set(report["spectrum"]["rank_for_90"]) == {
        "attention.q", "attention.k", "attention.v", "attention.o", "mlp.up", "mlp.down", "head",
    }  # fmt: skip
    assert all(1 <= least <= middle <= most <= 16 for least, middle, most in report["spectrum"]["rank_for_90"].values())
    run = json.loads((out / "cells" / "full,rate-1e-4,seed=1" / "report.json").read_text())
    assert run["test"]["answer_loss"]["model"]["count"] == len(run["test"]["examples"]["answer_loss"]) == 3
    assert "What full fine-tuning changed" in (out / "report.html").read_text()
