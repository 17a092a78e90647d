"""The real SmolLM2-135M-Instruct, read out of its GGUF file, says word for word what llama.cpp says.

llama.cpp multiplies blocks with rounded activations, so it gets the same weights as float32: written by its own
package, whose dequantization is the oracle of ours. Both then count in float32, in different orders: their
log-probabilities differ by 2e-4, and where a token is chosen the second best is never as near as that. So the
greedy tokens are equal without exception.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf as llama_gguf
import numpy as np
import pytest
import torch
from llama_cpp import LlamaCpp

from firsthand.infer.fast import Fast
from firsthand.interop import gguf
from firsthand.tokenizer.chat import Chat, Turn

QUESTIONS = [
    "What is gravity?",
    "Write a short story about a lighthouse keeper and a whale.",
    "Explain to a child, step by step, how a bicycle works.",
]
BEGINNINGS = ["The history of the steam engine begins", 'def fibonacci(n):\n    """']
COUNT = 64


def as_float32(source: Path, target: Path) -> Path:
    """The same file with every number as float32, written by llama.cpp's package alone."""
    held = llama_gguf.GGUFReader(source)
    writer = llama_gguf.GGUFWriter(target, "llama")
    for key, field in held.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            writer.add_key_value(
                key, field.contents(), field.types[0], field.types[1] if len(field.types) > 1 else None
            )
    for tensor in held.tensors:
        writer.add_tensor(tensor.name, llama_gguf.quants.dequantize(tensor.data, tensor.tensor_type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


@pytest.fixture(scope="module")
def llama(smollm2, tmp_path_factory):
    path = as_float32(smollm2, tmp_path_factory.mktemp("real") / "float32.gguf")
    with LlamaCpp(path, context_length=256, slots=5) as running:
        path.unlink()  # half a gigabyte; it is mapped
        yield running


@pytest.fixture(scope="module")
def foreign(smollm2):
    return gguf.read(smollm2)


@pytest.fixture(scope="module")
def model(foreign):
    return foreign.build()


@pytest.fixture(scope="module")
def prompts(foreign) -> list[list[int]]:
    chat = Chat(foreign.template, foreign.tokenizer, foreign.ends)
    asked = [chat.prompt([Turn("user", question)]) for question in QUESTIONS]
    return asked + [foreign.tokenizer.encode(text).tolist() for text in BEGINNINGS]


def test_prompts_have_the_ids_of_llama_cpp(llama, prompts):
    texts = [llama.chat([{"role": "user", "content": question}]) for question in QUESTIONS] + BEGINNINGS
    assert [llama.tokenize(text) for text in texts] == prompts


def test_any_text_has_the_ids_of_llama_cpp(llama, foreign):
    signs = [
        "abc XYZ 0189 \n\t\r",
        "éßñø",
        "中文日本語한국어",
        "👍🏽👨‍👩‍👧🇩🇪",
        "\u00a0\u3000\u200b\ufeff\u0085",
        "٠२Ⅻ½²",
        "'s'T'LLdon't",
        "هلไทยहि",
    ]
    random = np.random.default_rng(6)
    for _ in range(400):
        text = "".join(random.choice([*random.choice(signs)]) for _ in range(16))
        assert foreign.tokenizer.encode(text).tolist() == llama.tokenize(text), ascii(text)


@pytest.fixture(scope="module")
def answers(llama, prompts):
    """What llama.cpp says, with the likeliest tokens of every step."""
    with ThreadPoolExecutor(len(prompts)) as together:  # in one batch, which reads the weights once
        return list(together.map(lambda prompt: llama.steps(prompt, COUNT, top=5), prompts))


@pytest.mark.parametrize("engine", ["plain", "fast"])
def test_greedy_text_is_that_of_llama_cpp(answers, model, prompts, engine):
    """After each token that llama.cpp chose, ours is the same: so ours alone would have gone the same way."""
    smallest = []
    if engine == "fast":
        model = Fast(model)
        assert model.forms == ("int4-lows", "int8-groups")  # its own codes, Q4_1 and Q8_0: nothing is rounded again
    for prompt, steps in zip(prompts, answers, strict=True):
        said = [next(iter(step)) for step in steps]
        assert len(said) == COUNT
        with torch.no_grad():
            scores = model(torch.tensor([prompt + said]))[0, len(prompt) - 1 : -1].log_softmax(-1)
        assert scores.argmax(-1).tolist() == said
        best = scores.topk(2).values
        smallest.append((best[:, 0] - best[:, 1]).min().item())
        for row, step in zip(scores, steps, strict=True):
            assert all(abs(row[token].item() - value) < 1e-3 for token, value in step.items())
    assert min(smallest) > 5e-3  # no choice was near enough to a tie to be luck


def test_what_the_file_says_arrives(foreign):
    config = foreign.config
    assert (config.n_layer, config.n_head, config.n_kv_head, config.d_model) == (30, 9, 3, 576)
    assert (config.norm_eps, config.rope_theta, config.tied) == (1e-5, 1e5, True)
    assert foreign.ends == (2, 0)  # <|im_end|>, <|endoftext|>
    assert foreign.about["kinds"] == {"Q8_0": 1, "F32": 61, "Q4_1": 210}
    assert (foreign.tokenizer.pattern, foreign.tokenizer.begin) == ("smollm", None)
    assert foreign.template is not None
