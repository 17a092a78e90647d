"""What fewer bits cost: `firsthand quantize --compare` on the real SmolLM2-135M-Instruct, beside llama.cpp's rounding.

    OMP_NUM_THREADS=1 python benchmarks/bench_quant.py [GROUPS ...]      minutes; appends to benchmarks/results.jsonl

GROUPS: 64 by default; 64s is 64 with symmetric rulers. The blocks' matrices of this file are Q4_1 of llama.cpp, 16
marks for 32 neighbours, so int4 with groups of 32 repeats them to the bit and says nothing; all others round anew.
Judged on the last quarter of Python's documentation, calibrated on the rest. Every row of the table is one result, with
the difference in bits per byte to the original and its interval, paired by rows of text; `gptq_minus_rtn` likewise.
`engine ...`: what the fast engine makes of the same weights when it is asked to round them (`generate --weights ...`).

`llama.cpp Q4_0`, `Q8_0`: what our writer of GGUF files rounds to, whose bytes are llama.cpp's (tests/interop): the same
model, the same rows of text, head and embedding too. Tokens a second: of the engine that `firsthand generate` takes.
"""

import sys
from dataclasses import asdict
from math import log

from record import record

from firsthand.evaluate.stats import bootstrap
from firsthand.infer.fast import rounded
from firsthand.interop.gguf_quantize import meant
from firsthand.linear.swap import linears
from firsthand.model.gpt import GPT
from firsthand.run import quantize as quantizing
from firsthand.run.quantize import Recipe
from firsthand.run.source import load

COMMAND = "OMP_NUM_THREADS=1 python benchmarks/bench_quant.py"
MODEL, TOKENS = "smollm2-135m-instruct", 4_096
BITS = {"Q4_0": 4.5, "Q8_0": 8.5}  # and of the engine's forms, without the head, which gets 8 bits always
ENGINE = {"int8": 8.03, "int8-groups": 8.5, "int4": 4.5, "int4-lows": 5.0}


def peer(kind: str) -> GPT:
    """The model with every matrix rounded as llama.cpp does."""
    model = load(MODEL).model
    for name in linears(model):
        weight = model.get_parameter(f"{name}.weight")
        weight.data = meant(weight.detach(), kind)
    return model


def main() -> None:
    bundle = load(MODEL)
    ids, bytes_per_token, text = quantizing.judged(bundle, MODEL, "")
    rows, per_bit = quantizing.in_rows(bundle, ids, TOKENS, 1), log(2) * bytes_per_token
    plain = quantizing.nats(bundle.model, rows) / per_bit
    about = {"model": MODEL, "text": text, "tokens": rows[:, 1:].numel(), "original_bits_per_byte": plain.mean()}
    others = {f"llama.cpp {kind}": (bits, peer(kind)) for kind, bits in BITS.items()}
    others |= {f"engine {kind}": (bits, rounded(bundle.model, kind)) for kind, bits in ENGINE.items()}
    for form, (bits, model) in others.items():
        change = quantizing.nats(model, rows) / per_bit - plain
        record(
            "quantize.quality",
            COMMAND,
            about
            | {"form": form, "bits_per_weight": bits}
            | {"difference": change.mean(), "difference_95": bootstrap(change)},
        )
    for word in sys.argv[1:] or ["64"]:
        group, found = int(word.removesuffix("s")), {}
        for to, method in quantizing.COMPARED:
            recipe = Recipe(to, method, group, word.endswith("s"))
            made = quantizing.shrunk(bundle, MODEL, recipe, quantizing.silent)
            found[f"{to} {method}"] = quantizing.nats(made, rows) / per_bit
            row = quantizing.measured(f"{to} {method}", bundle, made, rows, found[f"{to} {method}"], plain, 0.0)
            record("quantize.quality", COMMAND, about | {"groups": word} | asdict(row))
        better = found["int4 gptq"] - found["int4 rtn"]
        numbers = {"groups": word, "gptq_minus_rtn": better.mean(), "interval_95": bootstrap(better)}
        record("quantize.gptq", COMMAND, about | numbers)


if __name__ == "__main__":
    main()
