"""One LoRA step beside peft's: SmolLM2-135M's shape, rank 8 around all 210 layers, 4 x 128 tokens, AdamW and clipping.

    python benchmarks/bench_lora.py [--only float32]        under two minutes; appends to benchmarks/results.jsonl

Each side lives in a process of its own and waits while the other computes; steps are taken in turn, A B A B. Both begin
from the same random weights and the same A, with B zero, and see the same ids: the first losses must be equal, and so
must those after the first updates. Peak memory is the most that a process ever held, the base model included.
"""

import json
from pathlib import Path

from sides import compare, options, serve

BATCH, LENGTH, RANK, ALPHA, WARM, ROUNDS = 4, 128, 8, 16, 2, 5
FOLDER = Path("/tmp") / "firsthand-bench-lora"
DTYPES = ("float32", "bfloat16")
TARGETS = ("attention.*", "mlp.*")
RATE = 1e-3


def ids():
    """The same ids for everybody: (B, T + 1)."""
    import torch

    return torch.randint(49152, (BATCH, LENGTH + 1), generator=torch.Generator().manual_seed(0))


def shape():
    """SmolLM2-135M."""
    from firsthand.model.config import ModelConfig

    return ModelConfig(
        vocab_size=49152, context_length=2048, n_layer=30, n_head=9, n_kv_head=3, d_model=576, d_ff=1536,
        norm="rmsnorm", mlp="swiglu", bias="none", rope_theta=1e5,
    )  # fmt: skip


def adapted(model):
    """The model with an adapter that is new."""
    from firsthand.linear import lora
    from firsthand.linear.kinds import change
    from firsthand.linear.lora import Lora, settings_of

    change(model, "lora", TARGETS, settings_of(Lora(rank=RANK, alpha=ALPHA)))
    lora.initialise(model, "default", seed=0)
    return model


def prepare() -> None:
    """The weights of the base, and A of every adapter by peft's names."""
    from safetensors.torch import save_file

    from firsthand.interop import names
    from firsthand.interop.peft import PREFIX
    from firsthand.model.assemble import weights
    from firsthand.model.gpt import GPT

    FOLDER.mkdir(exist_ok=True)
    model = GPT(shape())
    model.initialise(0)
    save_file(weights(model), FOLDER / "base.safetensors")
    places = {ours[0]: their for their, ours in names.linears(model.config).items() if their != "lm_head"}
    adapted(model)
    first = {f"{PREFIX}{their}.lora_A.default.weight": model.get_submodule(place).adapter("default").a
             for place, their in places.items()}  # fmt: skip
    save_file({name: one.detach().clone() for name, one in first.items()}, FOLDER / "a.safetensors")


def ours(dtype):
    """A function that takes one step of our loop and gives its loss."""
    import itertools

    from safetensors.torch import load_file

    from firsthand.model.assemble import assemble
    from firsthand.objectives.pretrain import Pretrain
    from firsthand.training import device
    from firsthand.training.config import TrainConfig
    from firsthand.training.groups import build
    from firsthand.training.loop import steps

    device.keep_memory()
    arithmetic = device.choose("cpu", dtype, BATCH * LENGTH, 576)
    model = adapted(assemble(shape(), load_file(FOLDER / "base.safetensors"), "base"))
    batch = Pretrain().collate(list(ids().numpy()))
    optimizer = build(model, TrainConfig(learning_rate=RATE, min_learning_rate=RATE))
    run = steps(model, Pretrain(), itertools.repeat(batch), optimizer, clip=1.0, arithmetic=arithmetic)

    def step():
        with arithmetic.products():
            return next(run).loss

    return step


def peft(dtype):
    """A step as peft's own examples write it: transformers' model, autocast, torch's fused AdamW."""
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file
    from transformers import LlamaConfig, LlamaForCausalLM

    from firsthand.interop import hf_config, names

    fields = hf_config.write(shape())
    base = LlamaForCausalLM(LlamaConfig(**{name: fields[name] for name in fields if name != "architectures"})).train()
    base.load_state_dict(names.to_theirs(load_file(FOLDER / "base.safetensors"), shape()), strict=False)
    base.tie_weights()
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(base, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets, task_type="CAUSAL_LM"))
    missing = model.load_state_dict(load_file(FOLDER / "a.safetensors"), strict=False)
    assert not missing.unexpected_keys, missing.unexpected_keys[:3]
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    rows = ids()
    inputs, labels = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = model(input_ids=inputs, labels=labels, shift_labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def main() -> None:
    given = options(__doc__, ROUNDS, DTYPES)
    if given.serve:
        import torch

        name, dtype, threads = given.serve
        torch.set_num_threads(int(threads))
        return serve({"ours": ours, "peft": peft}[name](dtype))
    from record import record

    prepare()
    for dtype in [given.only] if given.only else DTYPES:
        found = compare(__file__, ("ours", "peft"), dtype, given.threads, WARM, given.rounds)
        print(json.dumps(found)) if given.dry else record("lora.step", "python benchmarks/bench_lora.py", found)
    for path in FOLDER.iterdir():
        path.unlink()
    FOLDER.rmdir()
    return None


if __name__ == "__main__":
    main()
