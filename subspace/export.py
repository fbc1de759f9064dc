"""Points of a subspace as other libraries' adapters, and a subspace of such adapters on its backbone.

A subspace that was fitted on folders alone knows modules by the names that the adapters had. `export` writes a point under those names again;
`placed` gives every number its place on the backbone, by reading θ0, mean and directions as the adapters themselves would be read.
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from deltas.backbones import Backbone
from deltas.bank import Solution
from deltas.checkpoints import save_peft
from deltas.checkpoints.placing import place, save_unplaced
from deltas.errors import InputError
from deltas.files import sha256
from deltas.functional import Attached
from deltas.types import LoRA
from subspace.base import Part, Subspace
from subspace.sources import NAMED


def export(space: Subspace, z: np.ndarray, folder: str | Path, *, label: str = "lora", base_model: str | None = None,
           backbone: Backbone | None = None, rank: int | None = None, energy: float | None = None) -> None:
    """Write a point of the subspace as a PEFT checkpoint.

    A LoRA of a product space is written at the least rank of each module that keeps all of its change but rounding.

    Args:
        space: one that was fitted on folders needs no backbone: modules have the names that they had there.
        z: the code [k].
        folder: where `adapter_config.json` and `adapter_model.safetensors` are written.
        label: the type by which z is decoded.
        base_model: what the checkpoint names as its base; that of the adapters, or the backbone's name, where not given.
        backbone: of the subspace.
        rank, energy: of a LoRA, at most this rank, or the least that keeps this share of |ΔW|² in each module.

    Raises:
        InputError: a type that PEFT has no form for, no backbone where one is needed, or a z of another size.

    Example:
        subspace.export(space, space.codes.mean(axis=0), "adapters/mean")
    """
    part, z = space.part(label), np.asarray(z, np.float32)
    if z.shape != (space.k,):
        raise InputError(f"expected one z of {space.k} numbers, got shape {z.shape}; export one point at a time")
    if unplaced(space):
        base_model = base_model or space.backbone.removeprefix(NAMED) or None
    if unplaced(space) and backbone is None:
        return save_unplaced(part.config, part.layout, space.decode(label, z), folder, base=base_model, rank=rank, energy=energy)
    if backbone is None:
        raise InputError("expected the backbone of a subspace whose types have their places on it, got none; give it")
    space = placed(space, backbone)
    part = space.part(label)
    if isinstance(part.config, LoRA) and space.space == "product" and rank is None and energy is None:
        energy = 1.0
    solution = Solution(task="point", seed=0, config=part.config, layout=part.layout, vector=space.decode(label, z) - part.theta0,
                        theta0=np.asarray(part.theta0), backbone=space.backbone, theta0_fingerprint=part.theta0_fingerprint,
                        provenance={"checkpoint": {"base_model": base_model}})
    return save_peft(solution, folder, backbone, rank=rank, energy=energy)


def unplaced(space: Subspace) -> bool:
    """Whether the subspace was fitted on folders without their backbone, so that its types have no places on one."""
    return not space.backbone or space.backbone.startswith(NAMED)


def placed(space: Subspace, backbone: Backbone) -> Subspace:
    """A subspace that was fitted without the backbone as one of the backbone: sites for names of modules, our layout, its fingerprint.

    Then `optimize`, `transfer` and all else run on it. Codes, spectrum and energies stay; each number of θ0, mean and basis goes to its place.

    Raises:
        InputError: modules or shapes that the backbone does not have, all of them; a subspace of another backbone; a learned encoder.
    """
    if not unplaced(space):
        if space.backbone != backbone.fingerprint:
            raise InputError(f"expected the backbone {space.backbone} of the subspace, got {backbone.name} with fingerprint "
                             f"{backbone.fingerprint}; use that backbone")
        return space
    return replace(space, backbone=backbone.fingerprint, parts={label: _on(backbone, part) for label, part in space.parts.items()}, grams={})


def _on(backbone: Backbone, part: Part) -> Part:
    """A part on the backbone. What a checkpoint's numbers become there, f, is affine: f(θ) = f(0) + L θ."""
    if part.network is not None:
        raise InputError(f"expected a linear decomposition, to give it its places, got a learned encoder of {part.config.label}; fit it again "
                         "on a bank")
    config, first = place(part.config, part.layout, np.asarray(part.theta0), backbone)
    layout = Attached.of(backbone, config, theta0=np.zeros(sum(value.size for value in first.values()), np.float32)).layout

    def flat(parameters: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.concatenate([np.asarray(parameters[name], np.float32).reshape(-1) for name in layout.names])

    def to_place(theta: np.ndarray) -> np.ndarray:
        return flat(place(part.config, part.layout, np.asarray(theta), backbone)[1])

    with warnings.catch_warnings():  # the first has said it
        warnings.simplefilter("ignore", UserWarning)
        at_0 = to_place(np.zeros_like(part.theta0))
        if isinstance(config, LoRA):
            theta0 = flat(first)
        else:
            theta0 = np.concatenate([np.full(math.prod(shape), name.endswith(".l"), np.float32)
                                     for name, shape in zip(layout.names, layout.shapes, strict=True)])
        mean = flat(first) - theta0 + (to_place(part.mean) - at_0)
        basis = np.empty((len(part.basis), layout.size), np.float32)
        for i, direction in enumerate(part.basis):
            basis[i] = to_place(direction) - at_0
    return Part(config=config, layout=layout, theta0=theta0, mean=mean, basis=basis,
                theta0_fingerprint=sha256(theta0.tobytes(), str(layout.to_json())))
