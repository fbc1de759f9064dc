"""LoRA in PEFT's form, and in ours.

PEFT: A (r, in) and B (out, r) with ΔW (out, in) = s · B A, whatever the orientation of the module's own weight; ours are their transposes.
The scale s follows from alpha and r on both sides, by module, and is carried with them. A fused module (GPT-2's `c_attn`) has one A for
queries, keys and values, and their B one below the other.
"""

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deltas.attach import select
from deltas.backbones.sites import Site
from deltas.checkpoints import peft_config
from deltas.checkpoints.names import Names, by_value
from deltas.checkpoints.reading import Tensors
from deltas.errors import InputError
from deltas.types import LoRA

Arrays = dict[str, np.ndarray]


# ------------------------------------------------------------ in
def read(raw: Mapping[str, Any], tensors: Tensors, names: Names, path: Path, label: str) -> tuple[LoRA, Arrays]:
    """The configuration and the parameters of a PEFT LoRA."""
    rank, alpha, dora = peft_config.number(raw, "r", path), alpha_of(raw.get("lora_alpha", 8), path), bool(raw.get("use_dora"))
    present = {key.removeprefix(peft_config.BASE).rpartition(".lora_")[0] for key in tensors.values}
    prefixed = names.prefixed(present)
    fits = peft_config.targets(raw, path) or (lambda name: name in present)
    modules = names.matched(fits, prefixed, names.linear())
    parameters: Arrays = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for module in modules:
        full, (n_in, n_out) = names.full(module, prefixed), names.sizes(module)
        r = peft_config.number({"rank_pattern": peft_config.overridden(raw.get("rank_pattern"), rank, full, "rank_pattern", path)},
                               "rank_pattern", path)
        a = tensors.take(f"{peft_config.BASE}{full}.lora_A.weight", (r, n_in))
        b = tensors.take(f"{peft_config.BASE}{full}.lora_B.weight", (n_out, r))
        m = tensors.take(f"{peft_config.BASE}{full}.lora_magnitude_vector", (n_out,)) if dora else None
        sites = names.modules[module]
        for i, site in enumerate(sites):
            part = slice(i * n_out // len(sites), (i + 1) * n_out // len(sites))
            parameters |= {f"{site}.a": a.T, f"{site}.b": b[part].T}
            if m is not None:
                parameters[f"{site}.m"] = m[part]
            ranks[site] = r
            alphas[site] = alpha_of(peft_config.overridden(raw.get("alpha_pattern"), alpha, full, "alpha_pattern", path), path)
    tensors.done()
    if not modules:
        raise InputError(f"expected target_modules of this backbone in {path}, got {raw.get('target_modules')!r}, which names none of its "
                         "linear modules; use the backbone it was trained on")
    rank, alpha = _common(ranks.values(), rank), _common(alphas.values(), alpha)
    return LoRA(label=label, rank=rank, alpha=alpha, rslora=bool(raw.get("use_rslora")), dora=dora,
                rank_pattern=_pattern(ranks, rank, names), alpha_pattern=_pattern(alphas, alpha, names),
                sites=names.patterns(ranks)), parameters


def alpha_of(value: Any, path: Path) -> float:
    """An alpha of the configuration."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"expected lora_alpha in {path} to be a finite number, got {value!r}; restore the file")
    return float(value)


def _common(values: Any, otherwise: Any) -> Any:
    """The default where any module has it, else the most common value: what is left over goes into a pattern."""
    counts = Counter(values)
    return otherwise if otherwise in counts or not counts else counts.most_common(1)[0][0]


def _pattern(values: Mapping[str, Any], default: Any, names: Names) -> tuple[tuple[str, Any], ...]:
    return tuple((end, value) for value, members in by_value(values, default).items() for end in names.patterns(members))


# ------------------------------------------------------------ out
def write(config: LoRA, parameters: Arrays, names: Names, prefixed: bool) -> tuple[dict[str, Any], Arrays]:
    """The configuration and the tensors of a PEFT LoRA that computes the same."""
    tensors: Arrays = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for module, (a, b, alpha) in by_module(config, parameters, names).items():
        full = names.full(module, prefixed)
        ranks[module], alphas[module] = a.shape[1], alpha
        tensors |= {f"{peft_config.BASE}{full}.lora_A.weight": a.T, f"{peft_config.BASE}{full}.lora_B.weight": b.T}
        if config.dora:
            tensors[f"{peft_config.BASE}{full}.lora_magnitude_vector"] = np.concatenate(
                [parameters[f"{site}.m"] for site in names.modules[module]])
    return settings(ranks, alphas, names, prefixed, rank=config.rank, alpha=config.alpha, rslora=config.rslora, dora=config.dora), tensors


def by_module(config: LoRA, parameters: Arrays, names: Names) -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """A [in, r], B [r, out] and alpha of each module that has any."""
    sites = {name.removesuffix(".a"): names.sites[name.removesuffix(".a")] for name in parameters if name.endswith(".a")}
    alphas, modules = _values(config, sites), names.module_of()
    found: dict[str, tuple[np.ndarray, np.ndarray, float]] = {}
    for module in dict.fromkeys(modules[site] for site in sites):
        site = names.modules[module][0]
        if len(names.modules[module]) == 1:
            found[module] = parameters[f"{site}.a"], parameters[f"{site}.b"], alphas[site]
        else:
            found[module] = _fused(config, parameters, names, module, alphas)
    return found


def settings(ranks: Mapping[str, int], alphas: Mapping[str, float], names: Names, prefixed: bool, *, rank: int, alpha: float,
             rslora: bool = False, dora: bool = False) -> dict[str, Any]:
    """The smallest valid configuration of these ranks and alphas by module; `rank` and `alpha` are the defaults, where any module has them."""
    rank, alpha = _common(ranks.values(), rank), _common(alphas.values(), alpha)

    def pattern(values: Mapping[str, Any], default: Any) -> dict[str, Any]:
        return {end.replace(".", r"\."): _whole(value) for value, members in by_value(values, default).items()
                for end in names.ends(members, prefixed)}

    found: dict[str, Any] = {"peft_type": "LORA", "r": rank, "lora_alpha": _whole(alpha), "target_modules": names.ends(ranks, prefixed)}
    optional: dict[str, Any] = {"rank_pattern": pattern(ranks, rank), "alpha_pattern": pattern(alphas, alpha), "use_rslora": rslora,
                                "use_dora": dora}
    found |= {key: value for key, value in optional.items() if value}
    if not names.transposed:
        found["fan_in_fan_out"] = True
    return found


def _whole(value: float) -> int | float:
    return int(value) if float(value).is_integer() else value


def _values(config: LoRA, sites: Mapping[str, Site]) -> dict[str, float]:
    """alpha at each site."""
    values = dict.fromkeys(sites, config.alpha)
    for pattern, value in reversed(config.alpha_pattern):
        values |= {site: float(value) for site in select(sites, (pattern,))}
    return values


def _fused(config: LoRA, parameters: Arrays, names: Names, module: str, alphas: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray, float]:
    """A, B and alpha of a fused module.

    The sites' own where all there are have one A and one scale; else the A side by side and the B as blocks below each other, of as many
    times the rank. Columns of sites without a delta are 0.
    """
    members = names.modules[module]
    present = [site for site in members if f"{site}.a" in parameters]
    if config.dora and present != list(members):
        raise InputError(f"expected dora at all of {', '.join(members)}, which are one module in PEFT, got {', '.join(present)} alone; "
                         "PEFT cannot leave the others as they are")
    widths = {site: names.size(site)[1] for site in members}
    first = present[0]
    a, alpha, rank = parameters[f"{first}.a"], alphas[first], parameters[f"{first}.a"].shape[1]
    if all(np.array_equal(parameters[f"{site}.a"], a) and alphas[site] == alpha for site in present):
        blocks = [parameters[f"{site}.b"] if site in present else np.zeros((rank, widths[site]), np.float32) for site in members]
        return a, np.concatenate(blocks, axis=1), alpha

    def scale(site: str, r: int) -> float:
        return alphas[site] / (math.sqrt(r) if config.rslora else r)

    a = np.concatenate([parameters[f"{site}.a"] for site in present], axis=1)
    b, start, total = np.zeros((a.shape[1], sum(widths.values())), np.float32), 0, a.shape[1]
    for i, site in enumerate(members):
        if site not in present:
            continue
        block = parameters[f"{site}.b"]
        ratio = scale(site, len(block)) / scale(first, rank)  # 1, exactly, where the scales agree
        column = sum(widths[other] for other in members[:i])
        b[start : start + len(block), column : column + widths[site]] = block * np.float32(ratio)
        start += len(block)
    return a, b, scale(first, rank) * (math.sqrt(total) if config.rslora else total)
