"""(h) Planes of θ against those of the package loss-landscapes: the same model in PyTorch, the same directions, the same losses.

Its `planar_interpolation` goes through three models, which is `Around.through`; its `random_plane` draws two directions, which are handed to
an `Around`. Its conventions, in version 3.0.6:

    m points a side, at steps i, j = 0 … m − 1 of the two directions; a random plane begins m/2 steps before the centre in both
    a point is moved along the second direction before it is looked at, back and forth: where i is even the values are those of j + 1
    random directions are uniform on [0, 1]; after normalising, each is scaled as a whole to ‖θ‖ / distance over all m steps

So of two neighbouring columns of its picture one is a step aside; the losses are compared at the points where it computed them.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import landscape
from deltas import Attached, Reading
from deltas.evaluation import Exam, evaluate_each
from landscape.geometry import orthonormal

from .plane_points import Loop

if TYPE_CHECKING:
    from deltas import Task

STEPS, ROWS = 4, 16
"""Points a side, even, and examples."""
FAR, DISTANCE = 2.0, 0.25
"""How far the other two of three models are, as a share of ‖θ‖; and what the package calls the distance of a random plane."""


def compare(attached: Attached, theta: np.ndarray, task: "Task", reading: Reading, model: Any, *, rows: int = ROWS, steps: int = STEPS,
            seed: int = 0) -> dict[str, Any]:
    """The largest differences to the package, around a LoRA's θ.

    Args:
        model: transformers' T5 with the backbone's weights.

    Returns:
        `difference`: of the losses of both kinds of planes, and of each; `directions`: of normalised directions, by normalisation, relative to
        the largest number of one; `aside`: how far its losses are, at the most, from those of the points that its documentation names.
    """
    exam = Exam.of(attached.backbone, task, "test", reading, rows)
    loop, theta = Loop(attached, exam, model), np.asarray(theta, np.float32)
    three, around = _three(attached, theta, seed), _drawn(attached, theta, steps, seed)
    lengths = [float(np.linalg.norm(point - theta)) for point in list(three)[1:]]
    ours = {
        "planar_interpolation": _losses(landscape.Around.through(attached, dict(zip("abc", three, strict=True))), exam, steps,
                                        (0.0, lengths[0], 0.0, lengths[1])),
        "random_plane": _losses(around, exam, steps, 1.0),
    }  # fmt: skip
    theirs = {"planar_interpolation": _interpolated(loop, three, steps), "random_plane": _random(loop, theta, steps, seed)}
    apart = {name: float(np.abs(looked_at(ours[name]) - theirs[name]).max()) for name in ours}
    return {
        "difference": max(apart.values()), "differences": apart,
        "directions": {name: _normalised_apart(attached, theta, name, seed) for name in ("filter", "layer")},
        "aside": {name: float(np.abs(ours[name][:-1, :-1].T - theirs[name]).max()) for name in ours},
        "losses": {name: [float(values.min()), float(values.max())] for name, values in ours.items()},
        "points": steps**2, "rows": len(exam.examples), "version": _version(),
    }  # fmt: skip


def looked_at(losses: np.ndarray) -> np.ndarray:
    """The losses [m, m] that the package finds, out of those at steps 0 … m of both directions [j, i]."""
    steps = len(losses) - 1
    i, j = np.indices((steps, steps))
    return losses[j + (i % 2 == 0), i]


# ------------------------------------------------------------ ours
def _losses(around: Any, exam: Exam, steps: int, extent: Any) -> np.ndarray:
    """At steps 0 … m of both directions, [second, first]."""

    def both(label: str, thetas: np.ndarray) -> tuple[list[float], list[float]]:
        scores = evaluate_each(around.attached, thetas, [exam] * len(thetas))
        return [score.loss for score in scores], [score.score for score in scores]

    return landscape.survey(around, both, extent=extent, resolution=steps + 1).loss[0]


def _three(attached: Attached, theta: np.ndarray, seed: int) -> tuple[np.ndarray, ...]:
    """θ and two points at right angles as seen from it: the package's parallelogram is a rectangle, as ours are."""
    far = FAR * np.linalg.norm(theta) * orthonormal(*landscape.random_directions(theta, attached.layout, seed=seed))
    return (theta, *((theta + size * way).astype(np.float32) for size, way in zip((1.0, 0.7), far, strict=True)))


def _drawn(attached: Attached, theta: np.ndarray, steps: int, seed: int) -> landscape.Around:
    """The plane of the two directions that the package draws: half its width each."""
    import torch
    from loss_landscapes.model_interface.model_parameters import ModelParameters, orthogonal_to, rand_u_like

    centre = ModelParameters(_parameters(attached, theta))
    torch.manual_seed(seed)
    first = rand_u_like(centre)
    second = orthogonal_to(first)
    directions = []
    for way in (first, second):
        way.filter_normalize_(centre)
        way.mul_(centre.model_norm() / DISTANCE / 2 / way.model_norm())
        directions.append(_vector(way.parameters))
    return landscape.Around(attached=attached, centre=theta, directions=np.stack(directions))


def _normalised_apart(attached: Attached, theta: np.ndarray, normalise: Any, seed: int) -> float:
    from loss_landscapes.model_interface.model_parameters import ModelParameters

    raw, ours = (landscape.random_directions(theta, attached.layout, count=1, normalise=n, seed=seed)[0] for n in ("none", normalise))
    theirs = ModelParameters(_parameters(attached, raw))
    getattr(theirs, f"{normalise}_normalize_")(ModelParameters(_parameters(attached, theta)))
    return float(np.abs(_vector(theirs.parameters) - ours).max() / np.abs(ours).max())


# ------------------------------------------------------------ theirs
def _interpolated(loop: Loop, three: Sequence[np.ndarray], steps: int) -> np.ndarray:
    import loss_landscapes

    start, one, other = (_tunable(loop.attached, theta) for theta in three)
    return loss_landscapes.planar_interpolation(start, one, other, _metric(loop), steps)


def _random(loop: Loop, theta: np.ndarray, steps: int, seed: int) -> np.ndarray:
    import loss_landscapes
    import torch

    torch.manual_seed(seed)
    distance: Any = DISTANCE
    return loss_landscapes.random_plane(_tunable(loop.attached, theta), _metric(loop), distance, steps, "filter")


def _parameters(attached: Attached, theta: np.ndarray) -> list[Any]:
    """θ as PyTorch has its parameters, a filter a row."""
    import torch

    vector: Any = np.asarray(theta, np.float32)
    return [torch.tensor(np.array(value).T.copy()) for value in attached.layout.unflatten(vector).values()]


def _vector(parameters: Sequence[Any]) -> np.ndarray:
    """The inverse."""
    return np.concatenate([p.detach().numpy().T.reshape(-1) for p in parameters])


def _tunable(attached: Attached, theta: np.ndarray) -> Any:
    """A module whose parameters are the delta's."""
    import torch

    module: Any = torch.nn.Module()
    module.delta = torch.nn.ParameterList(_parameters(attached, theta))
    return module


def _metric(loop: Loop) -> Any:
    """The loss of the model with the parameters that the package has moved."""
    from loss_landscapes.metrics.metric import Metric

    class Loss(Metric):
        def __call__(self, model_wrapper: Any) -> float:
            (score,) = loop(_vector(model_wrapper.get_module_parameters().parameters)[None])
            return score.loss

    return Loss()


def _version() -> str:
    from importlib import metadata

    return metadata.version("loss-landscapes")
