"""LoRA (Hu et al. 2021, arXiv 2106.09685): a low-rank addition to a linear map."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from deltas.backbones.blocks import Linear
from deltas.backbones.sites import Delta, Part, Site
from deltas.errors import InputError
from deltas.types.base import DeltaType, Probe


@dataclass(frozen=True, kw_only=True)
class LoRA(DeltaType):
    """y' = y + (alpha / rank) · x A B, with A [in, rank] ~ U(−bound, bound) and B [rank, out] = 0, so θ0 is the identity.

    `bound` None is 1/√in, the usual Kaiming bound; Yi et al. 2022 drew U(±0.316) (1/√rank for their rank 10) by a slip of the fan-in.
    """

    name: ClassVar[str] = "lora"
    rank: int = 8
    alpha: float = 16.0
    bound: float | None = None
    sites: tuple[str, ...] = ("q", "v")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.positive("rank")

    def build(self, sites: Mapping[str, Site], key: jax.Array, probe: Probe) -> dict[str, Part]:
        """One pair (A, B) a linear site."""
        return {name: LowRank(self, site, key, name) for (name, site), key in zip(sites.items(), jax.random.split(key, len(sites)))}


class LowRank(Part):
    """LoRA at one linear site."""

    def __init__(self, config: LoRA, site: Site, key: jax.Array, name: str) -> None:
        if not isinstance(site, Linear):
            raise InputError(f"expected a linear site for lora, got {name}, which is a {type(site).__name__}; choose q, k, v, o, up, …")
        n_in, n_out = site.kernel.shape
        bound = n_in**-0.5 if config.bound is None else config.bound
        self.a = Delta(jax.random.uniform(key, (n_in, config.rank), minval=-bound, maxval=bound))
        self.b = Delta(jnp.zeros((config.rank, n_out)))
        self.scale = config.alpha / config.rank

    def output(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """y + scale · x A B."""
        return y + self.scale * (x @ self.a[...].astype(x.dtype)) @ self.b[...].astype(x.dtype)
