"""From words to a model: presets, the one dial, and what is refused."""

import pytest

from firsthand import config
from firsthand.errors import ConfigError, ModelError
from firsthand.model.config import FAST, PRESETS, ModelConfig
from firsthand.run.settings import MICRO, RunConfig, model_config, read_run


def described(*words: str) -> ModelConfig:
    return model_config(read_run(words).model, 1000)


def test_without_words_the_model_is_the_small_fast_one():
    model = described()
    assert (model.n_layer, model.d_model, model.context_length, model.vocab_size) == (4, 128, 128, 1000)
    assert all(getattr(model, name) == value for name, value in FAST.items())


def test_a_preset_is_that_model_and_single_fields_change_it():
    assert described("model.preset=gpt2-small") == ModelConfig(vocab_size=1000)
    changed = described("model.preset=gpt2-medium", "model.n_layer=3")
    assert (changed.n_layer, changed.d_model) == (3, PRESETS["gpt2-medium"]["d_model"])


def test_a_field_that_follows_from_another_follows_it():
    model = described("model.preset=gpt2-small", "model.d_model=96", "model.n_head=8")
    assert (model.d_head, model.d_ff, model.n_kv_head) == (12, 384, 8)


def test_one_dial_sets_width_heads_batch_rates_and_steps():
    small, large = read_run(["model.depth=2"]), read_run(["model.depth=6"])
    assert model_config(large.model, 1000).d_model > model_config(small.model, 1000).d_model
    assert (
        large.train.steps * large.train.batch_size * large.train.accumulate > small.train.steps * small.train.batch_size
    )
    assert large.train.learning_rate < small.train.learning_rate
    assert large.train.batch_size * model_config(large.model, 1000).context_length <= MICRO
    assert small.train.optimizer == "muon"


def test_a_word_wins_over_the_dial():
    assert read_run(["model.depth=2", "train.steps=7"]).train.steps == 7


def test_two_models_at_once_are_refused():
    with pytest.raises(ConfigError, match=r"model.preset=gpt2-small and model.depth=3 are two models"):
        described("model.preset=gpt2-small", "model.depth=3", "train.steps=1")


def test_a_shape_that_cannot_be_is_refused_with_the_mend():
    with pytest.raises(ModelError, match="try n_head = 4 or 8"):
        described("model.n_head=5")


def test_a_resolved_run_is_given_back_by_its_own_file(tmp_path):
    before = read_run(["model.depth=3", "data.source=x", "train.betas=[0.8, 0.9]", "tokenizer.kind=char"])
    path = tmp_path / "config.toml"
    path.write_text(config.write(before))
    assert read_run([path]) == before == config.read(RunConfig, [path])
