"""An answer held to a grammar follows it, whatever the model would rather say."""

import json
import re
import sys

import pytest
import torch
from speakers import END, bundle, bytes_tokenizer, forgetful

from firsthand.checkpoint.bundle import Bundle
from firsthand.errors import ConfigError, ModelError
from firsthand.infer.constrain import Grammar, Limit, choices, json_schema, regex
from firsthand.infer.generate import Sampling, explain, generate, tokens
from firsthand.tokenizer.bpe import Tokenizer
from firsthand.tokenizer.simple import CharTokenizer

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "size": {"type": "number", "minimum": -1, "maximum": 2.5},
        "likes": {"type": "array", "items": {"enum": ["the", "é", None, 3]}, "minItems": 1, "maxItems": 3},
        "old": {"type": "boolean"},
    },
    "required": ["name", "age", "size", "likes"],
    "additionalProperties": False,
}


def person(value) -> bool:
    """PERSON, checked by hand."""
    return (
        isinstance(value, dict)
        and {"name", "age", "size", "likes"} <= set(value) <= set(PERSON["properties"])
        and isinstance(value["name"], str)
        and 1 <= len(value["name"].encode("utf-16", "surrogatepass").decode("utf-16", "replace")) <= 5
        and type(value["age"]) is int
        and 0 <= value["age"] <= 130
        and type(value["size"]) in (int, float)
        and -1 <= value["size"] <= 2.5
        and 1 <= len(value["likes"]) <= 3
        and all(liked in ("the", "é", None, 3) for liked in value["likes"])
        and type(value.get("old", True)) is bool
    )


@pytest.mark.parametrize("variant", ["gpt2", "llama"])
@pytest.mark.parametrize("temperature", [0.9, 1.8])
def test_every_answer_of_a_model_that_writes_noise_is_valid_under_the_schema(variant, temperature):
    it, grammar, whole, kinds = bundle(variant, context=200), json_schema(PERSON), 0, set()
    for seed in range(9):
        answer = list(tokens(it, "x", Sampling(190, temperature, 0, seed=seed, grammar=grammar)))
        text = "".join(token.text for token in answer)
        if answer[-1].finish == "length":  # digits may go on for long; it is said, not hidden
            continue
        assert answer[-1].finish == "end"
        assert person(json.loads(text)), text
        whole += 1
        kinds.add(text)
    assert whole >= 5
    assert len(kinds) == whole


@pytest.mark.parametrize(
    "schema, holds",
    [
        ({"type": "string", "maxLength": 4}, lambda value: isinstance(value, str)),
        ({"type": "integer", "minimum": 3, "maximum": 12}, lambda value: 3 <= value <= 12),
        ({"enum": ["the", 5, True, {"a": [1]}]}, lambda value: value in ("the", 5, True, {"a": [1]})),
        ({"type": "array", "items": {"type": "null"}, "minItems": 2, "maxItems": 4}, lambda v: set(v) == {None}),
        ({"anyOf": [{"const": "t"}, {"type": "boolean"}]}, lambda value: value in ("t", True, False)),
        (
            {"$defs": {"p": {"type": "array", "items": {"$ref": "#/$defs/p"}, "maxItems": 1}}, "$ref": "#/$defs/p"},
            lambda value: isinstance(value, list),
        ),
        ({"type": "string", "pattern": "^a[bc]{2}$"}, lambda value: re.fullmatch("a[bc]{2}", value)),
    ],
)
def test_schemas_of_many_kinds_are_followed(schema, holds):
    for seed in range(8):
        text = generate(bundle(context=99), "the", 90, 1.5, 0, seed=seed, grammar=json_schema(schema))
        assert holds(json.loads(text)), text


def test_a_regular_expression_and_choices_are_followed():
    seen = set()
    for seed in range(20):
        text = generate(bundle(), "x", 40, 2.0, 0, seed=seed, grammar=regex("(ab|the){1,3}c?"))
        assert re.fullmatch("(ab|the){1,3}c?", text)
        seen.add(generate(bundle(), "x", 40, 2.0, 0, seed=seed, grammar=choices(["yes", "no", 'th"é\n'])))
    assert seen == {"yes", "no", 'th"é\n'}


def test_what_is_allowed_keeps_its_proportions():
    it = forgetful({"a": 0.5, "b": 0.2, "c": 0.3}, end=0)
    limit = Limit(regex("[bc]+"), it.tokenizer, it.ends)
    shares = torch.full((END + 1,), 1e-9, dtype=torch.float64)
    shares[list(b"abc")] = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    after = limit.allow(shares.log()).softmax(dim=0)
    assert after[ord("b")] == pytest.approx(0.4, abs=1e-12)  # 0.2 of 0.5
    assert after[ord("c")] == pytest.approx(0.6, abs=1e-12)
    assert int((after > 0).sum()) == 2


def test_the_end_is_allowed_where_the_answer_is_whole_and_nowhere_else():
    it = forgetful({"a": 0.1}, end=0.9)
    limit = Limit(regex("ab?"), it.tokenizer, it.ends)
    zeros = torch.zeros(END + 1)
    allowed = [{id for id, score in enumerate(limit.allow(zeros).tolist()) if score == 0}]
    for letter in b"ab":
        assert not limit.closed
        limit.take(letter)
        allowed.append({id for id, score in enumerate(limit.allow(zeros).tolist()) if score == 0})
    assert allowed == [{ord("a")}, {ord("b"), END}, {END}]
    assert limit.closed
    assert generate(it, "x", 9, 0, grammar=regex("ab?")) == "a"  # a, then the end is likelier than b


def test_no_token_but_the_end_is_asked_for_when_the_answer_is_whole():
    answer = list(tokens(forgetful({"a": 1.0}, end=0), "x", Sampling(9, 0, grammar=choices(["aa"]))))
    assert [(token.text, token.finish) for token in answer] == [("a", None), ("a", "end")]


def test_special_tokens_are_no_text():
    it = bundle()
    tokenizer = bytes_tokenizer({"<|endoftext|>": END, "<|other|>": END + 1})
    limit = Limit(json_schema({"type": "string"}), tokenizer, (END,))
    limit.take(ord('"'))
    allowed = limit.allow(torch.zeros(END + 2))
    assert allowed[ord("a")] == 0
    assert allowed[END] == allowed[END + 1] == -torch.inf
    assert it.ends == (END,)


def test_an_answer_that_max_tokens_cuts_says_so():
    answer = list(tokens(bundle(), "x", Sampling(3, 0, grammar=json_schema(PERSON))))
    assert answer[-1].finish == "length"
    assert "".join(token.text for token in answer) == '{"n'


def test_explain_shows_what_the_schema_removes():
    steps = explain(bundle(), "x", Sampling(temperature=1, top_k=0, grammar=json_schema(PERSON)))
    assert [step.name for step in steps] == ["schema", "temperature 1"]
    assert steps[0].kept == 1  # only {
    assert steps[0].after[ord("{")] == 1
    assert steps[0].removed == pytest.approx(1 - float(steps[0].before[ord("{")]))


def test_a_schema_that_cannot_be_followed_is_refused():
    with pytest.raises(ConfigError, match=r"the schema cannot be used: Invalid type: bogus\. Simplify or mend it"):
        json_schema({"type": "bogus"})
    with pytest.raises(ConfigError, match=r"the schema cannot be used: .*unevaluatedProperties"):
        json_schema({"type": "object", "unevaluatedProperties": False})
    with pytest.raises(ConfigError, match="a JSON schema is an object, not true"):
        json_schema(True)
    with pytest.raises(ConfigError, match=r"the regex cannot be used: .*unclosed group"):
        regex("a(b")
    with pytest.raises(ConfigError, match="choices are \\['a', ''\\]; give one or more, none of them empty"):
        choices(["a", ""])
    with pytest.raises(ConfigError, match="a stop text would cut the choices short"):
        Sampling(stop="x", grammar=choices(["a"]))


def test_a_tokenizer_that_cannot_write_everything_is_refused():
    it = bundle()
    letters = Bundle(it.model, CharTokenizer.train("abc"), {}, it.path)
    with pytest.raises(ConfigError, match=r"this one \(char\) has no token for the byte 0x09"):
        Limit(choices(["a"]), letters.tokenizer, letters.ends)
    with pytest.raises(ConfigError, match=r"this one \(bpe\) has no token that ends an answer"):
        Limit(choices(["a"]), it.tokenizer, ())


def test_a_grammar_that_breaks_down_on_the_way_is_no_end():
    it = bundle()
    limit = Limit(choices(["a"]), it.tokenizer, it.ends)
    with pytest.raises(ModelError, match="the grammar could not be followed"):
        limit.take(ord("b"))
    with pytest.raises(ModelError, match="the grammar could not be followed"):
        Limit(Grammar("mine", "nonsense {"), it.tokenizer, it.ends)


def test_a_character_that_the_tokenizer_cannot_write_is_said_and_does_not_end_the_answer():
    tokens = [b"" if byte in (4, 6) else bytes([byte]) for byte in range(256)]  # as SmolLM2's
    tokenizer = Tokenizer([*tokens, b"<|endoftext|>"], [], "gpt2", {"<|endoftext|>": 256})
    for pattern in ("a\x04", "a[\x04\x06]"):
        limit = Limit(regex(pattern), tokenizer, (256,))
        with pytest.raises(ModelError, match="the grammar could not be followed"):
            for _ in "ab":
                limit.allow(torch.zeros(257))
                limit.take(ord("a"))


def test_without_the_library_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(
        ConfigError, match=r"a grammar needs a library that is not here: pip install 'firsthand\[schema\]'"
    ):
        json_schema({"type": "string"})
