"""The transformer vocabulary that every family is built from: linear maps, embeddings, norms, positions, attention, feed-forward.

Pure functions of their weights and inputs; shapes are [B, S, d] for batch, tokens and hidden size. Attention weights and norms are
computed in float32 whatever the weights' dtype.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from deltas.backbones.sites import Part, Site, reweighed
from deltas.errors import InputError

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

    own = ("kernel", "bias")

    def __init__(self, n_in: int, n_out: int, *, std: float, rngs: nnx.Rngs, bias: bool = False) -> None:
        super().__init__()
        self.kernel = nnx.Param(std * jax.random.normal(rngs.params(), (n_in, n_out)))
        self.bias = nnx.Param(jnp.zeros(n_out)) if bias else None

    @property
    def sizes(self) -> tuple[int, int]:
        """(in, out)."""
        n_in, n_out = self.kernel.shape
        return n_in, n_out

    def __call__(self, x: jax.Array) -> jax.Array:
        x, weights = self.entering(x), self.weights()
        y = x @ weights["kernel"]
        if weights["bias"] is not None:
            y = y + weights["bias"]
        return self.through(x, y)


class Bias(Site):
    """y = x + b."""

    own = ("bias",)

    def __init__(self, d: int) -> None:
        super().__init__()
        self.bias = nnx.Param(jnp.zeros(d))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.through(x, x + self.weights()["bias"])


class Embedding(Site):
    """A table of n vectors of size d."""

    own = ("table",)

    def __init__(self, n: int, d: int, *, std: float, rngs: nnx.Rngs) -> None:
        super().__init__()
        self.table = nnx.Param(std * jax.random.normal(rngs.params(), (n, d)))

    def __call__(self, ids: jax.Array) -> jax.Array:
        return self.values()[ids]

    def values(self) -> jax.Array:
        """The table [n, d] as it is used; its transpose is a tied output head."""
        return self.weights()["table"]


class Norm(Site):
    """y = w · (x − m) / sqrt(v + eps) (+ b), over the hidden size and in float32.

    RMS: m = 0 and v = mean(x²), no b of its own. Layer norm: m = mean(x), v = mean((x − m)²).
    """

    own = ("scale", "bias")

    def __init__(self, d: int, *, eps: float, rms: bool) -> None:
        super().__init__()
        self.scale = nnx.Param(jnp.ones(d))
        self.bias = None if rms else nnx.Param(jnp.zeros(d))
        self.eps, self.rms = eps, rms

    def __call__(self, x: jax.Array) -> jax.Array:
        weights, wide = self.weights(), x.astype(jnp.float32)
        if not self.rms:
            wide = wide - jnp.mean(wide, -1, keepdims=True)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + self.eps)
        y = wide.astype(x.dtype) * weights["scale"]
        if weights["bias"] is not None:
            y = y + weights["bias"]
        return self.through(x, y)


@dataclass(frozen=True)
class Rotary:
    """Rotary positions (Su et al. 2021, arXiv 2104.09864): the pair (x_i, x_{i + h/2}) of a head of size h turns by the angle
    p · base^(−2i/h) at position p, so that a score depends on the distance alone.

    `factor` slows every frequency down (linear scaling). With `original` positions given, Llama 3's way: wavelengths longer than
    original / low are slowed, those shorter than original / high are not, and between them the slowing is interpolated.
    """

    base: float = 10000.0
    factor: float = 1.0
    original: int | None = None
    low: float = 1.0
    high: float = 4.0

    def frequencies(self, size: int) -> np.ndarray:
        """Angles a position, float32 [h/2]."""
        rates = self.base ** -(np.arange(0, size, 2, dtype=np.float32) / size)
        slow = rates / self.factor
        if self.original is None:
            return slow.astype(np.float32)
        turns = self.original * rates / (2 * np.pi)  # in the original context
        share = np.clip((turns - self.low) / (self.high - self.low), 0, 1)
        return ((1 - share) * slow + share * rates).astype(np.float32)

    def __call__(self, x: jax.Array, at: jax.Array) -> jax.Array:
        """x [B, S, heads, h] turned by its positions at [S] or [B, S]."""
        half = x.shape[-1] // 2
        angles = jnp.asarray(at, jnp.float32)[..., None] * self.frequencies(x.shape[-1])
        cos, sin = (f(angles)[..., None, :].astype(x.dtype) for f in (jnp.cos, jnp.sin))
        first, second = x[..., :half], x[..., half:]
        return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


class RelativePositions(Site):
    """T5's bias on attention scores: one learned number per head and bucket of the distance key − query."""

    own = ("table",)

    def __init__(self, *, buckets: int, furthest: int, heads: int, two_way: bool, std: float, rngs: nnx.Rngs) -> None:
        super().__init__()
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
        return self.weights()["table"][self.bucket(keys[None, :] - queries[:, None])].transpose(2, 0, 1)


class Entry(Site):
    """Where embedded tokens enter a stack: prompts stand before them, but not before the answer of an encoder-decoder."""

    def __init__(self, d: int, *, prompts: bool = True) -> None:
        super().__init__()
        self.d, self.prompts = d, prompts

    def attach(self, name: str, part: Part) -> Self:
        """Add `part`, which has no tokens where none can stand."""
        if not self.prompts and part.tokens() is not None:
            raise InputError(f"expected {name} before the tokens that the backbone reads, got it before the answer; use encoder_input")
        return super().attach(name, part)

    def before(self) -> list[jax.Array]:
        """The rows [P, d] of every attached prompt, the first attached furthest left."""
        return [rows for part in self.parts() if (rows := part.tokens()) is not None]

    def shift(self) -> int:
        """By how many positions the tokens stand further right than without deltas."""
        return sum(part.shift() for part in self.parts()) + sum(len(rows) for rows in self.before())


class Attention(Site):
    """Multi-head attention, keys and values perhaps shared by groups of heads; itself a sublayer site, and the site of prefix rows."""

    def __init__(self, d: int, *, heads: int, head_dim: int, scale: float, stds: tuple[float, float, float], rngs: nnx.Rngs,
                 kv_heads: int | None = None, bias: bool = False, out_bias: bool = False, rotary: Rotary | None = None) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim, self.scale, self.rotary = heads, kv_heads or heads, head_dim, scale, rotary
        q_std, kv_std, o_std = stds
        self.q = Linear(d, heads * head_dim, std=q_std, bias=bias, rngs=rngs)
        self.k = Linear(d, self.kv_heads * head_dim, std=kv_std, bias=bias, rngs=rngs)
        self.v = Linear(d, self.kv_heads * head_dim, std=kv_std, bias=bias, rngs=rngs)
        self.o = Linear(heads * head_dim, d, std=o_std, bias=out_bias, rngs=rngs)

    def split(self, x: jax.Array) -> jax.Array:
        """[B, S, n · head_dim] → [B, S, n, head_dim]."""
        return x.reshape(*x.shape[:-1], -1, self.head_dim)

    def keys_values(self, source: jax.Array, at: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Keys and values [B, K, kv_heads, head_dim] of the source [B, K, d] at positions [K] or [B, K]."""
        k = self.split(self.k(source))
        return (k if self.rotary is None or at is None else self.rotary(k, at)), self.split(self.v(source))

    def __call__(
        self,
        x: jax.Array,
        keys_values: tuple[jax.Array, jax.Array],
        mask: jax.Array,
        *,
        at: jax.Array | None = None,
        positions: tuple[RelativePositions, jax.Array, jax.Array] | None = None,
        dropout: Dropout | None = None,
    ) -> jax.Array:
        """Attend from x [B, S, d] to keys and values under mask [B, S or 1, K] (True: visible).

        `at` = positions of the queries [S] or [B, S], where they turn; `positions` = (bias module, positions of the queries [S], positions of
        the keys [K]). Rows that a delta puts in stand at positions −P … −1, are always visible and do not turn.
        """
        q = self.split(self.q(x)) * self.scale
        if self.rotary is not None and at is not None:
            q = self.rotary(q, at)
        k, v = keys_values
        bias, from_, key_at = positions if positions is not None else (None, None, jnp.arange(k.shape[1]))
        for name in reversed(self.order):
            rows = self.attached[name].rows()
            if rows is not None:
                k, v, key_at, mask = _put_before(rows, k, v, key_at, mask)
        if self.kv_heads != self.heads:
            k, v = (jnp.repeat(each, self.heads // self.kv_heads, axis=2) for each in (k, v))
        scores = jnp.einsum("bshd,bkhd->bhsk", q, k).astype(jnp.float32)
        if bias is not None and from_ is not None:
            scores = scores + bias(from_, key_at).astype(jnp.float32)
        scores = jnp.where(mask[:, None], scores, NEGATIVE)
        weights = drop(reweighed(self.parts(), jax.nn.softmax(scores, axis=-1)).astype(v.dtype), dropout)
        mixed = jnp.einsum("bhsk,bkhd->bshd", weights, v)
        return self.through(x, self.o(mixed.reshape(*mixed.shape[:2], -1)))


def _put_before(
    rows: tuple[jax.Array, jax.Array], k: jax.Array, v: jax.Array, key_at: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Keys, values, their positions and the mask with the rows [P, heads, head_dim] left of everything there."""
    length = rows[0].shape[0]
    k, v = (jnp.concatenate([jnp.broadcast_to(r.astype(old.dtype), (old.shape[0], *r.shape)), old], axis=1)
            for r, old in zip(rows, (k, v), strict=True))
    key_at = jnp.concatenate([key_at[0] - length + jnp.arange(length), key_at])
    return k, v, key_at, jnp.concatenate([jnp.ones((*mask.shape[:-1], length), bool), mask], axis=-1)


class FeedForward(Site):
    """y = act(x W_up) W_out, or (act(x W_gate) · x W_up) W_out where gated; itself a sublayer site."""

    def __init__(self, d: int, hidden: int, *, act: str, gated: bool, stds: tuple[float, float], rngs: nnx.Rngs,
                 bias: bool = False) -> None:
        super().__init__()
        self.gate = Linear(d, hidden, std=stds[0], bias=bias, rngs=rngs) if gated else None
        self.up = Linear(d, hidden, std=stds[0], bias=bias, rngs=rngs)
        self.out = Linear(hidden, d, std=stds[1], bias=bias, rngs=rngs)
        self.act = act

    def __call__(self, x: jax.Array, *, dropout: Dropout | None = None) -> jax.Array:
        act = ACTIVATIONS[self.act]
        hidden = act(self.up(x)) if self.gate is None else act(self.gate(x)) * self.up(x)
        return self.through(x, self.out(drop(hidden, dropout)))
