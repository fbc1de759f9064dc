"""The ensemble of an online and an offline delta."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from deltas.backbones.blocks import NEGATIVE


def ensemble(online: Float[Array, "B C"], offline: Float[Array, "B C"], seen: Bool[Array, " C"]) -> Float[Array, "B C"]:
    """max(softmax z_on, softmax z_off), class by class, over the classes seen; its largest entry is the answer.

    The surer of the two decides: an expert of the newest classes, and one that has forgotten less of the old.

    Source: Gao et al. 2023 (LAE), equation 8.
    """
    return jnp.maximum(*(jax.nn.softmax(jnp.where(seen, z, NEGATIVE), axis=-1) for z in (online, offline)))
