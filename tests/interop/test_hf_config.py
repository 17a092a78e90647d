"""config.json of Hugging Face, read and written: nothing that changes the computation is passed over."""

from dataclasses import replace

import kit
import pytest
import transformers

from firsthand.errors import CheckpointError, FirsthandError, ModelError
from firsthand.interop import hf_config
from firsthand.model import sizes
from firsthand.model.config import PRESETS, ModelConfig, RopeScaling

VARIANTS = {name: config for name, config in kit.VARIANTS.items() if name != "fast"}
VARIANTS |= {
    "llama-bias": replace(kit.LLAMA, bias="all"),
    "qwen2-window": replace(VARIANTS["qwen2"], window=7),
    "smollm2": ModelConfig.preset("smollm2-135m"),
}
TURNS = {"rope_type": "default", "rope_theta": 1e4}
STRETCHED = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 11,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "max_position_embeddings": 19,
}
GPT2 = {"architectures": ["GPT2LMHeadModel"], "vocab_size": 11, "n_embd": 24, "n_layer": 2, "n_head": 6}
GPT2["n_positions"] = 19
QWEN2 = LLAMA | {"architectures": ["Qwen2ForCausalLM"], "num_key_value_heads": 3}


def read(fields: dict) -> ModelConfig:
    return hf_config.read(fields, "x/config.json")[0]


@pytest.mark.parametrize("name", VARIANTS)
def test_written_and_read_again_a_config_is_the_same(name):
    written = hf_config.write(VARIANTS[name])
    assert hf_config.read(written, "here") == (VARIANTS[name], [])


@pytest.mark.parametrize("name", VARIANTS)
def test_transformers_understands_what_we_write(name, tmp_path):
    """Read by its class and written by it again, in the form of transformers 5, the config is still the same."""
    fields = hf_config.write(VARIANTS[name])
    kind = transformers.CONFIG_MAPPING[fields.pop("model_type")]
    theirs = kind.from_dict({**fields, "bos_token_id": None, "eos_token_id": None})
    assert hf_config.read(theirs.to_dict(), "here") == (VARIANTS[name], [])


def test_the_config_of_gpt2_as_its_authors_uploaded_it():
    uploaded = {
        "activation_function": "gelu_new",
        "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": 0.1,
        "bos_token_id": 50256,
        "embd_pdrop": 0.1,
        "eos_token_id": 50256,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "model_type": "gpt2",
        "n_ctx": 1024,
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 12,
        "n_positions": 1024,
        "resid_pdrop": 0.1,
        "summary_activation": None,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        "vocab_size": 50257,
    }
    assert hf_config.read(uploaded, "here") == (ModelConfig.preset("gpt2-small"), [])


UPLOADED = """
vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads
max_position_embeddings rms_norm_eps rope_theta tie_word_embeddings
"""
STRETCHED_32 = {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "rope_type": "llama3"}
STRETCHED_32 |= {"original_max_position_embeddings": 8192}


@pytest.mark.parametrize(
    ("architecture", "numbers", "more", "parameters"),
    [
        # SmolLM2-135M, Llama-3.2-1B, Mistral-7B-v0.1, Qwen2.5-0.5B, Qwen3-0.6B: the numbers of their config.json
        (
            "Llama",
            (49152, 576, 1536, 30, 9, 3, 8192, 1e-5, 1e5, True),
            {"is_llama_config": True, "rope_interleaved": False, "rope_scaling": None, "pretraining_tp": 1},
            134_515_008,
        ),
        (
            "Llama",
            (128256, 2048, 8192, 16, 32, 8, 131072, 1e-5, 5e5, True),
            {"head_dim": 64, "mlp_bias": False, "attention_bias": False, "rope_scaling": STRETCHED_32},
            1_235_814_400,
        ),
        ("Mistral", (32000, 4096, 14336, 32, 32, 8, 32768, 1e-5, 1e4, False), {"sliding_window": 4096}, 7_241_732_096),
        (
            "Qwen2",
            (151936, 896, 4864, 24, 14, 2, 32768, 1e-6, 1e6, True),
            {"max_window_layers": 21, "sliding_window": 32768, "use_sliding_window": False},
            494_032_768,
        ),
        (
            "Qwen3",
            (151936, 1024, 3072, 28, 16, 8, 40960, 1e-6, 1e6, True),
            {"head_dim": 128, "attention_bias": False, "max_window_layers": 28, "sliding_window": None},
            596_049_920,
        ),
    ],
)
def test_released_models_have_the_parameters_that_their_authors_count(architecture, numbers, more, parameters):
    fields = (
        dict(zip(UPLOADED.split(), numbers, strict=True)) | more | {"hidden_act": "silu", "torch_dtype": "bfloat16"}
    )
    config, unread = hf_config.read(fields | {"architectures": [f"{architecture}ForCausalLM"]}, "here")
    assert sizes.parameters(config) == parameters and unread == []


def test_what_a_file_leaves_out_is_what_the_class_of_transformers_has():
    for name, kind in hf_config.TYPES.items():
        if kind != "gpt2":
            theirs = transformers.CONFIG_MAPPING[kind]().to_dict() | {"architectures": [name]}
            sizes = {key: theirs[key] for key in LLAMA}
            assert read(sizes) == read(theirs), kind
    heads = read(QWEN2 | {"num_key_value_heads": None})
    assert heads.n_kv_head == heads.n_head  # null is not the same as left out


@pytest.mark.parametrize(
    "keys",
    [
        {"rope_theta": 5e5, "rope_scaling": STRETCHED | {"original_max_position_embeddings": 13}},
        {"rope_theta": 5e5, "rope_scaling": {**STRETCHED, "type": "llama3", "original_max_position_embeddings": 13}},
        {"rope_parameters": {**STRETCHED, "rope_theta": 5e5, "original_max_position_embeddings": 13}},
        {"rope_theta": 5e5, "rope_parameters": STRETCHED | {"original_max_position_embeddings": 13}},
    ],
)
def test_rotary_positions_are_found_in_every_place_they_are_written(keys):
    config = read(LLAMA | keys)
    assert (config.rope_theta, config.rope_scaling) == (5e5, RopeScaling(8.0, 1.0, 4.0, 13))


@pytest.mark.parametrize(
    ("keys", "window"),
    [
        ({"sliding_window": 5}, None),  # without use_sliding_window it means nothing
        ({"sliding_window": 5, "use_sliding_window": True, "max_window_layers": 0}, 5),
        ({"sliding_window": 5, "use_sliding_window": True, "max_window_layers": 2}, None),
        ({"sliding_window": 5, "use_sliding_window": True, "layer_types": ["sliding_attention"] * 2}, 5),
        ({"sliding_window": 5, "use_sliding_window": True, "layer_types": ["full_attention"] * 2}, None),
    ],
)
def test_a_window_of_qwen_counts_where_it_applies_to_all_layers(keys, window):
    assert read(QWEN2 | keys).window == window


MIXED = {"use_sliding_window": True, "layer_types": ["full_attention", "sliding_attention"]}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"architectures": ["PhiForCausalLM"]}, "architecture 'PhiForCausalLM'; this reads GPT2LMHeadModel, Llama-"),
        ({"model_type": "bert"}, "model_type 'bert'; this reads GPT2LMHeadModel, Llama-, Mistral-"),
        ({"architectures": 5}, "model_type None; this reads"),
        (LLAMA | {"model_type": "phi3"}, "model_type 'phi3'; this reads"),
        (LLAMA | {"hidden_act": "gelu"}, "hidden_act 'gelu'; only 'silu' or 'swish' can be computed here"),
        (LLAMA | {"attention_bias": True}, "mlp_bias False; only True"),
        (LLAMA | {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type 'linear'; only None or 'default' or"),
        (LLAMA | {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope_type 'yarn'"),
        (LLAMA | {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5; only None or 1.0"),
        (LLAMA | {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e5}}, "rope_theta 10000.0; only 100000.0"),
        (LLAMA | {"rope_scaling": "llama3"}, "rope_scaling 'llama3'"),
        (LLAMA | {"quantization_config": {"quant_method": "gptq"}}, "quantization_config {'quant_method': 'gptq'}; o"),
        (QWEN2 | MIXED, "layer_types ['full_attention', 'sliding_att"),
        (QWEN2 | {"use_sliding_window": True, "max_window_layers": 1}, "max_window_layers 1; only 0 or 2"),
        (LLAMA | {"architectures": ["Qwen3ForCausalLM"], "attention_bias": True}, "attention_bias True; only False"),
        (GPT2 | {"activation_function": "gelu"}, "activation_function 'gelu'; only 'gelu_new' or 'gelu_pytorch_tanh'"),
        (GPT2 | {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx True; only False"),
        (GPT2 | {"scale_attn_weights": False}, "scale_attn_weights False; only True"),
        (GPT2 | {"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn True; only False"),
        (GPT2 | {"add_cross_attention": True}, "add_cross_attention True; only False"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_key_and_value(fields, said):
    with pytest.raises(CheckpointError) as caught:
        read(fields)
    message = str(caught.value)
    assert message.startswith("x/config.json says ") and said in message and len(message) <= 240
    assert caught.value.code == 18


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({key: value for key, value in LLAMA.items() if key != "hidden_size"}, "has no hidden_size, which must be a"),
        (LLAMA | {"hidden_size": "24"}, "hidden_size '24', must be a whole number"),
        (LLAMA | {"hidden_size": True}, "hidden_size True, must be a whole number"),
        (LLAMA | {"vocab_size": -1}, "vocab_size -1, must be a whole number"),
        (LLAMA | {"num_hidden_layers": 10**9}, "n_layer 1000000000 is out of range; use 1 to 1,000"),
        (LLAMA | {"num_hidden_layers": 10**3000}, "num_hidden_layers 1000000000000000000000000"),
        (LLAMA | {"num_key_value_heads": 5}, "n_kv_head 5 does not divide n_head 6; try 3 or 6"),
        (LLAMA | {"rms_norm_eps": 0.0}, "norm_eps 0.0 is out of range"),
        (LLAMA | {"tie_word_embeddings": "yes"}, "tie_word_embeddings 'yes', must be true or false"),
        (LLAMA | {"rope_scaling": STRETCHED | {"factor": 0}}, "needs factor >= 1"),
        (LLAMA | {"rope_scaling": STRETCHED | {"low_freq_factor": 4}}, "low_freq_factor < high_freq_factor"),
        (QWEN2 | {"use_sliding_window": True, "max_window_layers": 0, "sliding_window": 0}, "window 0 is out of range"),
    ],
)
def test_numbers_that_cannot_be_are_refused_in_one_line(fields, said):
    with pytest.raises(FirsthandError) as caught:
        read(fields)
    assert said in str(caught.value) and len(str(caught.value)) <= 240


def test_keys_that_nobody_knows_are_handed_back():
    assert hf_config.read(LLAMA | {"embedding_multiplier": 12, "use_cache": True}, "here")[1] == [
        "embedding_multiplier"
    ]


def test_a_shape_that_nobody_else_has_says_what_stands_against_it():
    with pytest.raises(ModelError, match=r"runs in firsthand alone.*Qwen3.* comes nearest.*mlp is 'relu2' and not 'sw"):
        hf_config.write(kit.VARIANTS["fast"])
    with pytest.raises(ModelError, match=r"GPT2LMHeadModel comes nearest, but here window is 5 and not None"):
        hf_config.write(replace(kit.SMALL, window=5))
    with pytest.raises(ModelError, match=r"n_kv_head is 3 and not 6"):
        hf_config.write(replace(kit.SMALL, n_kv_head=3))
    with pytest.raises(ModelError, match=r"positions are learned"):
        hf_config.write(replace(kit.LLAMA, rope_theta=None))
    for preset in PRESETS.values():
        assert hf_config.write(ModelConfig(**preset))
