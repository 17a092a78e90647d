"""One training step of GPT-2 124M, 4 x 256 tokens, optimiser and clipping included, beside transformers and litgpt.

    python benchmarks/bench_train.py [--litgpt PYTHON]        about three minutes; appends to benchmarks/results.jsonl

Each side lives in a process of its own and waits while the other computes; steps are taken in turn, A B A B. All begin
from the same weights and see the same ids. transformers computes the same function, so its first losses must be ours;
litgpt has no learned positions, so its first loss must only be near. Peers use torch's own fused AdamW. One more pair
gives transformers the same setting of the memory allocator that ours uses, to say how much of the gain that is.
litgpt needs numpy < 2: name an interpreter that has it (`python -m venv x && x/bin/pip install litgpt`).
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

BATCH, LENGTH, WARM, ROUNDS = 4, 256, 2, 7
WEIGHTS = Path("/tmp") / "firsthand-bench-train.safetensors"
PAIRS = {
    "bf16 / transformers bf16": ("ours bfloat16", "transformers bfloat16"),
    "bf16 / litgpt bf16": ("ours bfloat16", "litgpt bfloat16"),
    "nothing set / transformers, nothing set": ("ours auto", "transformers float32"),
    "bf16 / transformers bf16, memory kept": ("ours bfloat16", "transformers-kept bfloat16"),
}
BARS = {"bf16 / transformers bf16": 1.15, "bf16 / litgpt bf16": 1.15, "nothing set / transformers, nothing set": 1.7}


def ids():
    """The same ids for everybody: (B, T + 1)."""
    import torch

    return torch.randint(50257, (BATCH, LENGTH + 1), generator=torch.Generator().manual_seed(0))


def ours(dtype):
    """A function that takes one step of our loop and gives its loss, and what arithmetic it uses."""
    import itertools

    from safetensors.torch import load_file

    from firsthand.model.config import ModelConfig
    from firsthand.model.gpt import GPT
    from firsthand.objectives.pretrain import Pretrain
    from firsthand.training import device
    from firsthand.training.config import TrainConfig
    from firsthand.training.groups import build
    from firsthand.training.loop import steps

    device.keep_memory()
    arithmetic = device.choose("cpu", dtype, BATCH * LENGTH, 768)
    model = GPT(ModelConfig.preset("gpt2-small"))
    model.load_state_dict(load_file(WEIGHTS), strict=False)
    batch = Pretrain().collate(list(ids().numpy()))
    run = steps(
        model, Pretrain(), itertools.repeat(batch), build(model, TrainConfig()), clip=1.0, arithmetic=arithmetic
    )

    def step():
        with arithmetic.products():
            return next(run).loss

    return step, str(arithmetic)


def autocast_step(model, loss_of, dtype):
    """A step as a tutorial writes it: autocast, backward, clip, torch's fused AdamW."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = loss_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step, dtype


def transformers(dtype):
    from safetensors.torch import load_file
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)).train()
    model.load_state_dict(as_gpt2(load_file(WEIGHTS)), strict=False)
    rows = ids()
    inputs, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
    return autocast_step(model, lambda: model(input_ids=inputs, labels=targets, shift_labels=targets).loss, dtype)


def transformers_kept(dtype):
    from firsthand.training import device

    device.keep_memory()
    return transformers(dtype)


def as_gpt2(own):
    """Our names and shapes -> those of GPT-2: matrices transposed, q k v in one."""
    import torch

    names = {
        "attention_norm": "ln_1",
        "mlp_norm": "ln_2",
        "attention.o": "attn.c_proj",
        "mlp.up": "mlp.c_fc",
        "mlp.down": "mlp.c_proj",
    }
    theirs = {"transformer.wte.weight": own["embed.weight"], "transformer.wpe.weight": own["positions.weight"]}
    theirs |= {"transformer.ln_f.weight": own["norm.weight"], "transformer.ln_f.bias": own["norm.bias"]}
    for layer in range(12):
        a, b = f"blocks.{layer}", f"transformer.h.{layer}"
        for mine, their in names.items():
            for kind in ("weight", "bias"):
                tensor = own[f"{a}.{mine}.{kind}"]
                theirs[f"{b}.{their}.{kind}"] = tensor.T.contiguous() if tensor.ndim == 2 else tensor
        for kind in ("weight", "bias"):
            joined = torch.cat([own[f"{a}.attention.{part}.{kind}"] for part in "qkv"])
            theirs[f"{b}.attn.c_attn.{kind}"] = joined.T.contiguous() if kind == "weight" else joined
    return theirs | {"lm_head.weight": own["embed.weight"]}


def litgpt(dtype):
    import torch
    import torch.nn.functional as F
    from litgpt import GPT, Config

    torch.manual_seed(0)
    model = GPT(
        Config(
            block_size=1024, n_layer=12, n_head=12, n_embd=768, vocab_size=50257, padded_vocab_size=50257, bias=True,
            rotary_percentage=0.0, parallel_residual=False, norm_class_name="LayerNorm", mlp_class_name="GptNeoxMLP",
            intermediate_size=3072, gelu_approximate="tanh",
        )
    )  # fmt: skip
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.02) if parameter.ndim == 2 else None
    model.lm_head.weight = model.transformer.wte.weight
    rows = ids()
    targets = rows[:, 1:].flatten()
    return autocast_step(model, lambda: F.cross_entropy(model(rows[:, :-1]).flatten(0, 1).float(), targets), dtype)


def serve(side: str, dtype: str, threads: str) -> None:
    """Build a side, say what it is, then take one step for every line of input."""
    import torch

    torch.set_num_threads(int(threads))
    makers = {"ours": ours, "transformers": transformers, "transformers-kept": transformers_kept, "litgpt": litgpt}
    step, about = makers[side](dtype)
    print(json.dumps(about), flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        loss = step()
        print(json.dumps([time.perf_counter() - begin, loss]), flush=True)


class Side:
    """A process that takes a step when it is told to."""

    def __init__(self, name: str, python: str, threads: int):
        self.process = subprocess.Popen(
            [python, "-W", "ignore", __file__, "--serve", *name.split(), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about = self.read()

    def read(self):
        for line in self.process.stdout:
            if line[:1] in '["':  # a library may have something to say as well
                return json.loads(line)
        raise SystemExit(f"a side ended without a word (exit code {self.process.wait()})")

    def step(self) -> list[float]:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self.read()
        time.sleep(0.3)  # until its threads stop spinning
        return answer

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def compare(pair: str, pythons: dict[str, str], threads: int) -> dict:
    """Both sides of a pair, in turn: tokens a second, and the ratio of each round."""
    names = PAIRS[pair]
    sides = [Side(name, pythons.get(name.split()[0], sys.executable), threads) for name in names]
    warm = [[side.step()[1] for side in sides] for _ in range(WARM)]
    tolerance = 0.02 if "litgpt" in names[1] else 2e-3  # bfloat16 rounds to 1/256; a mean over 1,024 tokens to less
    assert abs(warm[0][0] - warm[0][1]) < tolerance * warm[0][1], f"{pair}: not the same loss, {warm[0]}"
    rounds = [[side.step()[0] for side in sides] for _ in range(ROUNDS)]
    for side in sides:
        side.close()
    ratios = [theirs / mine for mine, theirs in rounds]
    speed = [BATCH * LENGTH / median(column) for column in zip(*rounds, strict=True)]
    return {
        "pair": pair,
        "threads": threads,
        "ours_tokens_s": round(speed[0]),
        "peer_tokens_s": round(speed[1]),
        "ratio": round(median(ratios), 2),
        "ratios": [round(min(ratios), 2), round(max(ratios), 2)],
        "bar": BARS.get(pair),
        "first_losses": warm[0],
        "arithmetic": sides[0].about,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--litgpt", default="", metavar="PYTHON", help="an interpreter that can import litgpt")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="pairs whose name contains this")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        return serve(*given.serve)
    from record import record
    from safetensors.torch import save_file

    from firsthand.checkpoint.bundle import weights
    from firsthand.model.config import ModelConfig
    from firsthand.model.gpt import GPT

    save_file(weights(GPT(ModelConfig.preset("gpt2-small"))), WEIGHTS)
    for pair in PAIRS:
        if "litgpt" in pair and not given.litgpt:
            print(f"{pair}: skipped, give an interpreter with --litgpt")
        elif given.only in pair:
            record(
                "train.step", "python benchmarks/bench_train.py", compare(pair, {"litgpt": given.litgpt}, given.threads)
            )
    WEIGHTS.unlink()
    return None


if __name__ == "__main__":
    main()
