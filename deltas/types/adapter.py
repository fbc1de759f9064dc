"""Bottleneck adapters: a small network at each sublayer (Houlsby et al. 2019, arXiv 1902.00751; Pfeiffer et al. 2020, arXiv 2005.00247;
parallel: He et al. 2021, arXiv 2110.04366)."""

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from deltas.backbones.blocks import ACTIVATIONS, Linear
from deltas.backbones.sites import Delta, Norm, Part, Site
from deltas.types.base import DeltaType, Probe, ends, wrong_site

ACTS = {"swish": jax.nn.swish, "relu": ACTIVATIONS["relu"], "gelu": ACTIVATIONS["gelu"], "gelu_new": ACTIVATIONS["gelu_new"],
        "tanh": jnp.tanh}
VARIANTS = {"houlsby": (r"re:.*\.(attn|cross|ff)",), "pfeiffer": (r"re:.*\.ff",), "parallel": (r"re:.*\.(attn|cross|ff)",)}


@dataclass(frozen=True, kw_only=True)
class Bottlenecked(DeltaType):
    """f(h) = up(act(down(h))) through `bottleneck` hidden numbers, with biases where `bias`; what reads and takes it is the `variant`:

    houlsby   y' = y + scale · f(y)                        after attention and feed-forward, before dropout and residual
    pfeiffer  y' = y + scale · f(norm(y + residual))       after the feed-forward alone; no norm where none follows the sum
    parallel  y' = y + scale · f(x)                        beside attention and feed-forward, whose input is x

    Empty `sites` are the variant's own. Houlsby's and the parallel one stand at linear sites too.
    """

    bottleneck: int = 24
    variant: str = "houlsby"
    bias: bool = False
    act: str = "swish"
    scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.positive("bottleneck")
        self.one_of("variant", tuple(VARIANTS))
        self.one_of("act", tuple(ACTS))
        self.switches("bias")
        self.finite("scale")
        if not self.sites:
            object.__setattr__(self, "sites", VARIANTS[self.variant])

    def width(self, name: str, site: Site) -> int:
        """The size d of what f reads and adds to at this site."""
        sizes = ends(site)
        if sizes is None or (self.variant == "pfeiffer" and isinstance(site, Linear)):
            raise wrong_site(self.name, name, site, "a sublayer site", "attn, cross or ff")
        if self.variant == "parallel" and sizes[0] != sizes[1]:
            raise wrong_site(self.name, name, site, "a site of one size", "attn, cross or ff")
        return sizes[1]


class Bottleneck(Part, abc.ABC):
    """f at one site. A subclass says what its two maps are; the upper one is 0 at the start unless it says otherwise."""

    def __init__(self, config: Bottlenecked, d: int) -> None:
        self.variant, self.act, self.scale = config.variant, config.act, config.scale
        self.a_bias = Delta(jnp.zeros(config.bottleneck)) if config.bias else None
        self.b_bias = Delta(jnp.zeros(d)) if config.bias else None

    @abc.abstractmethod
    def down(self, h: jax.Array) -> jax.Array:
        """[..., d] → [..., bottleneck], without the bias."""

    @abc.abstractmethod
    def up(self, h: jax.Array) -> jax.Array:
        """[..., bottleneck] → [..., d], without the bias."""

    def change(self, h: jax.Array) -> jax.Array:
        """scale · f(h)."""
        hidden = self.down(h)
        if self.a_bias is not None:
            hidden = hidden + self.a_bias[...].astype(h.dtype)
        y = self.up(ACTS[self.act](hidden))
        if self.b_bias is not None:
            y = y + self.b_bias[...].astype(h.dtype)
        return self.scale * y

    def output(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """y + scale · f(y), or f(x) beside the sublayer."""
        if self.variant == "pfeiffer":
            return y
        return y + self.change(y if self.variant == "houlsby" else x)

    def joined(self, y: jax.Array, residual: jax.Array, norm: Norm | None) -> jax.Array:
        """y + scale · f(norm(y + residual)) in the Pfeiffer variant."""
        if self.variant != "pfeiffer":
            return y
        whole = y + residual
        return y + self.change(whole if norm is None else norm(whole))


@dataclass(frozen=True, kw_only=True)
class Adapter(Bottlenecked):
    """y' = y + scale · (act(y A + a_bias) B + b_bias), or another variant; A [d, bottleneck], B [bottleneck, d].

    A ~ N(0, a_std²) with a_std None for 1/√d, B ~ N(0, b_std²); b_std = 0 makes θ0 the identity, and Yi et al. 2022 used
    a_std = b_std = 0.02. Biases start at 0.
    """

    name: ClassVar[str] = "adapter"
    bottleneck: int = 12
    a_std: float | None = None
    b_std: float = 0.0

    def build(self, sites: Mapping[str, Site], key: jax.Array, probe: Probe) -> dict[str, Part]:
        """One pair (A, B) a sublayer."""
        return {name: Dense(self, self.width(name, site), key)
                for (name, site), key in zip(sites.items(), jax.random.split(key, len(sites)))}


class Dense(Bottleneck):
    """An adapter whose maps are A and B."""

    def __init__(self, config: Adapter, d: int, key: jax.Array) -> None:
        super().__init__(config, d)
        down, up = jax.random.split(key)
        self.a = Delta((d**-0.5 if config.a_std is None else config.a_std) * jax.random.normal(down, (d, config.bottleneck)))
        self.b = Delta(config.b_std * jax.random.normal(up, (config.bottleneck, d)))

    def down(self, h: jax.Array) -> jax.Array:
        """h A."""
        return h @ self.a[...].astype(h.dtype)

    def up(self, h: jax.Array) -> jax.Array:
        """h B."""
        return h @ self.b[...].astype(h.dtype)
