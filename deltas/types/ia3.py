"""(IA)³ (Liu et al. 2022, arXiv 2205.05638): learned factors on keys, values and hidden numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from deltas.attach import select
from deltas.backbones.blocks import Linear
from deltas.backbones.sites import Delta, Part, Site, Weights
from deltas.types.base import DeltaType, Probe, wrong_site


@dataclass(frozen=True, kw_only=True)
class IA3(DeltaType):
    """y' = l ⊙ y with l [out], biases included, at linear sites; (l ⊙ x) W with l [in] at those that match `inputs`. l starts at 1."""

    name: ClassVar[str] = "ia3"
    sites: tuple[str, ...] = ("k", "v", "ff.out")
    inputs: tuple[str, ...] = ("ff.out",)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "inputs", tuple(self.inputs))

    def build(self, sites: Mapping[str, Site], key: jax.Array, probe: Probe) -> dict[str, Part]:
        """One vector of factors a site."""
        entering = select(sites, self.inputs) if self.inputs else []
        return {name: (Inputs if name in entering else Outputs)(name, site) for name, site in sites.items()}


class Outputs(Part):
    """l ⊙ y at one linear site."""

    axis = -1

    def __init__(self, name: str, site: Site) -> None:
        if not isinstance(site, Linear):
            raise wrong_site("ia3", name, site, "a linear site", "k, v, ff.out, …")
        self.l = Delta(jnp.ones(site.sizes[self.axis]))

    def output(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """l ⊙ y."""
        return y * self.l[...].astype(y.dtype)

    def merged(self, own: Weights) -> Weights:
        """Columns and bias multiplied."""
        return {name: value if value is None else (value * self.l[...]).astype(value.dtype) for name, value in own.items()}


class Inputs(Outputs):
    """(l ⊙ x) W at one linear site."""

    axis = 0

    def input(self, x: jax.Array) -> jax.Array:
        """l ⊙ x."""
        return x * self.l[...].astype(x.dtype)

    def output(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """y as it is."""
        return y

    def merged(self, own: Weights) -> Weights:
        """Rows multiplied."""
        kernel = own["kernel"]
        assert kernel is not None
        return {**own, "kernel": (kernel * self.l[...][:, None]).astype(kernel.dtype)}
