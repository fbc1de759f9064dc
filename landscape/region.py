"""Where on a plane all types do well at once.

    R_t = {(x, y) : score_t(x, y) ≥ best_t − τ (best_t − floor_t)},        R = ∩_t R_t

With floor 0 (the default) this is score ≥ (1 − τ) best; with the chance score as floor it is (1 − τ) of what there is to
gain. Between grid points the surface is read bilinearly, exactly as it is drawn: the area reported is the area seen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from deltas.errors import InputError
from landscape.surface import Surface

REFINE = 12  # pixels a grid cell: area of a smooth region good to about 1%


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Region:
    """The part of a plane where a type, and where every type, stays within a tolerance of its best.

    `inside` is on a grid refined `REFINE` times; areas are in units of z²; a piece counts when it holds an evaluated point.
    """

    labels: tuple[str, ...]
    by: str
    tolerance: float
    best: tuple[float, ...]
    thresholds: tuple[float, ...]
    inside: Bool[np.ndarray, "types fine_rows fine_columns"]
    areas: tuple[float, ...]
    area: float
    fraction: float
    components: int
    marks: tuple[str, ...]
    flat: tuple[str, ...]
    holes: int

    @property
    def everyone(self) -> Bool[np.ndarray, "fine_rows fine_columns"]:
        """Points where every type is inside its own region."""
        return np.asarray(self.inside.all(axis=0))

    def summary(self) -> dict[str, Any]:
        """The region's numbers without its pixels, ready for JSON."""
        facts = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "inside"}
        for name in ("best", "thresholds", "areas"):
            facts[name] = dict(zip(self.labels, facts[name], strict=True))
        return {name: list(fact) if isinstance(fact, tuple) else fact for name, fact in facts.items()}


def refine(values: Float[np.ndarray, "rows columns"], factor: int = REFINE) -> Float[np.ndarray, "fine_rows fine_columns"]:
    """Bilinear interpolation onto `factor` times as many intervals; grid points keep their values, cells at a hole are NaN."""
    up, across = (_weights(n, factor) for n in values.shape)
    hole = ~np.isfinite(values)
    fine = up @ np.where(hole, 0.0, values) @ across.T
    return np.where(up @ hole.astype(float) @ across.T > 0, np.nan, fine)


def _weights(n: int, factor: int) -> np.ndarray:
    where = np.arange((n - 1) * factor + 1) / factor
    return np.maximum(0.0, 1.0 - np.abs(where[:, None] - np.arange(n)[None, :]))


def region(
    surface: Surface,
    *,
    tolerance: float = 0.1,
    by: Literal["score", "loss"] = "score",
    best: Mapping[str, float] | None = None,
    floor: Mapping[str, float] | float | None = None,
) -> Region:
    """The region where all types of a surface stay within `tolerance` of their best.

    Args:
        surface: loss and score on a plane of z.
        tolerance: τ in [0, 1), as a fraction of best − floor (of |best| without a floor).
        by: the score (higher is better) or the loss (lower is better).
        best: {label: value} to measure against, such as the full delta's score; None is the best on the plane.
        floor: value of a delta that does nothing (chance score, or loss of the bare backbone), for all or {label: value}.
    Returns: Region. A type whose values do not vary is listed in `flat`: its region means nothing.
    Raises: InputError for a tolerance outside [0, 1), another `by`, a type that `best` or `floor` leaves out.
    """
    if not 0 <= tolerance < 1:
        raise InputError(f"expected a tolerance from 0 up to but not including 1, got {tolerance}; 0.1 is usual")
    if by not in ("score", "loss"):
        raise InputError(f"expected a region by 'score' or 'loss', got {by!r}")
    for name, given in (("best", best), ("floor", floor)):
        missing = [label for label in surface.labels if isinstance(given, Mapping) and label not in given]
        if missing:
            raise InputError(f"expected a {name} for every type, got none for {', '.join(missing)}")
    sign = 1.0 if by == "score" else -1.0
    values = surface.score if by == "score" else surface.loss
    bests, thresholds, inside, flat = [], [], [], []
    for t, label in enumerate(surface.labels):
        finite = values[t][np.isfinite(values[t])]
        top = float(best[label]) if best else float(sign * (sign * finite).max()) if finite.size else np.nan
        bottom = floor.get(label) if isinstance(floor, Mapping) else floor
        # |best|: a correlation can be negative, and (1 − τ) best would then lie above the best
        slack = abs(top) if bottom is None else abs(top - float(bottom))
        threshold = top - sign * tolerance * slack
        fine = refine(values[t])
        with np.errstate(invalid="ignore"):
            # a rounding of the interpolation must not lose the best point itself at tolerance 0
            inside.append(sign * fine >= sign * threshold - 1e-12 * max(1.0, abs(top)))
        bests.append(top)
        thresholds.append(threshold)
        if finite.size == 0 or np.ptp(finite) == 0:
            flat.append(label)
    masks = np.stack(inside)
    everyone = np.asarray(masks.all(axis=0))
    total = float(np.ptp(surface.x) * np.ptp(surface.y))
    return Region(
        labels=surface.labels, by=by, tolerance=tolerance, best=tuple(bests), thresholds=tuple(thresholds), inside=masks,
        areas=tuple(_fraction(mask) * total for mask in masks), area=_fraction(everyone) * total,
        fraction=_fraction(everyone), components=_components(everyone), marks=_held(surface, everyone), flat=tuple(flat),
        holes=sum(surface.holes.values()),
    )  # fmt: skip


def _fraction(mask: np.ndarray) -> float:
    """Share of the rectangle, by the trapezoidal rule: pixels on the border count half, corners a quarter."""
    weights = [np.r_[0.5, np.ones(n - 2), 0.5] / (n - 1) for n in mask.shape]
    return float(weights[0] @ mask @ weights[1])


def _components(mask: np.ndarray) -> int:
    pieces, _ = ndimage.label(mask, structure=np.ones((3, 3)))  # type: ignore[misc]
    return int(np.setdiff1d(pieces[::REFINE, ::REFINE], [0]).size)


def _held(surface: Surface, mask: np.ndarray) -> tuple[str, ...]:
    """Names of the marks on the plane itself that lie inside; a mere foot of a far solution says nothing about it."""
    names = []
    for mark in surface.marks:
        on_plane = mark.away <= 1e-4 * (1 + np.hypot(mark.x, mark.y))
        column = (mark.x - surface.x[0]) / (surface.x[-1] - surface.x[0]) * (mask.shape[1] - 1)
        row = (mark.y - surface.y[0]) / (surface.y[-1] - surface.y[0]) * (mask.shape[0] - 1)
        within = -0.5 <= column <= mask.shape[1] - 0.5 and -0.5 <= row <= mask.shape[0] - 0.5
        if on_plane and within and mask[min(round(row), mask.shape[0] - 1), min(round(column), mask.shape[1] - 1)]:
            names.append(mark.name)
    return tuple(names)
