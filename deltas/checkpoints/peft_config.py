"""What a PEFT configuration says: which modules it means, and which of its switches are refused.

A key is neutral (it changes nothing about the trained adapter), read (the importer of its type asks for it), or refused unless it has the
value that leaves the mathematics as it is. Whatever is in none of these lists is not known here and brings a warning.
"""

import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from deltas.errors import InputError

BASE = "base_model.model."
"""What every module's name in a checkpoint begins with."""

NEUTRAL = frozenset({
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode", "runtime_config",
    # of training alone
    "lora_dropout", "init_ia3_weights", "init_weights", "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path",
    "tokenizer_kwargs", "eva_config", "velora_config", "corda_config", "lora_ga_config", "loftq_config", "megatron_config", "megatron_core",
    # PEFT sets it by the kind of module, whatever it says
    "fan_in_fan_out",
    # settings of switches that are refused
    "qalora_group_size",
})
READ = {
    "LORA": frozenset({"r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora"}),
    "IA3": frozenset({"feedforward_modules"}),
    "LN_TUNING": frozenset(),
    "PREFIX_TUNING": frozenset({"num_virtual_tokens", "token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers"}),
    "PROMPT_TUNING": frozenset({"num_virtual_tokens", "token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers"}),
}
TARGETS = frozenset({"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"})
# The MLP of a prefix is folded into the rows that are saved.
FOLDED = frozenset({"prefix_projection", "encoder_hidden_size"})

REFUSED: dict[str, str] = {
    "modules_to_save": "whole modules that it keeps beside the delta",
    "trainable_token_indices": "trained rows of the embedding",
    "bias": "trained biases",
    "lora_bias": "biases of its B",
    "target_parameters": "deltas on parameters that are no modules",
    "layer_replication": "repeated layers",
    "use_qalora": "grouped inputs",
    "use_bdlora": "block-diagonal factors",
    "kasa_config": "singular values between its factors",
    "monteclora_config": "sampled factors",
    "arrow_config": "a mixture of adapters",
    "alora_invocation_tokens": "activation by tokens",
    "ensure_weight_tying": "one delta on tied modules",
}
"""Switches that change the mathematics and are not built, and what they mean; absent, null, false, empty and `bias: none` are neutral."""

STARTS = (True, False, None, "true", "false", "gaussian", "eva", "orthogonal", "mica")
"""Values of init_lora_weights that leave the backbone's weights as they are."""


HEADS = frozenset({"classifier", "score", "qa_outputs"})
"""What PEFT itself puts into `modules_to_save`: prediction heads, by the task's type."""


def check(raw: Mapping[str, Any], path: Path, *, without_head: bool = False) -> str:
    """The PEFT type of a configuration whose switches can all be read; of which a prediction head may be left out.

    Raises:
        InputError: a type or a switch that is not built, by its name.

    Warns:
        UserWarning: keys that are not known.
    """
    kind = raw["peft_type"]
    if kind not in READ:
        raise InputError(f"expected peft_type {', '.join(READ)} in {path}, got {kind!r}, which is not built; convert it with PEFT first")
    for key, meaning in REFUSED.items():
        value = raw.get(key)
        if key == "modules_to_save" and value and HEADS.issuperset(value):
            if without_head:
                continue
            raise InputError(f"expected an adapter alone in {path}, got modules_to_save {value!r}, a prediction head, which no delta holds; "
                             "leave it out with without_head=True")
        if value and value != "none":
            raise InputError(f"expected {key} unset in {path}, got {value!r}: {meaning}, which is not built; train without it, or merge the "
                             "adapter into the backbone with PEFT")
    start = raw.get("init_lora_weights")
    if start not in STARTS:
        raise InputError(f"expected init_lora_weights that leaves the backbone as it is in {path}, got {start!r}, which trains from altered "
                         "weights of the backbone; save it with PEFT's path_initial_model_for_weight_conversion")
    known = NEUTRAL | TARGETS | FOLDED | READ[kind] | set(REFUSED) | {"init_lora_weights"}
    if unknown := sorted(set(raw) - known):
        warnings.warn(f"{path} has keys that are not known here and not read: {', '.join(unknown)}", UserWarning, stacklevel=4)
    return kind


def headless(raw: Mapping[str, Any], values: Mapping[str, Any], *, without_head: bool) -> Mapping[str, Any]:
    """The tensors, without those of the prediction head where it is left out."""
    heads = HEADS.intersection(raw.get("modules_to_save") or ()) if without_head else frozenset()
    return {key: value for key, value in values.items() if not heads.intersection(key.split("."))}


def number(raw: Mapping[str, Any], key: str, path: Path) -> int:
    """A size of the configuration."""
    value = raw.get(key)
    if type(value) is not int or value < 1:
        raise InputError(f"expected {key} in {path} to be a whole number of at least 1, got {value!r}; restore the file")
    return value


def targets(raw: Mapping[str, Any], path: Path) -> Callable[[str], bool] | None:
    """Whether a module's full name is one that the configuration means; None where it leaves that to PEFT.

    `target_modules` is a list of dotted ends of names, a regular expression over whole names, or `all-linear`; `exclude_modules` likewise.
    With `layers_to_transform`, only names whose first number (after `layers_pattern`, where given) is listed.
    """
    wanted, without = raw.get("target_modules"), raw.get("exclude_modules")
    if wanted is None:
        return None
    everything = isinstance(wanted, str) and wanted.lower() == "all-linear"
    chosen: Callable[[str], bool] = (lambda name: name != "lm_head") if everything else _means(wanted, "target_modules", path)
    excluded = _means(without, "exclude_modules", path) if without else lambda name: False
    layers = raw.get("layers_to_transform")
    layers = {layers} if type(layers) is int else set(layers or ())
    pattern = raw.get("layers_pattern") or ()
    starts = [rf"(?:^|.*?\.){word}" for word in ((pattern,) if isinstance(pattern, str) else pattern)] or [r".*?\.[^.]*"]

    def fits(name: str) -> bool:
        if excluded(name) or not chosen(name):
            return False
        if not layers or isinstance(wanted, str) or name in wanted:
            return True
        numbers = (re.match(rf"{start}\.(\d+)\.", name) for start in starts)
        return any(int(found[1]) in layers for found in numbers if found is not None)

    return fits


def _means(names: Any, key: str, path: Path) -> Callable[[str], bool]:
    if isinstance(names, str):
        pattern = expression(names, key, path)
        return lambda name: pattern.fullmatch(name) is not None
    ends = list(names)
    return lambda name: any(name == end or name.endswith(f".{end}") for end in ends)


def expression(text: str, key: str, path: Path) -> re.Pattern[str]:
    """A regular expression of the configuration."""
    try:
        return re.compile(text)
    except re.error as error:
        raise InputError(f"expected a regular expression as {key} in {path}, got {text!r} ({error}); restore the file") from None


def overridden(pattern: Mapping[str, Any] | None, default: Any, name: str, key: str, path: Path) -> Any:
    """The value for a module: that of the first expression that its full name ends with."""
    for text, value in (pattern or {}).items():
        if expression(rf"(.*\.)?({text})$", key, path).match(name):
            return value
    return default
