"""Several delta types in one solution, trained together or one after the other: which subsets and orders there are, and how each moves.

The types are the parts of one `Together`, whose θ holds them all. A step moves θ = start + rate ⊙ v, rate_i the relative learning rate of the
part that θ_i belongs to: with Adam, whose steps do not depend on a gradient's scale, each part has its own learning rate, and a part of rate 0
stays as it is.

    together               rate of every part above 0, start = θ0 of all
    one after the other    parts (a, b): first (a) alone; then start = (θ_a, θ0_b), and rate_a = 0
"""

from collections.abc import Iterable, Sequence
from itertools import combinations, permutations
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from deltas.backbones.loading import Backbone
from deltas.errors import InputError
from deltas.functional import Attached
from deltas.layout import Layout
from deltas.types import DeltaType, Together


class Moving(NamedTuple):
    """Where a vector of zeros starts, and how far a unit of it moves each number: both float32 [D]."""

    start: jax.Array
    rate: jax.Array


def scaled(v: jax.Array, moving: Moving) -> jax.Array:
    """θ = start + rate ⊙ v, for `deltas.tuning.tune`."""
    return moving.start + moving.rate * v


def subsets(labels: Sequence[str]) -> list[tuple[str, ...]]:
    """All 2^n subsets, small ones first, each in the given order."""
    return [chosen for size in range(len(labels) + 1) for chosen in combinations(labels, size)]


def orders(labels: Sequence[str]) -> list[tuple[str, ...]]:
    """Every order of every subset of at least two, short ones first, so that what an order begins with stands before it."""
    return [order for size in range(2, len(labels) + 1) for order in permutations(labels, size)]


def joined(backbone: Backbone, parts: Sequence[Attached]) -> Attached:
    """The types of `parts`, each attached as a `Together` of its own, as one, in this order and at the same θ0.

    Raises:
        InputError: no parts.
    """
    if not parts:
        raise InputError("expected at least one part to join, got none; give a type")
    types: list[DeltaType] = [inner for one in parts for inner in _types(one)]
    label = "-".join(one.label for one in types)
    whole = Together(parts=tuple(types), label=label)
    layout = Attached.of(backbone, whole, theta0=np.concatenate([one.theta0 for one in parts])).layout
    return Attached.of(backbone, whole, theta0=np.asarray(put(layout, [(one.layout, one.theta0) for one in parts])))


def put(layout: Layout, parts: Iterable[tuple[Layout, Any]]) -> Float[jax.Array, " D"]:
    """The vectors of parts, each by its own layout, as one vector of the layout that holds them all: values, or the rate of each number."""
    values: dict[str, Any] = {}
    for own, vector in parts:
        values |= own.unflatten(jnp.asarray(vector))
    return layout.flatten(values)


def _types(attached: Attached) -> tuple[DeltaType, ...]:
    config = attached.config
    if not isinstance(config, Together):
        raise InputError(f"expected parts that are a together each, got {config.label} of type {config.name}; put it into a Together")
    return config.parts
