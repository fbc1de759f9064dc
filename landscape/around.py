"""A space around a point of θ of one delta type, or around the weights of a backbone.

    θ(c) = θ* + c D,   c ∈ R^m,   D [m, size]

What `plane` asks of a subspace this has too, so that planes of θ are surveyed, kept, resumed and drawn as planes of z are. The type `Full` is a
difference to every weight: its θ around 0 is the backbone's weights, and around what another solution changes in them (`change_of_weights`)
the weights with that solution merged in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from jaxtyping import Float, Float32

from deltas.errors import InputError
from deltas.files import sha256
from landscape.directions import Normalise, of_trajectory, random_directions
from landscape.geometry import View, check_independent, orthonormal

if TYPE_CHECKING:
    from deltas.bank import Solution
    from deltas.functional import Attached

Point = Any
"""A `Solution` of the attached type, or its θ [size]."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Around:
    """Coordinates c around a point of θ of one delta type.

    Args:
        attached: the delta on its backbone.
        centre: θ*, a `Solution` or numbers [size].
        directions: D [m, size], as long as they are: c = 1 is a step of that length. Hessian eigenvectors, say, or any others.
        axes: their names.
        solutions: points to mark, by name: each is seen where its foot is, with its true distance in θ.
        trails: optimizers' ways to mark, by name: [steps, size] each, in order.
        normalised: the directions have the lengths of what they move, so that planes reach from −1 to 1 unless they are told otherwise.

    Raises:
        InputError: directions that are zero or parallel, arrays of other sizes or with numbers that are not finite, a solution of another
            type or backbone.

    Example:
        attached = deltas.Attached.of(backbone, solution.config, theta0=solution.theta0)
        found = landscape.eigenvalues(landscape.hessian(loss, solution.theta), solution.layout.size, 2)
        surface = landscape.plane(landscape.Around(attached=attached, centre=solution, directions=found.vectors), backbone, task, extent=0.5)
    """

    attached: Attached
    centre: Float32[np.ndarray, " size"]
    directions: Float32[np.ndarray, "m size"]
    axes: tuple[str, ...] = ()
    solutions: Mapping[str, Point] = field(default_factory=dict)
    trails: Mapping[str, Float[np.ndarray, "steps size"]] = field(default_factory=dict)
    normalised: bool = False

    def __post_init__(self) -> None:
        directions = np.asarray(self.directions, np.float32)
        if directions.ndim != 2 or not len(directions) or directions.shape[1] != self.attached.layout.size:
            raise InputError(f"expected directions [m, {self.attached.layout.size}] of θ of {self.label}, got shape {directions.shape}; choose "
                             "directions of that type")
        check_independent(directions)
        axes = tuple(self.axes) or tuple(f"direction {n + 1}" for n in range(len(directions)))
        if len(axes) != len(directions):
            raise InputError(f"expected a name for each of {len(directions)} directions, got {len(axes)}; name them all or none")
        made = {"directions": directions, "axes": axes, "centre": theta_of(self.attached, self.centre),
                "solutions": {name: theta_of(self.attached, point) for name, point in self.solutions.items()}}
        for name, value in made.items():
            object.__setattr__(self, name, value)

    # ------------------------------------------------------------ what a plane asks of a space
    @property
    def label(self) -> str:
        """The delta type."""
        return self.attached.label

    @property
    def labels(self) -> tuple[str, ...]:
        """The one type."""
        return (self.label,)

    @property
    def k(self) -> int:
        """m, the number of directions."""
        return len(self.directions)

    @property
    def pairs(self) -> tuple[tuple[str, int], ...]:
        """No solution has its place in c: they are marked where they are seen from."""
        return ()

    @property
    def codes(self) -> Float32[np.ndarray, "0 m"]:
        """Of no solution."""
        return np.zeros((0, self.k), np.float32)

    def decode(self, label: str, c: Any) -> Float32[np.ndarray, "... size"]:
        """θ [..., size] of c [..., m]."""
        if label != self.label:
            raise InputError(f"expected the delta type {self.label}, which this space is of, got {label!r}; choose that")
        return self.centre + np.asarray(c, np.float32) @ self.directions

    # ------------------------------------------------------------ what it says beside that
    @property
    def perturbed(self) -> str:
        """Which space is perturbed: "weights", or "θ of lora"."""
        from deltas.types import Full

        return "weights" if isinstance(self.attached.config, Full) else f"θ of {self.label}"

    @property
    def place(self) -> str:
        """What coordinates stand for: another word around another point, along other directions, or of another type or backbone."""
        attached = self.attached
        return sha256(attached.backbone.fingerprint, json.dumps(attached.config.to_json()), self.centre.tobytes(), self.directions.tobytes())

    def view(self, origin: Float[np.ndarray, " m"], directions: Float[np.ndarray, "2 m"]) -> View:
        """A plane of c as a plane of θ."""
        return View(origin=self.decode(self.label, origin), directions=np.asarray(directions, np.float32) @ self.directions)

    # ------------------------------------------------------------ where it may lie
    @classmethod
    def random(cls, attached: Attached, centre: Point, *, count: int = 2, normalise: Normalise = "filter", vectors: bool = False,
               seed: int = 0, solutions: Mapping[str, Point] | None = None) -> Self:
        """Random directions of the lengths of what they move: of the parameters, and of the weights themselves where the type is `Full`.

        Args:
            count, normalise, vectors, seed: of `random_directions`.

        Example:
            surface = landscape.plane(landscape.Around.random(attached, solution), backbone, task)
        """
        theta = theta_of(attached, centre)
        moved = theta + weights_under(attached) if _is_full(attached) else theta
        directions = random_directions(moved, attached.layout, count=count, normalise=normalise, vectors=vectors, seed=seed)
        axes = tuple(f"random {n + 1}" + ("" if normalise == "none" else f", by {normalise}") for n in range(count))
        return cls(attached=attached, centre=theta, directions=directions, axes=axes, solutions=solutions or {}, normalised=True)

    @classmethod
    def through(cls, attached: Attached, solutions: Sequence[Solution] | Mapping[str, Point]) -> Self:
        """The plane through three solutions of the type: the first is θ*, and the directions are orthonormal.

        Raises:
            InputError: other than three, or three on a line.

        Example:
            surface = landscape.plane(landscape.Around.through(attached, [bank.load("lora", "sst2", seed) for seed in range(3)]), backbone, task)
        """
        if not isinstance(solutions, Mapping):
            solutions = {f"{solution.task} {solution.seed}": solution for solution in solutions}
        if len(solutions) != 3:
            raise InputError(f"expected three different solutions to span a plane, got {len(solutions)}; name three")
        first, second, third = (theta_of(attached, point).astype(np.float64) for point in solutions.values())
        names = list(solutions)
        return cls(attached=attached, centre=first, directions=orthonormal(second - first, third - first), solutions=solutions,
                   axes=(f"towards {names[1]}", f"towards {names[2]}, orthogonal"))

    @classmethod
    def along(cls, attached: Attached, points: Float[np.ndarray, "steps size"], *, count: int = 2, name: str = "optimizer",
              solutions: Mapping[str, Point] | None = None) -> Self:
        """The leading directions of an optimizer's way, around its end; the way is marked.

        Args:
            points: θ after some of the steps, in order.
            count: directions.
            name: of the way.
        """
        way = of_trajectory(points, count=count)
        axes = tuple(f"component {n + 1} of the way, {share:.0%}" for n, share in enumerate(way.share))
        return cls(attached=attached, centre=way.end, directions=way.directions, axes=axes, solutions=solutions or {},
                   trails={name: np.asarray(points, np.float32)})


def theta_of(attached: Attached, point: Point) -> Float32[np.ndarray, " size"]:
    """θ of a solution of the attached type, or numbers that can be it."""
    size, given = attached.layout.size, getattr(point, "theta", point)
    if given is not point and (point.backbone, point.layout) != (attached.backbone.fingerprint, attached.layout):
        raise InputError(f"expected a solution with the parameters of {attached.label} on {attached.backbone.name}, got {point.task} "
                         f"{point.seed} of {point.label}, which has others; choose solutions of one type and one backbone")
    theta = np.asarray(given, np.float32)
    if theta.shape != (size,) or not np.isfinite(theta).all():
        raise InputError(f"expected θ of {attached.label} with {size} finite numbers, got shape {theta.shape}; choose a point of that type")
    return theta


def change_of_weights(attached: Attached, solution: Solution) -> Float32[np.ndarray, " size"]:
    """What a solution of another type changes in the backbone's weights, as θ of the attached `Full`.

    Raises:
        InputError: the attached delta is no `Full`, one without some weight that changes, or a solution that is no change of weights.

    Example:
        full = deltas.Attached.of(backbone, deltas.Full())
        around = landscape.Around.random(full, landscape.change_of_weights(full, bank.load("lora", "sst2", 0)))
    """
    from deltas.attach import attach, merge, own, sites

    before, module = weights_under(attached), own(attached.backbone.module)
    attach(module, solution)
    merge(module, solution.config.label)
    places = sites(attached.backbone.module)
    for site, changed in sites(module).items():
        for name, value in changed.plain().items() if changed.inside() else ():
            if f"{site}.{name}" not in attached.layout.names and np.any(value != places[site].plain()[name]):
                raise InputError(f"expected a full delta of all weights that {solution.label} changes, got one without {site}.{name}; attach "
                                 "deltas.Full() to more sites, or choose another solution")
    return weights_under(attached, module) - before


def weights_under(attached: Attached, module: Any = None) -> Float32[np.ndarray, " size"]:
    """The weights that the attached `Full` is a difference to, in the order of its θ."""
    from deltas.attach import sites

    if not _is_full(attached):
        raise InputError(f"expected a full delta, whose θ is a change of weights, got {attached.label}; attach deltas.Full()")
    places = sites(attached.backbone.module if module is None else module)
    values = {name: places[site].plain()[own] for name in attached.layout.names for site, _, own in [name.rpartition(".")]}
    return np.asarray(attached.layout.flatten(values))


def _is_full(attached: Attached) -> bool:
    from deltas.types import Full

    return isinstance(attached.config, Full)
