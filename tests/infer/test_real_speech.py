"""The real SmolLM2-135M-Instruct speaks: in turns, faster by guessing, and under a schema."""

import inspect
import json
from pathlib import Path

import pytest
import torch

from firsthand.checkpoint.bundle import Bundle
from firsthand.infer.constrain import json_schema
from firsthand.infer.generate import Sampling, Writer
from firsthand.infer.talk import Turns
from firsthand.interop import gguf

pytestmark = pytest.mark.deep


@pytest.fixture(scope="module")
def it(smollm2) -> Bundle:
    given = gguf.read(smollm2)
    return Bundle(given.build(torch.float32), given.tokenizer, {"ends": list(given.ends)}, Path("here"), given.template)


def test_it_answers_and_remembers_what_was_said(it):
    talk = Turns(it, Sampling(32, 0))
    answers = [list(talk.say(question)) for question in ("What is the capital of France?", "And of Italy?")]
    assert [answer[-1].finish for answer in answers] == ["end", "end"]
    assert "Paris" in "".join(token.text for token in answers[0])
    assert "Rome" in "".join(token.text for token in answers[1])


def test_guessing_changes_no_token_and_saves_passes_where_text_repeats(it):
    code = inspect.getsource(Writer.answer)
    ids = it.tokenizer.encode(f"{code}\n\n# The same again:\n{code[:40]}").tolist()
    plain, guessed = (Writer(it, Sampling(48, 0, lookup=most)) for most in (0, 8))
    assert [token.id for token in guessed.answer(ids)] == [token.id for token in plain.answer(ids)]
    assert guessed.lookup.passes < 32


def test_its_answers_are_valid_under_a_schema(it):
    name = {"type": "string", "maxLength": 12}
    schema = {"type": "object", "properties": {"city": name}, "required": ["city"], "additionalProperties": False}
    talk = Turns(it, Sampling(32, 0, grammar=json_schema(schema)))
    answer = list(talk.say("Name the capital of France, as JSON."))
    assert answer[-1].finish == "end"
    assert list(json.loads("".join(token.text for token in answer))) == ["city"]
