"""A full delta started from the best point of the subspace, against the same training started from θ0.

    cold: v = 0,      warm: v = decode(z) − θ0 = μ + z U,      then both tune all of θ = θ0 + v

Rows, their order, noise and settings are the same in both, so that what differs is the start alone. What z cost to find is not counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deltas import Reading, Task, Training
from deltas.backbones import Backbone
from deltas.evaluation import Exam, Score, evaluate_each
from deltas.functional import Attached
from deltas.tuning import Job, tune
from subspace.base import Subspace
from subspace.optimize import attach_to


@dataclass(frozen=True, eq=False, kw_only=True)
class Run:
    """One training of a full delta.

    `history` has a line a look, the first at step 0: step, dev_score, dev_loss, test_score, test_loss and, after step 0, train_loss.
    `vector` is θ − θ0 float32 [D] at the look that was best on the dev rows, `step`, `dev` and `score` (on the test rows) are that look's.
    """

    history: Sequence[Mapping[str, float]]
    vector: np.ndarray
    step: int
    dev: float
    score: float
    failed: int | None = None

    def reaches(self, target: float) -> int | None:
        """The step of the first look whose dev score is at least `target`; None where there is none."""
        return next((int(look["step"]) for look in self.history if look["dev_score"] >= target), None)


@dataclass(frozen=True, eq=False, kw_only=True)
class WarmStart:
    """The two trainings, and the steps that each needs to the dev score `target`; None where it does not get there."""

    task: str
    label: str
    seed: int
    target: float
    cold: Run
    warm: Run
    steps_cold: int | None = field(init=False)
    steps_warm: int | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps_cold", self.cold.reaches(self.target))
        object.__setattr__(self, "steps_warm", self.warm.reaches(self.target))

    @property
    def gain(self) -> int | None:
        """Steps saved: those of the cold run less those of the warm one. None where either does not get there."""
        return None if self.steps_cold is None or self.steps_warm is None else self.steps_cold - self.steps_warm

    def __str__(self) -> str:
        def steps(count: int | None) -> str:
            return "not reached" if count is None else f"{count} steps"

        return (f"{self.task}, {self.label}: dev {self.target:.3f} cold {steps(self.steps_cold)}, warm {steps(self.steps_warm)}; "
                f"test cold {self.cold.score:.3f}, warm {self.warm.score:.3f}")


def warm_start(
    space: Subspace,
    backbone: Backbone,
    task: Task,
    z: np.ndarray,
    label: str,
    training: Training | None = None,
    *,
    target: float | None = None,
    seed: int = 0,
    reading: Reading | None = None,
    test_rows: int | None = None,
) -> WarmStart:
    """Train all of θ from decode(z) and from θ0.

    Args:
        z: float [k], as `optimize` found it for the task.
        label: the delta type to train.
        training: of both; its schedule and its steps too, so a warm run may end before it could.
        target: the dev score to reach; None is the cold run's at its last look.
        seed: of the order of the data.
        test_rows: of the test split, scored at every look beside the dev rows; they choose nothing. None is all.

    Example:
        found = subspace.optimize(space, backbone, task, through="lora")
        print(subspace.warm_start(space, backbone, task, found.z, "lora", deltas.Training(evaluate_every=20)))
    """
    training, reading, attached = training or Training(), reading or Reading(), attach_to(space, backbone, label)
    warm = space.decode(label, np.asarray(z, np.float32)) - attached.theta0
    cold, warm = (_run(attached, Job(task, seed), start, training, reading, test_rows) for start in (np.zeros_like(warm), warm))
    last = float(cold.history[-1]["dev_score"])
    return WarmStart(task=task.name, label=label, seed=seed, target=last if target is None else target, cold=cold, warm=warm)


def _run(attached: Attached, job: Job, start: np.ndarray, training: Training, reading: Reading, test_rows: int | None) -> Run:
    exams = {"dev": Exam.of(attached.backbone, job.task, "dev", reading, training.dev_rows),
             "test": Exam.of(attached.backbone, job.task, "test", reading, test_rows)}
    tests: list[Score] = []

    def look(attached: Attached, thetas: Any, exams_of_dev: Sequence[Exam], in_flight: int | None = None) -> list[Score]:
        tests.append(evaluate_each(attached, thetas[:1], [exams["test"]], in_flight=1)[0])
        return evaluate_each(attached, thetas, exams_of_dev, in_flight=in_flight)

    first = look(attached, (attached.theta0 + start)[None], [exams["dev"]])[0]
    (outcome,), = tune(attached, [job], start[None], training, reading, examine=look, in_flight=1)
    dev = [{"step": 0, "dev_score": first.score, "dev_loss": first.loss}, *outcome.history]
    history = [{**line, "test_score": s.score, "test_loss": s.loss} for line, s in zip(dev, tests, strict=True)]
    started = not np.isfinite(outcome.score) or (first.score, -first.loss) >= (outcome.score, -outcome.loss)
    step = 0 if started else outcome.step
    best = next(line for line in history if line["step"] == step)
    return Run(history=history, vector=start if started else outcome.vector, step=step, dev=best["dev_score"], score=best["test_score"],
               failed=outcome.failed)
