"""Full fine-tuning as a delta: a difference to every weight."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from deltas.attach import select
from deltas.backbones.sites import Delta, Part, Site, Weights
from deltas.types.base import DeltaType, Probe, wrong_site


@dataclass(frozen=True, kw_only=True)
class Full(DeltaType):
    """W' = W + ΔW for each weight of a site, under the weight's own name (kernel, bias, scale, table); 0 at the start.

    Empty `sites` are all sites with weights; `sites = ("re:.*norm",)` is layer-norm tuning.
    """

    name: ClassVar[str] = "full"

    def choose(self, places: Mapping[str, Site]) -> list[str]:
        """Every site with weights."""
        if self.sites:
            return super().choose(places)
        return select([name for name, site in places.items() if own_shapes(site)], ("*",), self.exclude)

    def build(self, sites: Mapping[str, Site], key: jax.Array, probe: Probe) -> dict[str, Part]:
        """One difference a weight."""
        for name, site in sites.items():
            if not own_shapes(site):
                raise wrong_site("full", name, site, "a site with weights", "q, ff.out, ff_norm, shared, …")
        return {name: Difference(site, tuple(own_shapes(site))) for name, site in sites.items()}


def own_shapes(site: Site) -> dict[str, tuple[int, ...]]:
    """The shapes of the weights that a site has, by name."""
    return {name: shape for name, shape in site.shapes().items() if shape is not None}


class Difference(Part):
    """What is added to some of one site's weights."""

    def __init__(self, site: Site, names: Sequence[str]) -> None:
        self.names = tuple(names)
        for name in self.names:
            setattr(self, name, Delta(jnp.zeros(own_shapes(site)[name])))

    def weights(self, own: Weights) -> Weights:
        """Each weight with its difference added."""
        changed = {name: old + getattr(self, name)[...].astype(old.dtype) for name in self.names if (old := own[name]) is not None}
        return own | changed
