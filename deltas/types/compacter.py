"""Compacter (Karimi Mahabadi et al. 2021, arXiv 2106.04647): adapters whose maps are sums of Kronecker products."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from deltas.backbones.sites import Delta, Part, Site
from deltas.errors import InputError
from deltas.types.adapter import Bottleneck, Bottlenecked
from deltas.types.base import Probe


@dataclass(frozen=True, kw_only=True)
class Compacter(Bottlenecked):
    """y' = y + scale · (act(y V + a_bias) W + b_bias), where each map [k, l] is Σ_i R_i ⊗ (S_i T_i), i = 1 … n, with R_i [n, n],
    S_i [k/n, rank] and T_i [rank, l/n]: rank (k + l) numbers a map beside the R_i. n must divide d and the bottleneck.

    The R_i are one set for all maps of the backbone, the paper's choice, or with `shared` False one set a map. R ~ N(0, 1/n),
    S ~ N(0, 1/k), T ~ N(0, 1/rank), which keeps the size of what passes; the upper map's T and the biases are 0, so θ0 is the identity.
    """

    name: ClassVar[str] = "compacter"
    n: int = 4
    rank: int = 1
    shared: bool = True
    bias: bool = True
    act: str = "gelu_new"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.positive("n", "rank")
        self.switches("shared")
        if self.bottleneck % self.n:
            raise InputError(f"expected compacter's n to divide its bottleneck {self.bottleneck}, got {self.n}; choose a divisor")

    def build(self, sites: Mapping[str, Site], key: jax.Array, probe: Probe) -> dict[str, Part]:
        """Two maps a sublayer, and the rules R that they share."""
        ruling, key = jax.random.split(key)
        shared = Rule(self.n, ruling) if self.shared else None
        return {name: Kronecker(self, self.width(name, site), key, shared)
                for (name, site), key in zip(sites.items(), jax.random.split(key, len(sites)))}

    def width(self, name: str, site: Site) -> int:
        """The size d, which n divides."""
        d = super().width(name, site)
        if d % self.n:
            raise InputError(f"expected compacter's n to divide the size {d} of {name}, got {self.n}; choose a divisor")
        return d


class Rule(nnx.Module):
    """R_1 … R_n, [n, n, n]."""

    def __init__(self, n: int, key: jax.Array) -> None:
        self.r = Delta(n**-0.5 * jax.random.normal(key, (n, n, n)))


class Kronecker(Bottleneck):
    """An adapter whose maps are sums of Kronecker products."""

    def __init__(self, config: Compacter, d: int, key: jax.Array, shared: Rule | None) -> None:
        super().__init__(config, d)
        n, r, m = config.n, config.rank, config.bottleneck
        keys = jax.random.split(key, 5)
        self.a_rule, self.b_rule = (shared or Rule(n, k) for k in keys[:2])
        self.a_s = Delta(d**-0.5 * jax.random.normal(keys[2], (n, d // n, r)))
        self.a_t = Delta(r**-0.5 * jax.random.normal(keys[3], (n, r, m // n)))
        self.b_s, self.b_t = Delta(m**-0.5 * jax.random.normal(keys[4], (n, m // n, r))), Delta(jnp.zeros((n, r, d // n)))

    def down(self, h: jax.Array) -> jax.Array:
        """h V."""
        return through(h, self.a_rule.r[...], self.a_s[...], self.a_t[...])

    def up(self, h: jax.Array) -> jax.Array:
        """h W."""
        return through(h, self.b_rule.r[...], self.b_s[...], self.b_t[...])


def through(h: jax.Array, rule: jax.Array, s: jax.Array, t: jax.Array) -> jax.Array:
    """h Σ_i R_i ⊗ (S_i T_i) without forming it: h [..., k] is cut into n pieces, which S shortens, R mixes and T widens to l/n each."""
    rule, s, t = (each.astype(h.dtype) for each in (rule, s, t))
    pieces = h.reshape(*h.shape[:-1], rule.shape[1], s.shape[1])
    mixed = jnp.einsum("...pu,iur,ipq->...qir", pieces, s, rule)
    return jnp.einsum("...qir,irv->...qv", mixed, t).reshape(*h.shape[:-1], -1)
