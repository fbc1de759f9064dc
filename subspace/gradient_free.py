"""Stage 2 from forward passes alone: the covariance matrix adaptation evolution strategy on z.

    z_1 … z_P ~ N(m, σ² C),   L(z_p) on a fixed set of training rows,   m, σ, C from the better half;   m = 0, C = I at first

z is whitened, so one σ serves every subspace, and with k in the tens what gradients would save is affordable. It is for backbones whose
gradient is out of reach or too large: a generation is one forward pass of P solutions over one backbone.

A long search goes on moving along directions that its own type hardly feels and others do. On the gym's six dev tasks (k = 14, tuned through
lora) 600 candidates of 32 rows reached the gradient's score, 0.96, with 19,000 rows forward against 1,600 forward and backward, but 0.90 in
the adapter against 0.97; 200 candidates, on four of the tasks, 0.93 against 0.94 and the same 0.97 in the adapter.

Source: Hansen 2016, "The CMA Evolution Strategy: A Tutorial" (arXiv 1604.00772), by the package `cma`.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from deltas import Reading, Task
from deltas.backbones import Backbone
from deltas.errors import InputError
from deltas.evaluation import Exam, Score, batch_of, evaluate_each
from deltas.functional import Attached
from deltas.parallel import flight, forget_programs, over_solutions
from deltas.tasks import evaluation_batches
from subspace.base import Subspace
from subspace.few_shot import few_shot
from subspace.optimize import WIDTH, Found, attach_all, constants_of, on_test_rows
from subspace.several import Several, examine, within_each

SIGMA = 0.5
"""Of the first generation, in units of the source solutions' spread."""


@dataclass(frozen=True, eq=False)
class Generation:
    """After a generation: how many there were, all evaluations so far, its losses, and the points that stand for it."""

    number: int
    evaluations: int
    losses: Float[np.ndarray, " P"]
    mean: Float[np.ndarray, " k"]
    """Of the distribution that the next generation is drawn from."""
    best: Float[np.ndarray, " k"]
    """The point of the lowest loss so far."""
    sigma: float


def minimise(loss: Callable[[np.ndarray], np.ndarray], k: int, *, evaluations: int, population: int | None = None, sigma: float = SIGMA,
             seed: int = 0) -> Iterator[Generation]:
    """Minimise a function of z ∈ R^k from z = 0, generation by generation; it ends where the evaluations do, or where nothing moves.

    Args:
        loss: of points float64 [P, k], all at once: float [P]; what is not finite counts as worse than all else of its generation.
        population: P; None is 4 + ⌊3 ln k⌋.
        seed: of every draw; the global random state is neither read nor changed.

    Raises:
        InputError: sizes that leave no generation.
    """
    import cma

    size = population or 4 + int(3 * math.log(k))
    if size < 2 or evaluations < size or sigma <= 0:
        raise InputError(f"expected a population of at least 2, as many evaluations and a sigma above 0, got {size}, {evaluations} and "
                         f"{sigma}; raise them")
    rng = np.random.default_rng([seed, 6])
    strategy = cma.CMAEvolutionStrategy(np.zeros(k), sigma, {
        "popsize": size, "randn": lambda *shape: rng.standard_normal(shape), "seed": np.nan, "verbose": -9, "verb_log": 0, "verb_disp": 0})
    best, lowest = np.zeros(k), np.inf
    for number in range(1, evaluations // size + 1):
        points = np.stack(strategy.ask())
        losses = np.asarray(loss(points), np.float64)
        finite = np.isfinite(losses)
        if finite.any() and losses[finite].min() < lowest:
            first = int(np.argmin(np.where(finite, losses, np.inf)))
            best, lowest = points[first], float(losses[first])
        worst = losses[finite].max() + 1 if finite.any() else 0.0
        strategy.tell(list(points), np.where(finite, losses, worst).tolist())
        yield Generation(number, number * size, losses, np.array(strategy.mean), best, float(strategy.sigma))
        if not finite.any() or strategy.stop():
            return


def search(
    space: Subspace,
    backbone: Backbone,
    task: Task,
    through: str | Sequence[str],
    *,
    evaluations: int = 300,
    population: int | None = None,
    rows: int = 32,
    sigma: float = SIGMA,
    seed: int = 0,
    look_every: int = 10,
    dev_rows: int = 64,
    test_rows: int | None = None,
    reading: Reading | None = None,
    in_flight: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Found:
    """Find z ∈ R^k for a task by its training loss alone, without a gradient, through one delta type or several at once.

    Every candidate is run over the same rows, so that losses can be compared. At the start (z = 0) and every `look_every` generations the
    distribution's mean and the candidate of the lowest loss so far are scored on the dev rows; the best of all is returned, with
    `.forward`, the training rows that were run through the backbone. The history counts them too.

    Args:
        evaluations: candidates in all.
        population: candidates a generation; None is 4 + ⌊3 ln k⌋.
        rows: training rows, drawn by `seed` (see `few_shot`).
        sigma: the spread of the first generation; z of the source solutions has 1.
        in_flight: candidates that are run at once; None is a whole generation.
        on_progress: called with the number of candidates just run.

    Example:
        found = subspace.search(space, backbone, task, through="lora")
    """
    reading, attached = reading or Reading(), attach_all(space, backbone, through)
    members = attached.members if isinstance(attached, Several) else (attached,)
    losses = Losses(space, members, few_shot(task, rows, seed), reading, in_flight or population or 4 + int(3 * math.log(space.k)))
    exam = Exam.of(backbone, task, "dev", reading, dev_rows)
    best = Found(task.name, attached.label, seed, np.zeros(space.k, np.float32), -np.inf, 0.0, np.inf)
    history: list[dict[str, float]] = []

    def look(points: Sequence[np.ndarray], step: int, told: dict[str, float]) -> None:
        nonlocal best
        z = np.stack(points).astype(np.float32)
        scores = _on_dev(space, attached, z, [exam] * len(z), in_flight)
        for point, score in zip(z, scores, strict=True):
            if np.isfinite(score.loss) and (score.score, -score.loss) > (best.dev, -best.loss):
                best = replace(best, z=point, dev=score.score, loss=score.loss, step=step)
        top = max(scores, key=lambda s: (s.score, -s.loss))
        history.append({"step": step, **told, "dev_score": top.score, "dev_loss": top.loss})

    look([np.zeros(space.k)], 0, {"evaluations": 0, "forward": 0, "sigma": sigma})
    last = None
    for last in minimise(losses, space.k, evaluations=evaluations, population=population, sigma=sigma, seed=seed):
        if on_progress is not None:
            on_progress(len(last.losses))
        if last.number % look_every == 0:
            look([last.mean, last.best], last.number, _told(last, losses.rows))
    assert last is not None  # at least one generation
    if last.number % look_every:
        look([last.mean, last.best], last.number, _told(last, losses.rows))
    tested = on_test_rows(space, members, best.z[None], [task], reading, in_flight, test_rows)[0]
    return replace(
        best, score=float(np.mean([s.score for s in tested.values()])), loss=float(np.mean([s.loss for s in tested.values()])),
        scores={label: s.score for label, s in tested.items()}, history=history, forward=last.evaluations * losses.rows,
        failed=None if np.isfinite(last.losses).any() else last.number)


def _told(generation: Generation, rows: int) -> dict[str, float]:
    finite = generation.losses[np.isfinite(generation.losses)]
    return {"evaluations": generation.evaluations, "forward": generation.evaluations * rows, "sigma": generation.sigma,
            "train_loss": float(finite.min()) if len(finite) else float("nan")}


def _on_dev(space: Subspace, attached: Attached | Several, z: np.ndarray, exams: Sequence[Exam], in_flight: int | None) -> list[Score]:
    if isinstance(attached, Several):
        return examine(attached, [space.decode(member.label, z) for member in attached.members], exams, in_flight=in_flight)
    return evaluate_each(attached, space.decode(attached.label, z), exams, in_flight=in_flight)


class Losses:
    """z [P, k] ↦ the mean cross-entropy of a target token over fixed training rows, and over the types; float64 [P]."""

    def __init__(self, space: Subspace, members: tuple[Attached, ...], task: Task, reading: Reading, at_once: int) -> None:
        self.members, self.at_once, self.unused = members, flight(at_once), -space.k % WIDTH
        self.constants = tuple(constants_of(space, member.label, self.unused) for member in members)
        backbone = members[0].backbone
        exam = Exam.of(backbone, task, "train", reading)
        encoded, width = exam.encoded, exam.encoded.target_ids.shape[1]
        self.tables = {name: jnp.asarray(table) for name, table in encoded.tables.items()}
        self.batches = [{name: jnp.asarray(a) for name, a in batch_of(encoded, chosen, length, width, valid).items()}
                        for length, chosen, valid in evaluation_batches(encoded, reading, min(64, len(encoded)))]
        self.rows = len(encoded) * len(members)
        """Rows that one candidate runs through the backbone."""

    def __call__(self, points: np.ndarray) -> np.ndarray:
        forget_programs()
        z = np.pad(np.asarray(points, np.float32), ((0, 0), (0, self.unused)))
        return np.concatenate([self._flight(z[first : first + self.at_once]) for first in range(0, len(z), self.at_once)])

    def _flight(self, z: np.ndarray) -> np.ndarray:
        full = jnp.asarray(z[np.minimum(np.arange(self.at_once), len(z) - 1)])  # filled up with copies of the last
        run, frozen = _compiled(self.members), tuple(member.frozen for member in self.members)
        sums = [np.asarray(run(full, self.constants, frozen, {**batch, **self.tables}), np.float64) for batch in self.batches]
        total = np.sum(sums, axis=0)[: len(z)]  # [P, types, (loss, tokens)]
        return np.mean(total[..., 0] / np.maximum(total[..., 1], 1), axis=1)


@functools.lru_cache(maxsize=16)
def _compiled(members: tuple[Attached, ...]) -> Callable[..., Any]:
    def sums(z: jax.Array, constants: Any, frozen: Any, batch: Any) -> jax.Array:
        tokens = jnp.sum(batch["target_mask"]).astype(jnp.float32)
        each = [member.token_losses(theta, arrays, batch).sum()
                for member, theta, arrays in zip(members, within_each(z, constants), frozen, strict=True)]
        return jnp.stack([jnp.stack([loss, tokens]) for loss in each])

    return over_solutions(sums, (True, False, False, False))
