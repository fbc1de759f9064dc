"""Where a plane lies: its origin and directions in a space, how far it reaches, and what is marked on it.

Along two directions through z = 0 or another point, or through three solutions: the first is the origin, the other two are orthonormalised by
Gram-Schmidt. The space is a subspace's z, or the coordinates of an `Around`, whose plane is one of θ: distances and shares are measured there.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

import numpy as np
from jaxtyping import Float, Float32

from deltas.errors import InputError
from landscape.around import Around
from landscape.geometry import View, orthonormal, points
from landscape.surface import Mark, Trail

MARGIN = 0.6
"""Half the side of a plane, as a share of the largest side of what it covers."""
LEAST = 2.0
"""Half the side of a plane of z at the least: codes are whitened, these are two standard deviations of the sources."""

ROUNDING = 1e-6
"""What a point may be away from a plane of θ that it lies on, as a share of its length."""


class Space(Protocol):
    """What a plane needs of a space: its codes and an affine decoder a type."""

    k: int
    labels: Sequence[str]
    pairs: Sequence[tuple[str, int]]
    codes: Any

    def decode(self, label: str, z: Any, /) -> Any: ...


@dataclass(frozen=True, eq=False, kw_only=True)
class Frame:
    """A plane of a space and its grid."""

    origin: Float[np.ndarray, " k"]
    directions: Float[np.ndarray, "2 k"]
    x: Float[np.ndarray, " columns"]
    y: Float[np.ndarray, " rows"]
    axes: tuple[str, str]
    marks: tuple[Mark, ...]
    trails: tuple[Trail, ...]

    @property
    def z(self) -> Float32[np.ndarray, "points k"]:
        """The grid's points, row by row."""
        return points(self.origin, self.directions, self.x, self.y).astype(np.float32)

    @property
    def corners(self) -> Float32[np.ndarray, "4 k"]:
        """The grid's outermost points."""
        return points(self.origin, self.directions, self.x[[0, -1]], self.y[[0, -1]]).astype(np.float32)


def frame_of(space: Space, *, spanned_by: Sequence[Any], extent: float | Sequence[float] | None, resolution: int, through: Any = None,
             found: Mapping[str, Any] | None = None, trails: Mapping[str, Any] | None = None) -> Frame:
    """A plane and its grid; see `landscape.plane`."""
    if isinstance(resolution, bool) or int(resolution) != resolution or resolution < 2:
        raise InputError(f"expected a resolution of at least 2 points a side, got {resolution}; 21 is usual")
    origin, directions, corners, axes = _spanned(space, spanned_by, through)
    around = isinstance(space, Around)
    view = space.view(origin, directions) if around else View(origin=origin, directions=directions)
    marks = tuple(_mark(view, *each) for each in _places(space, view, corners, found or {}))
    ways = {**(space.trails if around else {}), **(trails or {})}
    seen = tuple(_trail(view, name, way) for name, way in ways.items())
    if extent is None and around and space.normalised:
        extent = 1.0
    box = _box(extent, marks, seen, 0.0 if around else LEAST)
    x, y = (np.linspace(low, high, int(resolution)) for low, high in (box[:2], box[2:]))
    return Frame(origin=origin, directions=directions, x=x, y=y, axes=axes, marks=marks, trails=seen)


# ---------------------------------------------------------------- what spans it
def _spanned(space: Space, spanned_by: Sequence[Any], through: Any) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray], tuple[str, str]]:
    """origin, directions, the named corners (three solutions, or the one that two directions go through) and the axes' names."""
    spanned_by = list(spanned_by)
    if len(spanned_by) == 2:
        (one, first), (other, second) = (_direction(space, item, n) for n, item in enumerate(spanned_by))
        corners = {} if through is None else dict([_solution(space, through, 0)])
        origin = next(iter(corners.values()), np.zeros(space.k))
        return origin, orthonormal(first, second), corners, (one, other)
    if through is not None:
        raise InputError(f"expected two directions through a point, got {len(spanned_by)} and a point; leave one of both out")
    if len(spanned_by) != 3:
        raise InputError(
            f"expected two directions or three solutions to span a plane, got {len(spanned_by)}; pass (0, 1) for the leading two"
        )
    named = [_solution(space, item, n) for n, item in enumerate(spanned_by)]
    for n, (name, z) in enumerate(named):
        for other, w in named[:n]:
            if np.array_equal(z, w):
                raise InputError(f"expected three different solutions, got {other} and {name} at the same point; name another one")
    origin, second, third = (z for _, z in named)
    directions = orthonormal(second - origin, third - origin)
    axes = (f"towards {named[1][0]}", f"towards {named[2][0]}, orthogonal")
    return origin, directions, dict(named), axes


def _is_index(item: Any) -> TypeGuard[int]:
    return isinstance(item, (int, np.integer)) and not isinstance(item, bool)


def _direction(space: Space, item: Any, n: int) -> tuple[str, np.ndarray]:
    """A direction's name and vector."""
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str):
        return item[0], vector(item[1], space.k)
    if not _is_index(item):
        return f"direction {n + 1}", vector(item, space.k)
    if not 0 <= item < space.k:
        what = "space has" if isinstance(space, Around) else "subspace has k ="
        raise InputError(f"expected a direction between 0 and {space.k - 1}, got {item}; the {what} {space.k}")
    return space.axes[item] if isinstance(space, Around) else f"z{item}", np.eye(space.k)[item]


def _solution(space: Space, item: Any, n: int) -> tuple[str, np.ndarray]:
    if not (isinstance(item, (tuple, list)) and len(item) == 2 and isinstance(item[0], str)):
        return f"solution {n + 1}", vector(item, space.k)
    if np.ndim(item[1]) == 1:
        return item[0], vector(item[1], space.k)
    pair = (item[0], int(item[1]))
    pairs = [(str(task), int(seed)) for task, seed in space.pairs]
    if pair not in pairs:
        tasks = sorted({task for task, _ in pairs})
        raise InputError(f"expected a source solution (task, seed), got {pair}{near(pair[0], tasks)}; the subspace has {len(pairs)} of them")
    return f"{pair[0]} {pair[1]}", np.asarray(space.codes, np.float64)[pairs.index(pair)]


def vector(item: Any, size: int) -> np.ndarray:
    """A code of `size` finite numbers; anything else is refused."""
    try:
        z = np.asarray(item, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"expected a direction, a (task, seed) pair, a (name, z) pair or a vector of {size} numbers, got {item!r}; pass one "
                         "of them") from None
    if z.shape != (size,) or not np.isfinite(z).all():
        raise InputError(f"expected a vector of {size} finite numbers (k), got shape {z.shape}; pass codes of this space")
    return z


def near(word: str, words: Sequence[str]) -> str:
    """The nearest known word, as the middle of a sentence."""
    found = difflib.get_close_matches(word, list(words), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


# ---------------------------------------------------------------- what is marked on it
def _places(space: Space, view: View, corners: Mapping[str, np.ndarray], found: Mapping[str, Any]) -> list[tuple[str, np.ndarray, str]]:
    """What is to be marked: name, point of z or θ, kind."""
    places: list[tuple[str, np.ndarray, str]] = []
    if isinstance(space, Around):
        places += [(name, space.decode(space.label, c), "corner") for name, c in corners.items()]
        places += [(name, theta, "corner" if _lies_on(view, theta) else "source") for name, theta in space.solutions.items()]
        if not any(np.array_equal(theta, space.centre) for theta in space.solutions.values()):
            places.insert(0, ("centre", space.centre, "centre"))
    elif corners:  # the sources are far from such a plane: their feet would say nothing
        places += [(name, z, "corner") for name, z in corners.items()]
    else:
        places.append(("z = 0", np.zeros(space.k), "origin"))
        codes = np.asarray(space.codes, np.float64)
        places += [(f"{task} {seed}", z, "source") for (task, seed), z in zip(space.pairs, codes, strict=True)]
    return [*places, *((name, vector(z, len(view.origin)), "found") for name, z in found.items())]


def _lies_on(view: View, theta: np.ndarray) -> bool:
    """Whether a point is on the plane but for the rounding of float32."""
    return bool(view.feet(theta[None])[1][0] <= ROUNDING * np.linalg.norm(theta))


def _mark(view: View, name: str, point: np.ndarray, kind: str) -> Mark:
    ((x, y),), (away,) = view.feet(point[None])
    return Mark(name=name, x=float(x), y=float(y), away=float(away), kind=kind)


def _trail(view: View, name: str, way: Any) -> Trail:
    steps = np.asarray(way)
    if steps.ndim != 2 or steps.shape[1] != len(view.origin) or len(steps) < 2 or not np.isfinite(steps).all():
        raise InputError(f"expected at least two finite points of {len(view.origin)} numbers for the trail {name}, got shape {steps.shape}; "
                         "pass an optimizer's points of this space, in order")
    if not (steps != steps[-1]).any():
        raise InputError(f"expected a trail that moves, got {name}, which stays in one place; leave it out")
    feet, _ = view.feet(steps)
    return Trail(name=name, x=feet[:, 0], y=feet[:, 1], share=view.share(steps))


def _box(extent: float | Sequence[float] | None, marks: Sequence[Mark], trails: Sequence[Trail], least: float) -> tuple[float, ...]:
    if extent is None:  # a square around the marks: cells stay square, areas and slopes can be compared by eye
        x, y = (np.concatenate([[getattr(m, a) for m in marks], *(getattr(t, a) for t in trails)]) for a in "xy")
        half = max(MARGIN * float(max(np.ptp(x), np.ptp(y))), least) or 1.0
        middle = [(float(a.min()) + float(a.max())) / 2 for a in (x, y)]
        return middle[0] - half, middle[0] + half, middle[1] - half, middle[1] + half
    box = tuple(extent) if isinstance(extent, Sequence) else (-extent, extent, -extent, extent)
    if len(box) != 4 or not all(map(math.isfinite, box)) or box[0] >= box[1] or box[2] >= box[3]:
        raise InputError(f"expected an extent (x_min, x_max, y_min, y_max) or a half-width above 0, got {extent}; choose another")
    return box
