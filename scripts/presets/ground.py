"""What a preset works with: the checked backbone, tasks and types, the bank of their solutions, and the controls."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from deltas import Attached, Backbone, Bank, DeltaType, Reading, Task, Training
    from deltas.evaluation import Exam

    from ..experiment import Experiment
    from .common import Preset

MARK = "made.json"
"""In a bank: the settings its solutions were made with."""


@dataclass(eq=False)
class Ground:
    """What a preset works with."""

    experiment: Experiment
    settings: Preset
    backbone: Backbone
    tasks: list[Task]
    reading: Reading
    training: Training
    types: list[DeltaType]

    @property
    def labels(self) -> list[str]:
        """Of the types, in order."""
        return [one.label for one in self.types]

    @property
    def name(self) -> str:
        """The backbone's, without the folders it lies in."""
        return Path(self.backbone.name).name

    @property
    def drawn(self) -> str:
        """What means and intervals are over, in words."""
        many = lambda n, what: f"{n} {what}{'s' * (n != 1)}"  # noqa: E731
        return f"{many(len(self.tasks), 'task')} and {many(self.settings.seeds, 'seed')} with 95% intervals (tasks and seeds drawn)"

    def grain(self) -> str:
        """How far one score is to be trusted alone, and intervals over so many tasks, in words."""
        from subspace.ranking import LEAST_TASKS

        few = (f" With {len(self.tasks)} tasks the interval of a mean or a difference is too narrow: {LEAST_TASKS} that all point one way are "
               "the least that chance does not often bring about, and below that nothing is called told apart.")
        rows = self.settings.test_rows or min(len(task.test) for task in self.tasks)
        return (f"A score of {rows} test rows alone is known to about ±{0.98 / rows**0.5:.2f} (95%, for shares of rows near a half); means over "
                "tasks and seeds are known better."
                + few * (len(self.tasks) < LEAST_TASKS))

    @property
    def folder(self) -> Path:
        """The bank's."""
        return self.settings.bank or self.settings.out / "bank"

    @cached_property
    def parameters(self) -> int:
        """Numbers in the backbone's weights."""
        from ..trials import parameters_of

        return parameters_of(self.backbone)

    def check(self) -> None:
        """Refuse tasks that the backbone cannot answer, and a bank that was made otherwise."""
        from deltas.verbalizer import can_answer

        can_answer(self.backbone, self.tasks, self.reading)
        self.check_bank(self.folder, self.reading)

    def check_bank(self, folder: Path, reading: Reading) -> None:
        """Refuse a bank whose solutions were made with other settings or other rows of a task: they would be mixed without a word."""
        from deltas import InputError
        from deltas.files import read_json

        mark, made = folder / MARK, self.made(reading)
        before = read_json(mark) if mark.is_file() else {}
        shared = {name: before["tasks"][name] for name in made["tasks"] if name in before.get("tasks", {})}
        if before and (odd := [key for key in made if key != "tasks" and before.get(key) != made[key]]
                       + ["tasks"] * (shared != {name: made["tasks"][name] for name in shared})):
            raise InputError(f"expected the {odd[0]} that the solutions in {folder} were trained with ({_short(before.get(odd[0]))}), got "
                             f"{_short(made[odd[0]])}; give the study a new --out")

    def mark(self, folder: Path, reading: Reading) -> None:
        """Write into a bank what its solutions are made with."""
        from deltas.files import read_json, write_json

        made, path = self.made(reading), folder / MARK
        if path.is_file():
            made["tasks"] = read_json(path)["tasks"] | made["tasks"]
        write_json(path, made)

    def made(self, reading: Reading) -> dict[str, Any]:
        """All that a solution of the bank depends on, beside its type, task and seed."""
        tasks = {task.name: task.fingerprint for task in self.tasks}
        told = {"backbone": self.backbone.fingerprint, "training": asdict(self.training), "reading": asdict(reading), "tasks": tasks,
                "test_rows": self.settings.test_rows, "seed": self.settings.seed}
        return json.loads(json.dumps(told))

    def train(self) -> Bank:
        """The solutions of every task, type and seed."""
        import deltas

        self.mark(self.folder, self.reading)
        settings = self.settings
        with self.experiment.bars.stage("train", self.training.steps * len(self.tasks) * settings.seeds * len(self.types)) as bar:
            done = 0

            def tell(what: str, now: int, total: int) -> None:
                nonlocal done
                bar(now - done, what)
                done = now

            return deltas.train(self.backbone, self.tasks, self.types, seeds=settings.seeds, out=self.folder, training=self.training,
                                reading=self.reading, in_flight=settings.in_flight, test_rows=settings.test_rows, seed=settings.seed,
                                on_progress=tell)

    def scored(self, bank: Bank, label: str) -> dict[str, list[float]]:
        """Task → the test scores of its seeds; those that failed are left out."""
        return {task.name: [bank.scores(label, task.name, seed)["test"] for seed in range(self.settings.seeds)
                            if bank.file(label, task.name, seed).is_file()] for task in self.tasks}

    def exam(self, task: Task, split: str = "test", reading: Reading | None = None) -> Exam:
        """The rows of a split that are scored."""
        from deltas.evaluation import Exam

        return Exam.of(self.backbone, task, split, reading or self.reading, self.rows(split))

    def rows(self, split: str) -> int | None:
        """How many rows of a split are scored; None: all."""
        return {"test": self.settings.test_rows, "dev": self.settings.dev_rows}.get(split)

    def controls(self, attached: Attached, splits: Sequence[str] = ("test",)) -> dict[str, dict[str, dict[str, float]]]:
        """Split → task → {zero_shot: the backbone alone, zero_shot_loss: its loss, chance: the most frequent training answer}."""
        from deltas.evaluation import evaluate_each
        from deltas.tasks import chance
        from subspace.transfer import bare

        found: dict[str, dict[str, dict[str, float]]] = {split: {} for split in splits}
        nothing = bare(attached)
        with self.experiment.bars.stage("controls", len(self.tasks) * len(splits)) as bar:
            for split in splits:
                for task in self.tasks:
                    def alone(task: Task = task, split: str = split) -> dict[str, float]:
                        exam = self.exam(task, split)
                        alone = evaluate_each(nothing, np.zeros((1, 0), np.float32), [exam])[0]
                        return {"zero_shot": alone.score, "zero_shot_loss": alone.loss, "chance": chance(task, split, self.rows(split))}

                    found[split][task.name] = self.experiment.kept(f"controls.{split}.{task.name}", self.key(task, split), alone)
                    bar()
        return found

    def key(self, task: Task, split: str) -> list[Any]:
        """What a score on a task's rows depends on, beside the delta."""
        return [self.backbone.fingerprint, asdict(self.reading), task.fingerprint, split, self.rows(split)]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 200 else f"{text[:200]} …"


def categories_of(settings: Mapping[str, str], tasks: Sequence[Task]) -> dict[str, str]:
    """Task → category, of the settings where it is given there, else the task's own.

    Raises:
        InputError: a category of a task that is not studied, or a task without.
    """
    from deltas import InputError

    names = [task.name for task in tasks]
    if stray := sorted(set(settings) - set(names)):
        raise InputError(f"expected categories of the tasks {', '.join(names)}, got one of {stray[0]}; take it out or name the task")
    found = {task.name: str(settings.get(task.name) or task.category) for task in tasks}
    if bare := [name for name, kind in found.items() if not kind]:
        raise InputError(f"expected a category of every task, got none for {bare[0]}; give it in categories")
    return found
