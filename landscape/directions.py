"""Directions in which a delta's θ or a backbone's weights are moved: random ones of comparable length, and those an optimizer went along.

Networks with relu or normalisation compute the same when a filter is scaled up and the next scaled down, so the same step means more where
weights are small. Random directions are therefore given the lengths of what they move:

    layer    d_p ← d_p ‖x_p‖ / ‖d_p‖             for every parameter p
    filter   d_pj ← d_pj ‖x_pj‖ / ‖d_pj‖         for every filter j, the column of a kernel [in, out] that makes one output

A filter or parameter of length 0 is not moved at all, so that nothing is divided by 0 and a B = 0 of a LoRA stays; biases and norms, which have
no filters, are left alone by `filter` unless they are asked for.

Source: Li et al. 2018, arXiv 1712.09913, sections 4 and 7.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Float64

from deltas.errors import InputError
from deltas.layout import Layout

Normalise = Literal["none", "layer", "filter"]
NORMALISATIONS = ("none", "layer", "filter")


def random_directions(x: Float[np.ndarray, " D"], layout: Layout, *, count: int = 2, normalise: Normalise = "filter", vectors: bool = False,
                      seed: int = 0) -> Float32[np.ndarray, "count D"]:
    """Gaussian directions around θ = x, scaled to its parameters.

    Args:
        x: where the landscape is looked at, with its layout.
        normalise: "filter", "layer", or "none": the length of x as a whole.
        vectors: move parameters of one axis (biases, norms) too, each as one filter.
        seed: of the draw.

    Raises:
        InputError: another normalisation, an x of another size, or one in which nothing can be moved, as all is 0.

    Example:
        u, v = landscape.random_directions(solution.theta, solution.layout)
    """
    if normalise not in NORMALISATIONS:
        raise InputError(f"expected a normalisation of {', '.join(NORMALISATIONS)}, got {normalise!r}; choose one of them")
    x = np.asarray(x, np.float32)
    if x.shape != (layout.size,):
        raise InputError(f"expected θ of {layout.size} numbers, as its layout has, got shape {x.shape}; pass both of one solution")
    rng, found = np.random.default_rng([seed, 23]), np.empty((count, layout.size), np.float32)
    for direction in found:
        direction[:] = rng.standard_normal(layout.size, np.float32)
        if normalise == "none":
            direction *= np.linalg.norm(x) / np.linalg.norm(direction)
            continue
        for shape, start in zip(layout.shapes, layout.offsets, strict=True):
            own = slice(start, start + math.prod(shape))
            if len(shape) < 2 and normalise == "filter" and not vectors:
                direction[own] = 0
                continue
            # [in, out]: one column an output; several leading axes are one
            filters = (-1, shape[-1]) if normalise == "filter" and len(shape) > 1 else (-1, 1)
            direction[own] = _of_length(direction[own].reshape(filters), x[own].reshape(filters)).reshape(-1)
    if not np.linalg.norm(found, axis=1).all():
        raise InputError("expected parameters to move, got a point whose filters are all 0; choose normalise='none', or another point")
    return found


def _of_length(d: Float32[np.ndarray, "in out"], x: Float32[np.ndarray, "in out"]) -> Float32[np.ndarray, "in out"]:
    """The columns of d with the lengths of those of x."""
    own, wanted = np.linalg.norm(d, axis=0), np.linalg.norm(x, axis=0)
    return d * np.divide(wanted, own, out=np.zeros_like(own), where=own > 0)


@dataclass(frozen=True, eq=False, kw_only=True)
class Trajectory:
    """The plane that holds most of an optimizer's way: where it ended, two orthonormal directions, and its points seen there.

    `share` is how much of Σ ‖x_i − x_end‖² each direction holds: a picture of a way of which the plane holds little shows little of it.
    """

    end: Float64[np.ndarray, " D"]
    directions: Float64[np.ndarray, "count D"]
    points: Float64[np.ndarray, "steps count"]
    share: Float64[np.ndarray, " count"]


def of_trajectory(points: Sequence[Float[np.ndarray, " D"]] | Float[np.ndarray, "steps D"], *, count: int = 2) -> Trajectory:
    """The leading principal directions of the points of an optimization, seen from the last.

    Raises:
        InputError: too few points, or points that do not span so many directions.

    Example:
        way = landscape.of_trajectory([look.z for look in looks])
    """
    steps = np.asarray(points, np.float64)
    if steps.ndim != 2 or len(steps) <= count:
        raise InputError(f"expected at least {count + 1} points of a trajectory for {count} directions, got shape {steps.shape}; keep more")
    away = steps - steps[-1]
    _, s, vh = np.linalg.svd(away, full_matrices=False)
    if s[count - 1] <= 1e-6 * s[0] or not s[0]:
        raise InputError(f"expected a trajectory that spans {count} directions, got one on a line or a point; draw a line, or keep more of it")
    directions = vh[:count] * np.sign(vh[np.arange(count), np.argmax(np.abs(vh[:count]), axis=1)])[:, None]
    return Trajectory(end=steps[-1], directions=directions, points=away @ directions.T, share=s[:count] ** 2 / np.sum(s**2))
