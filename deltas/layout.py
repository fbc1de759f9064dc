"""How a delta's parameters become one vector θ ∈ R^D and back: names, shapes, offsets, in an order that is saved with every vector."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from deltas.errors import InputError


@dataclass(frozen=True)
class Layout:
    """The parameters of a delta in flattening order.

    θ = [p_1.ravel(), p_2.ravel(), …], each in row-major order; `names[i]` has shape `shapes[i]` and starts at `offsets[i]`.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where each parameter starts in θ."""
        starts = [0]
        for shape in self.shapes:
            starts.append(starts[-1] + math.prod(shape))
        return tuple(starts[:-1])

    @cached_property
    def size(self) -> int:
        """D, the length of θ."""
        return sum(math.prod(shape) for shape in self.shapes)

    def flatten(self, parameters: Mapping[str, Any]) -> jax.Array:
        """θ float32 [D] from the parameters by name."""
        if set(parameters) != set(self.names):
            odd = sorted(set(parameters) ^ set(self.names))[0]
            raise InputError(f"expected the {len(self.names)} parameters of the layout, got a difference at {odd!r}; "
                             "use the layout that was saved with the vector")
        for name, shape in zip(self.names, self.shapes, strict=True):
            if jnp.shape(parameters[name]) != shape:
                raise InputError(f"expected {name} of shape {shape}, got {jnp.shape(parameters[name])}; "
                                 "use the layout that was saved with the vector")
        return jnp.concatenate([jnp.ravel(jnp.asarray(parameters[n])).astype(jnp.float32) for n in self.names])

    def unflatten(self, theta: Any) -> dict[str, Any]:
        """The parameters by name from θ [..., D], an array of JAX or of numpy; leading axes are kept."""
        if theta.shape[-1] != self.size:
            raise InputError(f"expected a vector of {self.size} numbers, got {theta.shape[-1]}; use the layout saved with it")
        if isinstance(theta, jax.Array):  # not slices: the gradient of each would be a vector of D numbers, nearly all of them 0
            parts = jax.lax.split(theta, [math.prod(shape) for shape in self.shapes], axis=theta.ndim - 1)
        else:
            parts = np.split(theta, self.offsets[1:], axis=-1)
        return {name: part.reshape(*theta.shape[:-1], *shape) for name, shape, part in zip(self.names, self.shapes, parts, strict=True)}

    def to_json(self) -> list[list[Any]]:
        """[[name, shape], …] in order."""
        return [[name, list(shape)] for name, shape in zip(self.names, self.shapes, strict=True)]

    @classmethod
    def from_json(cls, entries: list[list[Any]]) -> Self:
        """From `to_json`."""
        return cls(tuple(name for name, _ in entries), tuple(tuple(shape) for _, shape in entries))
