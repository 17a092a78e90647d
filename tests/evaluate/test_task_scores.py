"""Scores of verifiable tasks and of free answers: exact, with intervals, with the trivial baseline beside them."""

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kit import VARIANTS, tiny

from firsthand.checkpoint.bundle import Bundle
from firsthand.data.tasks import Task, tasks
from firsthand.errors import DataError
from firsthand.evaluate.answering import answer_loss, answers
from firsthand.evaluate.answers import echoes, exact, longest_common, rouge_l
from firsthand.evaluate.tasks import names, score
from firsthand.model.gpt import GPT
from firsthand.tokenizer.simple import CharTokenizer


def test_all_right_answers_score_one_and_all_wrong_ones_nothing():
    given = tasks("test")
    best, worst = score(given, [task.answer for task in given]), score(given, ["no"] * len(given))
    assert [row.kind for row in best] == ["all", *dict.fromkeys(task.kind for task in given)]
    assert all(row.right == row.total and row.share == 1 for row in best)
    assert all(row.right == 0 and row.share == 0 for row in worst)
    assert best[0].total == 368 and best[0].interval.high == 1 and best[0].interval.low > 0.98
    assert sum(row.right for row in best[1:]) == best[0].right


def test_a_score_by_hand():
    given = [task for task in tasks("test") if task.kind == "even or odd"]
    rows = score(given, ["odd"] * len(given))
    odd = sum(task.answer == "odd" for task in given)
    assert (rows[1].right, rows[1].total) == (odd, 16)
    assert rows[1].interval.low < odd / 16 < rows[1].interval.high
    assert rows[1].majority in (odd / 16, 1 - odd / 16)  # whichever is commoner in the training part


def test_answers_that_only_name_the_right_word_are_counted_apart():
    given = [Task("plural", "What is the plural of 'mouse'?", "mice")] * 3
    row = score(given, ["mice", "The plural of mouse is mice.", "mices"])[0]
    assert (row.right, row.named) == (1, 2)
    assert names(Task("sort", "", "41, 47"), "They are 41, 47!") and not names(Task("add", "", "4"), "44")


def test_as_many_answers_as_tasks_are_needed():
    with pytest.raises(DataError, match="2 answers to 1 tasks"):
        score(tasks("test")[:1], ["a", "b"])


# ---- free answers ----


def test_rouge_l_by_hand():
    assert rouge_l("the cat sat", "The cat was sad.") == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
    assert rouge_l("same words", "Same words!") == 1
    assert rouge_l("", "a") == rouge_l("a", "") == rouge_l("b", "a") == 0
    assert rouge_l("a b c d", "d c b a") == pytest.approx(0.25)


def test_the_longest_common_row_is_that_of_the_definition():
    def slow(a, b):
        if not a or not b:
            return 0
        if a[-1] == b[-1]:
            return slow(a[:-1], b[:-1]) + 1
        return max(slow(a[:-1], b), slow(a, b[:-1]))

    chance = random.Random(0)
    for _ in range(50):
        a, b = ("".join(chance.choices("abc", k=chance.randrange(7))) for _ in range(2))
        assert longest_common(a, b) == longest_common(b, a) == slow(a, b)


def test_exact_forgives_case_space_and_a_full_stop():
    assert exact(" Paris.\n", "paris") and not exact("Paris, France", "Paris")


# ---- with a model ----


def test_answer_loss_counts_every_token_alike_whatever_batch_it_is_in():
    model = tiny("llama")
    examples = [
        ([1, 2, 3, 4, 5], [False, False, False, True, True]),
        ([6, 7, 8], [False, True, True]),
        ([1, 9, 3, 2, 8, 4, 5], [False] * 6 + [True]),
    ]
    losses, count = [], 0
    for ids, mask in examples:
        logs = model(torch.tensor([ids[:-1]])).log_softmax(-1)[0]
        losses.append(-sum(logs[at, ids[at + 1]].item() for at in range(len(ids) - 1) if mask[at + 1]))
        count += sum(mask[1:])
    for batch_size in (1, 2, 3):
        found = answer_loss(model, examples, batch_size)
        assert found.loss == pytest.approx(sum(losses) / count, abs=1e-10)
        assert found.nats.tolist() == pytest.approx(losses, abs=1e-10)
        assert found.counts.tolist() == [2, 2, 1] and found.tokens == 5
        assert found.interval.low <= found.loss <= found.interval.high
    assert 0 < found.loss < 4 * math.log(11)
    with pytest.raises(DataError, match="no example to evaluate on"):
        answer_loss(model, [])


def test_answers_are_one_conversation_each_and_always_the_same():
    letters = CharTokenizer.train("User: Assistant\nbc", ["<|endoftext|>"])
    torch.manual_seed(0)
    model = GPT(replace(VARIANTS["llama"], vocab_size=letters.vocab_size, context_length=47)).double().eval()
    speaker = Bundle(model, letters, {}, Path("nowhere"))
    alone = [answers(speaker, [question], max_tokens=7)[0] for question in ("a", "bc", "a")]
    assert answers(speaker, ["a", "bc", "a"], max_tokens=7) == alone
    assert alone[0] == alone[2] and alone[0]


def test_an_answer_echoes_where_it_repeats_five_words_that_it_need_not():
    question = "Rewrite the sentence: The cat sat on the mat today."
    assert echoes(question, "The CAT sat, on the mat.", "A cat is sitting.")
    assert not echoes(question, "The cat sat on a mat.", "A cat is sitting.")  # four words in a row
    assert not echoes(question, "the cat sat on the mat", "Yesterday the cat sat on the mat.")  # as was wanted
    assert echoes(question, "rewrite the sentence the cat sat", "Yesterday the cat sat on the mat.")
    assert not echoes("", "", "")
