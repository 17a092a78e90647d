"""Every form in which a model can be run: a plain list, to which whatever is new is added.

A form is opened with the plain bundle and gives a function from rows of ids, (T,) each, to their scores, (T, V) each.
Exact: in mathematics the same as the plain form, so that only rounding may differ. Else it drifts, and how far is said.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from firsthand.checkpoint import bundle as bundles
from firsthand.checkpoint.bundle import Bundle
from firsthand.errors import ModelError, TokenizerError
from firsthand.evaluate.compare import twin
from firsthand.evaluate.engines import by_engine, engined
from firsthand.evaluate.feeding import (
    Make,
    NotHere,
    Open,
    Run,
    Scores,
    fed_alone,
    fed_together,
    in_batches,
    in_one_graph,
    one_by_one,
)
from firsthand.infer.draw import Drawn, draw
from firsthand.infer.speculate import Lookup, draw_guessing
from firsthand.interop import gguf, huggingface, peft, to_gguf, to_huggingface, to_peft
from firsthand.interop.foreign import Foreign
from firsthand.linear import lora
from firsthand.linear.shrink import plain, rounds_inputs, shrink
from firsthand.model.assemble import weights
from firsthand.model.attention import Attend, attend, attend_fused
from firsthand.model.cache import Cache, GrowingCache, StaticCache
from firsthand.model.config import ModelConfig
from firsthand.model.gpt import GPT
from firsthand.model.int8_cache import Int8Cache
from firsthand.model.paged import PagedCache, Pool
from firsthand.model.window_cache import WindowCache


@dataclass(frozen=True)
class Form:
    """One way to compute the scores of rows."""

    name: str
    about: str
    exact: bool
    open: Open
    cost: float = 2.0  # seconds, as a multiple of the reference's (SmolLM2-135M, 1,024 tokens); half is comparing
    slow: bool = False  # run only when asked for


@dataclass(frozen=True)
class Greedy:
    """One way to write greedy text: ids, grown by a number of tokens."""

    name: str
    about: str
    exact: bool
    write: Callable[[GPT, list[int], int], list[int]]
    cost: float = 1.5
    slow: bool = False


def needs_nothing(model: GPT) -> None:
    """Every machine can."""


def needs_float16(model: GPT) -> None:
    """Some machines have no products of this type."""
    one = torch.ones(3, 3, dtype=torch.float16, device=model.embed.weight.device)
    try:
        one @ one
    except RuntimeError as error:
        raise NotHere(f"no float16 products on {one.device}: {str(error)[:60]}") from error


def needs_compiler(model: GPT) -> None:
    """On a processor, compiled code goes through C++."""
    if model.embed.weight.device.type == "cpu" and not any(map(shutil.which, ("g++", "clang++"))):
        raise NotHere("torch.compile needs a C++ compiler, and there is no g++ or clang++ here")


def opened(
    run: Run,
    attending: Attend | None = None,
    dtype: torch.dtype | None = None,
    needs: Callable[[GPT], None] = needs_nothing,
) -> Open:
    """How to open a form that is the same weights, run otherwise: which attention, which type, how rows are fed."""

    @contextmanager
    def open(bundle: Bundle) -> Iterator[Scores]:
        needs(bundle.model)
        model = twin(bundle.model, dtype)
        model.attend = attending or model.attend
        yield partial(run, model)

    return open


def reopened(write: Callable[[Bundle, Path], object], read: Callable[[Path], GPT]) -> Open:
    """How to open a form that is a file: write it into a folder of its own, read it, and delete it in the end."""

    @contextmanager
    def open(bundle: Bundle) -> Iterator[Scores]:
        with TemporaryDirectory(prefix="firsthand-") as folder:
            target, like = Path(folder) / "model", bundle.model.embed.weight
            try:
                write(bundle, target)
            except (ModelError, TokenizerError) as error:  # the format has no place for such a model
                raise NotHere(str(error)) from error
            model = read(target).to(like.device, like.dtype)
            model.attend = bundle.model.attend
            yield partial(one_by_one, model)

    return open


def save(bundle: Bundle, target: Path) -> None:
    """In our own format."""
    bundles.save(target, bundle.model, bundle.tokenizer, bundle.about, template=bundle.template)


def fewer_bits(kind: str, settings: dict[str, Any]) -> Open:
    """How to open a form whose weights are rounded: the head to 8 bits, all other matrices as they say."""

    @contextmanager
    def open(bundle: Bundle) -> Iterator[Scores]:
        model = twin(bundle.model)
        try:
            shrink(model, kind, settings)
        except ModelError as error:  # quantized already, or of widths that are no whole groups
            raise NotHere(str(error)) from error
        yield partial(one_by_one, model)

    return open


def adapted(change: Callable[[GPT, str, Bundle], None]) -> Open:
    """How to open a form of the adapter that acts: `change` does something to a copy with that adapter."""

    @contextmanager
    def open(bundle: Bundle) -> Iterator[Scores]:
        name = lora.active(bundle.model)
        if name is None:
            raise NotHere("this model has no adapter that acts")
        model = deepcopy(bundle.model)  # not a twin: a merged weight is another one
        try:
            change(model, name, bundle)
        except ModelError as error:  # its weights are quantized, or nobody else has its architecture
            raise NotHere(str(error)) from error
        yield partial(one_by_one, model)

    return open


def merged(model: GPT, name: str, bundle: Bundle) -> None:
    """With the adapter inside the weights."""
    lora.merge(model, name)


def through_peft(model: GPT, name: str, bundle: Bundle) -> None:
    """With the adapter written for peft, taken off, and read again."""
    with TemporaryDirectory(prefix="firsthand-") as folder:
        to_peft.to_peft(model, bundle.tokenizer, Path(folder) / "adapter", name)
        lora.remove(model, name)
        peft.put(model, Path(folder) / "adapter", name)


def foreign(bundle: Bundle) -> Foreign:
    """What the writers of other formats take; of quantized layers, the numbers they stand for."""
    model = plain(bundle.model)
    if rounds_inputs(bundle.model):
        raise NotHere("its layers round what enters them; other formats hold weights only")
    if model.swaps:
        raise NotHere("some of its layers were replaced; other formats hold the merged model only")
    tensors = {name: tensor.float().cpu() for name, tensor in weights(model).items()}
    about = {"source": str(bundle.path), **bundle.about}
    return Foreign(model.config, tensors, bundle.tokenizer, str(bundle.path), bundle.template, bundle.ends, about)


def _gguf(kind: str, exact: bool, about: str, slow: bool = False) -> Form:
    file = reopened(
        lambda bundle, target: to_gguf.to_gguf(foreign(bundle), target, kind),
        lambda target: gguf.read(target / to_gguf.FILE).build(),
    )
    return Form(f"GGUF {kind.upper()}", about, exact, file, cost=6, slow=slow)


def _paged(config: ModelConfig, batch: int, length: int) -> Cache:
    return PagedCache(config, batch, Pool(config, batch * -(-length // 16)))


def _window(config: ModelConfig, batch: int, length: int) -> Cache:
    if config.window is None:
        raise NotHere("this model looks back at all tokens; with a window it would be another one")
    return WindowCache(config, batch)


def _int8(config: ModelConfig, batch: int, length: int) -> Cache:
    return Int8Cache(config, batch, lambda config, batch: StaticCache(config, batch, length))


CACHES: dict[str, tuple[Make, str]] = {  # how to make one, what it is
    "growing": (lambda config, batch, length: GrowingCache(config, batch), "joins old and new at every step"),
    "static": (lambda config, batch, length: StaticCache(config, batch, length), "takes its memory once"),
    "window": (_window, "remembers the last tokens only"),
    "paged": (_paged, "keeps blocks of 16 tokens"),
    "int8": (_int8, "keeps one byte a number"),
}


def _cached(name: str) -> Form:
    make, about = CACHES[name]
    run = partial(fed_alone if name == "growing" else fed_together, make)  # a growing one takes rows of one length
    return Form(f"{name} cache", f"{about}; fed in pieces of 1 to 64 tokens", name != "int8", opened(run), cost=4)


FEWER: dict[str, tuple[dict[str, Any], str]] = {  # `firsthand quantize` makes these, and by gptq a better int4
    "int8": ({}, "weights of 8 bits, a ruler for each row"),
    "int8-dynamic": ({}, "the same, and what enters a layer is rounded too"),
    "int4": ({"group": 32}, "weights of 4 bits, a ruler for 32 neighbours"),
    "nf4": ({"group": 64}, "weights of 4 bits at the quantiles of a normal distribution, a scale for 64"),
}


def guessing(model: GPT, ids: list[int], count: int) -> list[int]:
    """Greedy text with guesses from what the text said before (infer/speculate.py)."""
    cache = StaticCache(model.config, length=len(ids) + count)
    return _taken(draw_guessing(model, ids, _likeliest, cache, Lookup(8)), ids, count)


def token_by_token(model: GPT, ids: list[int], count: int) -> list[int]:
    """Greedy text as `firsthand generate --temperature 0` writes it."""
    return _taken(draw(model, ids, _likeliest, StaticCache(model.config, length=len(ids) + count)), ids, count)


def _likeliest(scores: Tensor) -> int:
    return int(scores.argmax())


def _taken(drawn: Iterator[Drawn], ids: list[int], count: int) -> list[int]:
    return [*ids, *(one.id for one in islice(drawn, count))]


FORMS: tuple[Form | Greedy, ...] = (
    Form("fused attention", "one kernel that never writes the weights down", True, opened(one_by_one, attend_fused)),
    Form("chosen attention", "explicit or fused, by shape, as in training", True, opened(one_by_one, attend)),
    Form("float64", "how far float32 itself is off", True, opened(one_by_one, dtype=torch.float64), cost=4),
    Form("batch", "four rows of different lengths, padded on the right", True, opened(in_batches)),
    *map(_cached, CACHES),
    Greedy("greedy, cached", "text written token by token", True, token_by_token),
    Greedy("greedy, guessing", "several tokens a pass, guessed from the text before", True, guessing),
    Form("compiled", "torch.compile", True, opened(in_one_graph, needs=needs_compiler), cost=30, slow=True),
    Form("own file", "saved and loaded, every byte checked", True, reopened(save, lambda at: bundles.load(at).model)),
    Form(
        "Hugging Face",
        "a folder for transformers, written and read again",
        True,
        reopened(
            lambda bundle, target: to_huggingface.to_huggingface(foreign(bundle), target),
            lambda target: huggingface.read(target).build(),
        ),
        cost=4,
    ),
    _gguf("f32", True, "a file for llama.cpp, written and read again"),
    _gguf("f16", False, "the same, weights in 16 bits", slow=True),
    _gguf("bf16", False, "the same, weights in 16 bits of wider range", slow=True),
    _gguf("q8_0", False, "the same, weights in 8.5 bits"),
    _gguf("q4_0", False, "the same, weights in 4.5 bits"),
    Form("merged adapter", "its adapter inside the weights", True, adapted(merged)),
    Form("PEFT", "its adapter written for peft, and read again", True, adapted(through_peft), cost=4),
    *(Form(kind, about, False, fewer_bits(kind, settings)) for kind, (settings, about) in FEWER.items()),
    Form("engine", "the fast engine, weights as they are", True, engined("own"), cost=3),
    Greedy("greedy, engine", "text written by the fast engine", True, by_engine),
    Form("engine int8", "the fast engine, weights of 8 bits, a scale a row", False, engined("int8"), cost=3),
    Form("engine int4", "the fast engine, weights of 4 bits, a scale for 32", False, engined("int4"), cost=3),
    Form(
        "engine int8 x int8", "the same as engine int8, activations rounded too", False, engined("int8", "int8"), cost=3
    ),
    Form(
        "engine int4 x int8", "the same as engine int4, activations rounded too", False, engined("int4", "int8"), cost=3
    ),
    Form("engine bfloat16", "the fast engine, weights of 16 bits", False, engined("bfloat16"), cost=3, slow=True),
    Form("engine float32", "the fast engine, weights of 32 bits", True, engined("float32"), cost=3, slow=True),
    Form("bfloat16", "weights and products in bfloat16", False, opened(one_by_one, dtype=torch.bfloat16)),
    Form(
        "float16",
        "weights and products in float16",
        False,
        opened(one_by_one, dtype=torch.float16, needs=needs_float16),
    ),
)
