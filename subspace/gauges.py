"""What leaves a delta's function as it is, one site at a time: canonical forms, and moves towards a reference.

    LoRA      (A G⁻¹)(G B) = A B for every invertible G [r, r]
    adapter   a permutation of the hidden units: columns of A, entries of its bias, rows of B
    prefix    a permutation of the slots: rows of keys and of values, together

All in float64; a form is a function of the delta's function alone (up to rounding), so it is the same whatever gauge a solution came in.
"""

import abc
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float64, Int

from deltas.layout import Layout
from deltas.parallel import threads_for
from deltas.types import Adapter, DeltaType, LoRA, Prefix

SILENT = 1e-3
"""Directions that solution and reference share with less than this share of the strongest keep their canonical axes."""

ROUNDING = 1e-6
"""Singular values of A B below this share of |A| |B| are those of rounded factors."""


@dataclass(frozen=True)
class Site(abc.ABC):
    """The parameters of one site: by their own name, their place in θ and their shape."""

    name: str
    arrays: Mapping[str, tuple[slice, tuple[int, ...]]]

    def read(self, theta: np.ndarray) -> dict[str, Float64[np.ndarray, "..."]]:
        """The site's parameters, copied to float64."""
        return {name: theta[place].reshape(shape).astype(np.float64) for name, (place, shape) in self.arrays.items()}

    def write(self, theta: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
        """Put them back into θ."""
        for name, value in values.items():
            theta[self.arrays[name][0]] = value.ravel()

    def size(self, values: Mapping[str, np.ndarray]) -> float:
        """The norm of canonical parameters: the same in every gauge."""
        return math.sqrt(sum(float(np.sum(value**2)) for value in values.values()))

    @abc.abstractmethod
    def canonical(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The parameters of the same function in canonical form."""

    @abc.abstractmethod
    def towards(self, values: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The parameters of the same function that are nearest to the reference, from canonical ones or from an earlier move."""


class LowRank(Site):
    """A [in, r] and B [r, out] of a LoRA."""

    def canonical(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A B = U S Vᵀ → A = U √S, B = √S Vᵀ, falling; the largest entry of each column of U is positive. By QR of the factors: no [in, out].

        A rank below r leaves zeros in the last columns of A and rows of B.
        """
        with threads_for(values["a"].size + values["b"].size):
            qa, ra = np.linalg.qr(values["a"])
            qb, rb = np.linalg.qr(values["b"].T)
            u, s, vh = np.linalg.svd(ra @ rb.T, full_matrices=False)
        s[s <= ROUNDING * np.linalg.norm(ra) * np.linalg.norm(rb)] = 0.0  # float32 noise, of which the root would be a thousand times larger
        u, v = qa @ u, qb @ vh.T
        signs = np.where(u[np.argmax(np.abs(u), axis=0), np.arange(u.shape[1])] < 0, -1.0, 1.0) * np.sqrt(s)
        a, b = np.zeros(values["a"].shape), np.zeros(values["b"].shape)
        a[:, : len(s)], b[: len(s)] = u * signs, (v * signs).T
        return {"a": a, "b": b}

    def towards(self, values: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A R and Rᵀ B with the orthogonal R that brings [A; Bᵀ] nearest to the reference's (Procrustes).

        Where the reference says nothing, R has no reason: a small multiple of the identity is added to the product that R comes from.
        """
        product = values["a"].T @ reference["a"] + values["b"] @ reference["b"].T
        u, _, vh = np.linalg.svd(product + SILENT * np.linalg.norm(product, 2) * np.eye(len(product)))
        turn = u @ vh
        return {"a": values["a"] @ turn, "b": turn.T @ values["b"]}


class Units(Site):
    """Parameters of like units, of which only the order is free: `axes` says which axis of each parameter counts them."""

    axes: ClassVar[Mapping[str, int]]

    def canonical(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The units by falling norm."""
        return self._in(np.argsort(-np.sum(self._units(values) ** 2, axis=1), kind="stable"), values)

    def towards(self, values: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The order in which the sum of squared distances to the reference's units is least (the assignment problem)."""
        from scipy.optimize import linear_sum_assignment

        _, order = linear_sum_assignment(self._units(reference) @ self._units(values).T, maximize=True)
        return self._in(order, values)

    def _units(self, values: Mapping[str, np.ndarray]) -> Float64[np.ndarray, "units numbers"]:
        return np.concatenate([np.moveaxis(value, self.axes[name], 0).reshape(value.shape[self.axes[name]], -1)
                               for name, value in values.items()], axis=1)

    def _in(self, order: Int[np.ndarray, " units"], values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.take(value, order, axis=self.axes[name]) for name, value in values.items()}


class Hidden(Units):
    """The hidden units of an adapter: columns of A [d, m], entries of its bias [m], rows of B [m, d]."""

    axes: ClassVar = {"a": 1, "a_bias": 0, "b": 0}


class Slots(Units):
    """The slots of a prefix: rows of keys and values [P, heads, head_dim]."""

    axes: ClassVar = {"keys": 0, "values": 0}


KINDS: tuple[tuple[type[DeltaType], type[Site], tuple[str, ...], tuple[str, ...]], ...] = (
    (LoRA, LowRank, ("a", "b"), ()), (Adapter, Hidden, ("a", "b"), ("a_bias",)), (Prefix, Slots, ("keys", "values"), ()))
"""Delta type, what its sites are, the parameters that make one, and those that may stand beside."""


def sites_of(config: DeltaType, layout: Layout) -> list[Any]:
    """The sites of a delta that have such a freedom; none for types without, and for prefixes that come from a network."""
    for kind, site, needed, more in KINDS:
        if isinstance(config, kind):
            return [site(name, {own: arrays[own] for own in (*needed, *more) if own in arrays})
                    for name, arrays in _by_site(layout).items() if set(needed) <= set(arrays)]
    return []


def _by_site(layout: Layout) -> dict[str, dict[str, tuple[slice, tuple[int, ...]]]]:
    found: dict[str, dict[str, tuple[slice, tuple[int, ...]]]] = {}
    for name, shape, first in zip(layout.names, layout.shapes, layout.offsets, strict=True):
        site, _, own = name.rpartition(".")
        found.setdefault(site, {})[own] = (slice(first, first + math.prod(shape)), shape)
    return found


def self_attention(sites: Sequence[Site]) -> list[str]:
    """The prefixes in self-attention, where relative positions tell slots apart; across, there are none."""
    return [site.name for site in sites if isinstance(site, Slots) and site.name.rpartition(".")[2] != "cross"]
