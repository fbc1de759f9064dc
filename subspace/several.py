"""Several delta types at one z: each on a backbone of its own, all decoded from the same point, their losses and scores averaged.

    L(z) = (1/T) Σ_t L_t(θ0_t + μ_t + z U_t)

What the engine of `deltas.tuning` asks of an attached delta, this is too; its θ is a tuple with a vector a type.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from deltas.backbones import Backbone
from deltas.evaluation import Exam, Score, evaluate_each
from deltas.files import sha256
from deltas.functional import Attached, Batch

Constants = tuple[tuple[jax.Array, jax.Array], ...]
"""A type: its offset θ0 + μ [D] and its basis U [k, D]."""


@dataclass(frozen=True, eq=False)
class Several:
    """The attached types, in order."""

    members: tuple[Attached, ...]

    @property
    def label(self) -> str:
        """The types' labels: `lora+adapter`."""
        return "+".join(member.label for member in self.members)

    @property
    def backbone(self) -> Backbone:
        """The backbone that all stand on."""
        return self.members[0].backbone

    @property
    def frozen(self) -> Any:
        """The backbone's arrays as each type sees them: the same arrays, no copies."""
        return tuple(member.frozen for member in self.members)

    @cached_property
    def theta0_fingerprint(self) -> str:
        """Of all types' θ0."""
        return sha256(*(member.theta0_fingerprint for member in self.members))

    def loss(self, theta: Sequence[jax.Array], frozen: Any, batch: Batch, key: jax.Array | None = None, rate: float = 0.0) -> jax.Array:
        """The mean of the types' losses on one batch."""
        each = [member.loss(own, arrays, batch, key, rate) for member, own, arrays in zip(self.members, theta, frozen, strict=True)]
        return sum(each[1:], each[0]) / len(each)


def within_each(z: jax.Array, constants: Constants) -> tuple[jax.Array, ...]:
    """θ_t = offset_t + z U_t of every type."""
    return tuple(offset + z @ basis for offset, basis in constants)


def examine(several: Several, thetas: Sequence[Any], exams: Sequence[Exam], *, in_flight: int | None = None) -> list[Score]:
    """The mean over types of score and loss, for each of M points; θ_t float [M, D_t]. The answers are the first type's."""
    each = [evaluate_each(member, own, exams, in_flight=in_flight) for member, own in zip(several.members, thetas, strict=True)]
    return [Score(float(np.mean([s.score for s in found])), float(np.mean([s.loss for s in found])), found[0].predictions)
            for found in zip(*each, strict=True)]
