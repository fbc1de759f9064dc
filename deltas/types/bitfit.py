"""BitFit (Ben Zaken et al. 2021, arXiv 2106.10199): biases alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from deltas.attach import select
from deltas.backbones.blocks import Linear, Norm
from deltas.backbones.sites import Delta, Part, Site, Weights
from deltas.types.base import DeltaType, Probe, wrong_site


@dataclass(frozen=True, kw_only=True)
class BitFit(DeltaType):
    """y' = y + bias: what is added to the bias of a linear map or a norm, or stands for it where there is none; 0 at the start.

    Empty `sites` are every linear map and norm but those of an output head.
    """

    name: ClassVar[str] = "bitfit"

    def choose(self, places: Mapping[str, Site]) -> list[str]:
        """Every linear map and norm of the stacks."""
        if self.sites:
            return super().choose(places)
        able = [name for name, site in places.items()
                if isinstance(site, Linear | Norm) and name.split(".")[0] not in ("head", "head_dense", "head_norm")]
        return select(able, ("*",), self.exclude)

    def build(self, sites: Mapping[str, Site], key: jax.Array, probe: Probe) -> dict[str, Part]:
        """One bias a site."""
        return {name: Bias(name, site) for name, site in sites.items()}


class Bias(Part):
    """What is added to the bias of one site."""

    def __init__(self, name: str, site: Site) -> None:
        if not isinstance(site, Linear | Norm):
            raise wrong_site("bitfit", name, site, "a linear map or a norm", "q, ff.out, ff_norm, …")
        self.bias = Delta(jnp.zeros(site.sizes[1] if isinstance(site, Linear) else site.scale.shape[0]))

    def weights(self, own: Weights) -> Weights:
        """The bias with this one added."""
        old = own["bias"]
        others = next(value for name, value in own.items() if name != "bias" and value is not None)
        new = self.bias[...].astype(others.dtype)
        return {**own, "bias": new if old is None else old + new}
