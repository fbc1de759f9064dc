"""Bottleneck adapters (Houlsby et al. 2019, arXiv 1902.00751): a small network after each sublayer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax

from deltas.backbones.blocks import Attention, FeedForward
from deltas.backbones.sites import Delta, Part, Site
from deltas.errors import InputError
from deltas.types.base import DeltaType, Probe


@dataclass(frozen=True, kw_only=True)
class Adapter(DeltaType):
    """y' = y + swish(y A) B on a sublayer's output, before dropout and residual; A [d, bottleneck], B [bottleneck, d], no biases.

    A ~ N(0, a_std²) with a_std None for 1/√d, B ~ N(0, b_std²); b_std = 0 makes θ0 the identity, and Yi et al. 2022 used
    a_std = b_std = 0.02.
    """

    name: ClassVar[str] = "adapter"
    bottleneck: int = 12
    a_std: float | None = None
    b_std: float = 0.0
    sites: tuple[str, ...] = (r"re:.*\.(attn|cross|ff)",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.positive("bottleneck")

    def build(self, sites: Mapping[str, Site], key: jax.Array, probe: Probe) -> dict[str, Part]:
        """One pair (A, B) a sublayer."""
        return {name: Bottleneck(self, site, key, name)
                for (name, site), key in zip(sites.items(), jax.random.split(key, len(sites)))}


class Bottleneck(Part):
    """An adapter at one sublayer."""

    def __init__(self, config: Adapter, site: Site, key: jax.Array, name: str) -> None:
        if not isinstance(site, Attention | FeedForward):
            raise InputError(f"expected a sublayer site for adapter, got {name}; choose attn, cross or ff")
        d = (site.o if isinstance(site, Attention) else site.out).kernel.shape[1]
        down, up = jax.random.split(key)
        self.a = Delta((d**-0.5 if config.a_std is None else config.a_std) * jax.random.normal(down, (d, config.bottleneck)))
        self.b = Delta(config.b_std * jax.random.normal(up, (config.bottleneck, d)))

    def output(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """y + swish(y A) B."""
        return y + jax.nn.swish(y @ self.a[...].astype(y.dtype)) @ self.b[...].astype(y.dtype)
