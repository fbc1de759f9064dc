"""LoRA (Hu et al. 2021, arXiv 2106.09685): a low-rank addition to a linear map; with its magnitude apart, DoRA (Liu et al. 2024,
arXiv 2402.09353)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from deltas.attach import select
from deltas.backbones.blocks import Linear
from deltas.backbones.sites import Delta, Part, Site, Weights
from deltas.errors import InputError
from deltas.types.base import DeltaType, Probe, wrong_site

Pattern = tuple[tuple[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class LoRA(DeltaType):
    """y' = y + s · x A B, with A [in, rank] ~ U(−bound, bound) and B [rank, out] = 0, so θ0 is the identity.

    s = alpha / rank, or alpha / √rank with `rslora` (Kalajdzievski 2023, arXiv 2312.03732). `dora` trains each output column's length m
    beside its direction: W' = m · (W + s A B) / |W + s A B|, where the lengths in the denominator count as constants for the gradient and
    m starts at |W|.

    `rank_pattern` and `alpha_pattern` are pairs (site pattern, value) that override `rank` and `alpha` at the sites they match; the first
    one that matches counts.

    `bound` None is 1/√in, the usual Kaiming bound; Yi et al. 2022 drew U(±0.316) (1/√rank for their rank 10) by a slip of the fan-in.
    """

    name: ClassVar[str] = "lora"
    rank: int = 8
    alpha: float = 16.0
    bound: float | None = None
    rslora: bool = False
    dora: bool = False
    rank_pattern: Pattern = ()
    alpha_pattern: Pattern = ()
    sites: tuple[str, ...] = ("q", "v")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.positive("rank")
        self.finite("alpha", *(() if self.bound is None else ("bound",)))
        self.switches("rslora", "dora")
        for name, what in (("rank_pattern", "ranks of at least 1"), ("alpha_pattern", "finite alphas")):
            given = getattr(self, name)
            pairs = tuple(map(tuple, given.items() if isinstance(given, Mapping) else given))
            object.__setattr__(self, name, pairs)
            if not all(len(pair) == 2 and isinstance(pair[0], str) and _good(pair[1], name == "rank_pattern") for pair in pairs):
                raise InputError(f"expected lora's {name} to be pairs of a site pattern and {what}, got {given!r}; mend it")

    def build(self, sites: Mapping[str, Site], key: jax.Array, probe: Probe) -> dict[str, Part]:
        """One pair (A, B) a linear site."""
        ranks, alphas = _overridden(sites, self.rank, self.rank_pattern), _overridden(sites, self.alpha, self.alpha_pattern)
        kind = Magnitude if self.dora else LowRank
        return {name: kind(self, site, key, name, ranks[name], alphas[name])
                for (name, site), key in zip(sites.items(), jax.random.split(key, len(sites)))}


def _good(value: Any, whole: bool) -> bool:
    if whole:
        return type(value) is int and value >= 1
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _overridden(sites: Mapping[str, Site], default: Any, pattern: Pattern) -> dict[str, Any]:
    """The value at each site; a pattern that matches none is refused."""
    values = dict.fromkeys(sites, default)
    for ends_with, value in reversed(pattern):  # so that the first has the last word
        values |= dict.fromkeys(select(sites, (ends_with,)), value)
    return values


class LowRank(Part):
    """LoRA at one linear site."""

    def __init__(self, config: LoRA, site: Site, key: jax.Array, name: str, rank: int, alpha: float) -> None:
        if not isinstance(site, Linear):
            raise wrong_site("lora", name, site, "a linear site", "q, k, v, o, up, …")
        n_in, n_out = site.sizes
        bound = n_in**-0.5 if config.bound is None else config.bound
        self.a = Delta(jax.random.uniform(key, (n_in, rank), minval=-bound, maxval=bound))
        self.b = Delta(jnp.zeros((rank, n_out)))
        self.scale = alpha / (math.sqrt(rank) if config.rslora else rank)

    def output(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """y + scale · x A B."""
        return y + self.scale * (x @ self.a[...].astype(x.dtype)) @ self.b[...].astype(x.dtype)

    def sum(self, own: Weights) -> jax.Array:
        """W + scale · A B in float32 [in, out]."""
        kernel = own["kernel"]
        assert kernel is not None
        return kernel.astype(jnp.float32) + self.scale * jnp.matmul(self.a[...], self.b[...], precision="highest")

    def merged(self, own: Weights) -> Weights:
        """The kernel with scale · A B added."""
        return {**own, "kernel": self.sum(own).astype(_dtype(own))}


class Magnitude(LowRank):
    """DoRA at one linear site."""

    def __init__(self, config: LoRA, site: Site, key: jax.Array, name: str, rank: int, alpha: float) -> None:
        super().__init__(config, site, key, name, rank, alpha)
        assert isinstance(site, Linear)
        self.m = Delta(_lengths(jnp.asarray(site.plain()["kernel"], jnp.float32)))

    def output(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """y as it is: all is in the weights."""
        return y

    def weights(self, own: Weights) -> Weights:
        """m · (W + scale · A B) / |W + scale · A B|, a column at a time; the bias stays."""
        whole = self.sum(own)
        lengths = jax.lax.stop_gradient(_lengths(whole))
        share = self.m[...] / jnp.where(lengths > 0, lengths, 1)  # a column of zeros has no direction to keep
        return {**own, "kernel": (share * whole).astype(_dtype(own))}

    def merged(self, own: Weights) -> Weights:
        """The kernel as it is used."""
        return self.weights(own)


def _lengths(kernel: jax.Array) -> jax.Array:
    """The length of each output column [out]."""
    return jnp.linalg.norm(kernel, axis=0)


def _dtype(own: Weights) -> Any:
    kernel = own["kernel"]
    assert kernel is not None
    return kernel.dtype
