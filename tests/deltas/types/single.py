"""Single sites with random weights, and what tests do with the deltas on them; few shapes, since their time is that of compiling."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from deltas.attach import own
from deltas.backbones.blocks import Attention, Embedding, Entry, FeedForward, Linear, Norm
from deltas.backbones.sites import Delta, Site
from deltas.types import DeltaType

D, HEADS, SIZE, HIDDEN = 8, 4, 3, 12
KEY = jax.random.key(0, impl="unsafe_rbg")  # compiles quickly


def random(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng((seed, *shape)).standard_normal(shape), jnp.float32)


def shaken(site: nnx.Module, seed: int = 0, scale: float = 0.4, of: type = nnx.Param) -> nnx.Module:
    """The module with noise on all its variables of a kind, in place."""
    rng = np.random.default_rng(seed)
    noisy = jax.tree.map(lambda v: jnp.asarray(np.asarray(v, np.float32) + scale * rng.standard_normal(v.shape), v.dtype), nnx.state(site, of))
    nnx.update(site, noisy)
    return site


def linear(n_in: int = D, n_out: int = 6, *, bias: bool = True) -> Linear:
    return shaken(Linear(n_in, n_out, std=0.5, bias=bias, rngs=nnx.Rngs(0)))


def norm(*, rms: bool = False) -> Norm:
    return shaken(Norm(D, eps=1e-6, rms=rms))


def attention(*, kv_heads: int = 2) -> Attention:
    return Attention(D, heads=HEADS, kv_heads=kv_heads, head_dim=SIZE, scale=0.7, stds=(0.5, 0.5, 0.5), rngs=nnx.Rngs(1))


def feed_forward() -> FeedForward:
    return FeedForward(D, HIDDEN, act="relu", gated=True, stds=(0.5, 0.5), rngs=nnx.Rngs(2))


def embedding() -> Embedding:
    return Embedding(10, D, std=1.0, rngs=nnx.Rngs(3))


def real_tokens(places: Mapping[str, Site]):
    """A probe: what tokens give at each site, here random."""
    def probe(length: int) -> dict[str, tuple[jax.Array, ...]]:
        return {name: (random(length, site.d),) if isinstance(site, Entry) else
                tuple(random(length, site.kv_heads, site.head_dim, seed=i) for i in (1, 2))
                for name, site in places.items() if isinstance(site, Entry | Attention)}

    return probe


def with_delta(site: Site, *configs: DeltaType, name: str = "decoder.0.ff", seed: int | None = 5) -> Site:
    """A second site over the same weights with the deltas on it, in their order; shaken by a seed, at θ0 for None."""
    changed = own(site)
    for config in configs:
        places = {name: changed}
        parts = config.build(places, KEY, real_tokens(places))
        changed.attach(config.label, parts[name])
    return changed if seed is None else shaken(changed, seed, of=Delta)


def numbers(part: nnx.Module) -> dict[str, np.ndarray]:
    """The parameters of a part in float64, by their dotted names."""
    return {".".join(map(str, path)): np.asarray(v[...], np.float64) for path, v in nnx.to_flat_state(nnx.state(part, Delta))}


def weights_of(site: Site) -> dict[str, np.ndarray]:
    """The site's own weights in float64."""
    return {name: np.asarray(value, np.float64) for name, value in site.plain().items() if value is not None}


def call(site: Site, x: jax.Array) -> jax.Array:
    """What any site with an output makes of x [B, S, d]."""
    if isinstance(site, Attention):
        return site(x, site.keys_values(x), jnp.ones((1, 1, x.shape[1]), bool))
    if isinstance(site, Embedding):
        return site.values()
    return site(x)
