"""(IA)³ and layer-norm tuning in PEFT's form, and in ours.

(IA)³: `ia3_l` is (out, 1) and multiplies the output of a module, bias included, or (1, in) and multiplies the input of one whose name ends
with one of `feedforward_modules`, at a dot or not. Layer-norm tuning keeps whole copies of modules, of which ours are the differences to
the backbone's.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deltas.attach import select
from deltas.backbones.blocks import Norm
from deltas.checkpoints import peft_config
from deltas.checkpoints.names import Names
from deltas.checkpoints.reading import Tensors
from deltas.errors import InputError
from deltas.types import IA3, Full

Arrays = dict[str, np.ndarray]


# ------------------------------------------------------------ (IA)³
def read_ia3(raw: Mapping[str, Any], tensors: Tensors, names: Names, path: Path, label: str) -> tuple[IA3, Arrays]:
    """The configuration and the parameters of a PEFT (IA)³."""
    present = {key.removeprefix(peft_config.BASE).removesuffix(".ia3_l") for key in tensors.values}
    prefixed = names.prefixed(present)
    fits = peft_config.targets(raw, path) or (lambda name: name in present)
    entering = feedforward(raw.get("feedforward_modules"), path)
    parameters: Arrays = {}
    inputs: set[str] = set()
    for module in names.matched(fits, prefixed, names.linear()):
        full, (n_in, n_out), sites = names.full(module, prefixed), names.sizes(module), names.modules[module]
        name = f"{peft_config.BASE}{full}.ia3_l"
        if entering(full):
            factors = tensors.take(name, (1, n_in)).reshape(-1)
            parameters |= {f"{site}.l": factors for site in sites}
            inputs |= set(sites)
        else:
            parts = np.split(tensors.take(name, (n_out, 1)).reshape(-1), len(sites))
            parameters |= {f"{site}.l": part for site, part in zip(sites, parts, strict=True)}
    tensors.done()
    chosen = {name.removesuffix(".l") for name in parameters}
    if not chosen:
        raise InputError(f"expected target_modules of this backbone in {path}, got {raw.get('target_modules')!r}, which names none of its "
                         "linear modules; use the backbone it was trained on")
    return IA3(label=label, sites=names.patterns(chosen), inputs=names.patterns(inputs)), parameters


def feedforward(wanted: Any, path: Path) -> Callable[[str], bool]:
    """Whether the factors of a module, by its full name, multiply its input."""
    if wanted is None:
        raise InputError(f"expected feedforward_modules in {path}, got none; restore the file")
    if isinstance(wanted, str):
        pattern = peft_config.expression(wanted, "feedforward_modules", path)
        return lambda name: pattern.fullmatch(name) is not None
    return lambda name: any(name.endswith(end) for end in wanted)  # as PEFT does it: not at a dot


def write_ia3(config: IA3, parameters: Arrays, names: Names, prefixed: bool) -> tuple[dict[str, Any], Arrays]:
    """The configuration and the tensors of a PEFT (IA)³ that computes the same."""
    sites = [name.removesuffix(".l") for name in parameters]
    inputs = set(select(sites, config.inputs)) if config.inputs else set()
    modules = names.module_of()
    tensors: Arrays = {}
    entering: set[str] = set()
    for module in dict.fromkeys(modules[site] for site in sites):
        members, full = names.modules[module], names.full(module, prefixed)
        present = [site for site in members if f"{site}.l" in parameters]
        if inputs & set(present):
            factors = parameters[f"{present[0]}.l"]
            if len(present) < len(members) or any(not np.array_equal(parameters[f"{site}.l"], factors) for site in present):
                raise InputError(f"expected one vector for the input of {', '.join(members)}, which are one module in PEFT, got several; "
                                 "PEFT has no form for that")
            entering.add(module)
            tensors[f"{peft_config.BASE}{full}.ia3_l"] = factors[None]
        else:
            whole = [parameters[f"{site}.l"] if site in present else np.ones(names.size(site)[1], np.float32) for site in members]
            tensors[f"{peft_config.BASE}{full}.ia3_l"] = np.concatenate(whole)[:, None]
    outputs = {modules[site] for site in sites} - entering
    ends = names.ends(entering, prefixed)
    if any(names.full(module, prefixed).endswith(end) for module in outputs for end in ends):  # PEFT does not stop at a dot
        ends = sorted(names.full(module, prefixed) for module in entering)
    found = {"peft_type": "IA3", "target_modules": names.ends(outputs, prefixed) + ends, "feedforward_modules": ends}
    return found if names.transposed else {**found, "fan_in_fan_out": True}, tensors


# ------------------------------------------------------------ layer-norm tuning
COPY = ".ln_tuning_layers."


def read_norms(raw: Mapping[str, Any], tensors: Tensors, names: Names, path: Path, label: str) -> tuple[Full, Arrays]:
    """The differences of the copies to the backbone's modules."""
    present = {key.removeprefix(peft_config.BASE).partition(COPY)[0] for key in tensors.values}
    prefixed = names.prefixed(present)
    fits = peft_config.targets(raw, path) or (lambda name: name in present)
    parameters: Arrays = {}
    for module in names.matched(fits, prefixed, names.modules):
        for name, paths in names.tensors.items():
            if name.rpartition(".")[0] != module:
                continue
            old = weights(names, paths)
            new = tensors.take(f"{peft_config.BASE}{names.full(module, prefixed)}{COPY}{name.rpartition('.')[2]}", old.shape)
            parameters |= _split(names, paths, new - old)
    tensors.done()
    chosen = {name.rpartition(".")[0] for name in parameters}
    if not chosen:
        raise InputError(f"expected target_modules of this backbone in {path}, got {raw.get('target_modules')!r}, which names none of its "
                         "modules; use the backbone it was trained on")
    return Full(label=label, sites=names.patterns(chosen)), parameters


def weights(names: Names, paths: tuple[str, ...]) -> np.ndarray:
    """The backbone's own weights at these paths as the one tensor that they are in PyTorch, float32."""
    values = [np.asarray(getattr(names.sites[site], own)[...], np.float32) for site, _, own in (path.rpartition(".") for path in paths)]
    whole = np.concatenate(values, axis=-1)
    return whole.T if paths[0].endswith(".kernel") and names.transposed else whole


def _split(names: Names, paths: tuple[str, ...], whole: np.ndarray) -> Arrays:
    if paths[0].endswith(".kernel") and names.transposed:
        whole = whole.T
    return dict(zip(paths, np.split(whole, len(paths), axis=-1), strict=True))


def norms_alone(parameters: Arrays, names: Names) -> bool:
    """Whether these differences are those of norms and of nothing else."""
    return all(isinstance(names.sites[name.rpartition(".")[0]], Norm) for name in parameters)


def write_norms(parameters: Arrays, names: Names, prefixed: bool) -> tuple[dict[str, Any], Arrays]:
    """The configuration and the copies of a PEFT layer-norm tuning; every site's differences are all there, since `full` has them all."""
    tensors: Arrays = {}
    modules = names.module_of()
    chosen = dict.fromkeys(modules[name.rpartition(".")[0]] for name in parameters)
    for module in chosen:
        for name, paths in names.tensors.items():
            if name.rpartition(".")[0] == module:
                change = np.concatenate([parameters[path] for path in paths], axis=-1)
                key = f"{peft_config.BASE}{names.full(module, prefixed)}{COPY}{name.rpartition('.')[2]}"
                tensors[key] = weights(names, paths) + change
    return {"peft_type": "LN_TUNING", "target_modules": names.ends(chosen, prefixed)}, tensors
