"""LoRA and prefix with the speed of an adapter (Gao et al. 2023, LAE, arXiv 2303.10070, section 3.2): what damps their gradients is made
learnable, or taken away.

Types of their own and not settings of the plain ones: whatever reads a LoRA as s · A B with a fixed s, or a prefix as bare rows, refuses them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from deltas.backbones.blocks import Attention, Linear
from deltas.backbones.sites import Delta, Part, Site, Weights
from deltas.types.base import DeltaType, Probe, wrong_site

TINY = 1e-12
"""The least mass of a prefix that its attention is divided by."""


@dataclass(frozen=True, kw_only=True)
class CalibratedLoRA(DeltaType):
    """y' = y + s · x A B with a trained number s a site, 1 at the start; A [in, rank] ~ U(−1/√in, 1/√in) and B [rank, out] = 0."""

    name: ClassVar[str] = "calibrated_lora"
    rank: int = 5
    sites: tuple[str, ...] = ("k", "v")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.positive("rank")

    def build(self, sites: Mapping[str, Site], key: jax.Array, probe: Probe) -> dict[str, Part]:
        """(A, B, s) a linear site."""
        return {name: ScaledLowRank(self, name, site, key) for (name, site), key in zip(sites.items(), jax.random.split(key, len(sites)))}


class ScaledLowRank(Part):
    """s · A B at one linear site."""

    def __init__(self, config: CalibratedLoRA, name: str, site: Site, key: jax.Array) -> None:
        if not isinstance(site, Linear):
            raise wrong_site("calibrated_lora", name, site, "a linear site", "q, k, v, o, up, …")
        n_in, n_out = site.sizes
        self.a = Delta(jax.random.uniform(key, (n_in, config.rank), minval=-(n_in**-0.5), maxval=n_in**-0.5))
        self.b, self.scale = Delta(jnp.zeros((config.rank, n_out))), Delta(jnp.ones(1))

    def output(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """y + s · x A B."""
        a, b, scale = (variable[...].astype(x.dtype) for variable in (self.a, self.b, self.scale))
        return y + scale * (x @ a) @ b

    def merged(self, own: Weights) -> Weights:
        """The kernel with s · A B added."""
        kernel = own["kernel"]
        assert kernel is not None
        change = self.scale[...] * jnp.matmul(self.a[...], self.b[...], precision="highest")
        return {**own, "kernel": (kernel.astype(jnp.float32) + change).astype(kernel.dtype)}


@dataclass(frozen=True, kw_only=True)
class CalibratedPrefix(DeltaType):
    """`length` rows s_k K and s_v V at each attention site, s_k and s_v trained numbers of 1 at the start, whose attention does not depend on
    the tokens beside them: after the softmax over rows and tokens

        y = Σ_tokens w_t v_t + Σ_rows (w_p / λ) s_v V_p,      λ = Σ_rows w_p

    so that the rows' part has weight 1 instead of λ, which is small where there are many tokens; the tokens' part stays as it is.

    `start = "activations"` takes keys and values of real tokens; `"normal"` draws N(0, std²).
    """

    name: ClassVar[str] = "calibrated_prefix"
    length: int = 10
    start: Literal["activations", "normal"] = "activations"
    std: float = 0.02
    sites: tuple[str, ...] = ("attn",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.positive("length")
        self.one_of("start", ("activations", "normal"))
        self.finite("std")

    def build(self, sites: Mapping[str, Site], key: jax.Array, probe: Probe) -> dict[str, Part]:
        """(K, V, s_k, s_v) an attention site."""
        for name, site in sites.items():
            if not isinstance(site, Attention):
                raise wrong_site("calibrated_prefix", name, site, "an attention site", "attn or cross")
        given, parts = probe(self.length) if self.start == "activations" else {}, {}
        for (name, site), own in zip(sites.items(), jax.random.split(key, len(sites))):
            assert isinstance(site, Attention)
            drawn = self.std * jax.random.normal(own, (2, self.length, site.kv_heads, site.head_dim))
            parts[name] = ScaledRows(*(given[name] if given else drawn))
        return parts


class ScaledRows(Part):
    """Keys and values at one attention site, with a scale each, whose attention sums to 1."""

    def __init__(self, keys: jax.Array, values: jax.Array) -> None:
        self.keys, self.values = Delta(keys.astype(jnp.float32)), Delta(values.astype(jnp.float32))
        self.key_scale, self.value_scale = Delta(jnp.ones(1)), Delta(jnp.ones(1))

    def rows(self) -> tuple[jax.Array, jax.Array]:
        """s_k K and s_v V."""
        return self.key_scale[...] * self.keys[...], self.value_scale[...] * self.values[...]

    def reweigh(self, own: jax.Array) -> jax.Array:
        """w / λ."""
        return own / jnp.maximum(jnp.sum(own, axis=-1, keepdims=True), TINY)
