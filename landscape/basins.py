"""Whether tasks share a basin: their regions on one plane, pair by pair.

    A, B       where a type stays within the tolerance of its best on task a, on task b (`landscape.region`)
    jaccard    |A ∩ B| / |A ∪ B|           smaller    |A ∩ B| / min(|A|, |B|)
    expected   |A| |B| / |plane|           what two regions of those areas have in common when they are placed independently
    chance     the share of all shifts of B over the plane, around its edges, at which A and B have at least as much in common

The mean over all shifts is `expected`, and every shift keeps the shapes, so `chance` says how unusual the overlap is for regions of these
shapes. A plane laid through the solutions, or around the mean of the sources, has the good regions in its middle: what is beyond chance there is
not yet a basin of two tasks alone. Compare with pairs of unrelated tasks on the same plane.

Source: shifts around the edges as a null for two patterns that each keep their structure: Lotwick and Silverman 1982, J. R. Stat. Soc. B 44.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool

from deltas.errors import InputError
from landscape.region import pieces_of, region, shares
from landscape.surface import Surface

EVERYONE = "all types"
"""The label of the region that all types share."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Overlap:
    """What the regions of two tasks have in common, for one type or for all at once (`EVERYONE`).

    Areas are in the plane's units. Shares of nothing are 0. `connected` says whether the largest pieces of both regions lie in one piece of
    A ∪ B; `pieces` counts those of A ∩ B that hold an evaluated point, of which the largest has the share `largest`.
    """

    tasks: tuple[str, str]
    label: str
    by: str
    tolerance: float
    areas: tuple[float, float]
    intersection: float
    union: float
    jaccard: float
    smaller: float
    expected: float
    chance: float
    connected: bool
    pieces: int
    largest: float

    def to_json(self) -> dict[str, Any]:
        """A row of a table."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


def overlaps(
    surfaces: Mapping[str, Surface],
    *,
    tolerance: float = 0.1,
    by: Literal["score", "loss"] = "score",
    best: Mapping[str, Mapping[str, float]] | None = None,
    floor: Mapping[str, Mapping[str, float] | float] | None = None,
) -> tuple[Overlap, ...]:
    """Every pair of tasks, for every type and for all types at once.

    Args:
        surfaces: {task: its surface}, all on the same points of one plane and of the same types.
        tolerance, by: of the regions, see `region`.
        best, floor: {task: what `region` is given}; None as there.

    Returns:
        The pairs in the order of the tasks, the types in the order of the surfaces, `EVERYONE` last.

    Raises:
        InputError: fewer than two tasks, another plane or other types, a task that `best` or `floor` leaves out; see `region`.

    Example:
        rows = [found.to_json() for found in landscape.overlaps({"sst2": one, "rte": other}, tolerance=0.1)]
    """
    tasks = list(surfaces)
    if len(tasks) < 2:
        raise InputError(f"expected surfaces of at least two tasks to compare, got {len(tasks)}; survey another task on the same plane")
    for name, given in (("best", best), ("floor", floor)):
        missing = [task for task in tasks if given is not None and task not in given]
        if missing:
            raise InputError(f"expected a {name} for every task, got none for {', '.join(missing)}; add it or leave {name} out")
    first = surfaces[tasks[0]]
    for task in tasks[1:]:
        _same_plane(first, surfaces[task], tasks[0], task)
    masks = {}
    for task, surface in surfaces.items():
        found = region(surface, tolerance=tolerance, by=by, best=best[task] if best else None,
                       floor=None if floor is None else floor[task])
        masks[task] = [*found.inside, found.everyone]
    area = float(np.ptp(first.x) * np.ptp(first.y))
    return tuple(
        Overlap(tasks=(a, b), label=label, by=by, tolerance=tolerance, **compared(masks[a][n], masks[b][n], area))
        for a, b in itertools.combinations(tasks, 2)
        for n, label in enumerate((*first.labels, EVERYONE))
    )


def by_plane(surfaces: Mapping[str, Surface]) -> list[dict[str, Surface]]:
    """Surfaces in groups that `overlaps` can compare: of one plane, one split and the same types; in their order."""
    planes: list[dict[str, Surface]] = []
    for name, surface in surfaces.items():
        home = next((plane for plane in planes if _comparable(next(iter(plane.values())), surface)), None)
        if home is None:
            planes.append(home := {})
        home[name] = surface
    return planes


def _comparable(a: Surface, b: Surface) -> bool:
    try:
        _same_plane(a, b, "one", "the other")
    except InputError:
        return False
    return a.split == b.split


def compared(a: Bool[np.ndarray, "rows columns"], b: Bool[np.ndarray, "rows columns"], area: float = 1.0) -> dict[str, Any]:
    """What two regions of a plane of that area have in common, by the names of `Overlap`'s fields."""
    share = shares(a.shape)
    own, other, both = (area * float(np.sum(share, where=mask)) for mask in (a, b, a & b))
    whole, least = own + other - both, min(own, other)
    _, pieces, largest = pieces_of(a & b)
    return {
        "areas": (own, other), "intersection": both, "union": whole, "jaccard": both / whole if whole else 0.0,
        "smaller": both / least if least else 0.0, "expected": own * other / area, "chance": _chance(a, b), "connected": _connected(a, b),
        "pieces": pieces, "largest": largest,
    }  # fmt: skip


def _chance(a: np.ndarray, b: np.ndarray) -> float:
    """All shifts at once, by the correlation theorem; the last row and column would fall on the first, and are left out."""
    one, other = (np.fft.rfft2(mask[:-1, :-1].astype(float)) for mask in (a, b))
    common = np.rint(np.fft.irfft2(one * np.conj(other), s=a[:-1, :-1].shape))
    return float(np.mean(common >= common[0, 0]))


def _connected(a: np.ndarray, b: np.ndarray) -> bool:
    pieces, _, _ = pieces_of(a | b)
    return bool(a.any() and b.any()) and _home(pieces, a) == _home(pieces, b)


def _home(pieces: np.ndarray, mask: np.ndarray) -> int:
    """The piece of the union that the largest piece of a region lies in."""
    own, _, _ = pieces_of(mask)
    sizes = np.bincount(own.ravel(), weights=shares(mask.shape).ravel())
    return int(pieces[own == 1 + np.argmax(sizes[1:])][0])


def _same_plane(a: Surface, b: Surface, one: str, other: str) -> None:
    if a.labels != b.labels:
        raise InputError(
            f"expected the same types for every task, got {', '.join(a.labels)} for {one} and {', '.join(b.labels)} for {other}; draw the same"
        )
    for name in ("origin", "directions", "x", "y"):
        mine, theirs = (np.asarray(getattr(surface, name)) for surface in (a, b))
        if mine.shape != theirs.shape or not np.allclose(mine, theirs, rtol=1e-6, atol=1e-9 * float(np.max(np.abs(mine), initial=0.0))):
            raise InputError(f"expected surfaces on one plane, got another {name} for {other} than for {one}; survey both on the same plane")
    if (a.space, a.place) != (b.space, b.place):
        raise InputError(f"expected surfaces of one space around one point, got {a.space} for {one} and {b.space} for {other}; survey both on "
                         "the same plane")
