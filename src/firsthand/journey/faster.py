"""The stages that make a trained model fast and small: what a cache saves, and what fewer bits cost."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

from firsthand.infer.draw import Reader
from firsthand.infer.fast import Fast, one_torch_thread, refusal
from firsthand.run import quantize as quantizing
from firsthand.run.source import load

POSITIONS = (16, 64, 128, 256, 512)
TIMES = 5
TOKENS = 2_048  # on which forms of fewer bits are judged


def cache(model: Path) -> dict[str, Any]:
    """What a token costs at several positions: everything read again, with a cache, and by the fast engine."""
    bundle = load(model)
    places = [place for place in POSITIONS if place < bundle.model.config.context_length]
    ids = torch.randint(bundle.model.config.vocab_size, (1, places[-1] + 1), generator=torch.Generator().manual_seed(0))
    whole = bundle.model.last
    found = {"without a cache": [_milliseconds(partial(whole, ids[:, : at + 1], 1)) for at in places]}
    found["with a cache"] = _cached(bundle.model, ids, places)
    reason = refusal(bundle.model)
    if reason is None:
        fast = Fast(bundle.model)
        with one_torch_thread():
            found["fast engine"] = _cached(fast, ids, places)
    held = bundle.model.new_cache(1, places[-1] + 1)
    with torch.inference_mode():
        bundle.model.last(ids[:, :2], 1, held)
    lines = [
        f"{name:<16} {its[0]:6.1f} ms a token at position {places[0]}, {its[-1]:6.1f} at {places[-1]}"
        for name, its in found.items()
    ]
    lines += [f"keys and values take {held.bytes().token:,} bytes a token"]
    lines += [f"the fast engine was left out: {reason}"] if reason else []
    return {"lines": lines, "positions": places, "milliseconds": found, "bytes_per_token": held.bytes().token}


def _cached(reader: Reader, ids: torch.Tensor, places: list[int]) -> list[float]:
    """Milliseconds for the token at each place, all before it held by a cache."""
    found, cache = [], reader.new_cache(1, ids.shape[1])
    for at in places:
        with torch.inference_mode():
            reader.last(ids[:, int(cache.lengths[0]) : at], 1, cache)

        def one(at: int = at) -> None:
            cache.rewind(at)
            reader.last(ids[:, at : at + 1], 1, cache)

        found.append(_milliseconds(one))
        cache.rewind(at)
    return found


@torch.inference_mode()
def _milliseconds(do: Callable[[], object]) -> float:
    """The median of some times, after one that does not count."""
    times = []
    for _ in range(TIMES + 1):
        begin = perf_counter()
        do()
        times.append(1e3 * (perf_counter() - begin))
    return median(times[1:])


def quantize(run: Path) -> dict[str, Any]:
    """The model that was pretrained here in fewer bits: size, loss and speed of every form, each with its interval."""
    found = quantizing.compare(run, quantizing.Recipe(), tokens=TOKENS)
    lines = [
        f"{row['form']:<14} {row['file_bytes'] / 1e6:6.2f} MB, {row['bits_per_weight']:5.2f} bits a weight, "
        f"{row['difference']:+.4f} [{row['difference_95'][0]:+.4f}, {row['difference_95'][1]:+.4f}] bits per byte, "
        f"{row['tokens_per_second']:,.0f} tokens a second"
        for row in found["rows"]
    ]
    return {"lines": [*lines, f"judged on {found['tokens']:,} tokens of {found['text']}"], **found}
