"""Tokens a second of the fast engine beside llama.cpp (SmolLM2-135M-Instruct) and transformers (GPT-2's shape).

    python benchmarks/bench_decode.py [--native PYTHON] [--rounds 5]   ten minutes; appends to results.jsonl

Every side lives in a process of its own, with two threads, and waits while another computes: in turn, A B A B.
What is asked of each in a round: 64 tokens after a prompt of 32; eight texts of 32 tokens together after prompts of 8;
prompts of 64 and of 512. Beside it stands what memory gave in that round. llama.cpp runs files of Q8_0 and Q4_0 that
`firsthand export` made of the same model, as xllamacpp's wheel, whose code uses AVX2; `--native` names the Python of
an environment where llama-cpp-python was built with -DGGML_NATIVE=ON, which uses all that the processor has.

llama.cpp rounds activations to 8 bits, the engine does so only where it says "int8 activations"; llama.cpp keeps keys
and values in half precision, the engine in float32. Before the clock starts, the engine's scores are compared with
those of `GPT.forward` with the same rounded weights, and transformers' with GPT's.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

MODEL, THREADS, TOKENS, PROMPT, TOGETHER = "smollm2-135m-instruct", 2, 64, 32, 8
ASKED = ("decode", "batch 8", "prompt 64", "prompt 512")
ENGINES = {"int8": "q8_0", "int4": "q4_0"}
POSITIONS = (64, 256, 1024, 2032)
TEXT = [100 + 7 * at % 20_000 for at in range(2048)]


def ours(model: str, kind: str, activations: str) -> dict:
    """The fast engine: what to do when asked."""
    import torch

    from firsthand.infer.fast import Fast, rounded

    torch.set_num_threads(THREADS)
    plain = _model(model)
    engine = Fast(plain, kind, activations, THREADS)
    with torch.inference_mode():
        want = rounded(plain, kind)(torch.tensor([TEXT[:PROMPT]]))[0, -1]
    gap = float((engine.last(torch.tensor([TEXT[:PROMPT]]), 1)[0, 0] - want).abs().max() / want.abs().max())
    torch.set_num_threads(1)  # or its threads would spin on the engine's cores
    assert gap < (1e-3 if activations == "float32" else 0.2), f"{kind}, {activations}: the scores are off by {gap:.1e}"

    def decode() -> float:
        cache = engine.new_cache()
        scores = engine.last(torch.tensor([TEXT[:PROMPT]]), 1, cache)
        start = time.perf_counter()
        for _ in range(TOKENS):
            scores = engine.last(scores[:, 0].argmax(dim=1, keepdim=True), 1, cache)
        return TOKENS / (time.perf_counter() - start)

    def together() -> float:
        cache = engine.new_cache(TOGETHER)
        scores = engine.last(torch.tensor([TEXT[at : at + 8] for at in range(TOGETHER)]), 1, cache)
        start = time.perf_counter()
        for _ in range(PROMPT):
            scores = engine.last(scores[:, 0].argmax(dim=1, keepdim=True), 1, cache)
        return TOGETHER * PROMPT / (time.perf_counter() - start)

    def prompt(length: int) -> float:
        start = time.perf_counter()
        engine.last(torch.tensor([TEXT[:length]]), 1)
        return length / (time.perf_counter() - start)

    def at(position: int) -> float:
        cache, times = engine.new_cache(), []
        engine.last(torch.tensor([TEXT[:position]]), 1, cache)
        for _ in range(15):
            start = time.perf_counter()
            engine.last(torch.tensor([[11]]), 1, cache)
            times.append(1e3 * (time.perf_counter() - start))
            cache.rewind(position)
        return statistics.median(times)

    facts = {"largest_gap": gap, "megabytes": round(engine.weight_bytes / 1e6, 1)}
    known = {"decode": decode, "batch 8": together, "facts": lambda: facts}
    known |= {f"prompt {length}": lambda length=length: prompt(length) for length in (64, 512)}
    return known | {f"at {position}": lambda position=position: at(position) for position in POSITIONS}


def _model(name: str):
    """SmolLM2, or random weights of GPT-2's shape."""
    if name == "gpt2":
        from firsthand.model.config import PRESETS, ModelConfig
        from firsthand.model.gpt import GPT

        return GPT(ModelConfig(vocab_size=50257, **PRESETS["gpt2-small"])).eval()
    from firsthand.run import source

    return source.load(MODEL).model


def wheel(path: str) -> dict:
    """llama.cpp from xllamacpp's wheel; its time is its own count, without its server, but for eight at once."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.n_gpu_layers = path, 1024 * TOGETHER, TOGETHER, 0
    params.verbosity, params.ui, params.cache_prompt = 0, False, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = THREADS
    server = xllamacpp.Server(params)

    def asked(ids: list[int], count: int) -> dict:
        settings = {"temperature": 0, "cache_prompt": False, "ignore_eos": True, "n_predict": count}
        return server.handle_completions({"prompt": ids, **settings})["timings"]

    def together() -> float:
        texts = [
            threading.Thread(target=asked, args=(TEXT[at : at + 8], PROMPT)) for at in range(TOGETHER)
        ]  # its prompts, of 8 tokens each, are within its time
        start = time.perf_counter()
        for text in texts:
            text.start()
        for text in texts:
            text.join()
        return TOGETHER * PROMPT / (time.perf_counter() - start)

    known = {"decode": lambda: asked(TEXT[:PROMPT], TOKENS)["predicted_per_second"], "batch 8": together}
    known |= {f"prompt {n}": lambda n=n: asked(TEXT[:n], 1)["prompt_per_second"] for n in (64, 512)}
    return known | {"facts": lambda: {"uses": xllamacpp.get_system_info().strip()}}


def native(path: str) -> dict:
    """llama.cpp built for this processor (llama-cpp-python), through its lowest interface."""
    import llama_cpp

    llama = llama_cpp.Llama(path, n_ctx=1024, n_threads=THREADS, n_threads_batch=THREADS, n_batch=512, verbose=False)

    def decode() -> float:
        llama.reset()
        llama.eval(TEXT[:PROMPT])
        start = time.perf_counter()
        for at in range(TOKENS):
            llama.eval([TEXT[at]])
        return TOKENS / (time.perf_counter() - start)

    def prompt(length: int) -> float:
        llama.reset()
        start = time.perf_counter()
        llama.eval(TEXT[:length])
        return length / (time.perf_counter() - start)

    known = {"decode": decode} | {f"prompt {n}": lambda n=n: prompt(n) for n in (64, 512)}
    return known | {"facts": lambda: {"uses": llama_cpp.llama_print_system_info().decode().strip()}}


def transformers(dtype: str) -> dict:
    """GPT-2's shape in transformers, its own cache, the likeliest token each time."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.set_num_threads(THREADS)
    model = GPT2LMHeadModel(GPT2Config()).to(getattr(torch, dtype)).eval()

    @torch.inference_mode()
    def decode() -> float:
        found = model(torch.tensor([TEXT[:PROMPT]]), use_cache=True)
        start = time.perf_counter()
        for _ in range(TOKENS):
            new = found.logits[:, -1:].argmax(dim=-1)
            found = model(new, past_key_values=found.past_key_values, use_cache=True)
        return TOKENS / (time.perf_counter() - start)

    return {"decode": decode, "facts": dict}


SIDES = {"ours": ours, "wheel": wheel, "native": native, "transformers": transformers}


def serve(name: str, *words: str) -> None:
    """Answer every line of input, which names something to do, by a number."""
    known = SIDES[name](*words)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps(known[line.strip()]() if line.strip() in known else None), flush=True)
    sys.stdout.flush()
    os._exit(0)  # llama.cpp's threads would not let it end


class Side:
    """A process that does what it is told to."""

    def __init__(self, *words: str, python: str = sys.executable):
        command = [python, "-W", "ignore", __file__, "--serve", *words]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.read()

    def read(self):
        """The next line that is an answer: a library may have something to say as well."""
        for line in self.process.stdout or ():
            try:
                return json.loads(line)
            except json.JSONDecodeError:
                continue
        raise SystemExit(f"a side ended without a word (exit code {self.process.wait()})")

    def ask(self, what: str):
        assert self.process.stdin
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        answer = self.read()
        time.sleep(0.1)  # until its threads stop spinning
        return answer

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def bandwidth() -> float:
    """Gigabytes a second that two threads read."""
    import torch

    torch.set_num_threads(THREADS)
    memory = torch.ones(64 << 20)
    start = time.perf_counter()
    memory.sum()
    return memory.nbytes / (time.perf_counter() - start) / 1e9


def spread(values: list[float]) -> list[float]:
    """Median, lowest, highest."""
    return [round(float(value), 2) for value in (statistics.median(values), min(values), max(values))]


def rounds_of(sides: dict[str, Side], asked: tuple[str, ...], rounds: int) -> dict[str, dict[str, list[float]]]:
    """What each side answered in every round, after one that does not count; -> by question, by side."""
    found: dict[str, dict[str, list[float]]] = {what: {} for what in asked}
    for turn in range(rounds + 1):
        for what in asked:
            for name, side in sides.items():
                answer = side.ask(what)
                if turn and answer is not None:
                    found[what].setdefault(name, []).append(answer)
        if turn:
            found.setdefault("memory GB/s", {}).setdefault("all", []).append(bandwidth())
    return found


def told(found: dict[str, dict[str, list[float]]], engines: list[str]) -> dict:
    """Medians and spreads, and the engine's ratio to every peer, pair by pair."""
    numbers = {what: {name: spread(values) for name, values in its.items()} for what, its in found.items()}
    ratios = {}
    for what, its in found.items():
        for peer in [name for name in its if name not in engines and what in ASKED]:
            pairs = {one: [a / b for a, b in zip(its[one], its[peer], strict=True)] for one in engines if one in its}
            ratios[f"{what}, to {peer}"] = {one: spread(values) for one, values in pairs.items()}
    return {"tokens_per_second": numbers, "ratios": ratios}


def against_llama(kind: str, path: str, python: str, rounds: int) -> dict:
    """The engine with both kinds of activations beside llama.cpp with the same bits."""
    sides = {f"{act} activations": Side("ours", "smollm2", kind, act) for act in ("float32", "int8")}
    engines = list(sides)
    sides["llama.cpp, wheel"] = Side("wheel", path)
    if python:
        sides["llama.cpp, native"] = Side("native", path, python=python)
    numbers = told(rounds_of(sides, ASKED, rounds), engines)
    facts = {name: side.ask("facts") for name, side in sides.items()}
    exact = sides["float32 activations"]
    milliseconds = {position: round(exact.ask(f"at {position}"), 2) for position in POSITIONS}
    for side in sides.values():
        side.close()
    size = {"file_megabytes": round(Path(path).stat().st_size / 1e6, 1)}
    return {"bits": kind, "peer": ENGINES[kind], **numbers, "milliseconds_at": milliseconds, **size, "facts": facts}


def against_transformers(rounds: int) -> dict:
    """GPT-2's shape: the engine with weights of 16, 8 and 4 bits beside transformers in bfloat16 and float32."""
    sides = {kind: Side("ours", "gpt2", kind, "float32") for kind in ("bfloat16", "int8", "int4")}
    engines = list(sides)
    sides |= {f"transformers {dtype}": Side("transformers", dtype) for dtype in ("bfloat16", "float32")}
    numbers = told(rounds_of(sides, ("decode",), rounds), engines)
    for side in sides.values():
        side.close()
    return numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--native", default="", help="the Python of an environment with llama-cpp-python built here")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dry", action="store_true", help="print, and write no line into results.jsonl")
    parser.add_argument("--serve", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        return serve(*given.serve)
    from record import record

    from firsthand.run import exchange

    command = "python benchmarks/bench_decode.py" + " --native PYTHON" * bool(given.native)

    def keep(name: str, numbers: dict) -> None:
        print(name, json.dumps(numbers, indent=1)) if given.dry else record(name, command, numbers)

    with tempfile.TemporaryDirectory() as folder:
        for kind, file in ENGINES.items():
            exchange.export(MODEL, "gguf", Path(folder) / kind, file)
            keep("decode", against_llama(kind, str(Path(folder) / kind / "model.gguf"), given.native, given.rounds))
    keep("decode.gpt2", against_transformers(given.rounds))
    return None


if __name__ == "__main__":
    main()
