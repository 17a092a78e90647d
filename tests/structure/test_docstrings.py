"""A shape in a docstring is a promise: `(B, T, C), (V, C) -> (B, T, V)` is run with tensors of these shapes.

Every letter is a different number, so a transposed axis cannot pass. What is not a tensor comes from ARGUMENTS.
"""

import importlib
import inspect
import re

import pytest
import torch
from torch import Tensor

from firsthand.infer.sample import Sampler

MODULES = [
    "firsthand.model.layers",
    "firsthand.model.attention",
    "firsthand.objectives.pretrain",
    "firsthand.objectives.preference",
    "firsthand.infer.sample",
    "firsthand.training.muon",
    "firsthand.lessons.embeddings",
    "firsthand.lessons.attention",
    "firsthand.lessons.gpt",
    "firsthand.lessons.sampling",
    "firsthand.lessons.cache",
]
SIZES = {
    "B": 2,
    "T": 3,
    "S": 5,
    "C": 12,
    "H": 4,
    "G": 2,
    "D": 6,
    "V": 11,
    "K": 7,
    "N": 13,
    "A": 8,
    "context": 17,
    "L": 9,
}
ARGUMENTS = {
    "n_head": 3, "temperature": 0.7, "k": 4, "p": 0.9, "fraction": 0.1, "penalty": 1.3, "history": [1, 4],
    "d_head": 6, "theta": 100.0, "vocab_size": 11, "window": None, "S": 5, "steps": 5, "lengths": None,
    "probability": 0.9, "T": 0.7, "generator": torch.Generator(), "sampler": Sampler(top_k=3), "u": 0.4,
    "head": torch.nn.Linear(12, 11), "beta": 0.1, "margin": 0.5,
}  # fmt: skip
COUNTS = {"": 1, "two of": 2, "two": 2, "three": 3, "four": 4}
SHAPE = re.compile(r"(?:(two of|two|three|four) )?\(([A-Za-z0-9/+, ]*)\)( twice)?")
PROMISE = re.compile(
    r"((?:(?:two|three|four) )?\([^()]*\)(?:[, and]*(?:(?:two|three|four) )?\([^()]*\))*(?: twice)?) -> ([^.;:]*)"
)


def promises():
    """Every module-level function that promises shapes, with its inputs and outputs."""
    for name in MODULES:
        module = importlib.import_module(name)
        for function in vars(module).values():
            if inspect.isfunction(function) and function.__module__ == name and function.__doc__:
                first = function.__doc__.split("\n\n")[0]
                takes_model = "model" in inspect.signature(function).parameters  # its own tests run it
                for left, right in [] if takes_model else PROMISE.findall(first):
                    yield pytest.param(
                        function, left, right, id=f"{name.removeprefix('firsthand.')}.{function.__name__}"
                    )


def shapes(words: str) -> list[tuple[int, ...]]:
    found = []
    for count, inside, twice in SHAPE.findall(words):
        shape = tuple(size(part) for part in inside.split(",") if part.strip())
        found += [shape] * (2 if twice else COUNTS[count])
    return found


def size(part: str) -> int:
    """The number that one dimension stands for: T, 1, T+1, D/2."""
    letter, sign, number = re.fullmatch(r"\s*(\w+)\s*([+/]?)\s*(\d*)\s*", part).groups()
    value = int(letter) if letter.isdigit() else SIZES[letter]
    return value + int(number) if sign == "+" else value // int(number) if sign == "/" else value


def tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    """Random numbers, or ids where the name says so."""
    generator = torch.Generator().manual_seed(len(name) + sum(shape))
    if name in ("ids", "targets") or (name == "positions" and len(shape) < 2):
        return torch.randint(0, 3, shape, generator=generator)
    if name == "probabilities":
        return torch.rand(shape, generator=generator).softmax(-1)
    return torch.randn(shape, generator=generator)


@pytest.mark.parametrize("function, left, right", list(promises()))
def test_a_function_keeps_the_shapes_it_promises(function, left, right):
    given = shapes(left)
    arguments = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.annotation is Tensor and given:
            arguments[name] = tensor(name, given.pop(0))
        elif parameter.default is inspect.Parameter.empty:
            assert name in ARGUMENTS, f"give {name!r} a value in ARGUMENTS"
            arguments[name] = ARGUMENTS[name]
            given = given[1:] if given[:1] == [()] else given  # a promised number, not a tensor
    assert not given, f"{function.__name__} takes fewer tensors than it promises"
    result = function(**arguments)
    results = list(result) if isinstance(result, tuple) else [result]
    found = [tuple(one.shape) if isinstance(one, Tensor) else () for one in results]
    assert found == (shapes(right) or [()]), f"{function.__name__}: {left} -> {right}"


def test_there_are_promises_to_keep():
    assert len(list(promises())) >= 25
