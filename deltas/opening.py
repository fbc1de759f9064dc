"""Sites in a module of one's own: its `nnx.Linear`s and `nnx.LinearGeneral`s, replaced in place by sites that compute the same.

A site keeps the very parameters of the map that it stands for, so that the module's state has the same paths, shapes and values as before.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from deltas.backbones.blocks import Linear
from deltas.backbones.sites import Site, Weights


class OpenLinear(Linear):
    """y = x W (+ b) over the last axes of x, as the map it stands for; W [in, out] and b [out] to the parts, whatever their own axes."""

    def __init__(self, linear: Any) -> None:
        Site.__init__(self)
        self.kernel, self.bias = linear.kernel, linear.bias
        self.dtype, self.precision = linear.dtype, linear.precision
        self.into = 1 if isinstance(linear, nnx.Linear) else len(linear.in_features)

    @property
    def sizes(self) -> tuple[int, int]:
        """(in, out)."""
        shape = self.kernel.shape
        return math.prod(shape[: self.into]), math.prod(shape[self.into :])

    def shapes(self) -> dict[str, tuple[int, ...] | None]:
        """Those of kernel [in, out] and bias [out]."""
        return {"kernel": self.sizes, "bias": None if self.bias is None else self.sizes[1:]}

    def plain(self) -> Weights:
        """Kernel [in, out] and bias [out]."""
        return {name: None if value is None else value.reshape(self.shapes()[name]) for name, value in super().plain().items()}

    def set(self, weights: Weights) -> None:
        """Write the weights, each in its own axes."""
        shapes = {"kernel": self.kernel.shape, "bias": self.kernel.shape[self.into :]}
        super().set({name: None if value is None else value.reshape(shapes[name]) for name, value in weights.items()})

    def __call__(self, x: jax.Array, **_: Any) -> jax.Array:
        x = self.entering(x.reshape(*x.shape[: x.ndim - self.into], -1))
        given = [value for value in self.weights().values() if value is not None]
        dtype = self.dtype or jnp.result_type(x, *given)
        kernel, *bias = (value.astype(dtype) for value in given)
        y = jnp.dot(x.astype(dtype), kernel, precision=self.precision)
        y = self.through(x, y + bias[0] if bias else y)
        return y.reshape(*y.shape[:-1], *self.kernel.shape[self.into :])


def open_sites(module: nnx.Module) -> None:
    """Replace every linear map of the module, at any depth, by a site; maps over other than the last axes stay as they are."""
    found = [(path, node) for path, node in nnx.iter_graph(module)
             if path and not isinstance(node, Site) and isinstance(node, nnx.Linear | nnx.LinearGeneral) and _over_last_axes(node)]
    for path, linear in found:
        parent: Any = module
        for name in path[:-1]:
            parent = parent[name] if isinstance(name, int) else getattr(parent, str(name))
        if isinstance(path[-1], int):
            parent[path[-1]] = OpenLinear(linear)
        else:
            setattr(parent, str(path[-1]), OpenLinear(linear))


def _over_last_axes(linear: Any) -> bool:
    if isinstance(linear, nnx.Linear):
        return True
    axes = tuple(linear.axis) if isinstance(linear.axis, tuple | list) else (linear.axis,)
    return not linear.batch_axis and axes == tuple(range(-len(axes), 0))
