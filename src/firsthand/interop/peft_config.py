"""adapter_config.json of PEFT <-> the settings of adapters.

    {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "use_rslora": false, "use_dora": false,
     "target_modules": ["q_proj"], "rank_pattern": {"mlp.up_proj": 4}, "alpha_pattern": {}, ...}

Every key is read; or allowed only with the value that means what we compute; or known to change no logit. Any other is
of a method that is not computed here, and must be off. Patterns may be a stranger's, and are never run.
Source: `LoraConfig` of peft 0.21.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from firsthand.errors import ModelError
from firsthand.interop.hf_config import NUMBER, SWITCH, WHOLE, Keys
from firsthand.linear.lora import Lora

CONFIG = "adapter_config.json"
FIXED: dict[str, tuple] = {  # another value would change the computation
    "peft_type": ("LORA",),
    "bias": (None, "none"),
    "init_lora_weights": (None, True, False, "gaussian", "eva", "orthogonal"),  # others change the base as well
    "modules_to_save": (None, []),
}
CHANGES_NOTHING = """
    base_model_name_or_path revision task_type inference_mode peft_version auto_mapping fan_in_fan_out megatron_core
    loftq_config eva_config corda_config lora_ga_config qalora_group_size runtime_config
"""
HARMLESS = frozenset(CHANGES_NOTHING.split())
Settings = Callable[[str], Lora]  # of a layer by their name
Known = Mapping[str, list[str]]  # their layers, and what they are here


def read(fields: Mapping[str, Any], known: Known, name: str, where: str) -> tuple[Settings, set[str] | None]:
    """The settings of an adapter's layers, and which layers it has, None where only a pattern would tell."""
    keys = Keys(fields, where)
    keys.fixed(FIXED)
    settings, meant = _settings(keys, name), _meant(keys, known)
    for key in sorted(keys.left.keys() - HARMLESS):
        if keys.left[key]:  # off, whatever it is, changes nothing
            raise keys.refusal(key, keys.left[key])
    return settings, meant


def _settings(keys: Keys, name: str) -> Settings:
    """The settings of each layer: r and lora_alpha, or what a pattern says instead."""
    root, dora = keys.take("use_rslora", SWITCH, False), keys.take("use_dora", SWITCH, False)
    dropout = keys.take("lora_dropout", NUMBER, 0.0)
    rank, alpha = keys.take("r", WHOLE, 8), keys.take("lora_alpha", NUMBER, 8.0)
    ranks, alphas = _by_name(keys, "rank_pattern", WHOLE), _by_name(keys, "alpha_pattern", NUMBER)

    def of(layer: str) -> Lora:
        return Lora(name, _chosen(ranks, layer, rank), _chosen(alphas, layer, alpha), dropout, root, dora)

    return of


def _by_name(keys: Keys, key: str, kind: str) -> dict[str, Any]:
    """Numbers by the end of a layer's name. A regular expression, which PEFT would take as well, is not run."""
    given = keys.left.pop(key, None) or {}
    if not isinstance(given, dict) or not all(re.fullmatch(r"[\w.]+", end) for end in given):
        raise keys.refusal(key, given)
    inside = Keys(given, keys.where)
    return {end: inside.take(end, kind) for end in given}


def _chosen(numbers: dict[str, Any], layer: str, usual: Any) -> Any:
    return next((number for end, number in numbers.items() if f".{layer}".endswith(f".{end}")), usual)


def _meant(keys: Keys, known: Known) -> set[str] | None:
    """The layers that target_modules lists; None where what it says cannot be known without running a pattern."""
    wanted, chosen = keys.left.pop("target_modules", None), keys.left.pop("layers_to_transform", None)
    chosen = (chosen, keys.left.pop("layers_pattern", None), keys.left.pop("exclude_modules", None))
    if isinstance(wanted, str) and wanted.lower() == "all-linear":
        wanted = [their for their in known if their != "lm_head"]
    if isinstance(wanted, str) or any(chosen):
        return None
    if not isinstance(wanted, list) or not all(isinstance(end, str) for end in wanted):
        raise keys.refusal("target_modules", wanted)
    return {their for their in known if any(f".{their}".endswith(f".{end}") for end in wanted)}


def write(settings: Mapping[str, Lora], known: Known, turned: bool, base: str) -> dict[str, Any]:
    """The config of adapters, given by their layers' names; `turned`: the base keeps its matrices as (in, out)."""
    alike = {(one.root, one.dora, one.dropout) for one in settings.values()}
    if len(alike) > 1:
        raise ModelError(
            "this adapter is rsLoRA, DoRA or with dropout in some layers only, and PEFT has no form for that; merge it"
        )
    ((root, dora, dropout),) = alike
    ranks = {their: one.rank for their, one in settings.items()}
    alphas = {their: int(one.alpha) if one.alpha == int(one.alpha) else one.alpha for their, one in settings.items()}
    rank, alpha = (Counter(numbers.values()).most_common(1)[0][0] for numbers in (ranks, alphas))
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base or None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": _other(ranks, rank, known),
        "alpha_pattern": _other(alphas, alpha, known),
        "lora_dropout": dropout,
        "use_rslora": root,
        "use_dora": dora,
        "bias": "none",
        "fan_in_fan_out": turned,
        "target_modules": _in_short(settings, known),
    }


def times(settings: Lora, count: int) -> Lora:
    """Settings of the same scale with `count` times the rank, for adapters written as blocks of one."""
    return replace(settings, rank=settings.rank * count, alpha=settings.alpha * _worth(settings, count))


def share(settings: Lora, count: int) -> Lora:
    """The way back: settings of the same scale with a part of the rank."""
    alpha = settings.alpha / _worth(settings, count)
    return replace(settings, rank=settings.rank // count, alpha=float(f"{alpha:.12g}"))  # a root's last bit is no news


def _worth(settings: Lora, count: int) -> float:
    return count**0.5 if settings.root else count


def _other(numbers: Mapping[str, Any], usual: Any, known: Known) -> dict[str, Any]:
    """The numbers that are not the usual one, by the end of the layers' names."""
    found: dict[str, Any] = {}
    for number in sorted(set(numbers.values()) - {usual}):
        those = [their for their in numbers if numbers[their] == number]
        found |= dict.fromkeys(_in_short(those, known), number)
    return found


def _in_short(layers: Iterable[str], known: Known) -> list[str]:
    """The same layers by as few names as can be: "mlp.up_proj" for that of every block."""
    chosen = set(layers)
    of_blocks: dict[str, set[str]] = {}
    for their in known:
        of_blocks.setdefault(their.split(".", 3)[-1], set()).add(their)
    whole = {part: named for part, named in of_blocks.items() if named <= chosen}
    return [*whole, *sorted(chosen.difference(*whole.values()))]
