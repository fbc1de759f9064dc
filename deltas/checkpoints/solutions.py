"""A `Solution` from the tensors of a foreign checkpoint, and the other way round."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from deltas.backbones.loading import Backbone
from deltas.bank import Bank, Solution
from deltas.errors import InputError
from deltas.functional import Attached
from deltas.types import DeltaType


def solution_of(backbone: Backbone, config: DeltaType, parameters: Mapping[str, np.ndarray], *, task: str, seed: int,
                provenance: Mapping[str, Any]) -> Solution:
    """The solution whose parameters are these: θ0 is 0, and 1 for what multiplies, so that θ − θ0 is what the checkpoint changes.

    Args:
        parameters: every parameter of the layout by name, float32.
    """
    size = sum(value.size for value in parameters.values())
    attached = Attached.of(backbone, config, theta0=np.zeros(size, np.float32))  # given, so that nothing is drawn or run
    layout = attached.layout
    theta0 = np.concatenate([np.full(math.prod(shape), name.endswith(".l"), np.float32)
                             for name, shape in zip(layout.names, layout.shapes, strict=True)])
    vector = np.asarray(layout.flatten(parameters)) - theta0
    return Solution(task=task, seed=seed, config=config, layout=layout, vector=vector, theta0=theta0,
                    backbone=backbone.fingerprint, theta0_fingerprint=replace(attached, theta0=theta0).theta0_fingerprint, provenance=provenance)


def parameters_of(solution: Solution) -> dict[str, np.ndarray]:
    """The parameters θ by name; where θ0 is 0 they are the vector's own bits, a zero's sign included."""
    theta = np.where(solution.theta0 == 0, solution.vector, solution.theta0 + solution.vector)
    shaped = zip(solution.layout.names, solution.layout.shapes, solution.layout.offsets, strict=True)
    return {name: theta[start : start + math.prod(shape)].reshape(shape) for name, shape, start in shaped}


def add_to_bank(bank: Bank, solution: Solution, backbone: Backbone) -> None:
    """Store the solution in the bank, with its θ0 where the bank has none under this label.

    Raises:
        InputError: the label stands for another configuration or another θ0 there, or the bank is of another backbone.
    """
    if solution.label in bank.labels():
        theirs = bank.start(solution.label).config
        if theirs != solution.config:
            changed = sorted(k for k, v in solution.config.to_json().items() if theirs.to_json().get(k) != v)
            raise InputError(f"expected a {solution.label} with the settings of the bank {bank.path}, got one with another "
                             f"{', '.join(changed) or 'type'}; give it a label of its own")
    bank.add_start(Attached.of(backbone, solution.config, theta0=solution.theta0))
    bank.add(solution)


def read_solution(path: Path) -> Solution:
    """The solution in a file of a bank: BANK/solutions/LABEL/TASK.SEED.safetensors."""
    task, _, seed = path.name.removesuffix(".safetensors").rpartition(".")
    if not path.is_file() or path.parent.parent.name != "solutions" or not seed.isdigit():
        raise InputError(f"expected a solution's file in a bank (bank/solutions/lora/task.0.safetensors), got {path}; its θ0 is in the bank")
    return Bank(path.parents[2]).load(path.parent.name, unquote(task), int(seed))
