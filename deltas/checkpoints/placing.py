"""From adapters without a backbone to their library's files again, and to their places on the backbone.

Both go through the library's own form: an adapter of names and numbers is written as its file would be, and read as that file would be.
Every number of θ is copied, turned or split off, so that the way there is affine in θ and holds for the mean and the directions of a
subspace as for an adapter.
"""

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deltas.backbones.loading import Backbone
from deltas.checkpoints import adapterhub, low_rank, peft, peft_config, peft_lora
from deltas.checkpoints.names import Names
from deltas.checkpoints.peft_rows import KEY
from deltas.checkpoints.reading import Tensors
from deltas.errors import InputError
from deltas.layout import Layout
from deltas.types import DeltaType, Foreign, LoRA

Arrays = dict[str, np.ndarray]
WHERE = Path("the adapters/adapter_config.json")
"""What errors call the configuration of tensors that were read from many folders."""


class _Whole:
    """Names of modules by their whole names, where no table of the model's other modules is at hand."""

    transposed = True

    @staticmethod
    def ends(chosen: Collection[str], prefixed: bool) -> list[str]:
        return sorted(chosen)


def kept_form(config: DeltaType, layout: Layout, theta: np.ndarray) -> tuple[str, dict[str, Any], Arrays]:
    """(library, configuration, tensors) of θ as the adapter's library keeps it.

    Args:
        config: of an `Unplaced`: a `LoRA` of scale 1, or a `Foreign`.
    """
    parts = _parts(layout, theta)
    if isinstance(config, LoRA):
        return "peft", *lora_form(_factors(parts))
    if not isinstance(config, Foreign):
        raise InputError(f"expected lora or a delta of another library's, got {config.name}; write it with its backbone")
    raw = json.loads(config.raw)
    if config.library == "peft":
        parts = {name if name == KEY else peft_config.BASE + name: value for name, value in parts.items()}
    return config.library, raw, parts


def lora_form(factors: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> tuple[dict[str, Any], Arrays]:
    """PEFT's configuration and tensors of A [in, r] and B [r, out] by module, at a scale of 1."""
    ranks, tensors = {}, {}
    for module, (a, b) in factors.items():
        ranks[module] = a.shape[1]
        tensors |= {f"{peft_config.BASE}{module}.lora_A.weight": a.T, f"{peft_config.BASE}{module}.lora_B.weight": b.T}
    names: Any = _Whole
    default = max(ranks.values())
    return peft_lora.settings(ranks, ranks, names, False, rank=default, alpha=default), tensors


def _parts(layout: Layout, theta: np.ndarray) -> Arrays:
    """The parameters by name, views of θ."""
    shaped = zip(layout.names, layout.shapes, layout.offsets, strict=True)
    return {name: np.asarray(theta[start : start + math.prod(shape)]).reshape(shape) for name, shape, start in shaped}


def _factors(parts: Arrays) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {name.removesuffix(".a"): (a, parts[f"{name.removesuffix('.a')}.b"]) for name, a in parts.items() if name.endswith(".a")}


def save_unplaced(config: DeltaType, layout: Layout, theta: np.ndarray, folder: str | Path, *, base: str | None = None,
                  rank: int | None = None, energy: float | None = None) -> None:
    """Write θ as a PEFT checkpoint under the names that its modules had.

    Args:
        base: the model that the checkpoint names as its base.
        rank, energy: of a LoRA, as in `save_peft`; without them the least rank of each module that keeps all of ΔW but rounding.

    Raises:
        InputError: an adapter that PEFT has no form for, or a rank for what is no LoRA.
    """
    low_rank.check(rank, energy)
    if isinstance(config, LoRA):
        share = None if rank is not None else 1.0 if energy is None else energy
        raw, tensors = lora_form({module: low_rank.of_product(a, b, rank=rank, energy=share)
                                  for module, (a, b) in _factors(_parts(layout, theta)).items()})
        library = "peft"
    elif rank is not None or energy is not None:
        raise InputError(f"expected a LoRA, to write it with a rank or an energy, got {config.label}; leave them out")
    else:
        library, raw, tensors = kept_form(config, layout, theta)
    if library != "peft":
        raise InputError(f"expected an adapter that PEFT has a form for, got {config.label} of {library}; give its backbone, to run it")
    peft.write(Path(folder), {"task_type": None, **raw, "base_model_name_or_path": base}, tensors)


def place(config: DeltaType, layout: Layout, theta: np.ndarray, backbone: Backbone) -> tuple[DeltaType, Arrays]:
    """The configuration and the parameters that θ is on the backbone.

    Raises:
        InputError: modules or shapes that the backbone does not have, all of them.
    """
    library, raw, tensors = kept_form(config, layout, theta)
    if library == "peft":
        names = Names.of(backbone)
        return peft.interpret(raw["peft_type"], raw, Tensors(tensors, WHERE.parent), names, WHERE, config.label, backbone)
    if raw["config"].get("architecture") == "prefix_tuning" and not raw["config"].get("flat"):
        raise InputError(f"expected an adapter whose numbers are those of the backbone's delta, got {config.label} with a network that makes "
                         "its rows; eject the prefix in adapters first, or give the backbone when the folders are read")
    return adapterhub.interpret(raw, tensors, WHERE, config.label, backbone)
