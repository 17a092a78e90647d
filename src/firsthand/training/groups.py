"""Which weight is updated how: matrices decay, vectors do not; under Muon the blocks' matrices go their own way."""

import torch
from torch import nn

from firsthand.training.config import TrainConfig
from firsthand.training.muon import Muon
from firsthand.training.optim import AdamW, Group, Optimizer, Together


def build(model: nn.Module, config: TrainConfig, dtype: str = "float32") -> Optimizer:
    """The optimiser that the settings name, over every weight that learns.

    `dtype` is the arithmetic of the run. bfloat16 is enough for Muon too, and halves its time.
    """
    if config.optimizer == "adamw":
        return AdamW(by_shape(model, config), config.betas, config.eps)
    matrices, rest = by_place(model, config)
    products = torch.bfloat16 if dtype == "bfloat16" else next(model.parameters()).dtype
    muon = Muon([matrices], config.momentum, config.newton_schulz, products)
    return Together(muon, AdamW(rest, config.betas, config.eps))


def by_shape(model: nn.Module, config: TrainConfig) -> list[Group]:
    """Matrices and embeddings with decay; norms and biases without: pulling those to zero only hurts."""
    matrices = [(name, weight) for name, weight in _learning(model) if weight.ndim >= 2]
    vectors = [(name, weight) for name, weight in _learning(model) if weight.ndim < 2]
    groups = [Group(matrices, config.learning_rate, config.weight_decay), Group(vectors, config.learning_rate, 0.0)]
    return [group for group in groups if group.members]


def by_place(model: nn.Module, config: TrainConfig) -> tuple[Group, list[Group]]:
    """For Muon the matrices inside the blocks; for AdamW embeddings, head and vectors.

    Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon, "Empirical considerations".
    """
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    matrices, embeddings, rest = [], [], []
    for name, weight in _learning(model):
        if id(weight) in tables:
            embeddings.append((name, weight))
        elif weight.ndim == 2 and "blocks." in name:
            matrices.append((name, weight))
        else:
            rest.append((name, weight))
    embedding_rate = config.embedding_learning_rate or config.learning_rate
    others = [Group(embeddings, embedding_rate, 0.0), Group(rest, config.learning_rate, 0.0)]
    return (
        Group(matrices, config.muon_learning_rate, config.weight_decay),
        [group for group in others if group.members],
    )


def _learning(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Every weight once, by name; a tied head goes by the name of the embedding."""
    return [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
