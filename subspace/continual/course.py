"""A whole sequence, learned step by step with one delta, and what it answers after each step."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32

from deltas.backbones.loading import Backbone
from deltas.errors import InputError
from deltas.functional import Attached
from deltas.tasks import Reading, schedule
from deltas.tasks.batches import Encoded
from deltas.tuning import Decode
from deltas.types import DeltaType
from subspace.base import Part, Subspace
from subspace.continual.ensemble import ensemble
from subspace.continual.head import Head, features, scores
from subspace.continual.learning import Learning, State, learner
from subspace.continual.sequence import ClassRows, Sequence

ROWS_AT_ONCE = 48
Loss = Literal["local", "seen", "all"]


@dataclass(frozen=True, eq=False)
class Course:
    """Where a sequence is learned: θ = decode(v, constants) of one attached delta, from v = start."""

    attached: Attached
    decode: Decode
    constants: Any
    start: Float32[np.ndarray, " n"]

    @property
    def label(self) -> str:
        """Of the delta."""
        return self.attached.label


def in_theta(attached: Attached) -> Course:
    """In the delta's own space: v = θ, from θ0."""
    return Course(attached, _same, None, attached.theta0)


def in_codes(attached: Attached, space: Subspace, *, random: int | None = None) -> Course:
    """Inside a subspace: v = z, θ = θ0 + μ + z U, from z = 0, the mean of the solutions of other tasks.

    Args:
        random: a seed: Gaussian directions of the same norm instead of U, the control that shows what the directions are worth.

    Raises:
        InputError: a subspace of another backbone or without the delta's type.
    """
    part = part_for(space, attached.backbone, attached.config)
    basis = np.asarray(part.basis)
    if random is not None:
        drawn = np.random.default_rng([random, 8]).standard_normal(basis.shape, np.float32)
        basis = drawn * (np.linalg.norm(basis) / np.linalg.norm(drawn))
    return Course(attached, _affine, (jnp.asarray(part.offset), jnp.asarray(basis)), np.zeros(space.k, np.float32))


def part_for(space: Subspace, backbone: Backbone, config: DeltaType) -> Part:
    """The type's part of a subspace.

    Raises:
        InputError: a subspace of another backbone, without the type, or of other settings of it.
    """
    if space.backbone != backbone.fingerprint:
        raise InputError(f"expected a subspace of the backbone {backbone.fingerprint}, got one of {space.backbone}; decompose solutions of this "
                         "backbone")
    if (part := space.part(config.label)).config != config:
        raise InputError(f"expected a subspace of {config}, got one of {part.config}; train its bank with these settings")
    return part


def _same(v: jax.Array, constants: Any) -> jax.Array:
    return v


def _affine(z: jax.Array, constants: Any) -> jax.Array:
    return constants[0] + jnp.matmul(z, constants[1], precision="highest")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which of LAE's means are used, or a comparator.

    loss: cross-entropy over a step's own classes, over all seen so far, or over all of the sequence. freezing: of the delta while the head
    learns, as `Learning.frozen` says from the second step on, never, or always (the head alone learns). together: all steps at once, with
    the updates of all: the upper bound, which keeps what continual learning may not.
    """

    loss: Loss = "local"
    freezing: Literal["paper", "never", "always"] = "paper"
    together: bool = False


@dataclass(frozen=True, eq=False)
class Taught:
    """Class scores of the test rows after every step: by the online delta [steps, R, C], and by each offline one."""

    online: Float[np.ndarray, "steps R C"]
    offline: dict[float, Float[np.ndarray, "steps R C"]]
    losses: Float[np.ndarray, "steps updates"]

    def answers(self, seen: Bool[np.ndarray, "steps C"], decay: float | None = None, alone: bool = False) -> np.ndarray:
        """The class of each row after each step, [steps, R]: the online delta's; with a decay that offline one's, together or alone."""
        found = []
        for step, now in enumerate(seen):
            z = jnp.asarray(self.online[step])
            off = z if decay is None else jnp.asarray(self.offline[decay][step])
            found.append(np.asarray(jnp.argmax(ensemble(off if alone else z, off, jnp.asarray(now)), axis=-1)))
        return np.stack(found)


def teach(
    course: Course, sequence: Sequence, train: ClassRows, test: ClassRows, learning: Learning, plan: Plan, *, seed: int = 0,
    follow: tuple[float, ...] = (), on_progress: Callable[[int], None] | None = None,
) -> Taught:
    """Learn the sequence, and score the test rows of the classes seen after each step.

    The offline delta is created as a copy of the online one at the start of the second step; before, both are one.

    Args:
        follow: the decays whose offline deltas are asked for; none saves their evaluation.
        on_progress: told the number of updates just done.
    """
    attached, decays = course.attached, jnp.asarray([learning.decay, *learning.others], jnp.float32)
    rates = jnp.asarray([learning.rate, learning.head_rate], jnp.float32)
    names = dict(zip((learning.decay, *learning.others), range(len(decays)), strict=True))
    learn = learner(attached, course.decode, learning.clip)
    n = len(sequence.classes)
    state = State(jnp.asarray(course.start), jnp.tile(jnp.asarray(course.start), (len(decays), 1)),
                  Head.zeros(attached.backbone.config.d_model, n))
    steps, online, losses = len(sequence.steps), [], []
    offline: dict[float, list[np.ndarray]] = {decay: [] for decay in follow}
    for step in range(1 if plan.together else steps):
        seen = sequence.seen(steps - 1 if plan.together else step)
        rows = train.where(seen if plan.together else sequence.of(step))
        updates = learning.steps * (steps if plan.together else 1)
        order = _order(train, rows, updates, learning.batch_size, seed * 1000 + step)
        classes = {"local": sequence.of(step), "seen": seen, "all": np.ones(n, bool)}[plan.loss]
        first = {"never": 0, "always": updates, "paper": round(learning.frozen * updates) if step else 0}[plan.freezing]
        taught = []
        for part in order.reshape(-1, learning.steps, learning.batch_size):  # one compiled length
            state, loss = learn(state, attached.frozen, course.constants, train.ids[part], train.mask[part], train.classes[part],
                                jnp.asarray(classes), jnp.int32(first), rates, decays)
            taught.append(np.asarray(loss))
            if on_progress is not None:
                on_progress(learning.steps)
        losses.append(np.concatenate(taught))
        if step == 0:
            state = state._replace(offline=jnp.tile(state.online, (len(decays), 1)))
        tell = test.where(seen)
        online.append(_scored(course, state.online, state.head, test, tell, n))
        for decay in follow:
            same = step == 0
            offline[decay].append(online[-1] if same else _scored(course, state.offline[names[decay]], state.head, test, tell, n))
    return Taught(np.stack(online), {decay: np.stack(found) for decay, found in offline.items()}, np.stack(losses))


def _order(train: ClassRows, rows: np.ndarray, updates: int, batch_size: int, seed: int) -> np.ndarray:
    """Which rows each update sees, [updates, B]: epochs of the given rows, each shuffled anew."""
    width = train.ids.shape[1]
    deck = Encoded(train.ids[rows], np.full(len(rows), width, np.int32), train.classes[rows][:, None], np.ones(len(rows), np.int32))
    (whole,) = schedule(deck, Reading(max_input=width, buckets=()), steps=updates, batch_size=batch_size, segment_steps=updates, seed=seed)
    return rows[whole.rows]


def _scored(course: Course, v: jax.Array, head: Head, test: ClassRows, rows: np.ndarray, classes: int) -> Float32[np.ndarray, "R C"]:
    """z of the rows; 0 for the others."""
    theta, read = _decoded(course.decode)(v, course.constants), _reading(course.attached)
    found, mask = np.zeros((len(test.ids), classes), np.float32), test.mask
    for first in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[first : first + ROWS_AT_ONCE]
        filled = np.pad(part, (0, ROWS_AT_ONCE - len(part)), mode="edge")
        found[part] = np.asarray(read(theta, course.attached.frozen, head, test.ids[filled], mask[filled]))[: len(part)]
    return found


@functools.lru_cache(maxsize=8)
def _decoded(decode: Decode) -> Callable[..., jax.Array]:
    return jax.jit(decode)


@functools.lru_cache(maxsize=64)
def _reading(attached: Attached) -> Callable[..., jax.Array]:
    return jax.jit(lambda theta, frozen, head, ids, mask: scores(head, features(attached.module(theta, frozen), ids, mask)))
