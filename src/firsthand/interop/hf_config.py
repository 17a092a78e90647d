"""config.json of Hugging Face <-> ModelConfig.

    GPT2LMHeadModel     learned positions, LayerNorm, GELU by tanh, biases everywhere
    LlamaForCausalLM    rotary positions (also Llama 3's stretched ones), RMSNorm, SwiGLU, grouped heads
    MistralForCausalLM  as Llama, and a token sees a window
    Qwen2ForCausalLM    as Llama, and biases on q, k and v
    Qwen3ForCausalLM    as Llama, and an RMSNorm on every query and key

Every key is one of four: read; allowed only with the value that means what we compute; known to change no logit; or
unknown. Unknown keys are handed back by name: transformers' own classes of these five do not read them either.
Source: the configuration classes of transformers 4.57 and 5.23.
"""

from collections.abc import Mapping
from typing import Any

from firsthand import files
from firsthand.errors import CheckpointError, ModelError
from firsthand.model.config import ModelConfig, RopeScaling

TYPES = {
    "GPT2LMHeadModel": "gpt2",
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
# Our fields and theirs, where the value is the same. What a file leaves out has the default of its own class.
SAME_GPT2 = {
    "vocab_size": "vocab_size",
    "context_length": "n_positions",
    "n_layer": "n_layer",
    "n_head": "n_head",
    "d_model": "n_embd",
    "d_ff": "n_inner",
    "norm_eps": "layer_norm_epsilon",
    "tied": "tie_word_embeddings",
}
SAME = {
    "vocab_size": "vocab_size",
    "context_length": "max_position_embeddings",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_kv_head": "num_key_value_heads",
    "d_model": "hidden_size",
    "d_head": "head_dim",
    "d_ff": "intermediate_size",
    "norm_eps": "rms_norm_eps",
    "tied": "tie_word_embeddings",
}
DEFAULTS: dict[str, dict[str, Any]] = {  # 0: derived
    "gpt2": {"d_ff": 0, "norm_eps": 1e-5, "tied": True},
    "llama": {"n_kv_head": 0, "d_head": 0, "norm_eps": 1e-6, "tied": False},
    "mistral": {"n_kv_head": 8, "d_head": 0, "norm_eps": 1e-6, "tied": False},
    "qwen2": {"n_kv_head": 32, "d_head": 0, "norm_eps": 1e-6, "tied": False},
    "qwen3": {"n_kv_head": 32, "d_head": 128, "norm_eps": 1e-6, "tied": False},
}
# What each architecture can be: field -> the values it has.
GATED = {"norm": ("rmsnorm",), "mlp": ("swiglu",)}
SHAPES: dict[str, dict[str, tuple]] = {
    "GPT2LMHeadModel": {"norm": ("layernorm",), "mlp": ("gelu",), "bias": ("all",), "qk_norm": (False,)},
    "LlamaForCausalLM": {**GATED, "bias": ("none", "all"), "qk_norm": (False,), "window": (None,)},
    "MistralForCausalLM": {**GATED, "bias": ("none",), "qk_norm": (False,)},
    "Qwen2ForCausalLM": {**GATED, "bias": ("qkv",), "qk_norm": (False,)},
    "Qwen3ForCausalLM": {**GATED, "bias": ("none",), "qk_norm": (True,)},
}
FIXED: dict[str, tuple] = {  # these would change the computation if they had another value
    "quantization_config": (None,),
    "pruned_heads": (None, {}),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "rope_interleaved": (False,),
    "partial_rotary_factor": (None, 1.0),
}
FIXED_GPT2: dict[str, tuple] = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "reorder_and_upcast_attn": (False,),
}
CHANGES_NOTHING = """
    architectures model_type _name_or_path _commit_hash transformers_version torch_dtype dtype _attn_implementation
    _attn_implementation_autoset attn_implementation use_cache bos_token_id eos_token_id pad_token_id sep_token_id
    decoder_start_token_id initializer_range attention_dropout attn_pdrop embd_pdrop resid_pdrop n_ctx summary_type
    summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout task_specific_params problem_type
    finetuning_task id2label label2id gradient_checkpointing pretraining_tp return_dict output_attentions output_past
    output_hidden_states torchscript use_bfloat16 is_decoder chunk_size_feed_forward prefix tokenizer_class
    tie_encoder_decoder max_length min_length do_sample temperature top_k top_p typical_p repetition_penalty num_beams
    num_beam_groups diversity_penalty early_stopping num_return_sequences length_penalty no_repeat_ngram_size
    encoder_no_repeat_ngram_size bad_words_ids exponential_decay_length_penalty forced_bos_token_id
    begin_suppress_tokens forced_eos_token_id remove_invalid_values return_dict_in_generate output_scores
    suppress_tokens is_llama_config transformers.js_config unsloth_version unsloth_fixed
"""
HARMLESS = frozenset(CHANGES_NOTHING.split())
DROPOUTS = ("attn_pdrop", "embd_pdrop", "resid_pdrop")
WHOLE, NUMBER, SWITCH = "a whole number", "a number", "true or false"


class Keys:
    """The keys of a config.json. What was taken is gone from `left`."""

    def __init__(self, fields: Mapping[str, Any], where: str):
        self.left, self.where = dict(fields), where

    def take(self, key: str, kind: str, default: Any = ...) -> Any:
        """The value of a key, of the kind asked for; null counts as not given."""
        value = self.left.pop(key, None)
        if value is None:
            if default is ...:
                raise CheckpointError(f"{self.where} has no {key}, which must be {kind}; fetch config.json again")
            return default
        right = type(value) is bool if kind == SWITCH else type(value) is int and 0 <= value < 1 << 53
        if not right and not (kind == NUMBER and type(value) is float):
            raise CheckpointError(f"{self.where} says {key} {files.quoted(value)}, must be {kind}; fetch it again")
        return float(value) if kind == NUMBER else value

    def fixed(self, allowed: Mapping[str, tuple]) -> None:
        """Refuse every key with another value than the one that means what we compute."""
        for key, values in allowed.items():
            if key in self.left and (value := self.left.pop(key)) not in values:
                raise self.refusal(key, value, values)

    def refusal(self, key: str, value: Any, allowed: tuple = ()) -> CheckpointError:
        """What cannot be computed here, by key and value."""
        only = f"; only {' or '.join(map(repr, allowed))} can be computed here" if allowed else ""
        return CheckpointError(
            f"{self.where} says {key} {files.quoted(value)}{only or ', which cannot be computed here'}. "
            f"Use another model",
            code=18,
        )


def read(fields: Mapping[str, Any], where: str) -> tuple[ModelConfig, list[str]]:
    """The shape that a config.json describes, and the keys in it that nobody here knows. `where` is for messages."""
    keys = Keys(fields, where)
    kind = TYPES[architecture_of(fields, where)]
    keys.fixed(FIXED)
    same, defaults = SAME_GPT2 if kind == "gpt2" else SAME, DEFAULTS[kind]
    if keys.left.get("num_key_value_heads", 0) is None:
        defaults = defaults | {"n_kv_head": 0}  # null is as many as heads, in every class
    kinds = {"norm_eps": NUMBER, "tied": SWITCH}
    shape = {ours: keys.take(key, kinds.get(ours, WHOLE), defaults.get(ours, ...)) for ours, key in same.items()}
    if kind == "gpt2":
        keys.fixed(FIXED_GPT2)
    else:
        shape |= _gated(keys, kind, shape)
    try:
        return ModelConfig(**shape), sorted(keys.left.keys() - HARMLESS)
    except ModelError as error:
        raise ModelError(f"{where}: {str(error).split(' [FH')[0][:150]}", code=error.code) from error


def architecture_of(fields: Mapping[str, Any], where: str) -> str:
    """The architecture a config.json names, if it is one we have; older files name only the type."""
    given, kind = fields.get("architectures"), fields.get("model_type")
    of_type = {kind: name for name, kind in TYPES.items()}
    name: Any = given[0] if isinstance(given, list) and given else of_type.get(kind) if isinstance(kind, str) else None
    known = isinstance(name, str) and name in TYPES
    if known and kind in (None, TYPES[name]):
        return name
    said = f"model_type {files.quoted(kind)}" if known or name is None else f"architecture {files.quoted(name)}"
    allowed = "GPT2LMHeadModel, Llama-, Mistral-, Qwen2- and Qwen3ForCausalLM"
    raise CheckpointError(f"{where} says {said}; this reads {allowed}. Use one of them", code=18)


def _gated(keys: Keys, kind: str, shape: dict[str, Any]) -> dict[str, Any]:
    """What Llama and its kin have beyond numbers."""
    keys.fixed({"hidden_act": ("silu", "swish")})
    theta, scaling = _rope(keys, shape["context_length"])
    return {
        "norm": "rmsnorm",
        "mlp": "swiglu",
        "rope_theta": theta,
        "rope_scaling": scaling,
        "bias": _bias(keys, kind),
        "qk_norm": kind == "qwen3",
        "window": _window(keys, kind, shape["n_layer"]),
    }


def _bias(keys: Keys, kind: str) -> str:
    if kind == "llama":
        attention, mlp = keys.take("attention_bias", SWITCH, False), keys.take("mlp_bias", SWITCH, False)
        if attention != mlp:
            raise keys.refusal("mlp_bias", mlp, (attention,))
        return "all" if mlp else "none"
    if kind == "qwen3":
        keys.fixed({"attention_bias": (False,)})
    return "qkv" if kind == "qwen2" else "none"


def _window(keys: Keys, kind: str, n_layer: int) -> int | None:
    """How far back a token sees, if that is the same in all layers."""
    if kind == "llama":
        return None
    window = keys.take("sliding_window", WHOLE, None if "sliding_window" in keys.left else 4096)
    if kind == "mistral":
        return window
    used, first = keys.take("use_sliding_window", SWITCH, False), keys.take("max_window_layers", WHOLE, 28)
    layers = keys.left.pop("layer_types", None)
    if layers is None and used and 0 < first < n_layer:
        raise keys.refusal("max_window_layers", first, (0, n_layer))
    if layers is None:
        return window if used and first == 0 else None
    kinds = {str(layer) for layer in layers} if isinstance(layers, list) else {""}
    if kinds not in ({"full_attention"}, {"sliding_attention"}):
        raise keys.refusal("layer_types", layers)
    return window if used and kinds == {"sliding_attention"} else None


def _rope(keys: Keys, length: int) -> tuple[float, RopeScaling | None]:
    """The rotary positions: in keys of their own (transformers 4), or all in `rope_parameters` (transformers 5)."""
    given: dict[str, Any] = {}
    for place in ("rope_parameters", "rope_scaling", "rope_theta"):
        value = keys.left.pop(place, None)
        if value is not None and isinstance(value, dict) == (place == "rope_theta"):
            raise keys.refusal(place, value)
        told = {} if value is None else {place: value} if place == "rope_theta" else value
        for key, number in told.items():
            key = "rope_type" if key == "type" else key
            if given.setdefault(key, number) != number:
                raise keys.refusal(key, number, (given[key],))
    inside = Keys(given, keys.where)
    inside.fixed(FIXED | {"rope_type": (None, "default", "llama3")})
    theta, scaling = inside.take("rope_theta", NUMBER, 10_000.0), None
    if given.get("rope_type") == "llama3":
        low, high = inside.take("low_freq_factor", NUMBER), inside.take("high_freq_factor", NUMBER)
        original = inside.take("original_max_position_embeddings", WHOLE, length)
        scaling = RopeScaling(inside.take("factor", NUMBER), low, high, original)
    keys.left |= inside.left
    return theta, scaling


def write(config: ModelConfig) -> dict[str, Any]:
    """The keys of config.json that say the shape: the way back of `read`; a ModelError where nobody else has it."""
    name = architecture(config)
    kind, dropout = TYPES[name], config.dropout
    keys: dict[str, Any] = {"architectures": [name], "model_type": kind}
    keys |= {key: getattr(config, ours) for ours, key in (SAME_GPT2 if kind == "gpt2" else SAME).items()}
    if kind == "gpt2":
        return keys | {"activation_function": "gelu_new", **dict.fromkeys(DROPOUTS, dropout)}
    keys |= {"hidden_act": "silu", "attention_dropout": dropout, "rope_theta": config.rope_theta, "rope_scaling": None}
    if scaling := config.rope_scaling:  # as transformers 4 and everybody else writes it; transformers 5 reads it too
        keys["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context_length,
        }
    if kind == "llama":
        return keys | dict.fromkeys(("attention_bias", "mlp_bias"), config.bias == "all")
    keys["sliding_window"] = config.window
    if kind == "mistral":
        return keys
    windowed = config.window is not None
    return keys | {"use_sliding_window": windowed, "max_window_layers": 0 if windowed else config.n_layer}


def architecture(config: ModelConfig) -> str:
    """The architecture of transformers that computes exactly this, or a ModelError that says what stands against it."""
    against = {name: _against(config, name) for name in SHAPES}
    name = min(against, key=lambda name: len(against[name]))
    if against[name]:
        raise ModelError(
            f"this model runs in firsthand alone, no other program has its architecture: {name} comes nearest, "
            f"but here {', '.join(against[name])}"[:236]
        )
    return name


def _against(config: ModelConfig, name: str) -> list[str]:
    """The fields that an architecture has no place for."""
    allowed = dict(SHAPES[name])
    if name == "GPT2LMHeadModel":
        allowed |= {"rope_theta": (None,), "window": (None,), "n_kv_head": (config.n_head,)}
        allowed["d_head"] = (config.d_model / config.n_head,)
    wrong = [
        f"{field} is {getattr(config, field)!r} and not {' or '.join(map(repr, values))}"
        for field, values in allowed.items()
        if getattr(config, field) not in values
    ]
    return wrong + ["positions are learned"] * (name != "GPT2LMHeadModel" and config.rope_theta is None)
