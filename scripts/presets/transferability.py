"""`study transferability`: every task's solution on every other task's test rows, without training, inside categories and across."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .common import Preset

if TYPE_CHECKING:
    from deltas import Bank

    from .ground import Ground

COLUMNS = ("type", "source", "target", "seed", "source_category", "target_category", "control", "metric", "score", "gain", "relative")


@dataclass(frozen=True, kw_only=True)
class Transferability(Preset):
    """Task × task."""

    types: tuple[str, ...] = ("lora",)
    """Whose solutions are moved; a map each."""
    categories: dict[str, str] = field(default_factory=dict)
    """Task → category; the built-in tasks have one of their own."""

    def run(self) -> dict[str, Any]:
        """Train, score every pair of tasks; write the table, the maps and the page."""
        from deltas.training import attached_from
        from landscape.transfer_map import draw_transfer
        from subspace.task_transfer import gain

        from ..experiment import Experiment
        from .ground import categories_of
        from .transferring import measure
        from .transferring_page import page_of

        made = Experiment(self.out, "transferability", self)
        ground = self.begin(made)
        categories = categories_of(self.categories, ground.tasks)
        check_categories(categories)
        bank = ground.train()
        names = [task.name for task in ground.tasks if all(bank.file(label, task.name, seed).is_file() for label in ground.labels
                                                           for seed in range(self.seeds))]
        controls = ground.controls(attached_from(bank, ground.backbone, ground.labels[0]))["test"]
        scores = {label: matrix_of(ground, bank, label, names) for label in ground.labels}
        bare = np.array([controls[name]["zero_shot"] for name in names])
        for label, found in scores.items():
            draw_transfer(gain(found, bare).mean(axis=0), names, self.out / "figures" / f"transfer-{label}.png", categories=categories,
                         colour_label="score − zero-shot")
        measured = {label: measure(found, controls, names, categories) for label, found in scores.items()}
        summary = {"tasks": names, "categories": categories, "controls": controls, "failed": bank.failed(),
                   "backbone": ground.backbone.fingerprint, "scores": {label: found.tolist() for label, found in scores.items()},
                   "transfer": {label: one.to_json() for label, one in measured.items()}}
        return made.write(rows_of(ground, scores, controls, names, categories), COLUMNS, summary,
                          page_of(ground, scores, controls, measured, names, categories))


def check_categories(categories: dict[str, str]) -> None:
    """Refuse categories that leave nothing to compare."""
    from deltas import InputError

    kinds = list(categories.values())
    if len(set(kinds)) < 2 or all(kinds.count(kind) < 2 for kind in kinds):
        raise InputError(f"expected at least two categories and two tasks in one of them, got {len(kinds)} tasks in {len(set(kinds))}; "
                         "change names or categories")


def matrix_of(ground: Ground, bank: Bank, label: str, names: list[str]) -> np.ndarray:
    """Scores [seeds, sources, targets], kept solution by solution."""
    from deltas.evaluation import evaluate_each
    from deltas.training import attached_from

    attached, settings = attached_from(bank, ground.backbone, label), ground.settings
    tasks = {task.name: task for task in ground.tasks}
    exams = {name: ground.exam(tasks[name]) for name in names}
    found = np.empty((settings.seeds, len(names), len(names)))
    with ground.experiment.bars.stage(f"transfer {label}", settings.seeds * len(names)) as bar:
        for s, source in enumerate(names):
            for seed in range(settings.seeds):
                def scored(source: str = source, seed: int = seed) -> list[float]:
                    thetas = np.repeat(bank.load(label, source, seed).theta[None], len(names), axis=0)
                    return [one.score for one in evaluate_each(attached, thetas, list(exams.values()), in_flight=settings.in_flight)]

                key = [ground.made(ground.reading), attached.config.to_json(), attached.theta0_fingerprint, names]
                found[seed, s] = ground.experiment.kept(f"transfer.{label}.{source}.{seed}", key, scored)
                bar(1, source)
    return found


def rows_of(ground: Ground, scores: dict[str, np.ndarray], controls: dict[str, dict[str, float]], names: list[str],
            categories: dict[str, str]) -> list[dict[str, Any]]:
    """A row a pair of tasks and seed, and the controls."""
    metrics = {task.name: task.metric for task in ground.tasks}
    rows = [{"target": name, "target_category": categories[name], "control": control, "metric": metrics[name], "score": controls[name][control]}
            for name in names for control in ("zero_shot", "chance")]
    for label, found in scores.items():
        for (seed, s, t), score in np.ndenumerate(found):
            own = float(found[seed, t, t])
            rows.append({"type": label, "source": names[s], "target": names[t], "seed": seed, "source_category": categories[names[s]],
                         "target_category": categories[names[t]], "metric": metrics[names[t]], "score": float(score),
                         "gain": round(float(score) - controls[names[t]]["zero_shot"], 6), "relative": float(score) / own if own else None})
    return rows
