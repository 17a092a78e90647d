"""Lesson: a GPT from its parts: layer norm, GELU, feed-forward layer, shortcut, block, model.

Every part is written out, and the parameters carry production's names: `GPT(...).load_state_dict(...)` of a model that
was trained in earnest gives its logits. Attention has a lesson of its own; here it is five lines.

B batch, T tokens, C width, H heads, D head width, V vocabulary, L layers.
Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


class LayerNorm(nn.Module):
    """Bring every token's vector to mean 0 and variance 1, then let the model undo what it likes to.

    Without it the numbers grow or shrink from layer to layer, and one learning rate cannot suit them all. The small
    `eps` keeps a vector of equal numbers from being divided by zero.
    """

    def __init__(self, width: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        mean = x.mean(dim=-1, keepdim=True)
        variance = (x - mean).square().mean(dim=-1, keepdim=True)  # divided by C, not by C - 1
        return (x - mean) / torch.sqrt(variance + self.eps) * self.weight + self.bias


def gelu(x: Tensor) -> Tensor:
    """A smooth ReLU: large numbers pass, very negative ones do not, and those between have a slope.

    x times the share of a bell curve that lies below x; GPT-2 uses this approximation of that share.
    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2.
    """
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


class FeedForward(nn.Module):
    """Every token thinks alone: widen four times, bend, narrow again.

    Without the bend the two matrices would be one matrix, and all layers together one layer.
    """

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return self.down(gelu(self.up(x)))


class Attention(nn.Module):
    """Every token looks back (see the lesson on attention)."""

    def __init__(self, width: int, n_head: int):
        super().__init__()
        self.n_head = n_head
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        B, T, C = x.shape
        q, k, v = (part(x).view(B, T, self.n_head, -1).transpose(1, 2) for part in (self.q, self.k, self.v))
        scores = q @ k.mT / math.sqrt(q.shape[-1])  # (B, H, T, T)
        future = torch.ones(T, T).triu(diagonal=1).bool()
        seen = scores.masked_fill(future, -math.inf).softmax(dim=-1) @ v  # (B, H, T, D)
        return self.o(seen.transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    """Look back, then think, and *add* both to what was there.

    The sums are the shortcut connections: a road from the last layer to the first on which nothing is multiplied.
    `gradient_norms` measures what they are good for.
    """

    def __init__(self, width: int, n_head: int, inner: int):
        super().__init__()
        self.attention_norm = LayerNorm(width)
        self.attention = Attention(width, n_head)
        self.mlp_norm = LayerNorm(width)
        self.mlp = FeedForward(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class GPT(nn.Module):
    """Token and position become a vector, L blocks refine it, and the last vector is compared with every token's.

    The head *is* the embedding table: a token is likely next when the final vector points its way.
    """

    def __init__(self, vocab_size: int, context_length: int, n_layer: int, n_head: int, d_model: int, d_ff: int):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, d_model)
        self.positions = nn.Embedding(context_length, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_head, d_ff) for _ in range(n_layer))
        self.norm = LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        """A score for every possible next token, at every place: (B, T) -> (B, T, V)."""
        x = self.embed(ids) + self.positions(torch.arange(ids.shape[1]))  # (B, T, C)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


Connect = Callable[[nn.Module, Tensor], Tensor]


def plain(layer: nn.Module, x: Tensor) -> Tensor:
    """The layer's answer replaces what was there."""
    return layer(x)


def shortcut(layer: nn.Module, x: Tensor) -> Tensor:
    """The layer's answer is added to what was there."""
    return x + layer(x)


def gradient_norms(connect: Connect, depth: int = 12, width: int = 32, seed: int = 0) -> list[float]:
    """How much each layer of a deep stack could learn from one example: the norm of its gradient, first layer first.

    Every layer is a matrix and a GELU, fresh from PyTorch's own initialisation. Connected by `plain`, the gradient is
    multiplied by something small at every layer on its way down, and the first layers learn next to nothing. By
    `shortcut`, what arrives at the top also arrives at the bottom.
    """
    torch.manual_seed(seed)
    layers = [nn.Sequential(nn.Linear(width, width), nn.GELU()) for _ in range(depth)]
    x = torch.randn(1, width)
    for layer in layers:
        x = connect(layer, x)
    gradients = torch.autograd.grad(x.square().mean(), [layer.get_parameter("0.weight") for layer in layers])
    return [float(gradient.norm()) for gradient in gradients]
