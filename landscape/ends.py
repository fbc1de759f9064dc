"""The ends of a path between two solutions, and the ground that it runs on: z, shared by several delta types, or the θ of one type.

    in z       a solution of any type is the code z = encode_t(θ); what decodes from there misses a share of it, which is reported
    in θ       two solutions of one type; where they were trained from different starts, the second can first be turned towards the first along
               what its function does not depend on (`subspace.gauges`): a barrier that is left is one between functions, not between forms
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32

from deltas import Solution
from deltas.errors import InputError
from deltas.functional import Attached
from subspace import Subspace, project
from subspace.alignment import free


@dataclass(frozen=True, eq=False, kw_only=True)
class End:
    """A point that a path begins or ends at.

    Args:
        missed: the share of the solution's difference to the mean that decoding its code does not give back; 0 in θ.
    """

    name: str
    point: Float32[np.ndarray, " n"]
    missed: float = 0.0


def code_end(space: Subspace, solution: Solution, *, relative: bool | None = None) -> End:
    """A solution as its code, by its own type.

    Args:
        relative: of a space of aligned prefixes, see `subspace.aligned`.

    Raises:
        InputError: a solution of a type, size or backbone that the subspace does not have.
    """
    found = project(space, solution, relative=relative)
    return End(name=_name(solution), point=found.z, missed=found.missed)


def theta_ends(first: Solution, second: Solution, *, align: Literal["none", "procrustes"] = "none",
               relative: bool | None = None) -> tuple[End, End]:
    """Two solutions of one type as their θ.

    Args:
        align: "procrustes" brings the first into canonical form and turns the second towards it; both stay the same functions.
        relative: whether the backbone has relative positions, which the slots of a prefix in self-attention are told apart by.

    Raises:
        InputError: solutions of different types, sizes or backbones, or another alignment.
    """
    if align not in ("none", "procrustes"):
        raise InputError(f"expected an alignment 'none' or 'procrustes' of two ends, got {align!r}; choose one of them")
    if first.layout != second.layout or first.config.name != second.config.name or first.backbone != second.backbone:
        raise InputError(f"expected two solutions of one type, size and backbone, got {_name(first)} and {_name(second)}; join them through z")
    a, b = (np.array(solution.theta, np.float64) for solution in (first, second))
    if align == "procrustes":
        known: Any = first
        for site in free(known, relative):
            values = site.canonical(site.read(a))
            site.write(a, values)
            site.write(b, site.towards(site.canonical(site.read(b)), values))
    return (End(name=_name(first), point=a.astype(np.float32)), End(name=_name(second), point=b.astype(np.float32)))


def _name(solution: Solution) -> str:
    return f"{solution.task} {solution.seed} ({solution.label})"


@dataclass(frozen=True, eq=False, kw_only=True)
class Ground:
    """The space of a path: z with the types it is looked at through, or θ of one type.

    `members` are attached once and used for every path, so that their programs are compiled once.

    Example:
        ground = Ground.of_z(space, [attach_to(space, backbone, label) for label in space.labels])
        ground = Ground.of_theta(attached)
    """

    where: Literal["z", "theta"]
    members: tuple[Attached, ...]
    space: Subspace | None = None

    @classmethod
    def of_z(cls, space: Subspace, members: Sequence[Attached]) -> Ground:
        """The codes of a subspace, looked at through types attached by `subspace.optimize.attach_to`."""
        for member in members:
            space.part(member.label)
        if not members:
            raise InputError(f"expected at least one delta type of the subspace ({', '.join(space.labels)}) to look through, got none; name one")
        return cls(where="z", members=tuple(members), space=space)

    @classmethod
    def of_theta(cls, attached: Attached) -> Ground:
        """One type's own θ."""
        return cls(where="theta", members=(attached,))

    @property
    def labels(self) -> tuple[str, ...]:
        """The types that a path is looked at through."""
        return tuple(member.label for member in self.members)

    @property
    def size(self) -> int:
        """The numbers of a point."""
        return self.space.k if self.space is not None else self.members[0].layout.size

    def thetas(self, label: str, points: Float[np.ndarray, "M n"]) -> Float[np.ndarray, "M D"]:
        """θ of a type at points."""
        return np.asarray(self.space.decode(label, points)) if self.space is not None else points

    def through(self, labels: Sequence[str] | None) -> tuple[Attached, ...]:
        """The members of those labels, None for all."""
        if unknown := [label for label in labels or () if label not in self.labels]:
            raise InputError(f"expected types of the ground ({', '.join(self.labels)}) to train through, got {unknown[0]!r}; choose among them")
        return tuple(member for member in self.members if labels is None or member.label in labels)

    def loss(self, labels: Sequence[str] | None) -> tuple[Callable[[jax.Array, Any], jax.Array], Any]:
        """(a point, (what is fixed, a batch)) ↦ the mean of the types' losses, and what is fixed: decoders and the backbone's arrays."""
        members = self.through(labels)
        constants = None
        if self.space is not None:
            parts = [self.space.part(member.label) for member in members]
            constants = tuple((jnp.asarray(part.offset), jnp.asarray(part.basis, jnp.float32)) for part in parts)
        return _loss(members), (constants, tuple(member.frozen for member in members))


@functools.lru_cache(maxsize=16)
def _loss(members: tuple[Attached, ...]) -> Callable[[jax.Array, Any], jax.Array]:
    def loss(x: jax.Array, given: Any) -> jax.Array:
        (constants, frozen), batch = given
        thetas = [x] if constants is None else [offset + x @ basis for offset, basis in constants]
        each = [member.loss(theta, arrays, batch) for member, theta, arrays in zip(members, thetas, frozen, strict=True)]
        return sum(each[1:], each[0]) / len(each)

    return loss
