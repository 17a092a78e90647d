"""The lesson's GPT is production's GPT, and its parts are torch's parts."""

import kit
import torch
from torch import nn

from firsthand.lessons.gpt import GPT, LayerNorm, gelu, gradient_norms, plain, shortcut


def test_the_lesson_loads_a_production_checkpoint_and_gives_its_logits():
    production = kit.tiny("gpt2")
    config = production.config
    lesson = GPT(config.vocab_size, config.context_length, config.n_layer, config.n_head, config.d_model, config.d_ff)
    lesson.double().load_state_dict(production.state_dict())
    assert kit.gap(lesson(kit.ids(3, 17)), production(kit.ids(3, 17))) < 1e-10


def test_layer_norm_by_hand_and_by_torch():
    norm = LayerNorm(2, eps=0.0).double()
    assert kit.gap(norm(torch.tensor([3.0, 7.0])), torch.tensor([-1.0, 1.0])) < 1e-12
    x = torch.randn(5, 7, dtype=torch.float64)
    assert kit.gap(LayerNorm(7).double()(x), nn.LayerNorm(7).double()(x)) < 1e-12


def test_gelu_is_the_one_of_gpt2():
    x = torch.linspace(-4, 4, 33, dtype=torch.float64)
    assert kit.gap(gelu(x), nn.functional.gelu(x, approximate="tanh")) < 1e-12
    assert gelu(torch.zeros(1)).item() == 0


def test_shortcuts_carry_the_gradient_to_the_first_layer():
    without, through = gradient_norms(plain), gradient_norms(shortcut)
    assert len(without) == len(through) == 12
    assert without[0] < without[-1] / 1_000  # it faded on the way down
    assert through[0] > through[-1] / 10
