"""The transformer vocabulary that every family is built from: linear maps, norms, attention, feed-forward, block.

Pure functions of their weights and inputs; shapes are [B, S, d] for batch, tokens and hidden size. Attention weights and norms are
computed in float32 whatever the weights' dtype.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from deltas.backbones.sites import Site

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "silu": jax.nn.silu,
}
NEGATIVE = -1e9  # a masked score: finite, so that a fully padded row gives no NaN


class Dropout:
    """Dropout for one call: each use folds the next number into the key, so every place draws its own mask.

    A mask is drawn with the positions in front, [S, n, B, …] for x [B, …, S, n], since random bits follow from their place in the flat
    array: padding to a longer S (or more keys n of attention weights) leaves the bits of the positions before as they were.
    """

    def __init__(self, key: jax.Array, rate: float) -> None:
        self.key, self.rate, self.used = key, rate, 0

    def __call__(self, x: jax.Array) -> jax.Array:
        self.used += 1
        *batch, length, n = x.shape
        rows = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(self.key, self.used), jnp.arange(length))
        keep = jax.vmap(lambda row: jax.random.bernoulli(row, 1 - self.rate, (n, *batch)))(rows)
        keep = jnp.moveaxis(keep, (0, 1), (-2, -1))
        return jnp.where(keep, x / (1 - self.rate), 0).astype(x.dtype)


def drop(x: jax.Array, dropout: Dropout | None) -> jax.Array:
    """x through dropout, or x itself where there is none."""
    return x if dropout is None else dropout(x)


class Linear(Site):
    """y = x W (+ b) with W [in, out]."""

    def __init__(self, n_in: int, n_out: int, *, std: float, rngs: nnx.Rngs, bias: bool = False) -> None:
        super().__init__()
        self.kernel = nnx.Param(std * jax.random.normal(rngs.params(), (n_in, n_out)))
        self.bias = nnx.Param(jnp.zeros(n_out)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x @ self.kernel[...]
        if self.bias is not None:
            y = y + self.bias[...]
        return self.through(x, y)


class Embedding(nnx.Module):
    """A table of n vectors of size d."""

    def __init__(self, n: int, d: int, *, std: float, rngs: nnx.Rngs) -> None:
        self.table = nnx.Param(std * jax.random.normal(rngs.params(), (n, d)))

    def __call__(self, ids: jax.Array) -> jax.Array:
        return self.table[...][ids]


class RMSNorm(nnx.Module):
    """y = w · x / sqrt(mean(x²) + eps)."""

    def __init__(self, d: int, *, eps: float) -> None:
        self.scale = nnx.Param(jnp.ones(d))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + self.eps)
        return wide.astype(x.dtype) * self.scale[...]


class RelativePositions(nnx.Module):
    """T5's bias on attention scores: one learned number per head and bucket of the distance key − query."""

    def __init__(self, *, buckets: int, furthest: int, heads: int, two_way: bool, std: float, rngs: nnx.Rngs) -> None:
        self.table = nnx.Param(std * jax.random.normal(rngs.params(), (buckets, heads)))
        self.furthest, self.two_way = furthest, two_way

    def bucket(self, distance: jax.Array) -> jax.Array:
        """Bucket of each distance: exact up to half of the buckets, then logarithmic up to `furthest`."""
        n = self.table.shape[0]
        offset = jnp.zeros_like(distance)
        if self.two_way:
            n //= 2
            offset = jnp.where(distance > 0, n, 0)
            distance = jnp.abs(distance)
        else:
            distance = jnp.maximum(-distance, 0)
        exact = n // 2
        growth = jnp.log(jnp.maximum(distance, 1) / exact) / math.log(self.furthest / exact)
        far = jnp.minimum(exact + (growth * (n - exact)).astype(jnp.int32), n - 1)
        return offset + jnp.where(distance < exact, distance, far)

    def __call__(self, queries: jax.Array, keys: jax.Array) -> jax.Array:
        """Bias [heads, S, K] for query positions [S] and key positions [K]."""
        return self.table[...][self.bucket(keys[None, :] - queries[:, None])].transpose(2, 0, 1)


class Attention(Site):
    """Multi-head attention; itself a sublayer site, and the site of prefix rows."""

    def __init__(self, d: int, *, heads: int, head_dim: int, scale: float, stds: tuple[float, float, float],
                 rngs: nnx.Rngs) -> None:
        super().__init__()
        inner = heads * head_dim
        q_std, kv_std, o_std = stds
        self.q = Linear(d, inner, std=q_std, rngs=rngs)
        self.k = Linear(d, inner, std=kv_std, rngs=rngs)
        self.v = Linear(d, inner, std=kv_std, rngs=rngs)
        self.o = Linear(inner, d, std=o_std, rngs=rngs)
        self.heads, self.head_dim, self.scale = heads, head_dim, scale

    def split(self, x: jax.Array) -> jax.Array:
        """[B, S, heads·head_dim] → [B, S, heads, head_dim]."""
        return x.reshape(*x.shape[:-1], self.heads, self.head_dim)

    def keys_values(self, source: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values [B, K, heads, head_dim] of the source [B, K, d]."""
        return self.split(self.k(source)), self.split(self.v(source))

    def __call__(
        self,
        x: jax.Array,
        keys_values: tuple[jax.Array, jax.Array],
        mask: jax.Array,
        *,
        positions: tuple[RelativePositions, jax.Array, jax.Array] | None = None,
        dropout: Dropout | None = None,
    ) -> jax.Array:
        """Attend from x [B, S, d] to keys and values under mask [B, S or 1, K] (True: visible).

        `positions` = (bias module, positions of the queries [S], positions of the keys [K]); rows that a delta puts in stand at
        positions −P … −1 and are always visible.
        """
        q = self.split(self.q(x)) * self.scale
        k, v = keys_values
        bias, at, key_at = positions if positions is not None else (None, None, jnp.arange(k.shape[1]))
        for name in reversed(self.order):
            rows = self.attached[name].rows()
            if rows is not None:
                k, v, key_at, mask = _put_before(rows, k, v, key_at, mask)
        scores = jnp.einsum("bshd,bkhd->bhsk", q, k).astype(jnp.float32)
        if bias is not None and at is not None:
            scores = scores + bias(at, key_at).astype(jnp.float32)
        scores = jnp.where(mask[:, None], scores, NEGATIVE)
        weights = drop(jax.nn.softmax(scores, axis=-1).astype(v.dtype), dropout)
        mixed = jnp.einsum("bhsk,bkhd->bshd", weights, v)
        return self.through(x, self.o(mixed.reshape(*mixed.shape[:2], -1)))


def _put_before(
    rows: tuple[jax.Array, jax.Array], k: jax.Array, v: jax.Array, key_at: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Keys, values, their positions and the mask with the rows [P, heads, head_dim] left of everything there."""
    length = rows[0].shape[0]
    k, v = (jnp.concatenate([jnp.broadcast_to(r.astype(old.dtype), (old.shape[0], *r.shape)), old], axis=1)
            for r, old in zip(rows, (k, v), strict=True))
    first = jnp.minimum(key_at[0], 0)  # left of another delta's rows, which are there already
    key_at = jnp.concatenate([first - length + jnp.arange(length), key_at])
    return k, v, key_at, jnp.concatenate([jnp.ones((*mask.shape[:-1], length), bool), mask], axis=-1)


class FeedForward(Site):
    """y = act(x W_up) W_out, or (act(x W_gate) · x W_up) W_out where gated; itself a sublayer site."""

    def __init__(self, d: int, hidden: int, *, act: str, gated: bool, stds: tuple[float, float], rngs: nnx.Rngs) -> None:
        super().__init__()
        self.gate = Linear(d, hidden, std=stds[0], rngs=rngs) if gated else None
        self.up = Linear(d, hidden, std=stds[0], rngs=rngs)
        self.out = Linear(hidden, d, std=stds[1], rngs=rngs)
        self.act = act

    def __call__(self, x: jax.Array, *, dropout: Dropout | None = None) -> jax.Array:
        act = ACTIVATIONS[self.act]
        hidden = act(self.up(x)) if self.gate is None else act(self.gate(x)) * self.up(x)
        return self.through(x, self.out(drop(hidden, dropout)))
