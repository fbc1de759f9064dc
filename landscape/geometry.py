"""Planes in a vector space: their directions, the points of a grid on them, and what is seen from them of points beside them.

    x(a, b) = o + a u + b v                                                    u and v need not be orthogonal, nor of length 1
    foot      the (a, b) that minimises ‖x − x(a, b)‖, by the 2 × 2 normal equations in float64
    away      ‖x − x(foot)‖
    share     Σ_i ‖P (x_i − x_end)‖² / Σ_i ‖x_i − x_end‖²,   P the projection onto the span of u and v
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from deltas.errors import InputError

PARALLEL = 1e-6
"""Sine of the angle under which two directions count as one."""
WIDTH = 2**22
"""Numbers of a vector that are handled at once: weights may be many."""


def orthonormal(a: np.ndarray, b: np.ndarray) -> Float[np.ndarray, "2 n"]:
    """Gram-Schmidt of two directions, float64; raises InputError when they are parallel or one of them is zero."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    length, other = np.linalg.norm(a), np.linalg.norm(b)
    u = a / max(length, np.finfo(float).tiny)
    rest = b - (b @ u) * u
    rest -= (rest @ u) * u  # once more: the first pass leaves rounding of the size of b
    if not np.isfinite(length + other) or length == 0 or np.linalg.norm(rest) <= PARALLEL * other or other == 0:
        raise InputError("expected two directions that span a plane, got parallel or zero ones; choose points that are not on one line")
    return np.stack([u, rest / np.linalg.norm(rest)])


def check_independent(directions: Float[np.ndarray, "m n"]) -> None:
    """Refuse directions of which one is zero, or is a combination of the others."""
    gram = sum((block @ block.T for block in _blocks(directions)), np.zeros((len(directions),) * 2))
    lengths = np.sqrt(np.diag(gram))
    if not np.isfinite(gram).all() or not lengths.all():
        raise InputError("expected directions that are finite and not zero, got another; choose other directions")
    if np.linalg.eigvalsh(gram / np.outer(lengths, lengths))[0] <= PARALLEL**2:
        raise InputError("expected directions that span a plane, got parallel ones, or one that is a combination of others; choose others")


def points(origin: np.ndarray, directions: np.ndarray, x: np.ndarray, y: np.ndarray) -> Float[np.ndarray, "points n"]:
    """The grid's points, row by row: point i·len(x) + j is origin + x[j] u + y[i] v."""
    across, up = np.meshgrid(x, y)
    return origin + across.reshape(-1, 1) * directions[0] + up.reshape(-1, 1) * directions[1]


@dataclass(frozen=True, eq=False, kw_only=True)
class View:
    """A plane through `origin`, spanned by two directions, from which other points of the space are seen."""

    origin: Float[np.ndarray, " n"]
    directions: Float[np.ndarray, "2 n"]

    def feet(self, x: Float[np.ndarray, "points n"]) -> tuple[Float[np.ndarray, "points 2"], Float[np.ndarray, " points"]]:
        """The foot of each point on the plane, in units of the directions, and its distance from the plane, in those of the space."""
        gram, sides = np.zeros((2, 2)), np.zeros((len(x), 2))
        for span, offset in self._parts(x):
            gram += span @ span.T
            sides += offset @ span.T
        feet, away = np.linalg.solve(gram, sides.T).T, np.zeros(len(x))
        for span, offset in self._parts(x):
            away += np.sum((offset - feet @ span) ** 2, axis=1)
        return feet, np.sqrt(away)

    def share(self, x: Float[np.ndarray, "steps n"]) -> float:
        """How much of the motion of a way, seen from its end, is along the plane; NaN of one that does not move."""
        feet, _ = self.feet(x)
        inside = whole = 0.0
        for (span, _), block in zip(self._parts(x), _blocks(x), strict=True):
            inside += float(np.sum(((feet - feet[-1]) @ span) ** 2))
            whole += float(np.sum((block - block[-1]) ** 2))
        return inside / whole if whole else float("nan")

    def _parts(self, x: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Columns at a time, in float64: of the directions, and of the points as seen from the origin."""
        for span, here, there in zip(_blocks(self.directions), _blocks(self.origin[None]), _blocks(x), strict=True):
            yield span, there - here


def _blocks(x: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, x.shape[1], WIDTH):
        yield np.asarray(x[:, start : start + WIDTH], np.float64)
