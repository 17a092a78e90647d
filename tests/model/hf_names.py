"""Names and layouts of Hugging Face weights, turned into ours."""

from torch import Tensor

Weights = dict[str, Tensor]

GPT2 = {"ln_1": "attention_norm", "ln_2": "mlp_norm", "mlp.c_fc": "mlp.up", "mlp.c_proj": "mlp.down"}
LLAMA = {
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "mlp_norm",
    "self_attn.q_proj": "attention.q",
    "self_attn.k_proj": "attention.k",
    "self_attn.v_proj": "attention.v",
    "self_attn.o_proj": "attention.o",
    "self_attn.q_norm": "attention.q_norm",
    "self_attn.k_norm": "attention.k_norm",
    "mlp.gate_proj": "mlp.gate",
    "mlp.up_proj": "mlp.up",
    "mlp.down_proj": "mlp.down",
}


def from_gpt2(theirs: Weights) -> Weights:
    """GPT-2 keeps its matrices as (in, out), and q, k, v as one."""
    ours = {
        "embed.weight": theirs["transformer.wte.weight"],
        "positions.weight": theirs["transformer.wpe.weight"],
        "norm.weight": theirs["transformer.ln_f.weight"],
        "norm.bias": theirs["transformer.ln_f.bias"],
        "head.weight": theirs["transformer.wte.weight"],
    }
    for name, tensor in theirs.items():
        if not name.startswith("transformer.h."):
            continue
        layer, part, kind = name.removeprefix("transformer.h.").split(".", 1)[0], *name.split(".", 3)[3].rsplit(".", 1)
        tensor = tensor.t() if kind == "weight" and tensor.dim() == 2 else tensor
        if part == "attn.c_attn":
            for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                ours[f"blocks.{layer}.attention.{letter}.{kind}"] = third
        else:
            ours[f"blocks.{layer}.{GPT2.get(part, 'attention.o')}.{kind}"] = tensor
    return ours


def from_llama(theirs: Weights) -> Weights:
    """Llama, Mistral, Qwen 2 and Qwen 3 differ from us in names only."""
    ours = {
        "embed.weight": theirs["model.embed_tokens.weight"],
        "norm.weight": theirs["model.norm.weight"],
        "head.weight": theirs["lm_head.weight"],
    }
    for name, tensor in theirs.items():
        if name.startswith("model.layers."):
            layer, rest = name.removeprefix("model.layers.").split(".", 1)
            part, kind = rest.rsplit(".", 1)
            ours[f"blocks.{layer}.{LLAMA[part]}.{kind}"] = tensor
    return ours
