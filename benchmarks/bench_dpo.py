"""One DPO step beside trl's: SmolLM2-135M's shape, every weight learns, 4 pairs x 128 tokens, AdamW and clipping.

    python benchmarks/bench_dpo.py [--only float32]        some minutes and 12 GB; appends to benchmarks/results.jsonl

Each side lives in a process of its own and waits while the other computes; steps are taken in turn, A B A B. Both begin
from the same random weights, beside a reference of other weights (with equal ones the first loss would be log 2 for
anybody), and see the same pairs: the first losses must be equal, and so must those after the first updates. trl's step
is what its DPOTrainer does between two callbacks of `train()`, without recomputation of activations, which is its
default and would cost it a third. Peak memory is the most that a process ever held, the reference included.
"""

import json
from pathlib import Path

from bench_lora import shape
from sides import compare, options

PAIRS, LENGTH, PROMPT, WARM, ROUNDS = 4, 128, 32, 2, 5
FOLDER = Path("/tmp") / "firsthand-bench-dpo"
DTYPES = ("float32", "bfloat16")
RATE, BETA, END = 1e-6, 0.1, 0


def pairs() -> list[tuple[list[int], list[int], list[int]]]:
    """Prompt, chosen and rejected answer of every pair; answers end with the end of text."""
    import torch

    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(1, 49152, (PAIRS, PROMPT + 2 * (LENGTH - PROMPT)), generator=generator).tolist()
    return [(row[:PROMPT], [*row[PROMPT:LENGTH], END], [*row[LENGTH:], END]) for row in drawn]


def prepare() -> None:
    """The weights of the model, and those of the reference: a little away from them."""
    import torch
    from safetensors.torch import save_file

    from firsthand.model.assemble import weights
    from firsthand.model.gpt import GPT

    FOLDER.mkdir(exist_ok=True)
    model, generator = GPT(shape()), torch.Generator().manual_seed(1)
    model.initialise(0)
    save_file(weights(model), FOLDER / "model.safetensors")
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.003 * torch.randn(weight.shape, generator=generator))
    save_file(weights(model), FOLDER / "reference.safetensors")


def ours(dtype: str) -> None:
    """Steps of our loop."""
    import itertools

    from safetensors.torch import load_file
    from sides import serve

    from firsthand.model.assemble import assemble
    from firsthand.objectives.preference import Preference
    from firsthand.training import device
    from firsthand.training.config import TrainConfig
    from firsthand.training.groups import build
    from firsthand.training.loop import steps

    device.keep_memory()
    arithmetic = device.choose("cpu", dtype, 2 * PAIRS * LENGTH, 576)
    model, reference = (
        assemble(shape(), load_file(FOLDER / f"{name}.safetensors"), name) for name in ("model", "reference")
    )
    objective = Preference("dpo", BETA)
    objective.reference = reference.requires_grad_(False).eval()
    sides = [
        [(prompt + answer, [0] * len(prompt) + [1] * len(answer)) for answer in answers] for prompt, *answers in pairs()
    ]
    batch = objective.collate(sides)
    optimizer = build(model, TrainConfig(learning_rate=RATE, min_learning_rate=RATE))
    run = steps(model, objective, itertools.repeat(batch), optimizer, clip=1.0, arithmetic=arithmetic)

    def step() -> float:
        with arithmetic.products():
            return next(run).loss

    serve(step)


def trl(dtype: str) -> None:
    """Steps of trl's own `train()`."""
    import datasets
    import tokenizers
    from safetensors.torch import load_file
    from sides import Turns
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    from firsthand.interop import hf_config, names

    fields = hf_config.write(shape())
    models = []
    for name in ("model", "reference"):
        made = LlamaForCausalLM(LlamaConfig(**{name: fields[name] for name in fields if name != "architectures"}))
        made.load_state_dict(names.to_theirs(load_file(FOLDER / f"{name}.safetensors"), shape()), strict=False)
        made.tie_weights()
        models.append(made.train())

    class Taught(DPOTrainer):
        """Remembers the loss of the step."""

        def training_step(self, *given):
            self.last = super().training_step(*given)
            return self.last

    class InTurn(TrainerCallback):
        """Waits before every step; what lies between is forward, backward, clipping and the update."""

        def __init__(self):
            self.turns = Turns()

        def on_step_begin(self, args, state, control, **given):
            if not self.turns.wait():
                raise SystemExit(0)

        def on_step_end(self, args, state, control, **given):
            self.turns.done(trainer.last.item())

    datasets.disable_progress_bars()
    vocabulary = {f"w{number}": number for number in range(49152)}
    cut = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="w0"))
    cut.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    processing = PreTrainedTokenizerFast(tokenizer_object=cut, eos_token="w0", pad_token="w0")
    rows = [
        dict(zip(("prompt", "chosen", "rejected"), (" ".join(f"w{one}" for one in part) for part in pair), strict=True))
        for pair in ((prompt, chosen[:-1], rejected[:-1]) for prompt, chosen, rejected in pairs())
    ]
    for row in rows:
        row |= {side: f" {row[side]}" for side in ("chosen", "rejected")}
    arguments = DPOConfig(
        str(FOLDER / "trl"), per_device_train_batch_size=PAIRS, beta=BETA, max_length=None, max_steps=10_000,
        learning_rate=RATE, lr_scheduler_type="constant", adam_beta2=0.95, weight_decay=0.1, max_grad_norm=1.0,
        optim="adamw_torch_fused", gradient_checkpointing=False, use_cpu=True, bf16=dtype == "bfloat16", report_to=[],
        save_strategy="no", disable_tqdm=True, logging_steps=10_000,
    )  # fmt: skip
    trainer = Taught(
        models[0],
        models[1],
        arguments,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=processing,
        callbacks=[InTurn()],
    )
    (batch,) = trainer.get_train_dataloader()
    told = sorted(tuple(row) for row in batch["input_ids"].tolist())
    assert told == sorted(tuple(prompt + answer) for prompt, *answers in pairs() for answer in answers), "other ids"
    trainer.train()


def main() -> None:
    given = options(__doc__, ROUNDS, DTYPES)
    if given.serve:
        import torch

        name, dtype, threads = given.serve
        torch.set_num_threads(int(threads))
        return {"ours": ours, "trl": trl}[name](dtype)
    import shutil

    from record import record

    prepare()
    for dtype in [given.only] if given.only else DTYPES:
        found = compare(__file__, ("ours", "trl"), dtype, given.threads, WARM, given.rounds)
        print(json.dumps(found)) if given.dry else record("dpo.step", "python benchmarks/bench_dpo.py", found)
    shutil.rmtree(FOLDER)
    return None


if __name__ == "__main__":
    main()
