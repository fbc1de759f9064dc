"""One start of several sources under weights: in the factors, in the product ΔW = AB of LoRAs, or by codes of a shared space.

    factors   θ0 + Σ_j w_j (θ_j − θ0)
    product   A' B' ≈ Σ_j w_j A_j B_j, each module at its rank: the nearest there is
    code      decode(Σ_j w_j z_j), z of a subspace that was fitted on the sources alone; with k = N − 1 this is the mean of the factors
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32

from deltas.bank import Solution
from deltas.errors import InputError
from deltas.layout import Layout
from deltas.types import DeltaType, LoRA
from subspace.base import Subspace
from subspace.ensembling.weighting import at_least_two
from subspace.merging import factors_of, merge_codes, merge_factors
from subspace.product import scales
from subspace.rows import Given, as_rows
from subspace.rules import Mean, merged

SPACES = ("factors", "product")


def factor_start(rows: Given, weights: Float[np.ndarray, " N"]) -> Float32[np.ndarray, " D"]:
    """Σ_j w_j x_j of x_j = θ_j − θ0; weights are divided by their sum."""
    rows = as_rows(rows)
    at_least_two(len(rows))
    return merged(rows, Mean(given=tuple(map(float, weights))))


def product_start(
    rows: Given, weights: Float[np.ndarray, " N"], *, config: DeltaType, layout: Layout, theta0: Float32[np.ndarray, " D"]
) -> Float32[np.ndarray, " D"]:
    """θ − θ0 of the LoRA of the same ranks whose products are nearest to Σ_j w_j ΔW_j, in the Frobenius norm of each module.

    Raises:
        InputError: another type than a plain LoRA.
    """
    rows = as_rows(rows)
    at_least_two(len(rows))
    can_be_products(config)
    own, ranks = scales(config, layout), {name: shape[1] for name, shape in zip(layout.names, layout.shapes, strict=True)}
    many = [factors_of(config, layout, theta0 + rows[n]) for n in range(len(rows))]
    values: dict[str, np.ndarray] = {}
    for module, scale in own.items():
        rank = ranks[f"{module}.a"]
        a, b = merge_factors([{module: one[module]} for one in many], Mean(given=tuple(map(float, weights))), rank=rank)[module]
        missing = rank - a.shape[1]  # a sum of lower rank than the LoRA's
        values[f"{module}.a"] = np.pad(a, ((0, 0), (0, missing)))
        values[f"{module}.b"] = np.pad(b, ((0, missing), (0, 0))) / np.float32(scale)
    return np.concatenate([values[name].ravel() for name in layout.names]).astype(np.float32) - theta0


def code_start(space: Subspace, label: str, weights: Float[np.ndarray, " N"]) -> Float32[np.ndarray, " D"]:
    """θ − θ0 of the type at the weighted mean of the sources' codes."""
    z = merge_codes(space, space.codes, Mean(given=tuple(map(float, weights))))
    return space.decode(label, z) - space.parts[label].theta0


def can_be_products(config: DeltaType) -> None:
    """Refuse what is no plain LoRA."""
    if not isinstance(config, LoRA) or config.dora:
        raise InputError(f"expected plain LoRAs for the space 'product', got {config.label}; choose 'factors'")


def of_one_type(solutions: Sequence[Solution]) -> None:
    """Refuse sources whose factors cannot be averaged: fewer than two, of several types, or of several θ0."""
    at_least_two(len(solutions))
    labels = sorted({solution.label for solution in solutions})
    if len(labels) > 1:
        raise InputError(f"expected sources of one delta type to average their factors, got {' and '.join(labels)}; choose one type")
    if len({solution.theta0_fingerprint for solution in solutions}) > 1:
        raise InputError(f"expected sources of one θ0 to average their factors, got {labels[0]} of several; choose the space 'product'")
