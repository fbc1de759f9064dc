"""A plane of the shared space and every type's loss and score on it.

    z(x, y) = o + x u + y v,   ⟨u, v⟩ = 0, |u| = |v| = 1,      θ_t(x, y) = decode_t(z(x, y))

Every type is looked at on the SAME points of z, so that panels can be compared and regions intersected. The plane goes
through z = 0 along two directions, or through three solutions (the first is o, the other two are orthonormalised by
Gram-Schmidt). `survey` is the pure core; `plane` feeds it a backbone and a task and keeps partial results in a folder.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from jaxtyping import Float

from deltas.errors import InputError
from landscape.surface import Mark, Surface, read, write

if TYPE_CHECKING:
    from deltas.backbones import Backbone
    from deltas.tasks import Reading, Task

Evaluate = Callable[[str, np.ndarray], tuple[Any, Any]]
Progress = Callable[[str, int, int], None]
PARALLEL = 1e-6  # sine of the angle under which two directions count as one


class Space(Protocol):
    """What a plane needs of a subspace: its codes and a decoder a type."""

    k: int
    labels: Sequence[str]
    pairs: Sequence[tuple[str, int]]
    codes: Any

    def decode(self, label: str, z: Any, /) -> Any: ...


def orthonormal(a: np.ndarray, b: np.ndarray) -> Float[np.ndarray, "2 k"]:
    """Gram-Schmidt of two directions, float64; raises InputError when they are parallel or one of them is zero."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    length, other = np.linalg.norm(a), np.linalg.norm(b)
    u = a / max(length, np.finfo(float).tiny)
    rest = b - (b @ u) * u
    rest -= (rest @ u) * u  # once more: the first pass leaves rounding of the size of b
    if not np.isfinite(length + other) or length == 0 or np.linalg.norm(rest) <= PARALLEL * other or other == 0:
        raise InputError("expected two directions that span a plane, got parallel or zero ones; choose points that are not on one line")
    return np.stack([u, rest / np.linalg.norm(rest)])


def project(origin: np.ndarray, directions: np.ndarray, z: np.ndarray) -> tuple[float, float, float]:
    """Foot (x, y) of z on the plane and its distance from the plane."""
    offset = np.asarray(z, np.float64) - origin
    x, y = directions @ offset
    return float(x), float(y), float(np.linalg.norm(offset - np.array([x, y]) @ directions))


def points(origin: np.ndarray, directions: np.ndarray, x: np.ndarray, y: np.ndarray) -> Float[np.ndarray, "points k"]:
    """The grid's points of z, row by row: point i·len(x) + j is origin + x[j] u + y[i] v."""
    across, up = np.meshgrid(x, y)
    return origin + across.reshape(-1, 1) * directions[0] + up.reshape(-1, 1) * directions[1]


def survey(
    space: Space,
    evaluate: Evaluate,
    *,
    spanned_by: Sequence[Any] = (0, 1),
    extent: float | Sequence[float] | None = None,
    resolution: int = 21,
    labels: Sequence[str] | None = None,
    found: Mapping[str, Any] | None = None,
    known: Callable[[str, np.ndarray], tuple[Any, Any] | None] | None = None,
    on_chunk: Callable[[str, np.ndarray, np.ndarray, np.ndarray], None] | None = None,
    at_once: int = 32,
) -> Surface:
    """Evaluate every type on one grid of z; a pure function of its arguments but for the two callbacks.

    Args:
        space: gives k, codes [N, k], pairs [N], labels and decode(label, z [M, k]) -> θ [M, D].
        evaluate: (label, θ [M, D]) -> (loss [M], score [M]).
        spanned_by, extent, resolution, labels, found: see `plane`.
        known: (label, z [P, k]) -> (loss [n], score [n]) of the first n points, when an earlier run left them.
        on_chunk: (label, z [P, k], loss [n], score [n]) after every `at_once` points.
        at_once: how many points are decoded at once; bounds memory at at_once · D floats.
    Returns: Surface with task, metric and split left empty.
    Raises: InputError for a grid of fewer than 2 × 2 points, an unknown type, direction or solution, equal or collinear
        solutions, an empty extent.
    """
    if isinstance(resolution, bool) or int(resolution) != resolution or resolution < 2:
        raise InputError(f"expected a resolution of at least 2 points a side, got {resolution}; 21 is usual")
    labels = tuple(space.labels if labels is None else labels)
    for label in labels:
        if label not in space.labels:
            known_types = ", ".join(space.labels)
            raise InputError(f"expected types of the subspace ({known_types}), got {label!r}{_near(label, space.labels)}")
    origin, directions, corners, axes = _frame(space, spanned_by)
    marks = _marks(space, origin, directions, corners, found or {})
    x, y = _axes(extent, marks, int(resolution))
    z = points(origin, directions, x, y).astype(np.float32)
    losses, scores = [], []
    for label in labels:
        loss, score = (known and known(label, z)) or (np.empty(0), np.empty(0))
        for start in range(len(loss), len(z), at_once):
            part = z[start : start + at_once]
            fresh = evaluate(label, np.asarray(space.decode(label, part)))
            loss = np.concatenate([loss, np.asarray(fresh[0], np.float64)])
            score = np.concatenate([score, np.asarray(fresh[1], np.float64)])
            if on_chunk:
                on_chunk(label, z, loss, score)
        # a broken point often still decodes to some text and scores 0: it is a hole, not a bad score
        hole = ~(np.isfinite(loss) & np.isfinite(score))
        losses.append(np.where(hole, np.nan, loss).reshape(len(y), len(x)))
        scores.append(np.where(hole, np.nan, score).reshape(len(y), len(x)))
    return Surface(
        origin=origin, directions=directions, x=x, y=y, loss=np.stack(losses), score=np.stack(scores), labels=labels,
        marks=marks, axes=axes,
    )  # fmt: skip


def _frame(space: Space, spanned_by: Sequence[Any]) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray], tuple[str, str]]:
    """origin, directions, the named corners (three solutions) and the axes' names."""
    spanned_by = list(spanned_by)
    if len(spanned_by) == 2:
        vectors = [_direction(space, item) for item in spanned_by]
        names = [f"z{item}" if _is_index(item) else f"direction {n + 1}" for n, item in enumerate(spanned_by)]
        return np.zeros(space.k), orthonormal(vectors[0], vectors[1]), {}, (names[0], names[1])
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


def _is_index(item: Any) -> bool:
    return isinstance(item, (int, np.integer)) and not isinstance(item, bool)


def _direction(space: Space, item: Any) -> np.ndarray:
    if not _is_index(item):
        return _vector(space, item)
    if not 0 <= item < space.k:
        raise InputError(f"expected a direction between 0 and {space.k - 1}, got {item}; the subspace has k = {space.k}")
    return np.eye(space.k)[item]


def _solution(space: Space, item: Any, n: int) -> tuple[str, np.ndarray]:
    if not (isinstance(item, (tuple, list)) and len(item) == 2 and isinstance(item[0], str)):
        return f"solution {n + 1}", _vector(space, item)
    if np.ndim(item[1]) == 1:
        return item[0], _vector(space, item[1])
    pair = (item[0], int(item[1]))
    pairs = [(str(task), int(seed)) for task, seed in space.pairs]
    if pair not in pairs:
        tasks = sorted({task for task, _ in pairs})
        raise InputError(
            f"expected a source solution (task, seed), got {pair}{_near(pair[0], tasks)}; the subspace has {len(pairs)} of them"
        )
    return f"{pair[0]} {pair[1]}", np.asarray(space.codes, np.float64)[pairs.index(pair)]


def _vector(space: Space, item: Any) -> np.ndarray:
    try:
        z = np.asarray(item, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"expected a direction, a (task, seed) pair, a (name, z) pair or a vector of {space.k} numbers, got {item!r}") from None
    if z.shape != (space.k,) or not np.isfinite(z).all():
        raise InputError(f"expected a vector of {space.k} finite numbers (k), got shape {z.shape}; pass codes of this subspace")
    return z


def _marks(
    space: Space, origin: np.ndarray, directions: np.ndarray, corners: Mapping[str, np.ndarray], found: Mapping[str, Any]
) -> tuple[Mark, ...]:
    def mark(name: str, z: np.ndarray, kind: str) -> Mark:
        x, y, away = project(origin, directions, z)
        return Mark(name=name, x=x, y=y, away=away, kind=kind)

    if corners:  # other sources are far from such a plane: their feet would say nothing
        marks = [mark(name, z, "corner") for name, z in corners.items()]
    else:
        marks = [mark("z = 0", np.zeros(space.k), "origin")]
        codes = np.asarray(space.codes, np.float64)
        marks += [mark(f"{task} {seed}", z, "source") for (task, seed), z in zip(space.pairs, codes, strict=True)]
    return (*marks, *(mark(name, _vector(space, z), "found") for name, z in found.items()))


def _axes(extent: float | Sequence[float] | None, marks: Sequence[Mark], resolution: int) -> tuple[np.ndarray, np.ndarray]:
    if extent is None:  # a square around the marks: cells of z stay square, areas and slopes can be compared by eye
        low, high = (np.array([f(m.x for m in marks), f(m.y for m in marks)]) for f in (min, max))
        half = max(0.6 * float((high - low).max()), 2.0)  # codes are whitened: two standard deviations of the sources at the least
        centre = (low + high) / 2
        box = (centre[0] - half, centre[0] + half, centre[1] - half, centre[1] + half)
    else:
        box = tuple(extent) if isinstance(extent, Sequence) else (-extent, extent, -extent, extent)
    if len(box) != 4 or not all(map(math.isfinite, box)) or box[0] >= box[1] or box[2] >= box[3]:
        raise InputError(f"expected an extent (x_min, x_max, y_min, y_max) or a half-width above 0, got {extent}")
    return np.linspace(box[0], box[1], resolution), np.linspace(box[2], box[3], resolution)


def plane(
    space: Any,
    backbone: Backbone,
    task: Task,
    *,
    spanned_by: Sequence[Any] = (0, 1),
    extent: float | Sequence[float] | None = None,
    resolution: int = 21,
    split: str = "test",
    rows: int | None = None,
    reading: Reading | None = None,
    labels: Sequence[str] | None = None,
    found: Mapping[str, Any] | None = None,
    on_progress: Progress | None = None,
    cache: str | Path | None = None,
    in_flight: int | None = None,
) -> Surface:
    """Every type's loss and score of a task on one plane of z.

    Args:
        space: a Subspace of this backbone.
        spanned_by: two directions through z = 0 (indices of z, or vectors [k]), or three solutions
            ((task, seed) pairs of the subspace, or vectors [k]).
        extent: (x_min, x_max, y_min, y_max) or a half-width, in units of z; None covers the marks with a margin.
        resolution: points a side; the cost is types · resolution² evaluations.
        split, rows: the examples looked at: the first `rows` of the split, None for all.
        reading: how text becomes tokens; None is Reading().
        labels: types to draw; None is all of the subspace.
        found: {name: z [k]}, solutions to mark.
        on_progress: called with (label, points done, points in all).
        cache: a folder for partial results; the same call with the same folder goes on where it was stopped.
        in_flight: points evaluated at once; None lets `deltas` choose.
    Returns: Surface.
    Raises: InputError, see `survey`.
    Example:
        surface = landscape.plane(space, backbone, task, spanned_by=(0, 1))
    """
    from deltas.evaluation import Exam, evaluate_each
    from deltas.tasks import Reading
    from subspace.optimize import attach_to

    reading = Reading() if reading is None else reading
    exam = Exam.of(backbone, task, split, reading, rows)
    attach = functools.cache(lambda label: attach_to(space, backbone, label))

    def evaluate(label: str, thetas: np.ndarray) -> tuple[list[float], list[float]]:
        results = evaluate_each(attach(label), thetas, [exam] * len(thetas), in_flight=in_flight)
        return [r.loss for r in results], [r.score for r in results]

    def file(label: str, z: np.ndarray) -> Path:
        facts = [label, backbone.fingerprint, task.fingerprint, split, repr(rows), repr(reading)]
        digest = hashlib.sha256(json.dumps(facts).encode())
        # the decoder itself is part of the key: a subspace fitted again must not meet old results
        for array in (z, np.asarray(space.decode(label, np.vstack([np.zeros(space.k), np.eye(space.k)]).astype(np.float32)))):
            digest.update(np.ascontiguousarray(array).tobytes())
        return Path(str(cache)) / f"{re.sub(r'[^A-Za-z0-9.-]', '_', label)}-{digest.hexdigest()[:16]}.safetensors"

    files: dict[str, Path] = {}

    def known(label: str, z: np.ndarray) -> tuple[Any, Any] | None:
        if cache is None:
            return None
        files[label] = file(label, z)
        if not files[label].exists():
            return None
        arrays, _ = read(files[label])
        if on_progress:
            on_progress(label, len(arrays["loss"]), len(z))
        return arrays["loss"], arrays["score"]

    def on_chunk(label: str, z: np.ndarray, loss: np.ndarray, score: np.ndarray) -> None:
        if cache is not None:
            files[label].parent.mkdir(parents=True, exist_ok=True)
            write(files[label], {"loss": loss, "score": score}, {})
        if on_progress:
            on_progress(label, len(loss), len(z))

    surface = survey(
        space, evaluate, spanned_by=spanned_by, extent=extent, resolution=resolution, labels=labels, found=found,
        known=known, on_chunk=on_chunk,
    )  # fmt: skip
    return dataclasses.replace(surface, task=task.name, metric=task.metric, split=split)


def _near(word: str, words: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, list(words), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
