"""The head: class scores from what the backbone makes of a text. It is trained, and shared by the online and the offline delta."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float32, Int

from deltas.verbalizer import pooled


class Head(NamedTuple):
    """W [d, C] and b [C], zero at the start; the columns of a class that has not arrived yet are what a row added later would be."""

    weight: Float32[Array, "d C"]
    bias: Float32[Array, " C"]

    @classmethod
    def zeros(cls, d: int, classes: int) -> "Head":
        """Of d features and C classes."""
        return cls(jnp.zeros((d, classes)), jnp.zeros(classes))


def features(module: Any, ids: Int[Array, "B S"], mask: Int[Array, "B S"]) -> Float32[Array, "B d"]:
    """h: the mean of an encoder's last hidden states, or a decoder's last hidden state of the last token."""
    hidden = module.hidden(ids, mask)
    if module.config.kind != "decoder":
        return pooled(hidden, mask)
    place = jnp.max(jnp.where(mask > 0, jnp.arange(ids.shape[1]), 0), axis=1)
    return jnp.take_along_axis(hidden, place[:, None, None], axis=1)[:, 0].astype(jnp.float32)


def scores(head: Head, h: Float32[Array, "B d"]) -> Float32[Array, "B C"]:
    """z = h W + b."""
    return h @ head.weight + head.bias
