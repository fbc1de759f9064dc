"""Bottleneck adapters, LoRA and prefix in AdapterHub's form.

Weights are those of PyTorch's linear maps, (out, in): ours are their transposes. A prefix is a flat vector of P · 2L · heads · head_dim
numbers for the L layers of one kind of attention, or the network that makes it; the library keeps it once and names it again in every
layer, so that a pickle holds copies, which must agree. Its rows stand left of position 0 and move no token.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deltas.backbones.loading import Backbone
from deltas.checkpoints.adapterhub_config import ACTIVATIONS, flag, layers, number, whole
from deltas.checkpoints.names import Names
from deltas.checkpoints.reading import Tensors
from deltas.errors import InputError
from deltas.types import Adapter, LoRA, Prefix

Arrays = dict[str, np.ndarray]

PLACES: dict[str, dict[str, str]] = {
    "bert": {"encoder.attn": "encoder.layer.{}.attention.output", "encoder.ff": "encoder.layer.{}.output"},
    "t5": {"encoder.attn": "encoder.block.{}.layer.0", "encoder.ff": "encoder.block.{}.layer.1", "decoder.attn": "decoder.block.{}.layer.0",
           "decoder.cross": "decoder.block.{}.layer.1", "decoder.ff": "decoder.block.{}.layer.2"},
    "bart": {"encoder.attn": "encoder.layers.{}.attention_adapters", "encoder.ff": "encoder.layers.{}.output_adapters",
             "decoder.attn": "decoder.layers.{}.attention_adapters", "decoder.cross": "decoder.layers.{}.cross_attention_adapters",
             "decoder.ff": "decoder.layers.{}.output_adapters"},
    "gpt2": {"decoder.attn": "h.{}.attention_adapters", "decoder.ff": "h.{}.output_adapters"},
    "llama": {"decoder.attn": "layers.{}.attention_adapters", "decoder.ff": "layers.{}.output_adapters"},
}
PLACES |= {"roberta": PLACES["bert"], "mistral": PLACES["llama"]}
"""Family → where a bottleneck adapter stands (stack and sublayer) → the module that holds it."""


# ------------------------------------------------------------ bottleneck adapters
def bottleneck(config: Mapping[str, Any], tensors: Tensors, names: Names, path: Path, name: str, label: str,
               backbone: Backbone) -> tuple[Adapter, Arrays]:
    """An adapter of the variant that the flags describe."""
    parallel, before = (flag(config, key, False, path) for key in ("is_parallel", "original_ln_before"))
    variant = "parallel" if parallel else "pfeiffer" if before else "houlsby"
    if parallel and backbone.config.norm_first:
        raise InputError(f"expected is_parallel false in {path} for {backbone.family}, got true: such an adapter reads the residual stream "
                         "before the norm there, which is not built; choose a backbone whose norms come last")
    if variant == "pfeiffer" and config.get("residual_before_ln", True) is not True:
        raise InputError(f"expected residual_before_ln true in {path}, got {config['residual_before_ln']!r}, which is another function and not "
                         "built; choose another adapter")
    act = str(config.get("non_linearity")).lower()
    if act not in ACTIVATIONS:
        raise InputError(f"expected non_linearity {', '.join(ACTIVATIONS)} in {path}, got {act!r}, which is not built; choose another adapter")
    factor = config.get("reduction_factor")
    if isinstance(factor, Mapping) and len(set(factor.values())) == 1:
        config = {**config, "reduction_factor": next(iter(factor.values()))}
    d = backbone.config.d_model
    size = max(int(d // number(config, "reduction_factor", path)), 1)
    wanted = {"attn": flag(config, "mh_adapter", None, path), "ff": flag(config, "output_adapter", None, path),
              "cross": flag(config, "cross_adapter", False, path)}
    parameters: Arrays = {}
    for place, module in PLACES[backbone.family].items():
        stack, _, sublayer = place.partition(".")
        for i in layers(config, backbone)[stack] if wanted[sublayer] else ():
            key, site = f"{module.format(i)}.adapters.{name}", f"{stack}.{i}.{sublayer}"
            parameters |= {f"{site}.a": tensors.take(f"{key}.adapter_down.0.weight", (size, d)).T,
                           f"{site}.a_bias": tensors.take(f"{key}.adapter_down.0.bias", (size,)),
                           f"{site}.b": tensors.take(f"{key}.adapter_up.weight", (d, size)).T,
                           f"{site}.b_bias": tensors.take(f"{key}.adapter_up.bias", (d,))}
    sites = _finished(parameters, tensors, path)
    return Adapter(label=label, bottleneck=size, variant=variant, bias=True, act=ACTIVATIONS[act],
                   scale=float(number({"scaling": 1.0, **config}, "scaling", path)), sites=names.patterns(sites)), parameters


def _finished(parameters: Arrays, tensors: Tensors, path: Path) -> set[str]:
    """The sites of these parameters, once every tensor is taken."""
    tensors.done()
    if not parameters:
        raise InputError(f"expected an adapter with a place on this backbone in {path}, got one that has none; use the backbone it was "
                         "trained on")
    return {name.rpartition(".")[0] for name in parameters}


# ------------------------------------------------------------ LoRA
def lora_sizes(config: Mapping[str, Any], version: str, path: Path) -> tuple[int, float]:
    """Rank and alpha; those of `adapters` before 1.1.0 were trained with a scale of 1, whatever their alpha says."""
    r, alpha = whole(config, "r", path), float(number(config, "alpha", path))
    release = re.match(r"adapters\.(\d+)\.(\d+)", version)
    if release is None and alpha != r:
        raise InputError(f"expected the version of adapters that saved {path}, got {version!r}, of which the scale of a LoRA with alpha "
                         f"{alpha:g} and r {r} is not known; save it with a newer version")
    if release is not None and (int(release[1]), int(release[2])) < (1, 1):
        alpha = float(r)
    return r, alpha


def lora(config: Mapping[str, Any], tensors: Tensors, names: Names, path: Path, name: str, label: str, backbone: Backbone,
         version: str) -> tuple[LoRA, Arrays]:
    """A LoRA."""
    r, alpha = lora_sizes(config, version, path)
    attention = set(config.get("attn_matrices", ("q", "v"))) if flag(config, "selfattn_lora", True, path) else set()
    if odd := sorted(map(str, attention - set("qkv"))):
        raise InputError(f"expected attn_matrices among q, k and v in {path}, got {', '.join(odd)}; restore the file")
    hidden = {our for our, key in (("up", "intermediate_lora"), ("out", "output_lora")) if flag(config, key, False, path)}
    wanted = {f"{stack}.{i}.{place}" for stack, kept in layers(config, backbone).items() for i in kept
              for place in (*(f"{kind}.{m}" for kind in ("attn", "cross") for m in attention), *(f"ff.{w}" for w in hidden))}
    parameters: Arrays = {}
    for module, sites in names.modules.items():
        chosen = [site for site in sites if site in wanted]
        if not chosen:
            continue
        n_in, n_out = names.sizes(module)
        width = n_out // len(sites)  # a fused module has one A and one B below the other for each of its sites that has any
        a = tensors.take(f"{module}.loras.{name}.lora_A", (len(chosen) * r, n_in))
        b = tensors.take(f"{module}.loras.{name}.lora_B", (len(chosen) * width, r))
        for i, site in enumerate(chosen):
            parameters |= {f"{site}.a": a[i * r : (i + 1) * r].T, f"{site}.b": b[i * width : (i + 1) * width].T}
    return LoRA(label=label, rank=r, alpha=alpha, sites=names.patterns(_finished(parameters, tensors, path))), parameters


# ------------------------------------------------------------ prefix
def prefix(config: Mapping[str, Any], tensors: Tensors, names: Names, path: Path, name: str, label: str,
           backbone: Backbone) -> tuple[Prefix, Arrays]:
    """The rows of a prefix, flat or out of its network."""
    if backbone.config.positions == "relative":
        raise InputError(f"expected a backbone without relative positions for the prefix in {path}, got {backbone.family}: the library adds "
                         "the rows to the distances between tokens there, which is another function and not built; choose another adapter")
    length, kept = whole(config, "prefix_length", path), layers(config, backbone)
    if backbone.kind == "encoder-decoder":
        places = {"self_prefix": ("decoder", "attn")}
        places |= {"encoder_prefix": ("encoder", "attn")} if flag(config, "encoder_prefix", True, path) else {}
        places |= {"cross_prefix": ("decoder", "cross")} if flag(config, "cross_prefix", True, path) else {}
    else:
        places = {"self_prefix": (backbone.kind, "attn")}
    parameters: Arrays = {}
    for place, (stack, sublayer) in places.items():
        sites = [f"{stack}.{i}.{sublayer}" for i in kept[stack]]
        if not sites:
            continue
        first: Any = names.sites[sites[0]]
        shape = (length, len(sites), 2, first.kv_heads, first.head_dim)
        rows = _rows(config, _pool(tensors, f"prefix_tunings.{name}.{place}"), f"prefix_tuning.prefix_tunings.{name}.{place}", path,
                     backbone.config.d_model, shape)
        parameters |= {f"{site}.{kind}": rows[:, i, j] for i, site in enumerate(sites) for j, kind in enumerate(("keys", "values"))}
    found = _finished(parameters, tensors, path)
    return Prefix(label=label, length=length, start="normal", sites=names.patterns(found)), parameters


def _pool(tensors: Tensors, end: str) -> Tensors:
    """The tensors with the copies in the layers taken; a copy that differs from the one of the whole model is a fault."""
    for key, value in tensors.values.items():
        own = f"prefix_tuning.{key[key.index(end):]}" if f".prefix_tuning.pool.{end}." in key else None
        if own is not None:
            tensors.taken.add(key)
            if not np.array_equal(value, tensors.values.get(own, np.zeros(0))):
                tensors.faults.append(f"{key}, which differs from {own}")
    return tensors


def _rows(config: Mapping[str, Any], tensors: Tensors, key: str, path: Path, d: int, shape: tuple[int, ...]) -> np.ndarray:
    """Keys and values [P, L, 2, heads, head_dim]."""
    size = int(np.prod(shape))
    if flag(config, "flat", False, path):
        return tensors.take(f"{key}.control_trans", (size,)).reshape(shape)
    act, r = str(config.get("non_linearity")).lower(), whole(config, "bottleneck_size", path)
    if act not in FOLDED:
        raise InputError(f"expected non_linearity {' or '.join(FOLDED)} in {path}, got {act!r}, which is not built; eject the prefix "
                         "in adapters first")
    tokens = tensors.take(f"{key}.wte.weight", (shape[0], d)).astype(np.float64)
    down, up = ((tensors.take(f"{key}.control_trans.{i}.weight", (n_out, n_in)), tensors.take(f"{key}.control_trans.{i}.bias", (n_out,)))
                for i, n_in, n_out in ((0, d, r), (2, r, size // shape[0])))
    hidden = FOLDED[act](tokens @ down[0].T + down[1])
    return (hidden @ up[0].T + up[1]).astype(np.float32).reshape(shape)


FOLDED = {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0)}
"""Activations of a prefix's network that are folded in."""
