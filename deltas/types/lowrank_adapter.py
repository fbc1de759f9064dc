"""Low-rank adapters (OpenDelta: Hu et al. 2023, arXiv 2307.03084): adapters whose two maps are themselves products of low rank."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from deltas.backbones.sites import Delta, Part, Site
from deltas.types.adapter import Bottleneck, Bottlenecked
from deltas.types.base import Probe


@dataclass(frozen=True, kw_only=True)
class LowRankAdapter(Bottlenecked):
    """y' = y + scale · (act(y A A' + a_bias) B B' + b_bias), with A [d, rank], A' [rank, bottleneck], B [bottleneck, rank],
    B' [rank, d]: 2 rank (d + bottleneck) numbers a sublayer beside the biases.

    A ~ N(0, 1/d), A' ~ N(0, 1/rank) and B ~ N(0, 1/bottleneck); B' = 0 and the biases are 0, so θ0 is the identity.
    """

    name: ClassVar[str] = "lowrank_adapter"
    rank: int = 1
    bias: bool = True
    act: str = "gelu_new"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.positive("rank")

    def build(self, sites: Mapping[str, Site], key: jax.Array, probe: Probe) -> dict[str, Part]:
        """Two products a sublayer."""
        return {name: Products(self, self.width(name, site), key)
                for (name, site), key in zip(sites.items(), jax.random.split(key, len(sites)))}


class Products(Bottleneck):
    """An adapter whose maps are A A' and B B'."""

    def __init__(self, config: LowRankAdapter, d: int, key: jax.Array) -> None:
        super().__init__(config, d)
        r, m = config.rank, config.bottleneck
        keys = jax.random.split(key, 3)
        self.a_in, self.a_out = Delta(d**-0.5 * jax.random.normal(keys[0], (d, r))), Delta(r**-0.5 * jax.random.normal(keys[1], (r, m)))
        self.b_in, self.b_out = Delta(m**-0.5 * jax.random.normal(keys[2], (m, r))), Delta(jnp.zeros((r, d)))

    def down(self, h: jax.Array) -> jax.Array:
        """h A A'."""
        return h @ self.a_in[...].astype(h.dtype) @ self.a_out[...].astype(h.dtype)

    def up(self, h: jax.Array) -> jax.Array:
        """h B B'."""
        return h @ self.b_in[...].astype(h.dtype) @ self.b_out[...].astype(h.dtype)
