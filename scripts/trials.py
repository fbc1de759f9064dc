"""One delta trained on one task and scored, again and again: each trial is kept by all that it depends on, so a killed run goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

import deltas
from deltas.attach import select
from deltas.evaluation import Exam, evaluate_each
from deltas.functional import Attached
from deltas.tasks import chance
from deltas.tuning import Job, forget, tune
from deltas.types import DeltaType
from subspace.transfer import zero_shot

from .experiment import Experiment


class Trials:
    """Trials on one backbone. Those of one type in a row share its compiled programs: vary the task and the seed fastest.

    name: of the backbone among the experiment's; reading: has one bucket where a type is to compile once.
    """

    def __init__(self, made: Experiment, name: str, backbone: deltas.Backbone, tasks: list[deltas.Task], reading: deltas.Reading,
                 test_rows: int | None) -> None:
        self.made, self.name, self.backbone, self.tasks, self.reading, self.test_rows = made, name, backbone, tasks, reading, test_rows
        self._attached: Attached | None = None

    def attached(self, config: DeltaType) -> Attached:
        """The backbone with the type on it, at the type's θ0; the one asked for last is at hand."""
        if self._attached is None or self._attached.config != config:
            self._attached = None
            text = [example.input for task in self.tasks for example in task.train[:2]]
            self._attached = Attached.of(self.backbone, config, text=text)
        return self._attached

    def trial(self, config: DeltaType, training: deltas.Training, task: deltas.Task, seed: int) -> dict[str, Any]:
        """{score, dev, step, parameters, history, failed}: the test score of the vector that is best on the dev rows.

        A training whose loss is no longer finite is scored as it was at its last good look, or at θ0.
        """
        def make() -> dict[str, Any]:
            attached, job = self.attached(config), Job(task, seed)
            partial = self.made.out / "partial"
            outcome = next(tune(attached, [job], np.zeros((1, attached.layout.size), np.float32), training, self.reading, in_flight=1,
                                checkpoints=partial))[0]
            exam = Exam.of(self.backbone, task, "test", self.reading, self.test_rows)
            score = evaluate_each(attached, (attached.theta0 + outcome.vector)[None], [exam], in_flight=1)[0]
            forget(partial, attached, [job], training, self.reading)
            return {"score": score.score, "dev": outcome.score if np.isfinite(outcome.score) else None, "step": outcome.step,
                    "parameters": attached.layout.size, "history": outcome.history, "failed": outcome.failed}

        key = [self.backbone.fingerprint, config.to_json(), asdict(training), asdict(self.reading), task.fingerprint, seed, self.test_rows]
        return self.made.kept(f"{self.name}/{config.label}.{task.name}.{seed}", key, make)

    def controls(self, task: deltas.Task) -> dict[str, float]:
        """Chance and the bare backbone, on the same test rows."""
        def make() -> float:
            return zero_shot(self.attached(deltas.BitFit()), Exam.of(self.backbone, task, "test", self.reading, self.test_rows)).score

        key = [self.backbone.fingerprint, asdict(self.reading), task.fingerprint, self.test_rows]
        return {"chance": chance(task, "test", self.test_rows), "zero_shot": self.made.kept(f"{self.name}/zero_shot.{task.name}", key, make)}


def parameters_of(backbone: deltas.Backbone) -> int:
    """How many numbers the backbone has."""
    import jax

    return sum(int(leaf.size) for site in deltas.sites(backbone.module).values() for leaf in jax.tree.leaves(site.plain()))


def counted(settings: Mapping[str, int]) -> None:
    """Refuse numbers below 1.

    Raises:
        InputError: the first of them by name.
    """
    for name, value in settings.items():
        if value < 1:
            raise deltas.InputError(f"expected {name} of at least 1, got {value}; raise it")


def of_backbone(settings: Any, field: str, number: int, optional: bool = False) -> Any:
    """One backbone's value of a field that has one value for all or one a backbone; None of an `optional` one that is empty.

    Raises:
        InputError: any other number of values.
    """
    values = getattr(settings, field)
    if len(values) not in (1, len(settings.backbones)) and not (optional and not values):
        raise deltas.InputError(f"expected one of {field} for all backbones or one for each of {len(settings.backbones)}, got {len(values)}; "
                                "mend the list")
    return values[number % len(values)] if values else None


def patterns_of(text: str, places: Mapping[str, Any]) -> tuple[str, ...]:
    """Patterns of sites that are joined by +.

    Raises:
        InputError: one that matches no site of `places`.
    """
    patterns = tuple(filter(None, text.split("+")))
    for pattern in patterns:
        select(places, (pattern,))
    return patterns
