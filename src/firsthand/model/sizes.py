"""What a model costs, by arithmetic alone: parameters, operations, bytes; and the training that fits its depth.

B batch, T tokens of a row, C width, H heads, G key-value heads, D head width, V vocabulary, L layers.
"""

import math
from dataclasses import dataclass, fields

from firsthand.model.config import ModelConfig


def parts(config: ModelConfig) -> dict[str, int]:
    """How many parameters each part has; a tied head has none of its own."""
    C, L, D, F = config.d_model, config.n_layer, config.d_head, config.d_ff
    heads, groups = config.n_head * D, config.n_kv_head * D
    everywhere, on_qkv = config.bias == "all", config.bias != "none"
    norm = C * (2 if config.norm == "layernorm" and everywhere else 1)
    attention = C * (2 * heads + 2 * groups) + on_qkv * (heads + 2 * groups) + everywhere * C
    wide = 2 if config.mlp == "swiglu" else 1  # matrices that lead up to d_ff
    return {
        "embedding": config.vocab_size * C,
        "positions": config.context_length * C if config.rope_theta is None else 0,
        "attention": L * (attention + 2 * D * config.qk_norm),
        "feed-forward": L * ((wide + 1) * C * F + everywhere * (wide * F + C)),
        "norms": (2 * L + 1) * norm,
        "head": 0 if config.tied else config.vocab_size * C,
    }


def parameters(config: ModelConfig) -> int:
    """All parameters, each counted once."""
    return sum(parts(config).values())


def multiplied(config: ModelConfig) -> int:
    """Parameters that every token is multiplied by: all matrices and the head, not the tables looked up in."""
    C, D = config.d_model, config.d_head
    attention = C * D * (2 * config.n_head + 2 * config.n_kv_head)
    feed_forward = C * config.d_ff * (3 if config.mlp == "swiglu" else 2)
    return config.n_layer * (attention + feed_forward) + config.vocab_size * C


def forward_flops_per_token(config: ModelConfig, context: int) -> int:
    """Multiplications and additions of one token's way up, among `context` tokens.

    Attention counts the whole square, as a plain matrix product computes it, though half of it is masked.
    """
    return 2 * multiplied(config) + 4 * config.n_layer * config.n_head * config.d_head * context


def flops_per_token(config: ModelConfig, context: int) -> int:
    """Operations of training on one token: the way back costs twice the way up (Kaplan et al. 2020, section 2.1)."""
    return 3 * forward_flops_per_token(config, context)


def cache_bytes(config: ModelConfig, batch: int, length: int, item_bytes: int = 4, scale_bytes: int = 0) -> int:
    """Bytes of the keys and values of `length` tokens in each row; in int8, 1 an item and 4 for each head's scale."""
    return 2 * config.n_layer * batch * config.n_kv_head * length * (config.d_head * item_bytes + scale_bytes)


@dataclass(frozen=True)
class Memory:
    """Bytes of one training step, by what they hold."""

    weights: int
    gradients: int
    optimizer: int
    casts: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))


def memory(
    config: ModelConfig,
    batch: int,
    context: int,
    item_bytes: int = 4,
    explicit: bool = True,
    checkpointing: bool = False,
    optimizer_tensors: int = 2,
) -> Memory:
    """Bytes of a training step in float32, or under autocast to a type of `item_bytes`.

    `explicit`: attention keeps its weights (B, H, T, T) for the way back, as it does for short rows on a CPU.
    `optimizer_tensors`: what is kept beside each weight, 2 for AdamW and 1 for Muon. Dropout's masks are not counted.
    """
    tokens, weights = batch * context, 4 * parameters(config)
    block = tokens * _kept_per_token(config, context, item_bytes, explicit)
    stream = 4 * tokens * config.d_model
    blocks = config.n_layer * stream + block if checkpointing else config.n_layer * block
    return Memory(
        weights=weights,
        gradients=weights,
        optimizer=optimizer_tensors * weights,
        casts=item_bytes * multiplied(config) if item_bytes < 4 else 0,
        activations=blocks + stream + item_bytes * tokens * config.d_model,
        logits=item_bytes * tokens * config.vocab_size,
    )


def _kept_per_token(config: ModelConfig, context: int, item_bytes: int, explicit: bool) -> int:
    """Bytes that one block keeps of one token for the way back: the inputs of all that has a gradient."""
    heads, groups = config.n_head * config.d_head, config.n_kv_head * config.d_head
    statistics = 8 if config.norm == "layernorm" else 4  # mean and deviation, or the root mean square
    norms = 2 * (4 * config.d_model + statistics)
    items = 2 * config.d_model + (heads + 2 * groups) + heads  # norms' outputs; q, k, v; what `o` reads
    items += config.d_ff * (4 if config.mlp == "swiglu" else 2)
    if config.qk_norm:
        items += heads + groups
        norms += 4 * (config.n_head + config.n_kv_head)
    if explicit:
        return norms + item_bytes * (items + config.n_head * context)
    return norms + item_bytes * items + 4 * config.n_head


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train a model of this size."""

    batch_size: int
    steps: int
    learning_rate: float
    rule: str


def recipe(config: ModelConfig) -> Recipe:
    """Batch, steps and learning rate that belong to a model's size, from three rules of thumb.

    Tokens: 20 a parameter (Hoffmann et al. 2022, arXiv:2203.15556). Tokens a step: 2^19 at 2.5 billion tokens, and
    with their 0.38th power else, to the nearest power of two (Bergsma et al. 2025, arXiv:2505.13738).
    Learning rate: 6e-4 at width 768 (GPT-3, table 2.1), and with 1 / sqrt(width) else.
    """
    tokens = 20 * parameters(config)
    wished = 2**19 * (tokens / 2.5e9) ** 0.38
    batch_size = max(1, 2 ** round(math.log2(wished / config.context_length)))
    steps = math.ceil(tokens / (batch_size * config.context_length))
    learning_rate = 6e-4 * math.sqrt(768 / config.d_model)
    rule = (
        f"20 tokens a parameter = {tokens:,}; {batch_size} rows of {config.context_length} a step; "
        f"learning rate 6e-4 x sqrt(768 / {config.d_model}) = {learning_rate:.2g}"
    )
    return Recipe(batch_size, steps, learning_rate, rule)
