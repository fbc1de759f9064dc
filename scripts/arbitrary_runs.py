"""The trainings of `deltaspace arbitrary` on one backbone, and what they say of its budgets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

import deltas
from deltas.budgets import Threshold, budgets_between, spread, threshold
from deltas.errors import InputError
from deltas.types import Arbitrary as Structure
from deltas.types import DeltaType, Full
from deltas.verbalizer import can_answer
from subspace.scores import interval

from .arbitrary import Arbitrary
from .experiment import Experiment
from .options import load_tasks
from .trials import Trials, of_backbone, parameters_of, patterns_of


@dataclass(frozen=True, kw_only=True)
class Ground:
    """One backbone of the study with its tasks, budgets and learning rates."""

    settings: Arbitrary
    name: str
    backbone: deltas.Backbone
    tasks: list[deltas.Task]
    reading: deltas.Reading
    exclude: tuple[str, ...]
    budgets: list[int]
    rates: list[float]
    full_rate: float
    steps: int
    structures: int

    @classmethod
    def of(cls, settings: Arbitrary, number: int) -> Self:
        """Read the backbone and its tasks, and lay out the budgets.

        Raises:
            InputError: no such backbone, task or site; budgets outside of what its groups allow; rates that are no numbers.
        """
        own = {field: of_backbone(settings, field, number, optional=field in ("least", "most")) for field in (
            "tasks", "names", "decode", "exclude", "least", "most", "steps", "rates", "full_rate", "structures")}
        tasks = load_tasks(own["tasks"], tuple(filter(None, own["names"].split("+"))))
        reading = deltas.Reading(max_input=settings.max_input, max_target=settings.max_target, decode=own["decode"],
                                 buckets=(settings.max_input,))
        source = settings.backbones[number]
        backbone = deltas.load_backbone(source)
        can_answer(backbone, tasks, reading)
        places = deltas.sites(backbone.module)
        groups = Structure(budget=1, share=settings.share, exclude=(exclude := patterns_of(own["exclude"], places))).groups(places)
        budgets = budgets_between([group.size for group in groups], settings.budgets, own["least"], own["most"])
        return cls(settings=settings, name=Path(source).name, backbone=backbone, tasks=tasks, reading=reading, exclude=exclude,
                   budgets=budgets, rates=_rates(own["rates"], len(budgets)), full_rate=own["full_rate"], steps=own["steps"],
                   structures=own["structures"])

    # ------------------------------------------------------------ training
    @property
    def keys(self) -> range:
        """Of the structures."""
        return range(self.settings.first_structure, self.settings.first_structure + self.structures)

    def seeds(self, structure: int | None) -> range:
        """Of a structure's trainings, or of full fine-tuning's."""
        noise = structure in (None, self.settings.first_structure)
        return range(max(self.settings.seeds, self.settings.noise_seeds) if noise else self.settings.seeds)

    @property
    def work(self) -> int:
        """Steps of all trainings."""
        per_task = len(self.seeds(None)) + len(self.budgets) * sum(len(self.seeds(key)) for key in self.keys)
        return self.steps * len(self.tasks) * per_task

    def run(self, made: Experiment, tell: Callable[[int, str], None]) -> list[dict[str, Any]]:
        """Train what is not there yet; the rows of results.csv."""
        trials = Trials(made, self.name, self.backbone, self.tasks, self.reading, self.settings.test_rows)
        rows: list[dict[str, Any]] = []
        for task in self.tasks:
            for control, score in trials.controls(task).items():
                rows.append({"backbone": self.name, "task": task.name, "control": control, "metric": task.metric, "score": score})
        rows += self._trained(trials, Full(exclude=self.exclude), self.full_rate, tell, None, None)
        for key in self.keys:
            for budget, rate in zip(self.budgets, self.rates, strict=True):
                config = Structure(label=f"b{budget}-s{key}", budget=budget, structure=key, share=self.settings.share, exclude=self.exclude)
                rows += self._trained(trials, config, rate, tell, budget, key)
        return rows

    def _trained(self, trials: Trials, config: DeltaType, rate: float, tell: Callable[[int, str], None], budget: int | None,
                 key: int | None) -> list[dict[str, Any]]:
        training = deltas.Training(steps=self.steps, batch_size=self.settings.batch_size, learning_rate=rate, dev_rows=self.settings.dev_rows,
                                   evaluate_every=max(self.steps // 2, 1))
        rows = []
        for task in self.tasks:
            for seed in self.seeds(key):
                found = trials.trial(config, training, task, seed)
                rows.append({"backbone": self.name, "task": task.name, "budget": budget, "structure": key, "seed": seed, "metric": task.metric,
                             "control": "full" if budget is None else "", "parameters": found["parameters"], "score": found["score"],
                             "dev": found["dev"], "step": found["step"], "rate": rate})
                tell(self.steps, f"{self.name} {config.label}")
        return rows


def _rates(text: str, count: int) -> list[float]:
    """One a budget."""
    try:
        rates = [float(part) for part in text.split("+")]
    except ValueError:
        rates = []
    if len(rates) not in (1, count) or not all(0 < rate < np.inf for rate in rates):
        raise InputError(f"expected a learning rate above 0, or one a budget ({count}) joined by +, got {text!r}; for example 0.003")
    return rates * count if len(rates) == 1 else rates


@dataclass(frozen=True, kw_only=True)
class Curves:
    """What the trainings on one backbone scored.

    scores: [tasks, structures, seeds, budgets], NaN where a structure has fewer seeds; chance, zero_shot: [tasks, 1]; full: [tasks, seeds].
    """

    ground: Ground
    rows: list[dict[str, Any]]
    scores: np.ndarray
    chance: np.ndarray
    zero_shot: np.ndarray
    full: np.ndarray

    @classmethod
    def of(cls, ground: Ground, rows: list[dict[str, Any]]) -> Self:
        """Of the rows of results.csv that are the ground's."""
        ours = [row for row in rows if row["backbone"] == ground.name]
        tasks = [task.name for task in ground.tasks]

        def control(name: str) -> np.ndarray:
            return np.array([[row["score"] for row in ours if row["control"] == name and row["task"] == task] for task in tasks])

        shape = (len(tasks), len(ground.keys), len(ground.seeds(ground.keys[0])), len(ground.budgets))
        scores = np.full(shape, np.nan)
        for row in ours:
            if not row["control"]:
                place = (tasks.index(row["task"]), row["structure"] - ground.keys[0], row["seed"], ground.budgets.index(row["budget"]))
                scores[place] = row["score"]
        return cls(ground=ground, rows=ours, scores=scores, chance=control("chance"), zero_shot=control("zero_shot"), full=control("full"))

    @property
    def parameters(self) -> int:
        """Of the backbone."""
        return parameters_of(self.ground.backbone)

    def threshold(self, which: str, task: int | None = None) -> Threshold:
        """P_low, above chance; P_gain, above the bare backbone and chance; or P_high; of all tasks or of one."""
        some = slice(None) if task is None else slice(task, task + 1)
        floor = {"low": self.chance, "gain": np.maximum(self.chance, self.zero_shot), "high": self.full}[which]
        offset = -self.ground.settings.tolerance if which == "high" else self.ground.settings.tolerance
        return threshold(self.ground.budgets, self.scores[some], floor[some], offset, strict=which != "high")

    def spreads(self) -> dict[int | None, dict[str, Any]]:
        """At each budget, and over all of them (None): standard deviations over structures and over seeds; over all, with an interval."""
        cells = [[spread(self.scores[t, :, :, b]) for b in range(len(self.ground.budgets))] for t in range(len(self.ground.tasks))]
        found: dict[int | None, dict[str, Any]] = {}
        for b, budget in [*enumerate(self.ground.budgets), (None, None)]:
            some = [[cell for i, cell in enumerate(line) if b in (i, None)] for line in cells]
            structure = {task.name: [c.structure for c in line if c.structure is not None]
                         for task, line in zip(self.ground.tasks, some, strict=True)}
            noise = [c.noise for line in some for c in line if c.noise is not None]
            found[budget] = {"structure": _deviation([v for vs in structure.values() for v in vs]), "noise": _deviation(noise),
                             "interval": [_deviation([v]) for v in (interval(structure) if b is None else None) or []] or None}
        return found


def _deviation(variances: list[float]) -> float | None:
    """The root of the mean variance; 0 where the estimate is below it."""
    return float(np.sqrt(max(np.mean(variances), 0.0))) if variances else None
