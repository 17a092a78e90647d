"""A trace tells what the model computed, no more and no less, and leaves nothing behind."""

import json
import math

import kit
import pytest
import torch

from firsthand.checkpoint.bundle import Bundle
from firsthand.errors import ModelError
from firsthand.infer.trace import facts, inspect, trace
from firsthand.model.attention import attention_maps
from firsthand.model.config import ModelConfig
from firsthand.model.gpt import GPT
from firsthand.tokenizer.simple import CharTokenizer

every_variant = pytest.mark.parametrize("variant", kit.VARIANTS)
LETTERS = CharTokenizer.train("abcdefghij", ["<|endoftext|>"])


def bundle(tmp_path, variant="llama"):
    return Bundle(kit.tiny(variant), LETTERS, {}, tmp_path)


@every_variant
def test_the_last_layer_is_the_model_itself(variant):
    model, ids = kit.tiny(variant), kit.ids(13)
    model.attend = None  # whatever stands here is not what a trace is made with
    found = trace(model, ids, top=4)
    model = kit.tiny(variant)
    assert kit.gap(found.logits, model(ids[None])[0]) < 1e-10
    last = found.logits.softmax(-1).topk(4)
    assert torch.equal(found.lens_ids[-1], last.indices)
    assert kit.gap(found.lens_probabilities[-1], last.values) < 1e-6  # the lens reads in float32
    assert kit.gap(model.head(model.norm(found.streams[-1])), found.logits) < 1e-10


@every_variant
def test_what_is_added_is_the_stream(variant):
    found = trace(kit.tiny(variant), kit.ids(13))
    assert found.streams.shape == (3, 13, 24) and found.from_mlp.shape == (2, 13, 24)
    total = found.streams[0] + found.from_attention.cumsum(0) + found.from_mlp.cumsum(0)
    assert kit.gap(total, found.streams[1:]) < 1e-10
    assert kit.gap(found.norms[0], found.streams.norm(dim=-1)) == 0
    assert kit.gap(found.norms[1:, 1:], torch.stack([found.from_attention, found.from_mlp]).norm(dim=-1)) == 0


@every_variant
def test_attention_is_what_attention_maps_gives_and_sums_to_one(variant):
    model, ids = kit.tiny(variant), kit.ids(13)
    found = trace(model, ids).attention
    assert torch.equal(found, attention_maps(model, ids[None]))
    assert kit.gap(found.sum(-1), torch.ones(2, 6, 13)) < 1e-10
    assert (found.triu(1) == 0).all()


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_left_behind(training):
    model = kit.tiny("gpt2").train(training)
    usual = model.attend
    trace(model, kit.ids(5))
    with pytest.raises(ModelError):
        trace(model, kit.ids(20))  # more than the context: it fails midway
    assert model.attend is usual and model.training == training
    assert not any(part._forward_hooks for part in model.modules())


def test_a_model_whose_layers_add_nothing_worked_by_hand():
    model = GPT(ModelConfig(4, 7, n_layer=2, n_head=1, d_model=2, d_ff=3, norm="rmsnorm", tied=False, bias="none"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.norm.weight.fill_(1.0)
        model.embed.weight.copy_(torch.tensor([[3.0, 4.0], [1.0, 1.0], [0.0, 1.0], [2.0, 0.0]]))
        model.head.weight.copy_(torch.tensor([[0.0, 0.0], [math.log(2), 0.0], [0.0, 0.0], [0.0, 0.0]]))
    found = trace(model, torch.tensor([0, 1]), top=2)
    assert found.norms[0].tolist() == [[5.0, pytest.approx(2**0.5)]] * 3  # the length of (3, 4) is 5, after every layer
    assert found.norms[1:].abs().max() == 0
    # (1, 1) has root mean square 1: the scores are (0, log 2, 0, 0) and the chances 1/5, 2/5, 1/5, 1/5
    assert found.lens_ids[:, 1, 0].tolist() == [1, 1, 1]
    assert found.lens_probabilities[:, 1].tolist() == [[pytest.approx(0.4, abs=1e-5), pytest.approx(0.2, abs=1e-5)]] * 3
    entropy = 0.4 * math.log(2.5) + 0.6 * math.log(5)  # 1.332179 nats
    assert found.lens_entropy[:, 1].tolist() == [pytest.approx(entropy, abs=1e-5)] * 3
    assert found.attention[0, 0].tolist() == [[1.0, 0.0], [0.5, 0.5]]  # all keys alike
    # after (3, 4), whose root mean square is 3.535534, token 1 scores log(2) x 0.848528
    assert found.expected.tolist() == [pytest.approx(2**0.848528 / (3 + 2**0.848528), abs=1e-5)]


def test_the_facts_are_plain_and_keep_their_names(tmp_path):
    made = bundle(tmp_path)
    read = json.loads(json.dumps(facts(made, inspect(made, "abcj", top=3)), allow_nan=False))
    assert read.keys() == {"ids", "tokens", "expected", "next", "lens", "entropy", "norms", "attention"}
    assert read["tokens"] == ["a", "b", "c", "j"] and read["expected"][0] is None and len(read["expected"]) == 4
    assert len(read["lens"]) == len(read["entropy"]) == 3 and read["next"] == read["lens"][-1]
    assert len(read["lens"][0]) == 4 and len(read["lens"][0][0]) == 3
    assert read["lens"][0][0][0].keys() == {"token", "probability"}
    assert {name: (len(rows), len(rows[0])) for name, rows in read["norms"].items()} == {
        "stream": (3, 4), "attention": (2, 4), "mlp": (2, 4)
    }  # fmt: skip
    assert (len(read["attention"]), len(read["attention"][0]), len(read["attention"][0][0])) == (2, 6, 4)


def test_of_an_empty_text_the_end_of_text_is_looked_into(tmp_path):
    assert inspect(bundle(tmp_path), "").ids.tolist() == [LETTERS.end_of_text]


def test_more_tokens_than_can_be_looked_into_are_refused(tmp_path):
    with pytest.raises(ModelError, match=r"the text is 22 tokens; 19 can be looked into\. Shorten by 3"):
        inspect(bundle(tmp_path), "ab" * 11)
