"""Each rung of the ladder equals the next, and the last equals production."""

import math

import kit
import torch

from firsthand.lessons.attention import causal, fused, multi_head, one_query, self_attention
from firsthand.model.attention import Attention, Pass, attend
from firsthand.model.config import ModelConfig


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


Q, K, V = draw(5, 3), draw(5, 3, seed=1), draw(5, 3, seed=2)
MATRICES = [draw(12, 12, seed=seed) / 4 for seed in range(4)]


def test_one_query_by_hand():
    # scores 0 and log 3: shares 1/4 and 3/4
    keys = torch.tensor([[0.0], [math.log(3)]], dtype=torch.float64)
    values = torch.tensor([[4.0], [8.0]], dtype=torch.float64)
    assert abs(one_query(torch.ones(1, dtype=torch.float64), keys, values).item() - 7.0) < 1e-12


def test_one_query_is_a_row_of_self_attention():
    rows = torch.stack([one_query(q, K, V) for q in Q])
    assert kit.gap(rows, self_attention(Q, K, V)) < 1e-12


def test_self_attention_is_causal_attention_for_the_last_token():
    assert kit.gap(self_attention(Q, K, V)[-1], causal(Q, K, V)[-1]) < 1e-12
    for t in range(1, 6):
        assert kit.gap(self_attention(Q[:t], K[:t], V[:t])[-1], causal(Q, K, V)[t - 1]) < 1e-12


def test_causal_attention_is_multi_head_attention_with_one_head():
    x = draw(5, 12, seed=7)
    wq, wk, wv, wo = MATRICES
    assert kit.gap(causal(x @ wq.T, x @ wk.T, x @ wv.T) @ wo.T, multi_head(x, *MATRICES, n_head=1)) < 1e-12


def test_multi_head_attention_is_fused_attention_row_by_row():
    x = draw(2, 5, 12, seed=8)
    rows = torch.stack([multi_head(row, *MATRICES, n_head=3) for row in x])
    assert kit.gap(rows, fused(x, *MATRICES, n_head=3)) < 1e-12


def test_fused_attention_is_production():
    production = Attention(ModelConfig(n_head=3, d_model=12, bias="none"), layer=0).double()
    x = draw(2, 5, 12, seed=9)
    matrices = [part.weight for part in (production.q, production.k, production.v, production.o)]
    ours = production(x, Pass(rotary=None, mask=None, cache=None, attend=attend))
    assert kit.gap(fused(x, *matrices, n_head=3), ours) < 1e-12
