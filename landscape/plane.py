"""Every type's loss and score on a plane of z, of a delta's θ, or of a backbone's weights.

    z(x, y) = o + x u + y v,   ⟨u, v⟩ = 0, |u| = |v| = 1,      θ_t(x, y) = decode_t(z(x, y))

Every type is looked at on the SAME points of z, so that panels can be compared and regions intersected. Where a plane lies says
`landscape.frame`; planes of θ and of weights are those of an `Around`. `survey` is the pure core; `plane` feeds it a backbone and a task and
keeps partial results in a folder.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float64

from deltas.errors import InputError
from landscape.around import Around
from landscape.frame import Frame, Space, frame_of, near
from landscape.surface import Surface, read, write

if TYPE_CHECKING:
    from deltas.backbones import Backbone
    from deltas.functional import Attached
    from deltas.tasks import Reading, Task

Evaluate = Callable[[str, np.ndarray], tuple[Any, Any]]
Progress = Callable[[str, int, int], None]
AT_ONCE = 32
"""Points that are decoded, and kept, at once."""
NUMBERS = 2**28
"""Of all points that are decoded at once, at the most, unless one alone has more."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Seen:
    """What is known so far of a type at a plane's points: loss and score where `known`, NaN elsewhere."""

    loss: Float64[np.ndarray, " points"]
    score: Float64[np.ndarray, " points"]
    known: Bool[np.ndarray, " points"]

    @classmethod
    def nothing(cls, points: int) -> Seen:
        """Before the first of them."""
        return cls(loss=np.full(points, np.nan), score=np.full(points, np.nan), known=np.zeros(points, bool))

    @classmethod
    def load(cls, path: Path, points: int) -> Seen:
        """What `save` wrote, or an earlier version, which kept the first points only."""
        arrays, _ = read(path)
        known = arrays.get("known", np.arange(points) < len(arrays["loss"]))
        loss, score = (np.pad(arrays[name], (0, points - len(arrays[name])), constant_values=np.nan) for name in ("loss", "score"))
        return cls(loss=loss, score=score, known=known)

    def save(self, path: Path) -> None:
        """Write one file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, vars(self), {})

    def without_holes(self) -> tuple[Float64[np.ndarray, " points"], Float64[np.ndarray, " points"]]:
        """Loss and score, both NaN where either is not finite: a broken point often still decodes to some text and scores 0."""
        hole = ~(np.isfinite(self.loss) & np.isfinite(self.score))
        return np.where(hole, np.nan, self.loss), np.where(hole, np.nan, self.score)


Known = Callable[[str, np.ndarray], Seen | None]
OnChunk = Callable[[str, np.ndarray, Seen], None]


def survey(
    space: Space,
    evaluate: Evaluate,
    *,
    spanned_by: Sequence[Any] = (0, 1),
    through: Any = None,
    extent: float | Sequence[float] | None = None,
    resolution: int = 21,
    labels: Sequence[str] | None = None,
    found: Mapping[str, Any] | None = None,
    trails: Mapping[str, Any] | None = None,
    adaptive: float | None = None,
    known: Known | None = None,
    on_chunk: OnChunk | None = None,
    on_progress: Progress | None = None,
    at_once: int = AT_ONCE,
) -> Surface:
    """Evaluate every type on one grid; a pure function of its arguments but for the callbacks.

    Args:
        space: gives k, codes [N, k], pairs [N], labels and decode(label, z [M, k]) -> θ [M, D]; a subspace, or an `Around`.
        evaluate: (label, θ [M, D]) -> (loss [M], score [M]).
        spanned_by, through, extent, resolution, labels, found, trails, adaptive, on_progress: see `plane`.
        known: (label, z [P, k]) -> what an earlier run left of the points, which are not evaluated again.
        on_chunk: (label, z [P, k], what is known) after every chunk of points.
        at_once: how many points are decoded at once.
    Returns: Surface with task, metric and split left empty.
    Raises: InputError for a grid of fewer than 2 × 2 points, an unknown type, direction or solution, equal or collinear
        solutions, an empty extent, a trail that does not move.
    """
    frame = frame_of(space, spanned_by=spanned_by, through=through, extent=extent, resolution=resolution, found=found, trails=trails)
    return _survey(space, evaluate, frame, labels, adaptive, known or (lambda label, z: None), on_chunk or (lambda label, z, seen: None),
                   on_progress or (lambda label, done, total: None), at_once)


def _survey(space: Space, evaluate: Evaluate, frame: Frame, labels: Sequence[str] | None, adaptive: float | None, known: Known,
            on_chunk: OnChunk, tell: Progress, at_once: int) -> Surface:
    labels, z, grids = _labels(space, labels), frame.z, []
    for label in labels:
        seen = known(label, z) or Seen.nothing(len(z))
        size = max(1, min(at_once, NUMBERS // max(np.shape(space.decode(label, z[:1]))[-1], 1)))

        def look(which: np.ndarray, label: str = label, seen: Seen = seen, size: int = size) -> np.ndarray:
            """Evaluate those of the points that are not known yet; the losses of all of them."""
            rest = which[~seen.known[which]]
            for part in (rest[start : start + size] for start in range(0, len(rest), size)):
                seen.loss[part], seen.score[part] = evaluate(label, np.asarray(space.decode(label, z[part])))
                seen.known[part] = True
                on_chunk(label, z, seen)
                tell(label, int(seen.known.sum()), len(z))
            return seen.without_holes()[0][which]

        if seen.known.any():
            tell(label, int(seen.known.sum()), len(z))
        grids.append(_grid(look, seen, (len(frame.y), len(frame.x)), adaptive))
        if not seen.known.all():
            tell(label, len(z), len(z))
    loss, score, evaluated, errors = (list(parts) for parts in zip(*grids, strict=True))
    return Surface(
        origin=frame.origin, directions=frame.directions, x=frame.x, y=frame.y, axes=frame.axes, marks=frame.marks, trails=frame.trails,
        loss=np.stack(loss), score=np.stack(score), labels=labels, known=np.stack(evaluated), error=tuple(errors),
        space=space.perturbed if isinstance(space, Around) else "z", place=space.place if isinstance(space, Around) else "")  # fmt: skip


def _labels(space: Space, labels: Sequence[str] | None) -> tuple[str, ...]:
    labels = tuple(space.labels if labels is None else labels)
    for label in labels:
        if label not in space.labels:
            raise InputError(f"expected types of the subspace ({', '.join(space.labels)}), got {label!r}{near(label, space.labels)}")
    return labels


def _grid(look: Callable[[np.ndarray], np.ndarray], seen: Seen, shape: tuple[int, int], adaptive: float | None) -> tuple[Any, ...]:
    """Loss, score and what was evaluated [rows, columns] each, and the error of the losses that were not."""
    from landscape import sampling

    if adaptive is None:
        look(np.arange(len(seen.known)))
        return (*(values.reshape(shape) for values in seen.without_holes()), seen.known.reshape(shape), 0.0)
    sampled = sampling.adaptive(lambda places: look(places @ [shape[1], 1]), shape, tolerance=adaptive)
    loss, score = seen.without_holes()
    rest = np.flatnonzero(~seen.known)
    loss = np.where(seen.known, loss, sampled.values.reshape(-1))
    if len(rest):
        lattice = np.stack(np.unravel_index(np.arange(len(loss)), shape), -1)
        filled = sampling.filled(lattice, score, seen.known, rest)[0]
        low, high = (f(score[np.isfinite(score)], initial=np.nan) for f in (np.fmin.reduce, np.fmax.reduce))
        score[rest] = np.clip(filled, low, high)  # no score that none of the points has: the best of a surface is what a region is measured by
    return loss.reshape(shape), score.reshape(shape), seen.known.reshape(shape), float(sampled.error)


def plane(
    space: Any,
    backbone: Backbone,
    task: Task,
    *,
    spanned_by: Sequence[Any] = (0, 1),
    through: Any = None,
    extent: float | Sequence[float] | None = None,
    resolution: int = 21,
    split: str = "test",
    rows: int | None = None,
    metric: str | None = None,
    reading: Reading | None = None,
    labels: Sequence[str] | None = None,
    found: Mapping[str, Any] | None = None,
    trails: Mapping[str, Any] | None = None,
    adaptive: float | None = None,
    on_progress: Progress | None = None,
    cache: str | Path | None = None,
    in_flight: int | None = None,
) -> Surface:
    """Every type's loss and score of a task on one plane of a space.

    What all points of the plane agree on is computed once a batch (`landscape.steady`): on a plane of the decoder's parameters the encoder
    runs once, on one of upper blocks those below.

    Args:
        space: a Subspace of this backbone, whose z is moved; or an `Around`, for planes of θ of one type or of the weights.
        spanned_by: two directions (indices, (name, vector) pairs, or vectors [k]), or three solutions ((task, seed) pairs of the subspace,
            (name, z) pairs, or vectors [k]).
        through: the point that two directions go through, as a solution is named; None is the origin.
        extent: (x_min, x_max, y_min, y_max) or a half-width, in units of z or of the directions; None covers what is marked with a
            margin, or is 1 around directions whose lengths are normalised.
        resolution: points a side; the cost is types · resolution² evaluations.
        split, rows: the examples looked at: the first `rows` of the split, None for all.
        metric: of the score; None is the task's own.
        reading: how text becomes tokens; None is Reading().
        labels: types to draw; None is all of the space.
        found: {name: z [k]}, solutions to mark; on a plane of θ {name: θ [size]}.
        trails: {name: points [steps, k or size]}, optimizers' ways to mark, in order, with the share of their motion that the plane holds.
        adaptive: evaluate only some points of the grid, so many that filled-in losses are off by this share of their range at most, as
            measured (`sampling.adaptive`; 0.02 is usual); None evaluates all.
        on_progress: called with (label, points done, points in all); points that are filled in are done at the end.
        cache: a folder for partial results; the same call with the same folder goes on where it was stopped.
        in_flight: points evaluated at once; None lets `deltas` choose.
    Returns: Surface.
    Raises: InputError, see `survey`.
    Example:
        surface = landscape.plane(space, backbone, task, spanned_by=(0, 1))
        surface = landscape.plane(landscape.Around.random(attached, solution), backbone, task, adaptive=0.02)
    """
    from deltas.evaluation import Exam
    from deltas.tasks import Reading
    from landscape import steady

    reading, task = Reading() if reading is None else reading, task if metric is None else task.scored_by(metric)
    exam = Exam.of(backbone, task, split, reading, rows)
    frame = frame_of(space, spanned_by=spanned_by, through=through, extent=extent, resolution=resolution, found=found, trails=trails)

    @functools.lru_cache(maxsize=1)  # one type after the other: what the batches were read to is large
    def evaluator(label: str) -> Callable[[np.ndarray], Sequence[Any]]:
        attached, corners = _attached(space, backbone, label), np.asarray(space.decode(label, frame.corners))
        return steady.evaluator(attached, exam, corners, in_flight=in_flight)

    def evaluate(label: str, thetas: np.ndarray) -> tuple[list[float], list[float]]:
        results = evaluator(label)(thetas)
        return [r.loss for r in results], [r.score for r in results]

    def known(label: str, z: np.ndarray) -> Seen | None:
        return Seen.load(path, len(z)) if cache is not None and (path := file(label)).exists() else None

    def on_chunk(label: str, z: np.ndarray, seen: Seen) -> None:
        if cache is not None:
            seen.save(file(label))

    @functools.cache
    def file(label: str) -> Path:
        facts = [label, backbone.fingerprint, task.fingerprint, split, repr(rows), repr(reading)]
        return Path(str(cache)) / f"{re.sub(r'[^A-Za-z0-9.-]', '_', label)}-{_digest(space, label, frame, facts)}.safetensors"

    surface = _survey(space, evaluate, frame, labels, adaptive, known, on_chunk, on_progress or (lambda label, done, total: None), AT_ONCE)
    return dataclasses.replace(surface, task=task.name, metric=task.metric, split=split)


def _attached(space: Any, backbone: Backbone, label: str) -> Attached:
    """The type on the backbone that was asked for."""
    if not isinstance(space, Around):
        from subspace.optimize import attach_to

        return attach_to(space, backbone, label)
    if (theirs := space.attached.backbone).fingerprint != backbone.fingerprint:
        raise InputError(f"expected the backbone {theirs.name} that {label} is attached to, got {backbone.name}; use the same")
    return space.attached


def _digest(space: Any, label: str, frame: Frame, facts: Sequence[str]) -> str:
    """Of all that the values at the points depend on; the decoder itself too: a subspace fitted again must not meet old results."""
    if isinstance(space, Around):
        facts = [*facts, repr(space.attached.config)]
    digest = hashlib.sha256(json.dumps(facts).encode())
    for array in (frame.z, np.asarray(space.decode(label, np.vstack([np.zeros(space.k), np.eye(space.k)]).astype(np.float32)))):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
