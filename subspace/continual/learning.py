"""LAE's learning and accumulation on one step, as one scanned program for every step, sequence and ablation.

Masks instead of growing shapes: the head has all classes from the start, and the loss is over those that a mask names. What a local mask leaves
out gets a gradient of exactly zero, so that the head of earlier classes stays as it was.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from deltas.backbones.blocks import NEGATIVE
from deltas.errors import InputError, at_least_one
from deltas.functional import Attached
from deltas.tuning import Decode
from subspace.continual.head import Head, features, scores


@dataclass(frozen=True, kw_only=True)
class Learning:
    """How one step of a sequence is learned.

    steps, batch_size: updates a step, and rows an update. rate, head_rate: of Adam, for the delta (or its code) and for the head; both start
    anew at every step. frozen: the share of the updates, from the second step on, during which the head alone learns. decay: β of the
    accumulation; `others` are further ones to follow beside it, 1 for a copy that never changes. clip: largest norm of a gradient.
    """

    steps: int = 50
    batch_size: int = 8
    rate: float = 3e-3
    head_rate: float = 1e-2
    frozen: float = 0.6
    decay: float = 0.9999
    others: tuple[float, ...] = ()
    clip: float = 1.0

    def __post_init__(self) -> None:
        at_least_one(self, "learning's", "steps", "batch_size")
        for name in ("rate", "head_rate", "clip"):
            if not getattr(self, name) > 0:
                raise InputError(f"expected learning's {name} above 0, got {getattr(self, name)}; choose another")
        for name, values in (("frozen share", (self.frozen,)), ("decay", (self.decay, *self.others))):
            for value in values:
                if not 0 <= value <= 1:
                    raise InputError(f"expected a {name} between 0 and 1, got {value}; choose another")


class State(NamedTuple):
    """What goes on from step to step."""

    online: Float[Array, " n"]
    offline: Float[Array, "decays n"]
    head: Head


def cross_entropy(z: Float[Array, "B C"], labels: Int[Array, " B"], classes: Bool[Array, " C"]) -> Float[Array, ""]:
    """Mean of −log softmax(z over the classes)[label]: local over a step's own classes, ordinary over all seen.

    ∂/∂z is exactly 0 for every class that is left out.

    Source: Gao et al. 2023 (LAE), equation 2.
    """
    z = jnp.where(classes, z, NEGATIVE)
    picked = jnp.take_along_axis(z, labels[:, None], axis=1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(z, axis=1) - picked)


def accumulate(offline: Float[Array, "decays n"], online: Float[Array, " n"], decay: Float[Array, " decays"]) -> Float[Array, "decays n"]:
    """θ_off ← β θ_off + (1 − β) θ_on, for each β.

    Source: Gao et al. 2023 (LAE), equation 6.
    """
    return decay[:, None] * offline + (1 - decay[:, None]) * online


@functools.lru_cache(maxsize=64)
def learner(attached: Attached, decode: Decode, clip: float) -> Callable[..., tuple[State, jax.Array]]:
    """The program (state, frozen, constants, ids [T, B, S], mask, labels [T, B], classes [C], first, rates [2], decay) ↦
    (state, losses [T]).

    θ = decode(v, constants). The head learns from update 0 on, v from update `first` on; θ_off follows at every update. `rates` are Adam's
    for v and for the head.
    """
    adam = optax.chain(optax.clip_by_global_norm(clip), optax.scale_by_adam())

    def program(state, frozen, constants, ids, mask, labels, classes, first, rates, decay):
        def loss(v, head, batch):
            ids, mask, labels = batch
            module = attached.module(decode(v, constants), frozen)
            return cross_entropy(scores(head, features(module, ids, mask)), labels, classes)

        def both(v, head, batch):
            return jax.value_and_grad(loss, argnums=(0, 1))(v, head, batch)

        def head_alone(v, head, batch):
            value, gradient = jax.value_and_grad(loss, argnums=1)(v, head, batch)
            return value, (jnp.zeros_like(v), gradient)

        def step(carry, batch):
            (v, offline, head), moved, turned, i = carry
            moving = i >= first
            value, (to_v, to_head) = jax.lax.cond(moving, both, head_alone, v, head, batch)
            change, after = adam.update(to_v, moved)
            v = jnp.where(moving, v - rates[0] * change, v)
            moved = jax.tree.map(lambda new, old: jnp.where(moving, new, old), after, moved)
            change, turned = adam.update(to_head, turned)
            head = jax.tree.map(lambda old, c: old - rates[1] * c, head, change)
            return (State(v, accumulate(offline, v, decay), head), moved, turned, i + 1), value

        start = (state, adam.init(state.online), adam.init(state.head), jnp.int32(0))
        (state, *_), losses = jax.lax.scan(step, start, (ids, mask, labels))
        return state, losses

    return jax.jit(program)
