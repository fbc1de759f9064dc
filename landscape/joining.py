"""Paths between real solutions: straight, or curves trained to low loss, with loss and score along them for every delta type.

    loss_t(φ(t))    on fixed rows, for every type on the same points, in parts of the rows so that an interval can be drawn
    barrier         how far the loss rises above the line between the ends, and how far the score falls below it (`landscape.paths`)

A curve's bends are trained on the task's training rows, through one type or the mean of several; it is looked at on the rows of any split.
A file holds a path with all that was seen along it. The same call with the same file goes on where it was stopped, in the training too; a
file of another call is written anew.

Source: see `landscape.paths`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path as FilePath
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from deltas.errors import InputError
from deltas.evaluation import Exam, batch_of, evaluate_each
from deltas.files import sha256
from deltas.tasks import METRICS, Reading, Task, schedule
from landscape.ends import End, Ground
from landscape.paths import Bent, Path, connected, straight
from landscape.surface import read, write
from landscape.walk import Walk

Progress = Callable[[str, int, int], None]
TRAINING = "curve"
"""What `on_progress` calls the training of a curve."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """How the bends of a curve are trained.

    Args:
        kind, bends: "bezier" or "polygonal", and its knots between the ends.
        steps, learning_rate: of Adam, see `connected`.
        batch_size: training rows a step.
        through: the types whose mean loss is made low; None is all that the path is looked at through.
        seed: of the rows and of t.
    """

    kind: Literal["bezier", "polygonal"] = "bezier"
    bends: int = 1
    steps: int = 200
    learning_rate: float = 0.02
    batch_size: int = 16
    through: tuple[str, ...] | None = None
    seed: int = 0


def join(
    ground: Ground,
    task: Task,
    first: End,
    second: End,
    *,
    curve: Curve | None = None,
    split: str = "test",
    rows: int | None = 64,
    metric: str | None = None,
    parts: int = 8,
    points: int = 21,
    reading: Reading | None = None,
    in_flight: int | None = None,
    at_once: int = 8,
    file: str | FilePath | None = None,
    on_progress: Progress | None = None,
) -> Walk:
    """The path between two ends, and what every type sees along it.

    Args:
        ground: the space of the path, with the types.
        first, second: from `code_end` or `theta_ends`, or any points.
        curve: None is the straight line.
        split, rows: the examples looked at: the first `rows` of the split, None for all.
        metric: of the score; None is the task's own.
        parts: into how many parts of equal size the rows are cut; the intervals are over them.
        points: of t, evenly from 0 to 1.
        reading: how text becomes tokens; None is Reading().
        in_flight: points evaluated at once; None lets `deltas` choose. at_once: points between two writings of the file.
        on_progress: called with (`TRAINING`, steps done, steps) and (label, points done, points).

    Raises:
        InputError: ends of another size or in one place, fewer than 3 points, more parts than rows, and as `connected`.

    Example:
        ends = [landscape.code_end(space, solution) for solution in (lora, adapter)]
        walk = landscape.join(ground, task, *ends, curve=landscape.Curve(bends=2), file="out/curve.safetensors")
        walk.barrier("lora")
    """
    reading, task = reading or Reading(), task.scored_by(metric)
    for end in (first, second):
        if np.shape(end.point) != (ground.size,):
            raise InputError(f"expected ends of {ground.size} numbers, got {end.name} of shape {np.shape(end.point)}; choose ends of this space")
    if points < 3:
        raise InputError(f"expected at least 3 points on a path, got {points}; 21 are usual")
    exams = _parts(Exam.of(ground.members[0].backbone, task, split, reading, rows), parts)
    key = _key(ground, task, first, second, [curve and asdict(curve), split, rows, parts, points, asdict(reading)])
    kept = _Kept(None if file is None else FilePath(file), key)
    if kept.walk is None:
        path = _path(ground, task, first, second, curve, reading, kept, on_progress)
        through = () if curve is None else tuple(member.label for member in ground.through(curve.through))
        kept.keep(_unseen(ground, task, path, (first, second), through, exams, points, split))
    walk = kept.walk
    assert walk is not None  # just made
    for n, member in enumerate(ground.members):
        while (begun := int(walk.done[n])) < points:
            _look(walk, n, slice(begun, min(begun + at_once, points)), ground, exams, in_flight)
            kept.keep(walk)
            if on_progress is not None:
                on_progress(member.label, int(walk.done[n]), points)
    return walk


def _unseen(ground: Ground, task: Task, path: Path, ends: tuple[End, End], through: tuple[str, ...], exams: Sequence[Exam], points: int,
            split: str) -> Walk:
    """A walk of which nothing is done."""
    nothing = np.full((len(ground.labels), len(exams), points), np.nan)
    return Walk(
        path=path, t=np.linspace(0, 1, points), where=ground.where, labels=ground.labels, ends=(ends[0].name, ends[1].name),
        missed=(ends[0].missed, ends[1].missed), through=through, task=task.name, metric=task.metric, split=split,
        rows=sum(len(exam.examples) for exam in exams), tokens=np.array([int(exam.encoded.target_lengths.sum()) for exam in exams]),
        loss=nothing, score=nothing.copy(), whole=nothing[:, 0].copy(), done=np.zeros(len(ground.labels), np.int64))


def _look(walk: Walk, n: int, here: slice, ground: Ground, exams: Sequence[Exam], in_flight: int | None) -> None:
    """Some points through one type, on all parts of the rows."""
    member = ground.members[n]
    thetas = ground.thetas(member.label, walk.path.at(walk.t[here]).astype(np.float32))
    found = [evaluate_each(member, thetas, [exam] * len(thetas), in_flight=in_flight) for exam in exams]
    for p, scores in enumerate(zip(*found, strict=True), here.start):
        _put(walk, n, p, scores, exams)
    walk.done[n] = here.stop


def _put(walk: Walk, n: int, p: int, scores: Sequence[Any], exams: Sequence[Exam]) -> None:
    """One point's losses and scores, by part; a point that is broken for some rows is a hole."""
    losses = np.array([score.loss for score in scores])
    if not np.isfinite(losses).all():
        return
    answers = [answer for score in scores for answer in score.predictions]
    walk.loss[n, :, p], walk.score[n, :, p] = losses, [score.score for score in scores]
    walk.whole[n, p] = METRICS[walk.metric](answers, [example.answers for exam in exams for example in exam.examples])


def _parts(exam: Exam, parts: int) -> list[Exam]:
    """Every so-manieth row in one exam, all of the same widths."""
    if not 1 <= parts <= len(exam.examples):
        raise InputError(f"expected between 1 and {len(exam.examples)} parts of {len(exam.examples)} rows, got {parts}; take fewer")
    names = ("input_ids", "input_lengths", "target_ids", "target_lengths")
    return [replace(exam, examples=exam.examples[n::parts],
                    encoded=replace(exam.encoded, **{name: getattr(exam.encoded, name)[n::parts] for name in names})) for n in range(parts)]


def _path(ground: Ground, task: Task, first: End, second: End, curve: Curve | None, reading: Reading, kept: _Kept,
          on_progress: Progress | None) -> Path:
    if curve is None:
        return straight(first.point, second.point)
    loss, fixed = ground.loss(curve.through)
    backbone = ground.members[0].backbone
    encoded = Exam.of(backbone, task, "train", reading).encoded
    tables, width = {name: jnp.asarray(table) for name, table in encoded.tables.items()}, encoded.target_ids.shape[1]
    segments = schedule(encoded, reading, steps=curve.steps, batch_size=curve.batch_size, segment_steps=10, seed=curve.seed)
    steps = [(segment.length, chosen) for segment in segments for chosen in segment.rows]

    def batch(step: int) -> Any:
        length, chosen = steps[step]
        return fixed, {name: jnp.asarray(array) for name, array in batch_of(encoded, chosen, length, width).items()} | tables

    def tell(step: int, _: float) -> None:
        if on_progress is not None:
            on_progress(TRAINING, step, curve.steps)

    return connected(loss, first.point, second.point, batch, kind=curve.kind, bends=curve.bends, steps=curve.steps, seed=curve.seed,
                     learning_rate=curve.learning_rate, on_step=tell, earlier=kept.bent, on_tenth=kept.bend)


def _key(ground: Ground, task: Task, first: End, second: End, settings: Any) -> str:
    """Another one when anything that the walk depends on is; the decoder is known by what it makes of the ends."""
    ends = np.stack([first.point, second.point]).astype(np.float32)
    known = [ends.tobytes(), *(np.ascontiguousarray(ground.thetas(label, ends)).tobytes() for label in ground.labels)]
    about = [[member.config.to_json(), member.backbone.fingerprint] for member in ground.members]
    return sha256(json.dumps([ground.where, about, task.name, task.fingerprint, first.name, second.name, settings], default=list), *known)


class _Kept:
    """What an earlier run left in the file: a walk, or a curve in training; nothing where the file is of another call."""

    def __init__(self, file: FilePath | None, key: str) -> None:
        self.file, self.key = file, key
        self.walk: Walk | None = None
        self.bent: Bent | None = None
        if file is None or not file.is_file():
            return
        arrays, header = read(file)
        if header.get("key") != key:
            return
        if "walk" in header:
            self.walk = Walk.of(arrays, header)
        elif "bent" in header:
            self.bent = Bent(**arrays, **json.loads(header["bent"]))

    def keep(self, walk: Walk) -> None:
        """The walk as it is now."""
        self.walk = walk
        if self.file is not None:
            walk.save(self.file, key=self.key)

    def bend(self, bent: Bent) -> None:
        """The curve as it is now."""
        if self.file is not None:
            arrays = {name: getattr(bent, name) for name in ("middle", "first", "second")}
            write(self.file, arrays, {"key": self.key, "bent": json.dumps({"step": bent.step, "history": bent.history})})
