"""What an AdapterHub configuration says, and which of its flags are refused.

As for PEFT, a flag is neutral, read, or refused unless it has the value that leaves the mathematics as it is built here.
"""

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deltas.backbones.loading import Backbone
from deltas.errors import InputError

ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "gelu_new": "gelu_new", "swish": "swish", "silu": "swish", "tanh": "tanh"}
BEFORE_VERSIONS = {"gelu": "gelu_new", "gelu_orig": "gelu"}
"""What activations are called where the file names no version."""
NEUTRAL = {"architecture", "init_weights", "init_weights_seed", "dropout", "leave_out", "dtype"}

_BOTTLENECK_NEUTRAL = {
    "adapter_residual_before_ln",  # a place among norms of the adapter's own, which are refused
    "inv_adapter_reduction_factor", "stochastic_depth", "phm_dim", "factorized_phm_W", "shared_W_phm", "shared_phm_rule",
    "factorized_phm_rule", "phm_c_init", "phm_init_range", "learn_phm", "hypercomplex_nonlinearity", "phm_rank", "phm_bias"}
_BOTTLENECK_READ = {"mh_adapter", "output_adapter", "cross_adapter", "reduction_factor", "non_linearity", "original_ln_before",
                    "original_ln_after", "is_parallel", "scaling", "residual_before_ln"}
_LORA_READ = {"selfattn_lora", "intermediate_lora", "output_lora", "r", "alpha", "attn_matrices"}
_PREFIX_READ = {"encoder_prefix", "cross_prefix", "flat", "prefix_length", "bottleneck_size", "non_linearity", "shared_gating"}
READ: dict[str | None, set[str]] = {None: _BOTTLENECK_READ | _BOTTLENECK_NEUTRAL, "lora": _LORA_READ, "prefix_tuning": _PREFIX_READ}
MEANING: dict[str | None, set[str]] = {
    key: (known - _BOTTLENECK_NEUTRAL) | {"architecture", "leave_out"} for key, known in READ.items()}
"""Flags by architecture that say which function the tensors are."""

REFUSED: dict[str | None, dict[str, tuple[Any, ...]]] = {
    None: {"ln_before": (False,), "ln_after": (False,), "use_gating": (False,), "phm_layer": (False,), "inv_adapter": (None,),
           "original_ln_after": (True,)},
    "lora": {"use_gating": (False,), "use_dora": (False,), "composition_mode": ("add",), "vera_d": (None,), "vera_b": (None,)},
    "prefix_tuning": {"use_gating": (False,)},
}
"""Flags by architecture, and the values that leave the mathematics as it is built; a flag that is absent has one of them."""


def read(raw: Mapping[str, Any], path: Path) -> tuple[str | None, dict[str, Any]]:
    """The architecture and the flags of a configuration that can all be read.

    Raises:
        InputError: an architecture or a flag that is not built, by its name.

    Warns:
        UserWarning: keys that are not known.
    """
    config = raw["config"]
    if not isinstance(config, Mapping):
        raise InputError(f"expected the flags of an adapter as config in {path}, got {config!r}; save it with its own configuration")
    config = dict(config)
    architecture = config.get("architecture")
    if architecture not in READ:
        raise InputError(f"expected a bottleneck adapter, lora or prefix_tuning in {path}, got architecture {architecture!r}, which is not "
                         "built; choose another adapter")
    for flag, good in REFUSED[architecture].items():
        if config.get(flag, good[0]) not in good:
            raise InputError(f"expected {flag} {good[0]!r} in {path}, got {config[flag]!r}, which is another function and not built; choose "
                             "another adapter")
    if "version" not in raw and config.get("non_linearity") in BEFORE_VERSIONS:
        config["non_linearity"] = BEFORE_VERSIONS[config["non_linearity"]]
    if unknown := sorted(set(config) - READ[architecture] - set(REFUSED[architecture]) - NEUTRAL):
        warnings.warn(f"{path} has keys that are not known here and not read: {', '.join(unknown)}", UserWarning, stacklevel=4)
    return architecture, config


def flag(config: Mapping[str, Any], name: str, otherwise: bool | None, path: Path) -> bool:
    """A flag that is true or false; one without a default must be there."""
    value = config.get(name, otherwise)
    if not isinstance(value, bool):
        raise InputError(f"expected {name} in {path} to be true or false, got {value!r}; restore the file")
    return value


def number(config: Mapping[str, Any], name: str, path: Path) -> float:
    """A finite number above zero."""
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise InputError(f"expected {name} in {path} to be one number above 0, got {value!r}, which is not built; choose another adapter")
    return value


def whole(config: Mapping[str, Any], name: str, path: Path) -> int:
    """A whole number above zero."""
    value = number(config, name, path)
    if value != int(value):
        raise InputError(f"expected {name} in {path} to be a whole number, got {value!r}; restore the file")
    return int(value)


def layers(config: Mapping[str, Any], backbone: Backbone) -> dict[str, list[int]]:
    """Stack → its layers that have the adapter; `leave_out` numbers a decoder's after the encoder's."""
    c, without = backbone.config, set(config.get("leave_out") or ())
    return {"encoder": [i for i in range(c.num_layers) if i not in without],
            "decoder": [i for i in range(c.num_decoder_layers) if c.num_layers + i not in without]}
