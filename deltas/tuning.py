"""The engine: tune many vectors at once by the task loss of one attached delta, each with its best dev step kept.

A vector v ∈ R^n becomes the delta's parameters by θ = decode(v, constants): v = θ − θ0 for an independent solution, v = z inside a
subspace. One engine serves both. Jobs run `in_flight` at a time, over the devices; each job's batches, noise and result depend on its
task and seed alone, not on its neighbours. Data sits on the device, and between two looks at the dev rows everything is scanned.
"""

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from deltas.errors import InputError, at_least_one, one_of
from deltas.evaluation import Exam, Score, evaluate_each, stack_tables
from deltas.files import replacing, sha256
from deltas.functional import Attached
from deltas.parallel import flight, forget_programs, over_solutions
from deltas.tasks import Reading, Task, schedule
from deltas.verbalizer import can_answer

Decode = Callable[[jax.Array, Any], Any]
Examine = Callable[..., list[Score]]
"""As `evaluate_each`: (attached, θ [M, …], exams, in_flight=…) ↦ a score each."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a vector is tuned.

    steps, batch_size: updates and rows an update. learning_rate: peak, after `warmup` steps; `learning_rates` overrides it by label.
    schedule: constant, or cosine down to 0. clip: largest global norm of a gradient, 0 for none. dropout: of the backbone, 0 to 1.
    evaluate_every: steps between two looks at the first `dev_rows` dev rows, the best of which is kept. segment: steps whose rows come
    from one length bucket and that are scanned together.
    """

    steps: int = 300
    batch_size: int = 16
    learning_rate: float = 2e-3
    learning_rates: Mapping[str, float] = field(default_factory=dict, hash=False)
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: int = 10
    weight_decay: float = 0.0
    clip: float = 1.0
    dropout: float = 0.0
    evaluate_every: int = 50
    dev_rows: int = 64
    segment: int = 10

    def __post_init__(self) -> None:
        at_least_one(self, "training's", "steps", "batch_size", "evaluate_every", "dev_rows", "segment")
        one_of(self, "training's", optimizer=("adamw", "adafactor"), schedule=("cosine", "constant"))
        if not 0 <= self.dropout < 1:
            raise InputError(f"expected training's dropout between 0 and 1, got {self.dropout}; choose another")

    def transform(self, label: str) -> optax.GradientTransformation:
        """The optimizer for one label."""
        peak = self.learning_rates.get(label, self.learning_rate)
        rate: Any = peak
        if self.schedule == "cosine":
            rate = optax.warmup_cosine_decay_schedule(0.0, peak, min(self.warmup, self.steps // 2), self.steps)
        elif self.warmup:
            rate = optax.linear_schedule(0.0, peak, self.warmup)
        clip = optax.clip_by_global_norm(self.clip) if self.clip else optax.identity()
        if self.optimizer == "adafactor":
            return optax.chain(clip, optax.adafactor(rate, multiply_by_parameter_scale=False))
        return optax.chain(clip, optax.adamw(rate, weight_decay=self.weight_decay))


@dataclass(frozen=True)
class Job:
    """One vector to tune: a task, and the seed of the order of its data (and of its start, where that is drawn)."""

    task: Task
    seed: int

    @property
    def key(self) -> int:
        """A number below 2^28 from task and seed: equal in every process."""
        return int(sha256(f"{self.task.name} {self.seed}")[:7], 16)


@dataclass
class Outcome:
    """What a job ended with: the vector of the best dev step, and how it came there."""

    job: Job
    vector: np.ndarray
    step: int = 0
    score: float = -np.inf
    loss: float = np.inf
    failed: int | None = None
    """The step at which loss or gradient was no longer finite."""
    history: list[dict[str, float]] = field(default_factory=list)
    way: list[np.ndarray] = field(default_factory=list)
    """The start and the vector after every segment, where the jobs were followed."""


def plus(v: jax.Array, start: jax.Array) -> jax.Array:
    """θ = θ0 + v: the delta's own space."""
    return start + v


def tune(
    attached: Attached,
    jobs: Sequence[Job],
    starts: np.ndarray,
    training: Training,
    reading: Reading,
    *,
    decode: Decode = plus,
    constants: Any = None,
    examine: Examine | None = None,
    in_flight: int | None = None,
    checkpoints: Path | None = None,
    skip: Callable[[Sequence[Job]], bool] = lambda jobs: False,
    follow: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> Iterator[list[Outcome]]:
    """Tune one vector a job; yields the outcomes of each flight as it ends.

    Args:
        starts: float32 [jobs, n], where each vector starts.
        decode, constants: θ = decode(v, constants); None with `plus` is θ0.
        examine: scores the dev rows at every look; None is `evaluate_each`.
        checkpoints: a folder; a flight that was interrupted goes on from its last look at the dev rows, to the same result.
        follow: keep each outcome's way, a vector a segment in memory; not with `checkpoints`, which do not hold it.
        skip: whether the jobs of a flight are done already. Flights are cut from the whole list, so that a resumed run has the same ones.
        on_progress: called with the number of vector-steps just done.

    The state kept for a flight is removed by `forget` once its outcomes are safe.
    """
    can_answer(attached.backbone, [job.task for job in jobs], reading)
    size = flight(in_flight)
    constants = jnp.asarray(attached.theta0) if constants is None and decode is plus else constants
    for first in range(0, len(jobs), size):
        members = list(jobs[first : first + size])
        tell = on_progress or (lambda steps: None)
        if skip(members):
            tell(training.steps * len(members))
            continue
        forget_programs()
        state = None if checkpoints is None else checkpoints / f"{flight_name(attached, members, training, reading)}.safetensors"
        yield _Flight(attached, members, starts[first : first + size], training, reading, decode, constants, size, state, examine,
                      follow).run(tell)


def flight_name(attached: Attached, members: Sequence[Job], training: Training, reading: Reading) -> str:
    """A name for a flight's state that is another one when anything it depends on is."""
    what = [[j.task.name, j.task.fingerprint, j.seed] for j in members]
    return sha256(json.dumps([attached.label, attached.theta0_fingerprint, what, asdict(training), asdict(reading)], default=dict))


def forget(checkpoints: Path, attached: Attached, members: Sequence[Job], training: Training, reading: Reading) -> None:
    """Remove the state of a flight whose outcomes are stored."""
    (checkpoints / f"{flight_name(attached, members, training, reading)}.safetensors").unlink(missing_ok=True)


class _Flight:
    """One flight of jobs, from its start or its last checkpoint to its outcomes."""

    def __init__(self, attached: Attached, members: list[Job], starts: np.ndarray, training: Training, reading: Reading,
                 decode: Decode, constants: Any, size: int, state: Path | None, examine: Examine | None = None,
                 follow: bool = False) -> None:
        self.attached, self.members, self.training, self.decode, self.constants = attached, members, training, decode, constants
        self.examine, self.state, self.follow = examine, state, follow
        filled = members + [members[-1]] * (size - len(members))  # the devices want a full flight; copies are dropped at the end
        starts = np.concatenate([starts, np.repeat(starts[-1:], size - len(members), axis=0)])
        backbone = attached.backbone
        exams = [Exam.of(backbone, job.task, "train", reading) for job in filled]
        self.dev = [Exam.of(backbone, job.task, "dev", reading, training.dev_rows) for job in filled]
        self.plans = [schedule(exam.encoded, reading, steps=training.steps, batch_size=training.batch_size,
                               segment_steps=training.segment, seed=job.key) for exam, job in zip(exams, filled, strict=True)]
        self.data, self.tables = _stack(exams), stack_tables(exams)
        self.keys = jnp.stack([jax.random.key(job.key) for job in filled])
        self.run_segment, self.init = _compiled(attached, training, decode)
        self.v = jnp.asarray(starts, jnp.float32)
        self.opt, self.failed = self.init(self.v), jnp.full(size, -1, jnp.int32)
        self.outcomes = [Outcome(job, np.array(start, np.float32)) for job, start in zip(members, starts, strict=False)]
        self.done = 0

    def run(self, tell: Callable[[int], None]) -> list[Outcome]:
        self.restore()
        self.keep_way()
        tell(self.done * len(self.members))
        position = 0
        losses: list[np.ndarray] = []
        for segments in zip(*self.plans, strict=True):
            steps = segments[0].rows.shape[0]
            position += steps
            if position <= self.done:
                continue
            length = max(s.length for s in segments)
            batch = _gather(self.data, jnp.asarray(np.stack([s.rows for s in segments])), length)
            self.v, self.opt, self.failed, loss = self.run_segment(
                self.v, self.opt, self.failed, jnp.int32(position - steps), batch, self.tables, self.keys,
                self.attached.frozen, self.constants)
            losses.append(np.asarray(loss))
            tell(steps * len(self.members))
            self.keep_way()
            if position % self.training.evaluate_every < steps or position == self.training.steps:
                self.look(position, np.concatenate(losses, axis=1).mean(axis=1))
                losses = []
                self.save(position)
        for outcome, failed in zip(self.outcomes, np.asarray(self.failed), strict=False):
            outcome.failed = None if failed < 0 else int(failed)
        return self.outcomes

    def keep_way(self) -> None:
        """Where each vector is now, where the jobs are followed."""
        for m, outcome in enumerate(self.outcomes if self.follow else ()):
            outcome.way.append(np.array(self.v[m]))

    def look(self, step: int, train_loss: np.ndarray) -> None:
        """Score the dev rows; keep each vector that is better than all before (higher score, then lower loss)."""
        thetas = _decoded(self.decode)(self.v, self.constants)
        scores = (self.examine or evaluate_each)(self.attached, thetas, self.dev, in_flight=len(self.dev))
        for m, outcome in enumerate(self.outcomes):
            score = scores[m]
            outcome.history.append({"step": step, "train_loss": float(train_loss[m]), "dev_score": score.score, "dev_loss": score.loss})
            if np.isfinite(score.loss) and (score.score, -score.loss) > (outcome.score, -outcome.loss):
                outcome.step, outcome.score, outcome.loss = step, score.score, score.loss
                outcome.vector = np.asarray(self.v[m])

    def save(self, step: int) -> None:
        """Write all that the rest of the flight depends on."""
        if self.state is None:
            return
        from safetensors.numpy import save

        leaves = {f"leaf{i}": np.asarray(x) for i, x in enumerate(jax.tree.leaves((self.v, self.opt, self.failed)))}
        best = {f"best{m}": outcome.vector for m, outcome in enumerate(self.outcomes)}
        about = [{"step": o.step, "score": o.score, "loss": o.loss, "history": o.history} for o in self.outcomes]
        with replacing(self.state) as temporary:
            temporary.write_bytes(save({**leaves, **best}, metadata={"step": str(step), "outcomes": json.dumps(about)}))

    def restore(self) -> None:
        """Go on from the last checkpoint, where there is a whole one."""
        if self.state is None or not self.state.is_file():
            return
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.state, framework="numpy") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
                about = file.metadata()
        except SafetensorError:  # not ours to mend: the flight starts anew
            return
        treedef = jax.tree.structure((self.v, self.opt, self.failed))
        leaves = [jnp.asarray(tensors[f"leaf{i}"]) for i in range(treedef.num_leaves)]
        self.v, self.opt, self.failed = jax.tree.unflatten(treedef, leaves)
        self.done = int(about["step"])
        for m, (outcome, fields) in enumerate(zip(self.outcomes, json.loads(about["outcomes"]), strict=True)):
            outcome.vector = tensors[f"best{m}"]
            outcome.step, outcome.score, outcome.loss, outcome.history = (fields[k] for k in ("step", "score", "loss", "history"))


@functools.lru_cache(maxsize=64)
def _decoded(decode: Decode) -> Callable[..., Any]:
    return over_solutions(decode, (True, False))


@functools.lru_cache(maxsize=64)
def _compiled(attached: Attached, training: Training, decode: Decode) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The scanned segment of steps, and the optimizer's start, over solutions."""
    optimizer = training.transform(attached.label)

    def segment(v, opt, failed, first, batches, tables, key, frozen, constants):
        def step(carry: tuple, batch: Any) -> tuple[tuple, jax.Array]:
            v, opt, failed, i = carry
            noise = jax.random.fold_in(key, i)
            loss, gradient = jax.value_and_grad(
                lambda v: attached.loss(decode(v, constants), frozen, {**batch, **tables}, noise, training.dropout))(v)
            finite = jnp.isfinite(loss) & jnp.all(jnp.isfinite(gradient))
            going = (failed < 0) & finite
            updates, moved = optimizer.update(gradient, opt, v)
            v = jnp.where(going, v + updates, v)
            opt = jax.tree.map(lambda new, old: jnp.where(going, new, old), moved, opt)
            return (v, opt, jnp.where((failed < 0) & ~finite, i, failed), i + 1), loss

        (v, opt, failed, _), losses = jax.lax.scan(step, (v, opt, failed, first), batches)
        return v, opt, failed, losses

    return (over_solutions(segment, (True, True, True, False, True, True, True, False, False)),
            over_solutions(optimizer.init, (True,)))


def _stack(exams: Sequence[Exam]) -> dict[str, jax.Array]:
    """The training rows of a flight on the device: [M, R, …], padded to common sizes that repeat from flight to flight."""
    rows = 2 ** (max(len(e.examples) for e in exams) - 1).bit_length()
    stacked: dict[str, list[np.ndarray]] = {}
    for name in ("input_ids", "input_lengths", "target_ids", "target_lengths"):
        arrays = [getattr(e.encoded, name) for e in exams]
        width = [max(a.shape[1] for a in arrays)] if arrays[0].ndim == 2 else []
        stacked[name] = [np.pad(a, [(0, n - old) for n, old in zip((rows, *width), a.shape, strict=True)]) for a in arrays]
    return {name: jnp.asarray(np.stack(arrays)) for name, arrays in stacked.items()}


@functools.partial(jax.jit, static_argnames="length")
def _gather(data: Mapping[str, jax.Array], rows: jax.Array, length: int) -> dict[str, jax.Array]:
    """The batches of a segment: rows [M, steps, B] of each member's data, inputs cut to `length`."""
    take = jax.vmap(lambda table, chosen: table[chosen])
    width = data["target_ids"].shape[-1]
    return {
        "input_ids": take(data["input_ids"][..., :length], rows),
        "attention_mask": (jnp.arange(length) < take(data["input_lengths"], rows)[..., None]).astype(jnp.int32),
        "target_ids": take(data["target_ids"], rows),
        "target_mask": (jnp.arange(width) < take(data["target_lengths"], rows)[..., None]).astype(jnp.int32),
    }
