"""The real SmolLM2 on its way out: llama.cpp and transformers continue texts as it does here."""

import pytest
import torch
import transformers
from llama_cpp import LlamaCpp

from firsthand.interop import gguf
from firsthand.interop.export import export
from firsthand.model.cache import GrowingCache

PROMPTS = ["The capital of France is", "def add(a, b):\n    "]
COUNT = 32


@pytest.fixture(scope="module")
def model(smollm2):
    return gguf.read(smollm2)


@pytest.fixture(scope="module")
def said(model):
    """The ids of every prompt and the 32 that follow, here."""
    gpt = model.build()
    return [(ids, greedy(gpt, ids)) for ids in (model.tokenizer.encode(prompt).tolist() for prompt in PROMPTS)]


def greedy(gpt, ids):
    cache, new, out = GrowingCache(gpt.config), torch.tensor([ids]), []
    with torch.no_grad():
        while len(out) < COUNT and (not out or out[-1] not in (0, 2)):
            new = gpt(new, cache)[:, -1].argmax(-1, keepdim=True)
            out.append(int(new))
    return out


def test_llama_cpp_says_the_same(model, said, tmp_path):
    done = export(model, "gguf", tmp_path / "out", "f32")
    assert (done.drift.largest, done.drift.differs_at, done.notes) == (0, None, ())
    assert "SYSTEM" in (tmp_path / "out" / "Modelfile").read_text()
    with LlamaCpp(tmp_path / "out" / "model.gguf") as llama:
        for prompt, (ids, wanted) in zip(PROMPTS, said, strict=True):
            assert llama.tokenize(prompt) == ids
            assert llama.greedy(ids, COUNT) == wanted


@pytest.mark.deep
def test_llama_cpp_says_nearly_the_same_in_8_bits(model, said, tmp_path):
    """It also rounds what flows between the layers to 8 bits, so it may choose otherwise where two are nearly equal."""
    done = export(model, "gguf", tmp_path / "out", "q8_0")
    assert done.drift.differs_at is None and 0 < done.drift.largest < 1
    gpt = gguf.read(tmp_path / "out" / "model.gguf").build()
    with LlamaCpp(tmp_path / "out" / "model.gguf") as llama:
        for ids, _ in said:
            theirs = llama.greedy(ids, COUNT)
            with torch.no_grad():
                logs = gpt(torch.tensor([ids + theirs]))[0, len(ids) - 1 : -1].log_softmax(-1)
            behind = logs.amax(-1) - logs[range(len(theirs)), theirs]
            assert behind.max() < 0.2 and (behind == 0).sum() >= 0.9 * len(theirs)


@pytest.mark.deep
def test_transformers_says_the_same(model, said, tmp_path):
    export(model, "hf", tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    for prompt, (ids, wanted) in zip(PROMPTS, said, strict=True):
        assert tokenizer(prompt)["input_ids"] == ids
        assert theirs.generate(torch.tensor([ids]), max_new_tokens=COUNT)[0, len(ids) :].tolist() == wanted
