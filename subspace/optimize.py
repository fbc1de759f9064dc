"""Stage 2: tune z alone, by the task loss of one delta type or of several at once, inside a frozen subspace."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from deltas import Reading, Task, Training
from deltas.backbones import Backbone
from deltas.errors import InputError
from deltas.evaluation import Exam, Score, evaluate_each
from deltas.functional import Attached
from deltas.tuning import Job, tune
from subspace.base import Subspace
from subspace.few_shot import few_shot
from subspace.several import Several, examine, within_each
from subspace.sources import NAMED, once

IN_SUBSPACE = Training(steps=100, learning_rate=0.1, warmup=0, evaluate_every=20, clip=0.0, segment=10)
"""z is whitened (unit variance over the source solutions) and starts near 0, so one learning rate around 0.1 serves every basis."""
WIDTH = 32
"""z is padded to a multiple of this while it is tuned, by entries whose rows of U are zero: they have no gradient and stay at zero, and
subspaces of every k share their compiled programs."""


@dataclass(frozen=True)
class Found:
    """A point of the subspace found for a task: z float32 [k] at the best dev step, its dev and test score through the type it was tuned by.

    Through several types at once (`through` is "lora+adapter") the scores are means; `scores` has the test score by type. `forward` counts
    the rows that were run through the backbone to find z, `backward` those whose gradient was taken too; looks at dev rows are not in them.
    """

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
    scores: Mapping[str, float] = field(default_factory=dict)
    forward: int = 0
    backward: int = 0
    way: np.ndarray | None = None
    """z [points, k] at the start and after every segment of steps, where it was followed."""


def within(z: jax.Array, constants: tuple[jax.Array, jax.Array]) -> jax.Array:
    """θ = offset + z U: a point of the subspace as a delta, offset = θ0 + μ [D], U [k, D]."""
    offset, basis = constants
    return offset + z @ basis


def attach_to(space: Subspace, backbone: Backbone, label: str) -> Attached:
    """The backbone with the delta type of that label, at the subspace's θ0; another backbone is refused.

    Where the subspace's solutions did not say what they stand on, the names and shapes of the delta's parameters have to fit.
    """
    if label not in space.parts:
        raise InputError(f"expected a delta type of the subspace ({', '.join(space.labels)}), got {label!r}; choose one of them")
    if space.backbone.startswith(NAMED):
        raise InputError(f"expected a subspace whose types have their places on {backbone.name}, got one that was fitted on folders of "
                         "adapters; give it places with subspace.placed(space, backbone)")
    if space.backbone and space.backbone != backbone.fingerprint:
        raise InputError(f"expected the backbone {space.backbone} that the subspace was fitted on, got {backbone.name} with fingerprint "
                         f"{backbone.fingerprint}; use that backbone")
    part = space.parts[label]
    attached = Attached.of(backbone, part.config, theta0=part.theta0)
    if not space.backbone and attached.layout != part.layout:
        raise InputError(f"expected a backbone on which {label} has the subspace's parameters, got {backbone.name}, where they differ; use "
                         "the backbone that the solutions were trained on")
    return attached


def attach_all(space: Subspace, backbone: Backbone, through: str | Sequence[str]) -> Attached | Several:
    """One type by its label, or several by theirs."""
    if isinstance(through, str):
        return attach_to(space, backbone, through)
    once("delta type", through)
    if not through:
        raise InputError(f"expected at least one delta type of the subspace ({', '.join(space.labels)}) to tune through, got none; name one")
    members = tuple(attach_to(space, backbone, label) for label in through)
    return members[0] if len(members) == 1 else Several(members)


def optimize_many(
    space: Subspace,
    attached: Attached | Several,
    jobs: Sequence[Job],
    *,
    training: Training = IN_SUBSPACE,
    reading: Reading | None = None,
    std: float = 0.02,
    in_flight: int | None = None,
    test_rows: int | None = None,
    follow: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> list[Found]:
    """Tune one z a job through the attached type, or through several; z starts from N(0, std²) drawn by the job's task and seed.

    Selection is by the dev rows of those types alone; the test rows (the first `test_rows`, None for all) are read once, at the end. With
    `follow` every point has its `way`, to be drawn (`landscape.plane(..., trails=)`).
    """
    reading = reading or Reading()
    unused = -space.k % WIDTH if training.optimizer == "adamw" else 0  # Adafactor clips by the mean square over all entries
    pad = ((0, 0), (0, unused))
    members, several = (attached.members, True) if isinstance(attached, Several) else ((attached,), False)
    constants = tuple(constants_of(space, member.label, unused) for member in members)
    starts = np.stack([std * np.random.default_rng(job.key).standard_normal(space.k) for job in jobs]).astype(np.float32)
    flights = tune(
        cast("Attached", attached), jobs, np.pad(starts, pad), training, reading, decode=within_each if several else within,
        constants=constants if several else constants[0], examine=cast("Any", examine) if several else None, in_flight=in_flight,
        follow=follow, on_progress=on_progress)
    outcomes = [replace(o, vector=o.vector[: space.k]) for flight in flights for o in flight]
    points, tasks = np.stack([o.vector for o in outcomes]), [job.task for job in jobs]
    after = on_test_rows(space, members, points, tasks, reading, in_flight, test_rows)
    rows = training.steps * training.batch_size * len(members)
    return [Found(o.job.task.name, attached.label, o.job.seed, o.vector, o.score, float(np.mean([s.score for s in scores.values()])),
                  float(np.mean([s.loss for s in scores.values()])), o.step, o.history, o.failed,
                  {label: s.score for label, s in scores.items()}, rows, rows,
                  np.stack(o.way)[:, : space.k] if follow else None)
            for o, scores in zip(outcomes, after, strict=True)]


def constants_of(space: Subspace, label: str, unused: int = 0) -> tuple[jax.Array, jax.Array]:
    """(offset, U) of a type on the device, U with `unused` rows of zeros below."""
    part = space.part(label)
    return jnp.asarray(part.offset), jnp.pad(jnp.asarray(part.basis, jnp.float32), ((0, unused), (0, 0)))


def on_test_rows(space: Subspace, members: Sequence[Attached], z: np.ndarray, tasks: Sequence[Task], reading: Reading,
                 in_flight: int | None = None, rows: int | None = None) -> list[dict[str, Score]]:
    """By point z [M, k], each on the test rows of its own task: the score of every type."""
    found: list[dict[str, Score]] = [{} for _ in tasks]
    for member in members:
        exams = [Exam.of(member.backbone, task, "test", reading, rows) for task in tasks]
        for scores, score in zip(found, evaluate_each(member, space.decode(member.label, z), exams, in_flight=in_flight), strict=True):
            scores[member.label] = score
    return found


def optimize(space: Subspace, backbone: Backbone, task: Task, through: str | Sequence[str], *, seed: int = 0,
             training: Training = IN_SUBSPACE, shots: int | None = None, few_dev: bool = False, reading: Reading | None = None,
             **options: Any) -> Found:
    """Tune z ∈ R^k on one task: min_z L(θ0 + μ + z U), all else frozen, through one type or as the mean of several types' losses.

    Returns the best dev step with `.z`, `.score` (on the test rows) and `.history`; the mean over types where there are several.

    Args:
        through: a delta type by its label, or several, which share z.
        shots: train on so many rows, drawn by `seed` (see `few_shot`); with `few_dev` as many dev rows choose the step.

    Example:
        found = subspace.optimize(space, backbone, task, through="lora")
        found = subspace.optimize(space, backbone, task, through=("lora", "adapter"), shots=16)

    Source: Yi et al. 2022, section 3 (subspace optimization); several types at once is their open question. Start and step size as in the
    module's settings, not theirs.
    """
    if few_dev and shots is None:
        raise InputError("expected a number of shots to cut the dev rows to, got few_dev without; give shots, or leave few_dev out")
    attached = attach_all(space, backbone, through)
    task = task if shots is None else few_shot(task, shots, seed, dev=few_dev)
    return optimize_many(space, attached, [Job(task, seed)], training=training, reading=reading, **options)[0]
