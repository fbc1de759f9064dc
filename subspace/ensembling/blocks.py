"""One block of the backbone at a time: which parameters are its own, and how alike two deltas' hidden states are there.

    cos_b(θ, φ) = mean over tokens of cos(h_b(θ), h_b(φ))

h_b is what the feed-forward of block b reads: the residual stream behind the block's attention, normed where the family norms first.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float64

from deltas.attach import attach, sites
from deltas.backbones.sites import Part
from deltas.functional import Attached
from deltas.layout import Layout
from subspace.rows import Given, as_rows


def block_of(name: str) -> str:
    """The block of a site or parameter: `encoder.3` of `encoder.3.attn.q.a`; the name's first word where it is of no block."""
    words = name.split(".")
    return ".".join(words[:2]) if len(words) > 1 and words[1].isdigit() else words[0]


def blocks_of(layout: Layout) -> dict[str, list[str]]:
    """The parameters of each block, in the order of the layout."""
    found: dict[str, list[str]] = {}
    for name in layout.names:
        found.setdefault(block_of(name), []).append(name)
    return found


class _Reads(Part):
    """Keeps what the site last read."""

    def output(self, x: jax.Array, y: jax.Array) -> jax.Array:
        self.seen = nnx.Variable(x)
        return y


def hidden_cosines(attached: Attached, rows: Given, other: Any, batches: Sequence[Any]) -> dict[str, Float64[np.ndarray, " N"]]:
    """By block, cos_b of each of the sources θ0 + x_j with the delta θ0 + `other`, averaged over the tokens of the batches.

    Args:
        rows: x_j, float32 [N, D].
        other: float32 [D].
        batches: of `judging.batches_of`.
    """
    rows, see = as_rows(rows), _seen(attached)
    totals: dict[str, np.ndarray] = {}
    counts: dict[str, float] = {}
    for batch in batches:
        ours = see(attached.theta0 + other, attached.frozen, batch)
        for n in range(len(rows)):
            for block, (total, count) in _compared(ours, see(attached.theta0 + rows[n], attached.frozen, batch), batch).items():
                totals.setdefault(block, np.zeros(len(rows)))[n] += float(total)
                counts[block] = counts.get(block, 0.0) + (float(count) if n == 0 else 0.0)
    return {block: total / max(counts[block], 1.0) for block, total in totals.items()}


@jax.jit
def _compared(ours: Any, theirs: Any, batch: Any) -> dict[str, tuple[jax.Array, jax.Array]]:
    """By block the sum of the cosines of tokens that count, and their number."""
    found = {}
    for block, h in ours.items():
        g = theirs[block]
        cosine = jnp.sum(h * g, -1) * jax.lax.rsqrt(jnp.sum(h * h, -1) * jnp.sum(g * g, -1) + 1e-30)
        mask = batch["target_mask"] if block.startswith("decoder") and h.shape[1] == batch["target_mask"].shape[1] else batch["attention_mask"]
        if h.shape[1] != mask.shape[1]:  # prompt tokens stand before the others
            mask = jnp.pad(mask, ((0, 0), (h.shape[1] - mask.shape[1], 0)), constant_values=1)
        found[block] = jnp.sum(cosine * mask), jnp.sum(mask).astype(jnp.float32)
    return found


@functools.lru_cache(maxsize=16)
def _seen(attached: Attached) -> Any:
    @jax.jit
    def see(theta: Any, frozen: Any, batch: Any) -> dict[str, jax.Array]:
        module = attached.module(theta, frozen)
        places = [name for name in sites(module) if name.endswith(".ff") and block_of(name) == name.removesuffix(".ff")]
        attach(module, "record", {name: _Reads() for name in places})
        if attached.backbone.kind == "encoder":
            module.encode(batch["input_ids"], batch["attention_mask"])
        else:
            inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
            hidden = module.encode(**inputs)
            first = module.first(**inputs)
            targets = batch["target_ids"]
            shifted = jnp.concatenate([first[:, None].astype(targets.dtype), targets[:, :-1]], axis=1)
            module.decode(shifted, hidden, batch["attention_mask"], cross=module.across(hidden))
        found = sites(module)
        read = {name.removesuffix(".ff"): found[name].attached["record"].seen[...] for name in places}
        return {block: h.astype(jnp.float32) for block, h in read.items()}

    return see
