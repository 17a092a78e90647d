"""Tokens a second of the fast engine and of llama.cpp (xllamacpp), on SmolLM2-135M-Instruct, at 8 and at 4 bits.

    python benchmarks/bench_decode.py        about three minutes; appends to benchmarks/results.jsonl

In every round all sides take turns in one process, each with two threads: 64 tokens after a prompt of 32, and a prompt
of 512. Before the clock starts, the engine's scores are compared with those of `GPT.forward` with the same rounded
weights. Beside them stands what memory gave in that round. llama.cpp rounds activations to 8 bits; the engine does so
only in the columns "int8". llama.cpp keeps its keys in half precision, the engine in float32. Its time is its own
count, without its server. Its wheel may not use all that this processor can do: `peer_uses` says what it uses.
"""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import xllamacpp
from record import record

from firsthand.infer.fast import Fast, rounded
from firsthand.run import exchange, source

COMMAND = "python benchmarks/bench_decode.py"
MODEL, THREADS, ROUNDS, PROMPT, TOKENS, LONG = "smollm2-135m-instruct", 2, 5, 32, 64, 512
PAIRS = {"int8": "q8_0", "int4": "q4_0"}
POSITIONS = (64, 256, 1024, 2032)


def server(path: Path) -> xllamacpp.Server:
    """llama.cpp with a file, as it comes, but for the number of threads."""
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.n_gpu_layers = str(path), 1024, 1, 0
    params.verbosity, params.ui, params.cache_prompt = 0, False, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = THREADS
    return xllamacpp.Server(params)


def theirs(llama: xllamacpp.Server, ids: list[int], count: int) -> dict[str, float]:
    """What llama.cpp says of its own time."""
    settings = {"temperature": 0, "cache_prompt": False, "ignore_eos": True, "n_predict": count}
    return llama.handle_completions({"prompt": ids, **settings})["timings"]


def decoded(engine: Fast, ids: list[int]) -> float:
    """Tokens a second after a prompt, each chosen from the scores before it."""
    engine.release(0)
    scores = engine.scores(ids)
    start = time.perf_counter()
    for _ in range(TOKENS):
        scores = engine.scores([int(scores.argmax())])
    return TOKENS / (time.perf_counter() - start)


def read(engine: Fast, ids: list[int]) -> float:
    """Tokens a second of a prompt."""
    engine.release(0)
    start = time.perf_counter()
    engine.scores(ids)
    return len(ids) / (time.perf_counter() - start)


def together(engine: Fast) -> float:
    """Tokens a second of eight texts that grow together."""
    for slot in range(8):
        engine.release(slot)
    start = time.perf_counter()
    for _ in range(16):
        engine.step([11] * 8, range(8))
    return 8 * 16 / (time.perf_counter() - start)


def bandwidth(memory: torch.Tensor) -> float:
    """Gigabytes a second that two threads read."""
    start = time.perf_counter()
    memory.sum()
    return memory.nbytes / (time.perf_counter() - start) / 1e9


def check(engine: Fast, model, ids: list[int], activations: str) -> float:
    """The largest difference from `GPT.forward`, as a part of the largest score."""
    with torch.inference_mode():
        want = model(torch.tensor([ids]))[0, -1]
    engine.release(0)
    gap = float((engine.scores(ids) - want).abs().max() / want.abs().max())
    assert gap < (1e-3 if activations == "float32" else 0.2), f"{activations}: the scores are off by {gap:.1e}"
    return gap


def spread(values: list[float]) -> list[float]:
    """Median, lowest, highest."""
    return [round(float(value), 2) for value in (statistics.median(values), min(values), max(values))]


def measure(kind: str, model, ids: list[int], folder: Path) -> None:
    """Five rounds of the engine, with both kinds of activations, and llama.cpp with the same bits."""
    exchange.export(MODEL, "gguf", folder / kind, PAIRS[kind])
    llama, plain = server(folder / kind / "model.gguf"), rounded(model, kind)
    engines = {which: Fast(model, kind, which, THREADS, batch=8, length=2048) for which in ("float32", "int8")}
    gaps = {which: check(engine, plain, ids[:PROMPT], which) for which, engine in engines.items()}
    memory, rates = torch.ones(64 << 20), {}
    theirs(llama, ids[:LONG], TOKENS)  # warm
    for _ in range(ROUNDS):
        rates.setdefault("memory GB/s", []).append(bandwidth(memory))
        for which, engine in engines.items():
            rates.setdefault(f"decode {which}", []).append(decoded(engine, ids[:PROMPT]))
            rates.setdefault(f"prompt {which}", []).append(read(engine, ids[:LONG]))
            rates.setdefault(f"batch 8 {which}", []).append(together(engine))
        rates.setdefault("decode llama.cpp", []).append(theirs(llama, ids[:PROMPT], TOKENS)["predicted_per_second"])
        rates.setdefault("prompt llama.cpp", []).append(theirs(llama, ids[:LONG], 1)["prompt_per_second"])
    numbers = {
        "bits": kind,
        "peer": PAIRS[kind],
        "tokens_per_second": {name: spread(all) for name, all in rates.items()},
    }
    for what in ("decode", "prompt"):
        for which in engines:
            pairs = np.array(rates[f"{what} {which}"]) / np.array(rates[f"{what} llama.cpp"])
            numbers[f"{what}_{which}_to_peer"] = spread(pairs.tolist())
    numbers |= {"largest_gap": gaps, "megabytes": engines["int8"].weight_bytes >> 20}
    numbers["milliseconds_at"] = {position: at(engines["float32"], ids, position) for position in POSITIONS}
    record("decode", COMMAND, numbers | {"peer_uses": xllamacpp.get_system_info().strip()})


def at(engine: Fast, ids: list[int], position: int) -> float:
    """Milliseconds for a token at a position: the median of 15."""
    engine.release(0)
    engine.scores((ids * 8)[:position])
    times = []
    for _ in range(15):
        start = time.perf_counter()
        engine.scores([11])
        times.append(1e3 * (time.perf_counter() - start))
        engine.rewind(0, position)
    return round(statistics.median(times), 2)


def main() -> None:
    torch.set_num_threads(THREADS)
    bundle = source.load(MODEL)
    text = Path(__file__).parent.parent.joinpath("LOG.md").read_text(encoding="utf-8")
    ids = bundle.tokenizer.encode(text).tolist()
    with tempfile.TemporaryDirectory() as folder:
        for kind in PAIRS:
            measure(kind, bundle.model, ids, Path(folder))


main()
