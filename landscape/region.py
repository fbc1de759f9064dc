"""Where on a plane all types do well at once.

    R_t = {(x, y) : score_t(x, y) ≥ best_t − τ (best_t − floor_t)},        R = ∩_t R_t

With floor 0 (the default) this is score ≥ (1 − τ) best; with the chance score as floor it is (1 − τ) of what there is to
gain. Between grid points the surface is read bilinearly, exactly as it is drawn: the area reported is the area seen.

    worst type   min_t score_t, max_t loss_t        mean   over t        best type   max_t score_t, min_t loss_t

are three further layers of the same plane (`combined`): a point is good for all types where it is good for the worst.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from deltas.errors import InputError
from landscape.surface import Mark, Surface

REFINE = 12  # pixels a grid cell: area of a smooth region good to about 1%
LAYERS = ("worst type", "mean", "best type")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Region:
    """The part of a plane where a type, and where every type, stays within a tolerance of its best.

    `inside` is on a grid refined `REFINE` times; areas are in units of x times units of y; a piece counts when it holds an evaluated point.
    `largest` is the share of the common area that its largest piece has: 1 where all of it is connected, 0 where there is none.
    `held` says of every mark that lies on the plane and in the picture whether it is inside; `marks` names those that are.
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
    largest: float = 0.0
    held: Mapping[str, bool] = dataclasses.field(default_factory=dict)

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


def combined(surface: Surface) -> Surface:
    """What a plane is to all its types together: the layers `LAYERS` in place of the types.

    score [worst, mean, best] = (min_t, mean_t, max_t) score_t and loss = (max_t, mean_t, min_t) loss_t, point by point; a hole of one type
    is a hole of all three.

    Example:
        landscape.plot(landscape.combined(surface), "figures/worst.png")
    """
    rising = [np.min, np.mean, np.max]
    score = np.stack([of(surface.score, axis=0) for of in rising])
    loss = np.stack([of(surface.loss, axis=0) for of in reversed(rising)])
    return dataclasses.replace(surface, labels=LAYERS, score=score, loss=loss)


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
    total, held = float(np.ptp(surface.x) * np.ptp(surface.y)), _held(surface, everyone)
    _, pieces, largest = pieces_of(everyone)
    return Region(
        labels=surface.labels, by=by, tolerance=tolerance, best=tuple(bests), thresholds=tuple(thresholds), inside=masks,
        areas=tuple(_fraction(mask) * total for mask in masks), area=_fraction(everyone) * total,
        fraction=_fraction(everyone), components=pieces, marks=tuple(name for name, inside in held.items() if inside), flat=tuple(flat),
        holes=sum(surface.holes.values()), largest=largest, held=held,
    )  # fmt: skip


def shares(shape: tuple[int, ...]) -> Float[np.ndarray, "fine_rows fine_columns"]:
    """What each pixel is of the rectangle, by the trapezoidal rule: those on the border count half, corners a quarter."""
    up, across = (np.r_[0.5, np.ones(n - 2), 0.5] / (n - 1) for n in shape)
    return np.outer(up, across)


def _fraction(mask: np.ndarray) -> float:
    return float(np.sum(shares(mask.shape), where=mask))


def pieces_of(mask: Bool[np.ndarray, "fine_rows fine_columns"]) -> tuple[Int[np.ndarray, "fine_rows fine_columns"], int, float]:
    """The piece that each pixel belongs to (0: none), how many hold an evaluated point, and the largest's share of the whole area."""
    pieces, _ = ndimage.label(mask, structure=np.ones((3, 3)))  # type: ignore[misc]
    sizes = np.bincount(pieces.ravel(), weights=shares(mask.shape).ravel())[1:]
    return pieces, int(np.setdiff1d(pieces[::REFINE, ::REFINE], [0]).size), float(sizes.max() / sizes.sum()) if sizes.size else 0.0


def _held(surface: Surface, mask: np.ndarray) -> dict[str, bool]:
    """Which of the marks on the plane itself lie inside; a mere foot of a far solution says nothing about it."""
    held = {}
    for mark in surface.marks:
        place = _pixel(surface, mark, mask.shape)
        if place is not None and mark.away <= 1e-4 * (1 + np.hypot(mark.x, mark.y)):
            held[mark.name] = bool(mask[place])
    return held


def _pixel(surface: Surface, mark: Mark, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """The row and column of a refined grid that a mark's foot falls on; None outside the picture."""
    column = (mark.x - surface.x[0]) / (surface.x[-1] - surface.x[0]) * (shape[1] - 1)
    row = (mark.y - surface.y[0]) / (surface.y[-1] - surface.y[0]) * (shape[0] - 1)
    if not (-0.5 <= column <= shape[1] - 0.5 and -0.5 <= row <= shape[0] - 0.5):
        return None
    return min(round(row), shape[0] - 1), min(round(column), shape[1] - 1)
