"""A map of few evaluations: a coarse grid, refined where the surface bends, and an error that was measured.

    the lattice of all rows × columns points; evaluated first: every s-th row and column, and the border's ends
    a round:  fit two interpolants through what is known, a smooth one (thin plates) and a plain one (linear); where they differ most, evaluate,
              and as many points drawn at random beside
    the error of a round is what the smooth one was wrong by at the points that were then evaluated; it ends where the largest of it, in the
    points of doubt and in the random ones, is below the tolerance times the range of all values, twice in a row

What is not evaluated is filled in by the smooth interpolant through all that is. The stated error is that of the last round's points,
measured before they were known to the fit; at the points of doubt it is larger than elsewhere.

Source: thin-plate splines, Duchon 1977, as SciPy's RBFInterpolator has them; two interpolants' difference as a local error is usual in
adaptive quadrature.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int

from deltas.errors import InputError

COARSE = 5
"""Every so-manieth row and column comes first."""
WHOLE = 500
"""Points up to which one spline goes through all; of more, one through the nearest `NEIGHBOURS` of each place."""
NEIGHBOURS = 40


@dataclass(frozen=True, eq=False, kw_only=True)
class Sampled:
    """A surface of which some points were evaluated.

    Args:
        values: all points of the lattice, evaluated or filled in; NaN is a hole.
        known: which were evaluated.
        error: the largest |filled in − evaluated| of the last two rounds' points, measured before they were used.
        range: of all finite values.
    """

    values: Float64[np.ndarray, "rows columns"]
    known: Bool[np.ndarray, "rows columns"]
    error: float
    range: float

    @property
    def evaluations(self) -> int:
        """How many points were evaluated."""
        return int(self.known.sum())


def adaptive(
    evaluate: Callable[[Int[np.ndarray, "points 2"]], Float64[np.ndarray, " points"]], shape: tuple[int, int], *, tolerance: float = 0.02,
    at_once: int = 24, most: int | None = None, seed: int = 0,
) -> Sampled:
    """Evaluate a lattice where it has to be.

    Args:
        evaluate: (row, column) of points ↦ values; what is not finite is a hole, around which nothing is filled in.
        shape: rows and columns.
        tolerance: of the range of the values.
        at_once: points a round.
        most: evaluations at the most; None is all. With fewer than the tolerance wants, the error says what it is.
        seed: of the points drawn at random.

    Raises:
        InputError: a lattice of fewer than 2 × 2 points, or a tolerance that is not above 0.
    """
    rows, columns = shape
    if rows < 2 or columns < 2:
        raise InputError(f"expected at least 2 × 2 points, got {rows} × {columns}; 41 × 41 are usual")
    if not tolerance > 0:
        raise InputError(f"expected a tolerance above 0, got {tolerance}; 0.02 is 2 % of the range")
    lattice = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1).reshape(-1, 2)
    values, known = np.full(rows * columns, np.nan), np.zeros(rows * columns, bool)
    rng, most = np.random.default_rng([seed, 25]), rows * columns if most is None else most
    near = [sorted({*range(0, n, COARSE), n - 1}) for n in shape]
    first = np.flatnonzero(np.isin(lattice[:, 0], near[0]) & np.isin(lattice[:, 1], near[1]))
    values[first], known[first] = evaluate(lattice[first]), True
    errors: list[float] = [np.inf]
    while known.sum() < min(most, len(lattice)):
        scale = _range(values[known])
        if max(errors[-2:]) <= tolerance * scale and len(errors) > 2:
            break
        unseen = np.flatnonzero(~known)
        smooth, plain = filled(lattice, values, known, unseen)
        doubt = np.nan_to_num(np.abs(smooth - plain), nan=np.inf)
        size = int(min(at_once, most - known.sum(), len(unseen)))
        chosen = _spread(lattice[unseen], doubt, size - size // 4)
        rest = np.setdiff1d(np.arange(len(unseen)), chosen)
        chosen = np.concatenate([chosen, rng.choice(rest, min(size - len(chosen), len(rest)), replace=False)])
        found = np.asarray(evaluate(lattice[unseen[chosen]]), np.float64)
        wrong = np.abs(found - smooth[chosen])
        errors.append(float(np.max(wrong[np.isfinite(wrong)], initial=0.0)))
        values[unseen[chosen]], known[unseen[chosen]] = found, True
    if not known.all():
        unseen = np.flatnonzero(~known)
        values[unseen] = filled(lattice, values, known, unseen)[0]
        error = max(errors[-2:])
    else:
        error = 0.0
    return Sampled(values=values.reshape(shape), known=known.reshape(shape), error=error, range=_range(values))


def _range(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(np.ptp(finite)) if finite.size else 0.0


def filled(lattice: np.ndarray, values: np.ndarray, known: np.ndarray, where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The smooth and the plain interpolant at some points; NaN beside a hole."""
    from scipy.interpolate import LinearNDInterpolator, RBFInterpolator
    from scipy.spatial import KDTree

    good = known & np.isfinite(values)
    if good.sum() < 4:
        return np.full(len(where), np.nan), np.full(len(where), np.nan)
    at = lattice.astype(np.float64)
    some = NEIGHBOURS if good.sum() > WHOLE else None
    smooth = RBFInterpolator(at[good], values[good], neighbors=some, kernel="thin_plate_spline")(at[where])
    plain = LinearNDInterpolator(at[good], values[good])(at[where])
    holes = known & ~good
    if holes.any():
        nearest = KDTree(at[known]).query(at[where])[1]
        smooth[holes[np.flatnonzero(known)[nearest]]] = np.nan
    return smooth, np.where(np.isfinite(plain), plain, smooth)


def _spread(points: np.ndarray, doubt: np.ndarray, count: int) -> np.ndarray:
    """The points of most doubt, no two of them neighbours as long as there are others."""
    order, chosen = np.argsort(-doubt, kind="stable"), []
    for i in order:
        if len(chosen) == count:
            break
        if all(np.abs(points[i] - points[j]).max() > 1 for j in chosen):
            chosen.append(i)
    left = [i for i in order if i not in set(chosen)]
    return np.array([*chosen, *left[: count - len(chosen)]], int)
