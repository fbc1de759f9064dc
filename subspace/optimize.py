"""Stage 2: tune z alone, by the task loss of one delta type, inside a frozen subspace."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deltas import Reading, Task, Training
from deltas.backbones import Backbone
from deltas.errors import InputError
from deltas.evaluation import Exam, evaluate_each
from deltas.functional import Attached
from deltas.tuning import Job, tune
from subspace.base import Subspace

IN_SUBSPACE = Training(steps=100, learning_rate=0.1, warmup=0, evaluate_every=20, clip=0.0, segment=10)
"""z is whitened (unit variance over the source solutions) and starts near 0, so one learning rate around 0.1 serves every basis."""
WIDTH = 32
"""z is padded to a multiple of this while it is tuned, by entries whose rows of U are zero: they have no gradient and stay at zero, and
subspaces of every k share their compiled programs."""


@dataclass(frozen=True)
class Found:
    """A point of the subspace found for a task: z float32 [k] at the best dev step, its dev and test score through the type it was tuned by."""

    task: str
    through: str
    seed: int
    z: np.ndarray
    dev: float
    score: float
    loss: float
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    failed: int | None = None


def within(z: jax.Array, constants: tuple[jax.Array, jax.Array]) -> jax.Array:
    """θ = offset + z U: a point of the subspace as a delta, offset = θ0 + μ [D], U [k, D]."""
    offset, basis = constants
    return offset + z @ basis


def attach_to(space: Subspace, backbone: Backbone, label: str) -> Attached:
    """The backbone with the delta type of that label, at the subspace's θ0; another backbone is refused."""
    if label not in space.parts:
        raise InputError(f"expected a delta type of the subspace ({', '.join(space.labels)}), got {label!r}; choose one of them")
    if space.backbone != backbone.fingerprint:
        raise InputError(f"expected the backbone {space.backbone} that the subspace was fitted on, got {backbone.name} with fingerprint "
                         f"{backbone.fingerprint}; use that backbone")
    part = space.parts[label]
    return Attached.of(backbone, part.config, theta0=part.theta0)


def optimize_many(
    space: Subspace,
    attached: Attached,
    jobs: Sequence[Job],
    *,
    training: Training = IN_SUBSPACE,
    reading: Reading | None = None,
    std: float = 0.02,
    in_flight: int | None = None,
    test_rows: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> list[Found]:
    """Tune one z a job through the attached type; z starts from N(0, std²) drawn by the job's task and seed.

    Selection is by the dev rows of the source type alone; the test rows (the first `test_rows`, None for all) are read once, at the end.
    """
    reading, part = reading or Reading(), space.parts[attached.label]
    unused = -space.k % WIDTH if training.optimizer == "adamw" else 0  # Adafactor clips by the mean square over all entries
    pad = ((0, 0), (0, unused))
    constants = (jnp.asarray(part.theta0 + part.mean, jnp.float32), jnp.pad(jnp.asarray(part.basis, jnp.float32), pad[::-1]))
    starts = np.stack([std * np.random.default_rng(job.key).standard_normal(space.k) for job in jobs]).astype(np.float32)
    flights = tune(attached, jobs, np.pad(starts, pad), training, reading, decode=within, constants=constants, in_flight=in_flight,
                   on_progress=on_progress)
    outcomes = [replace(o, vector=o.vector[: space.k]) for flight in flights for o in flight]
    exams = [Exam.of(attached.backbone, job.task, "test", reading, test_rows) for job in jobs]
    scores = evaluate_each(attached, space.decode(attached.label, np.stack([o.vector for o in outcomes])), exams, in_flight=in_flight)
    return [Found(o.job.task.name, attached.label, o.job.seed, o.vector, o.score, s.score, s.loss, o.step, o.history, o.failed)
            for o, s in zip(outcomes, scores, strict=True)]


def optimize(space: Subspace, backbone: Backbone, task: Task, through: str, *, seed: int = 0, training: Training = IN_SUBSPACE,
             reading: Reading | None = None, **options: Any) -> Found:
    """Tune z ∈ R^k on one task through one delta type: min_z L(θ0 + μ + z U), all else frozen.

    Returns the best dev step with `.z`, `.score` (on the test rows) and `.history`.

    Example:
        found = subspace.optimize(space, backbone, task, through="lora")

    Source: Yi et al. 2022, section 3 (subspace optimization); start and step size as in the module's settings, not theirs.
    """
    attached = attach_to(space, backbone, through)
    return optimize_many(space, attached, [Job(task, seed)], training=training, reading=reading, **options)[0]
