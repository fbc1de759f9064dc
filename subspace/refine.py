"""refine: decoders tuned by the task losses of all types at shared codes that stay as they are.

    min over μ_t, U_t   (1/T) Σ_t [ CE_t(θ0_t + μ_t + z_n U_t; task n) + β KL( p̄ ‖ p_t ) ]

z_n is the code that a closed form gave source n. The second term, where β > 0, asks the types to compute the same at one z, also where there
is no source: p_t is what type t answers at a mix z = w z_n + (1 − w) z_m, w uniform, of two sources on rows of task n, and p̄ is the mean
of the types' answers, taken as given. It needs the rows' own targets only as what the decoder has read so far.

Yi et al. 2022 train decoders and encoders together (`autoencoder`); here codes are held, so that what is learned is the decoders' part of it.
"""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from deltas.errors import InputError, at_least_one
from deltas.evaluation import batch_of, tokens_of
from deltas.files import sha256
from deltas.functional import Attached
from deltas.tasks import Encoded, Reading, Task, schedule
from subspace.base import Subspace
from subspace.learning import exam
from subspace.looping import Loop, OnStep

Decoders = Mapping[str, Mapping[str, jax.Array]]
"""By label: mean [D] and basis [k, D]."""


@dataclass(frozen=True, kw_only=True)
class Refine:
    """How decoders are refined.

    steps: updates, each on `batch_size` rows of one source. learning_rate: of Adam, constant, as a share of the root mean square of each type's
    U: types differ in it by a factor of twenty and more. agreement: β. evaluate_every: steps between two looks at the first `dev_rows` dev rows
    of every source task, the best of which is kept. segment: steps on rows of one length.
    """

    steps: int = 400
    batch_size: int = 8
    learning_rate: float = 0.005
    agreement: float = 0.0
    evaluate_every: int = 100
    dev_rows: int = 16
    segment: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        at_least_one(self, "refine's", "steps", "batch_size", "evaluate_every", "dev_rows", "segment")
        if self.learning_rate <= 0 or self.agreement < 0:
            raise InputError(f"expected a learning_rate above 0 and an agreement of at least 0, got {self.learning_rate} and {self.agreement}; "
                             "choose others")


def refine(
    space: Subspace,
    *,
    attached: Mapping[str, Attached],
    tasks: Sequence[Task] | Mapping[str, Task],
    reading: Reading | None = None,
    settings: Refine | None = None,
    checkpoint: str | Path | None = None,
    save_every: float = 300.0,
    on_step: OnStep | None = None,
) -> Subspace:
    """The subspace with its decoders refined; k, codes and whatever encodes by least squares keep their meaning.

    Args:
        space: of a linear decomposition.
        attached: the backbone with each of its types at the subspace's θ0 (`deltas.attached_from`).
        tasks: those of the sources, and possibly others.
        checkpoint: a file; an interrupted run goes on from it to the same result. Remove it when the subspace is saved.
        save_every: seconds between two writings of it.

    Raises:
        InputError: a task or a type that is not given, a type at another θ0, a learned encoder, or a loss that is not finite from the start.

    Example:
        attached = {label: deltas.attached_from(bank, backbone, label) for label in space.labels}
        better = subspace.refine(subspace.joint_svd(bank, k=16), attached=attached, tasks=tasks)
    """
    reading = reading or Reading()
    given = {task.name: task for task in (tasks.values() if isinstance(tasks, Mapping) else tasks)}
    needed = sorted({task for task, _ in space.pairs})
    for what, names, known in (("task", needed, given), ("delta type", space.labels, attached)):
        if lacking := [name for name in names if name not in known]:
            raise InputError(f"expected the {what} {lacking[0]!r} of the sources, got {', '.join(known) or 'none'}; pass it too")
    for label, part in space.parts.items():
        if (theirs := attached[label].theta0_fingerprint) != part.theta0_fingerprint:
            raise InputError(f"expected {label} at the θ0 {part.theta0_fingerprint} of the subspace, got θ0 {theirs}; attach it with "
                             "deltas.attached_from")
    backbone = attached[space.labels[0]].backbone
    train, dev = ({name: tokens_of(backbone, given[name].split(split), name, reading) for name in needed} for split in ("train", "dev"))
    return learn(space, attached=attached, train=train, dev=dev, reading=reading, settings=settings, checkpoint=checkpoint,
                 save_every=save_every, on_step=on_step)


def learn(
    space: Subspace, *, attached: Mapping[str, Attached], train: Mapping[str, Encoded], dev: Mapping[str, Encoded],
    reading: Reading | None = None, settings: Refine | None = None, checkpoint: str | Path | None = None, save_every: float = 300.0,
    on_step: OnStep | None = None,
) -> Subspace:
    """As `refine`, on the tasks' token ids by name."""
    if learned := [label for label, part in space.parts.items() if part.network is not None]:
        raise InputError(f"expected decoders with least-squares encoders to refine, got {space.method}, whose encoder of {learned[0]} was "
                         "learned; refine joint_svd")
    settings, reading = settings or Refine(), reading or Reading()
    # one order inside, whatever the caller's: random numbers must fall on the same sources
    order = sorted(range(len(space.pairs)), key=space.pairs.__getitem__)
    inside = replace(space, pairs=tuple(space.pairs[n] for n in order), codes=space.codes[order])
    run = _Run(inside, {label: attached[label] for label in sorted(space.parts)}, train, dev, reading, settings)
    plan = [(len(segment.rows), segment) for segment in dealt(inside, train, reading, settings)]
    best, history = run.go(plan, None if checkpoint is None else Path(checkpoint), save_every, on_step)
    parts = {label: replace(part, mean=best[label]["mean"], basis=best[label]["basis"]) for label, part in space.parts.items()}
    return replace(space, method="refined", parts=parts, energy={}, history=history,
                   settings={**space.settings, "from": space.method, "refined": asdict(settings)})


def divergence(logits: Sequence[jax.Array], mask: jax.Array) -> jax.Array:
    """Σ_t KL(p̄ ‖ p_t) / T a target token, of logits [B, S, V] by type under mask [B, S]; p̄ = Σ_t p_t / T counts as a constant."""
    logs = [jax.nn.log_softmax(one) for one in logits]
    mean = jax.lax.stop_gradient(sum((jnp.exp(one) for one in logs[1:]), jnp.exp(logs[0])) / len(logs))
    entropy = jnp.sum(jax.scipy.special.xlogy(mean, mean), axis=-1)
    each = [entropy - jnp.sum(mean * one, axis=-1) for one in logs]
    return sum(((one * mask).sum() for one in each[1:]), (each[0] * mask).sum()) / (len(each) * jnp.maximum(mask.sum(), 1))


@functools.lru_cache(maxsize=4)
def _compiled(settings: Refine, attached: tuple[tuple[str, Attached], ...]) -> tuple[Any, Callable, Callable]:
    """(the optimizer, some steps on batches of one source each, the objective on dev rows); the backbone's arrays are arguments."""
    optimizer = optax.adam(settings.learning_rate)

    def theta(params: Decoders, label: str, z: jax.Array, starts: Mapping[str, jax.Array]) -> jax.Array:
        return starts[label] + params[label]["mean"] + z @ params[label]["basis"]

    def objective(params, z, mixed, starts, frozen, batch):
        task = sum(one.loss(theta(params, label, z, starts), frozen[label], batch) for label, one in attached) / len(attached)
        if not settings.agreement:
            return task, {"task_loss": task}
        apart = divergence([one.logits(theta(params, label, mixed, starts), frozen[label], batch) for label, one in attached],
                           batch["target_mask"])
        return task + settings.agreement * apart, {"task_loss": task, "divergence": apart}

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def segment(params, opt, batches, z, mixed, starts, frozen, sizes):
        def step(carry: tuple, now: tuple) -> tuple[tuple, dict[str, jax.Array]]:
            params, opt = carry
            batch, own, other = now
            grads, log = jax.grad(objective, has_aux=True)(params, own, other, starts, frozen, batch)
            updates, opt = optimizer.update(grads, opt, params)
            steps = {label: {name: sizes[label] * u for name, u in each.items()} for label, each in cast("Any", updates).items()}
            return (optax.apply_updates(params, steps), opt), log

        (params, opt), logs = jax.lax.scan(step, (params, opt), (batches, z, mixed))
        return params, opt, {name: values.mean() for name, values in logs.items()}

    return optimizer, segment, jax.jit(lambda *args: objective(*args)[0])


class _Run(Loop):
    """One refinement, from its start or its last state to the best step."""

    def __init__(self, space: Subspace, attached: Mapping[str, Attached], train: Mapping[str, Encoded], dev: Mapping[str, Encoded],
                 reading: Reading, settings: Refine) -> None:
        self.codes, self.tasks, self.train = np.asarray(space.codes, np.float32), [task for task, _ in space.pairs], train
        optimizer, self.segment, self.objective = _compiled(settings, tuple(attached.items()))
        self.frozen = {label: one.frozen for label, one in attached.items()}
        self.starts = {label: jnp.asarray(space.parts[label].theta0) for label in attached}
        self.sizes = {label: jnp.sqrt(jnp.mean(jnp.square(space.parts[label].basis))) for label in attached}
        params = {label: {"mean": jnp.asarray(space.parts[label].mean), "basis": jnp.asarray(space.parts[label].basis)} for label in attached}
        own = {task: [n for n, (name, _) in enumerate(space.pairs) if name == task] for task, _ in space.pairs}
        self.exams = [(members[0], exam(dev[task], reading, settings.dev_rows)) for task, members in sorted(own.items())]
        identity = sha256(json.dumps([asdict(settings), asdict(reading), space.pairs, sorted(attached)], default=list),
                          *(np.asarray(a).tobytes() for a in jax.tree.leaves((self.codes, params, self.exams))),
                          *(one.input_ids.tobytes() for _, one in sorted(train.items())))
        super().__init__(params, optimizer.init(params), identity, settings.steps, settings.evaluate_every)

    def advance(self, segment: "Dealt") -> Mapping[str, jax.Array]:
        """Steps on rows of one source."""
        one = self.train[self.tasks[segment.source]]
        batches = jax.tree.map(jnp.asarray, batch_of(one, segment.rows, segment.length, one.target_ids.shape[1]))
        z = np.broadcast_to(self.codes[segment.source], (len(segment.rows), self.codes.shape[1]))
        mixed = segment.share[:, None] * z + (1 - segment.share[:, None]) * self.codes[segment.other]
        codes = jnp.asarray(z), jnp.asarray(mixed)
        self.params, self.opt, log = self.segment(self.params, self.opt, batches, *codes, self.starts, self.frozen, self.sizes)
        return log

    def dev_loss(self) -> float:
        """The objective, mean over the source tasks, each mixed half and half with the next."""
        each = []
        for i, (source, batch) in enumerate(self.exams):
            other = self.exams[(i + 1) % len(self.exams)][0]
            z, mixed = self.codes[source], (self.codes[source] + self.codes[other]) / 2
            each.append(float(self.objective(self.params, z, mixed, self.starts, self.frozen, batch)))
        return float(np.mean(each))


@dataclass(frozen=True, eq=False)
class Dealt:
    """A segment of steps: rows [steps, B] of one source, the other source of its mixes, and its own share of them [steps]."""

    source: int
    rows: np.ndarray
    length: int
    other: int
    share: np.ndarray


def dealt(space: Subspace, train: Mapping[str, Encoded], reading: Reading, settings: Refine) -> list[Dealt]:
    """A source each in a random order of all, then of all again."""
    rng, n, each = np.random.default_rng([settings.seed, 7]), len(space.pairs), settings.segment
    count = -(-settings.steps // each)
    order = np.concatenate([rng.permutation(n) for _ in range(-(-count // n))])[:count]
    plans = {source: iter(schedule(train[space.pairs[source][0]], reading, steps=each * int(np.sum(order == source)),
                                   batch_size=settings.batch_size, segment_steps=each, seed=settings.seed + int(source)))
             for source in np.unique(order)}
    parts = [(int(source), next(plans[source]), int(rng.integers(n)), rng.random(each, np.float32)) for source in order]
    return [Dealt(source, part.rows, part.length, other, share[: len(part.rows)]) for source, part, other, share in parts]
