"""What `deltaspace landscape` evaluates: planes, paths and curvature, each kept in a file of its own."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import TYPE_CHECKING, Any, cast

import numpy as np

import landscape
import subspace
from deltas import Full, Task, Training
from deltas.errors import InputError
from deltas.functional import Attached
from deltas.tuning import Job, tune
from subspace.optimize import IN_SUBSPACE

from .landscape_given import Given, split_name
from .progress import Bars
from .stages import through_found

if TYPE_CHECKING:
    from .landscape import Landscape


COUNTS = {"plane": (0, 1, 3), "paths": (0, 2), "curvature": (0, 1)}
"""How many solutions each can be of: none stands for the points found, or the tasks' own."""

FOREIGN = {"z": (), "theta": ("leading", "found"), "weights": ("leading", "found", "way")}
"""The spans that a space does not have: no delta goes its way in the weights."""


def check(given: Given, asked: Landscape) -> None:
    """Refuse what cannot be drawn before anything is evaluated: settings that do not fit, solutions and points that are not there."""
    for what in asked.draw:
        if len(asked.solutions) not in COUNTS[what]:
            raise InputError(f"expected {' or '.join(map(str, COUNTS[what]))} solutions for {what}, got {len(asked.solutions)}; name as many, "
                             "or draw one after the other")
    span = asked.span or ""
    if "plane" in asked.draw and span in FOREIGN[given.where]:
        raise InputError(f"expected a --span of {given.where}, got {span}, which it does not have; choose random or curvature")
    if "paths" in asked.draw and (given.where == "weights" or (given.where == "theta" and not asked.solutions)):
        raise InputError(f"expected paths of z, or two --solutions to join in θ, got --where {given.where} with {len(asked.solutions)}; choose "
                         "among them")
    for task in given.tasks:
        if "paths" in asked.draw:
            _ends(given, asked, task)
        if len(asked.solutions) == 3:
            _laid(given, asked, task)
        elif given.where != "z" and (span != "way" or "curvature" in asked.draw):
            given.theta(task, asked.solutions)
        elif given.where == "z" and ("curvature" in asked.draw or span == "curvature" or asked.solutions):
            given.centre(task, asked.solutions)


# ---------------------------------------------------------------- planes
def planes(given: Given, asked: Landscape, bars: Bars) -> dict[str, Any]:
    """A plane for every task, its region, and what tasks on one plane have in common."""
    surfaces, regions = {}, {}
    types = given.labels if given.where == "z" else [given.through]
    with bars.stage("planes", asked.resolution**2 * len(types) * len(given.tasks)) as bar:
        for task in given.tasks:
            space, backbone, laid = _laid(given, asked, task)
            surface = landscape.plane(
                space, backbone, task, resolution=asked.resolution, split=asked.split, rows=asked.rows, reading=given.reading,
                adaptive=asked.adaptive, cache=asked.out / "points", on_progress=bar.listener(task.name), **laid)
            surface.save(asked.out / f"{_file(task.name, given, '' if given.where == 'z' else given.through)}.safetensors")
            surfaces[task.name] = surface
            found = landscape.region(surface, tolerance=asked.tolerance)
            regions[task.name] = {**found.summary(), "evaluations": int(surface.known.sum()), "points": surface.known.size,
                                  "error": dict(zip(surface.labels, surface.error, strict=True)), "holes": surface.holes}
            flat = f"; of {', '.join(found.flat)} nothing varies there, which says nothing" if found.flat else ""
            print(f"{task.name}: all types within {asked.tolerance:.0%} of their best on {found.fraction:.1%} of a plane of {surface.space}"
                  f"{flat}")
    shared = [landscape.overlaps(plane, tolerance=asked.tolerance) for plane in landscape.by_plane(surfaces) if len(plane) > 1]
    return {"regions": regions, "overlaps": [pair.to_json() for pairs in shared for pair in pairs]}


def _laid(given: Given, asked: Landscape, task: Task) -> tuple[Any, Any, dict[str, Any]]:
    """The space, the backbone and the other arguments of a task's plane."""
    usual = "random" if given.where != "z" else "found" if len(given.points(task)) > 1 and not asked.solutions else "leading"
    span = asked.span or usual
    extent = {} if asked.extent is None else {"extent": asked.extent}
    if given.where == "z":
        return given.space, given.backbone, {**_in_z(given, asked, task, span), **extent}
    around, more = _in_weights(given, asked, task, span) if given.where == "weights" else _in_theta(given, asked, task, span)
    return around, around.attached.backbone, {**more, **extent}


def _in_z(given: Given, asked: Landscape, task: Task, span: str) -> dict[str, Any]:
    space, points = given.space, given.points(task)
    assert space is not None  # z is of a subspace
    found = {f"{label}'s point": z for label, z in points.items()}
    if len(asked.solutions) == 3:
        return {"spanned_by": [given.code(text) for text in asked.solutions], "found": found}
    if span == "found":
        spanned, rest = through_found(space, found)
        return {"spanned_by": spanned, "found": rest}
    if span == "leading":
        through = given.code(asked.solutions[0]) if asked.solutions else None
        return {"spanned_by": asked.directions, "through": through, "found": found}
    if span == "random":
        drawn = np.random.default_rng([asked.seed, 28]).standard_normal((2, space.k))
        return {"spanned_by": [(f"random {n + 1}", v) for n, v in enumerate(drawn)], "found": found,
                "through": given.code(asked.solutions[0]) if asked.solutions else None}
    if span == "curvature":
        name, z = given.centre(task, asked.solutions)
        f = landscape.in_z(space, given.attached(given.through), _rows(given, asked, task))
        leading = landscape.eigenvalues(f.hessian(z), f.size, 2, seed=asked.seed)
        named = list(zip(_eigen_names(leading, given.through), leading.vectors, strict=True))
        return {"spanned_by": named, "through": (name, z), "found": found}
    ways = {label: _way(given, asked, task, label) for label in given.labels}
    own = landscape.of_trajectory(ways[given.through])
    names = [f"component {n + 1} of {given.through}'s way, {share:.0%}" for n, share in enumerate(own.share)]
    return {"spanned_by": list(zip(names, own.directions, strict=True)), "through": (f"{given.through}'s end", own.end), "trails": ways}


def _in_theta(given: Given, asked: Landscape, task: Task, span: str) -> tuple[landscape.Around, dict[str, Any]]:
    attached = given.attached(given.through)
    if len(asked.solutions) == 3:
        return landscape.Around.through(attached, [given.solution(text) for text in asked.solutions]), {}
    if span == "way":
        return landscape.Around.along(attached, _way_of_theta(given, asked, task), name=f"{given.through}'s way"), {}
    name, theta = given.theta(task, asked.solutions)
    if span == "curvature":
        return _bent(landscape.in_theta(attached, _rows(given, asked, task)), theta, asked, name)
    return landscape.Around.random(attached, theta, normalise=asked.normalise, seed=asked.seed, solutions={name: theta}), {}


def _in_weights(given: Given, asked: Landscape, task: Task, span: str) -> tuple[landscape.Around, dict[str, Any]]:
    if len(asked.solutions) == 3:
        full = Attached.of(given.backbone, Full())
        changes = {text: landscape.change_of_weights(full, given.solution(text)) for text in asked.solutions}
        return landscape.Around.through(full, changes), {}
    name, theta = given.theta(task, asked.solutions)
    f = landscape.in_weights(given.attached(given.through), theta, _rows(given, asked, task))
    if span == "curvature":
        return _bent(f, np.zeros(f.size, np.float32), asked, name)
    return landscape.Around.random(f.attached, np.zeros(f.size, np.float32), normalise=asked.normalise, seed=asked.seed), {}


def _bent(f: landscape.Objective, x: np.ndarray, asked: Landscape, name: str) -> tuple[landscape.Around, dict[str, Any]]:
    """Around x along the Hessian's leading eigenvectors, as far as would raise a quadratic loss by a nat and its own height."""
    leading = landscape.eigenvalues(f.hessian(x), f.size, 2, steps=50, tolerance=1e-2, seed=asked.seed)
    reach = math.sqrt(2 * (1 + f.value(x)) / max(abs(float(leading.values[0])), 1e-12))
    around = landscape.Around(attached=f.attached, centre=x, directions=leading.vectors, axes=_eigen_names(leading, f.label),
                              solutions={name: x})
    return around, {"extent": reach}


def _eigen_names(leading: landscape.Eigen, label: str) -> tuple[str, ...]:
    return tuple(f"{label}: eigenvector {n + 1}, λ = {value:.2g}" for n, value in enumerate(leading.values))


def _rows(given: Given, asked: Landscape, task: Task) -> landscape.Rows:
    return landscape.Rows.of(given.backbone, task, "train", rows=asked.rows, reading=given.reading)


def _training(asked: Landscape) -> Training:
    return dataclasses.replace(IN_SUBSPACE, steps=asked.steps, segment=max(1, asked.steps // 20), evaluate_every=asked.steps,
                               dev_rows=1)


def _way(given: Given, asked: Landscape, task: Task, label: str) -> np.ndarray:
    """z on the way to a point that is tuned through a type."""
    assert given.space is not None  # ways in z are of a subspace
    (found,) = subspace.optimize_many(given.space, given.attached(label), [Job(task, asked.seed)], training=_training(asked),
                                      reading=given.reading, test_rows=1, follow=True)
    assert found.way is not None  # it was followed
    return found.way


def _way_of_theta(given: Given, asked: Landscape, task: Task) -> np.ndarray:
    """θ on the way of a training from θ0."""
    attached, training = given.attached(given.through), dataclasses.replace(_training(asked), learning_rate=3e-3)
    start = np.zeros((1, attached.layout.size), np.float32)
    ((outcome,),) = tune(attached, [Job(task, asked.seed)], start, training, given.reading, follow=True)
    return np.asarray(attached.theta0) + np.stack(outcome.way)


# ---------------------------------------------------------------- paths
def paths(given: Given, asked: Landscape, bars: Bars) -> dict[str, Any]:
    """Between two solutions, for every task: the straight line and curves, with barriers."""
    told = []
    curves: list[landscape.Curve | None] = [None]
    for kind in asked.curves:
        curves.append(landscape.Curve(kind=kind, bends=asked.bends, steps=asked.steps, seed=asked.seed))
    if given.where == "z":
        assert given.space is not None  # z is of a subspace
        ground = landscape.Ground.of_z(given.space, [given.attached(label) for label in given.labels])
    else:
        ground = landscape.Ground.of_theta(given.attached(given.through))
    total = len(given.tasks) * (len(curves) * len(ground.labels) * asked.resolution + (len(curves) - 1) * asked.steps)
    with bars.stage("paths", total) as bar:
        for task in given.tasks:
            first, second = _ends(given, asked, task)
            for curve in curves:
                kind = "straight" if curve is None else curve.kind
                walk = landscape.join(
                    ground, task, first, second, curve=curve, split=asked.split, rows=asked.rows, parts=asked.parts, points=asked.resolution,
                    reading=given.reading, file=asked.out / f"{_file(task.name, given, 'path', kind)}.safetensors",
                    on_progress=bar.listener(f"{task.name} {kind}"))
                told.append(walk.to_json())
                for label in walk.labels:
                    print(f"{task.name}, {kind}, {label}: barrier {walk.barrier(label):.3g} of the loss, {walk.barrier(label, 'score'):.3g} of "
                          f"the {walk.metric}")
    return {"paths": told}


def _ends(given: Given, asked: Landscape, task: Task) -> tuple[landscape.End, landscape.End]:
    if given.where == "theta":
        return landscape.theta_ends(*(given.solution(text) for text in asked.solutions), align=cast("Any", asked.align), relative=given.relative)
    if asked.solutions:
        one, other = (_code_end(given, text) for text in asked.solutions)
        return one, other
    points = list(given.points(task).items())
    if len(points) < 2:
        raise InputError(f"expected two points of z to join for {task.name}, got {len(points)}; name two solutions, or points with --found")
    one, other = (landscape.End(name=f"{label}'s point", point=np.asarray(z, np.float32)) for label, z in points[:2])
    return one, other


def _code_end(given: Given, text: str) -> landscape.End:
    """A solution's code; of one of the bank it is said how much the code misses."""
    assert given.space is not None  # codes are a subspace's
    if split_name(text)[0] is not None:
        return landscape.code_end(given.space, given.solution(text), relative=given.relative)
    name, z = given.code(text)
    return landscape.End(name=name, point=np.asarray(z, np.float32))


# ---------------------------------------------------------------- curvature
def bends(given: Given, asked: Landscape, bars: Bars) -> dict[str, Any]:
    """The curvature of every type's training loss: at one z, or at each type's own θ or weights."""
    measures = landscape.Measures(top=asked.top, probes=asked.probes, radius=asked.radius, seed=asked.seed)
    labels = given.labels if asked.through is None else [given.through]
    told: list[dict[str, Any]] = []
    shared: list[dict[str, Any]] = []
    with bars.stage("curvature", 100 * len(labels) * len(given.tasks)) as bar:
        for task in given.tasks:
            rows, found = _rows(given, asked, task), {}
            for label in labels:
                f, x = _objective(given, asked, task, label, rows)
                file = asked.out / f"{_file(task.name, given, 'curvature', label)}.safetensors"
                found[label] = landscape.bend(f, x, measures, file=file, on_progress=bar.listener(task.name, 100))
                values = found[label].matrices["hessian"].eigen.values
                print(f"{task.name}, {label} in {given.where}: loss {found[label].loss:.3g}, leading eigenvalues "
                      f"{np.array2string(values[:3], precision=3)}")
            told += [one.to_json() for one in found.values()]
            if given.where == "z" and len(found) > 1:
                count = min(3, found[labels[0]].size)
                shared += [{"task": task.name, **row} for row in landscape.shared_directions(found, count=count)]
    return {"curvature": told, "shared_directions": shared}


def _objective(given: Given, asked: Landscape, task: Task, label: str, rows: landscape.Rows) -> tuple[landscape.Objective, np.ndarray]:
    if given.where == "z":
        return landscape.in_z(given.space, given.attached(label), rows), given.centre(task, asked.solutions)[1]
    _, theta = given.theta(task, asked.solutions, label)
    if given.where == "theta":
        return landscape.in_theta(given.attached(label), rows), theta
    f = landscape.in_weights(given.attached(label), theta, rows)
    return f, np.zeros(f.size, np.float32)


def _file(task: str, given: Given, *words: str) -> str:
    """task-where-words; a plane of z has the task's own name."""
    where = [given.where] if given.where != "z" or words[0] else []
    return re.sub(r"[^\w.-]", "_", "-".join([task, *where, *filter(None, words)]))
