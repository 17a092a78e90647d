"""What guessing from earlier text (--lookup) saves, on the real SmolLM2-135M-Instruct: three kinds of text.

    OMP_NUM_THREADS=1 python benchmarks/bench_lookup.py        about two minutes; appends to benchmarks/results.jsonl

Plain and guessed decoding take turns in one process, on one core, greedy, float32; both must give the same tokens.
`speedup` is the median of the ratios of processor seconds of the rounds, lowest and highest beside it; the prompt is
read before the clock starts. `tokens_per_pass` would be the speedup if guesses cost nothing.
"""

import statistics
import time

import torch
from record import record

from firsthand.infer.generate import Sampling, Writer
from firsthand.run import source

COMMAND = "OMP_NUM_THREADS=1 python benchmarks/bench_lookup.py"
ROUNDS, TOKENS, MOST = 3, 64, 8
CODE = '''def mean(numbers: list[float], default: float = 0.0) -> float:
    """The mean of the numbers; the default where there are none."""
    if not numbers:
        return default
    return sum(numbers) / len(numbers)
'''
TURN = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
TEXTS = {
    "a story, nothing to repeat": TURN.format("Tell me a story about a fox."),
    "a count, each line like the last": "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,",
    "code to repeat": TURN.format(f"Repeat this code:\n{CODE}"),
}


def decode(bundle, ids: list[int], most: int) -> tuple[list[int], float, Writer]:
    """The tokens that follow, and the processor seconds of all but the first."""
    writer = Writer(bundle, Sampling(TOKENS, 0, lookup=most))
    answer = writer.answer(ids)
    tokens = [next(answer).id]
    start = time.process_time()
    tokens += [token.id for token in answer]
    return tokens, time.process_time() - start, writer


def main() -> None:
    assert torch.get_num_threads() == 1, f"run as: {COMMAND}"
    bundle = source.load("smollm2-135m-instruct")
    for kind, text in TEXTS.items():
        ids = bundle.tokenizer.encode(text, allow_special=True).tolist()
        ratios, rates = [], []
        for _ in range(ROUNDS):
            plain, slow, _ = decode(bundle, ids, 0)
            guessed, fast, writer = decode(bundle, ids, MOST)
            assert plain == guessed, f"{kind}: guessing changed the text"
            ratios.append(slow / fast)
            rates.append(len(plain) / slow)
        numbers = {
            "text": kind,
            "prompt_tokens": len(ids),
            "tokens": len(plain),
            "speedup": [round(ratio, 2) for ratio in (statistics.median(ratios), min(ratios), max(ratios))],
            "tokens_per_pass": round(len(plain) / writer.lookup.passes, 2),
            "guessed": writer.lookup.guessed,
            "right": writer.lookup.right,
            "plain_tokens_per_second": round(statistics.median(rates), 1),
        }
        record("generate.lookup", COMMAND, numbers)


main()
