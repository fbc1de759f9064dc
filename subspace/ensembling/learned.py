"""Weights of the sources found by gradient on the target's few rows, as LoraHub asks for them without one.

    softmax   θ(a) = θ0 + Σ_j softmax(a)_j x_j          free   θ(a) = θ0 + Σ_j (a_j + 1/N) x_j

Both start at a = 0, the uniform mean. N numbers are tuned, by the engine that tunes deltas.

Source: Huang et al. 2023 (LoraHub, arXiv 2307.13269), who search free weights without gradients.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64

from deltas.errors import InputError
from deltas.functional import Attached
from deltas.tasks import Reading
from deltas.tuning import Job, Training, tune
from subspace.ensembling.weighting import at_least_two
from subspace.rows import Given, as_rows

Kind = Literal["softmax", "free"]


def by_softmax(a: jax.Array, constants: tuple[jax.Array, jax.Array]) -> jax.Array:
    """θ0 + softmax(a) X."""
    theta0, rows = constants
    return theta0 + jax.nn.softmax(a) @ rows


def freely(a: jax.Array, constants: tuple[jax.Array, jax.Array]) -> jax.Array:
    """θ0 + (a + 1/N) X."""
    theta0, rows = constants
    return theta0 + (a + 1 / len(rows)) @ rows


def learn_weights(attached: Attached, rows: Given, job: Job, training: Training, reading: Reading, kind: Kind = "softmax"
                  ) -> Float64[np.ndarray, " N"]:
    """The weights at the best dev step.

    Args:
        rows: x_j = θ_j − θ0, float32 [N, D]; held on the device together.
        job: the target with its few rows, and the seed of their order.
        training: of a; a learning rate around 0.1 moves a softmax in some tens of steps.
    """
    if kind not in ("softmax", "free"):
        raise InputError(f"expected learned weights to be softmax or free, got {kind!r}; choose one")
    rows = as_rows(rows)
    at_least_two(len(rows))
    constants: Any = (jnp.asarray(attached.theta0), jnp.asarray(np.stack([rows[n] for n in range(len(rows))])))
    start = np.zeros((1, len(rows)), np.float32)
    (found,), = tune(attached, [job], start, training, reading, decode=by_softmax if kind == "softmax" else freely, constants=constants,
                     in_flight=1)
    a = jnp.asarray(found.vector)
    return np.asarray(jax.nn.softmax(a) if kind == "softmax" else a + 1 / len(rows), np.float64)
