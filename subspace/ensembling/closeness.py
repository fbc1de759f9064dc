"""How near a source's outputs are to a target's answers, of logits and one-hot targets alone.

    loss      Σ −log p(y)                                nearer is smaller
    kl        Σ KL(p_target ‖ p)                          nearer is smaller; p_target of a delta tuned on the target's few rows
    el2n      Σ ‖p − y‖₂                                  nearer is smaller
    cosine    Σ ⟨p, y⟩ / ‖p‖ = Σ p(y) / ‖p‖₂              nearer is larger

with p = softmax(z) of each target token, y its one-hot answer, and sums over examples and target tokens, in nats where there is a logarithm.
An encoder has one "token" an example: its label, with p over the task's labels.

Source: Lv et al. 2023 (ACL, short papers); EL2N and GraNd are those of Paul et al. 2021, arXiv 2107.07075.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def divergence(p: Float[Array, "*b v"], q: Float[Array, "*b v"]) -> Float[Array, "*b"]:
    """KL(p ‖ q) = Σ_v p_v (log p_v − log q_v) of probabilities, in nats.

    An entry with p_v = 0 adds 0 whatever q_v is; one with p_v > 0 = q_v makes the sum infinite.
    """
    return jnp.sum(_relative(p, jnp.log(p), jnp.log(q)), axis=-1)


def el2n(p: Float[Array, "*b v"], y: Int[Array, "*b"]) -> Float[Array, "*b"]:
    """‖p − y‖₂ of probabilities and the numbers of the right answers."""
    return jnp.linalg.norm(p - jax.nn.one_hot(y, p.shape[-1], dtype=p.dtype), axis=-1)


def label_cosine(p: Float[Array, "*b v"], y: Int[Array, "*b"]) -> Float[Array, "*b"]:
    """cos(p, y) = p_y / ‖p‖₂ of probabilities and the numbers of the right answers."""
    return jnp.take_along_axis(p, y[..., None], axis=-1)[..., 0] / jnp.linalg.norm(p, axis=-1)


def sums(
    logits: Float[Array, "B T V"], targets: Int[Array, "B T"], mask: Int[Array, "B T"], reference: Float[Array, "B T V"] | None = None
) -> dict[str, Float[Array, ""]]:
    """The scores of one batch, summed over the target tokens under the mask, and their number as "tokens".

    Args:
        logits: of the source, float32, as `Attached.logits` gives them.
        targets, mask: the answers, and which tokens count.
        reference: logits of the target's own delta; without them there is no "kl".
    """
    log_p, keep = jax.nn.log_softmax(logits), mask.astype(jnp.float32)
    p = jnp.exp(log_p)
    picked = jnp.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]
    each = {"loss": -picked, "el2n": el2n(p, targets), "cosine": label_cosine(p, targets)}
    if reference is not None:
        log_r = jax.nn.log_softmax(reference)
        each["kl"] = jnp.sum(_relative(jnp.exp(log_r), log_r, log_p), axis=-1)
    return {name: jnp.sum(jnp.where(keep > 0, value, 0.0)) for name, value in each.items()} | {"tokens": jnp.sum(keep)}


def _relative(p: jax.Array, log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    """p (log p − log q), 0 where p is."""
    return jnp.where(p > 0, p * (jnp.where(p > 0, log_p, 0.0) - log_q), 0.0)
