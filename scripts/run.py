"""A study under way: what its file names, its folder, the rows of its table, and the results of stages that are kept."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import deltas
from deltas.bank import Bank
from deltas.evaluation import Exam
from deltas.functional import Attached
from deltas.tasks import Task
from deltas.verbalizer import can_answer

from .experiment import kept
from .options import load_tasks
from .progress import Bars
from .study_file import Study

Row = dict[str, Any]


def row(stage: str, task: Task, score: float, *, source: str = "", target: str = "", method: str = "", k: int | str = "",
        seed: int | str = "", control: str = "") -> Row:
    """One line of results.csv."""
    return {"stage": stage, "method": method, "k": k, "source": source, "target": target, "task": task.name, "seed": seed,
            "control": control, "metric": task.metric, "score": round(score, 6)}


@dataclass
class Run:
    """A study under way in its folder."""

    study: Study
    out: Path
    bars: Bars
    rows: list[Row] = field(default_factory=list)

    # ------------------------------------------------------------ what the study names
    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """Task names by group: source, and the groups that are tuned inside the subspace (dev, unseen, …)."""
        tasks = self.study.tasks
        if tasks.folder == "gym" and not tasks.sources:
            from deltas.tasks.gym import gym_groups

            found = {str(group): list(names) for group, names in gym_groups().items()}
            for group in tasks.groups:
                if group not in found:
                    raise deltas.InputError(f"expected tasks.groups of the gym ({', '.join(found)}), got {group!r}; choose among them")
            return {group: found[group] for group in tasks.groups}
        groups = {"source": list(tasks.sources), "dev": list(tasks.dev), "unseen": list(tasks.unseen)}
        for group in ("source", "unseen"):
            if not groups[group]:
                raise deltas.InputError(f"expected tasks.{group}s in the study file, got none; name some" if group == "source" else
                                        "expected tasks.unseen in the study file, got none; name tasks that are not sources")
        both = sorted(set(groups["source"]) & {*groups["unseen"], *groups["dev"]})
        if both:
            raise deltas.InputError(f"expected unseen tasks that are no sources, got {both[0]} among both; take it out of one list")
        return groups

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """Every task of the study by name."""
        settings, names = self.study.tasks, [name for group in self.groups.values() for name in group]
        options = {} if settings.folder == "gym" else {"metrics": settings.metrics, "shots": settings.shots}
        loaded = load_tasks(settings.folder, names, **options)
        return {t.name: dataclasses.replace(t, train=t.train[: settings.train_rows]) for t in loaded}

    def check(self) -> None:
        """Refuse what cannot work before anything is trained: tasks, backbone, and a k that the sources cannot span."""
        solutions, settings = len(self.groups["source"]) * self.study.seeds, self.study.decomposition
        learned = settings.methods == ("autoencoder",) and settings.autoencoder.start == "random" and "random_basis" not in settings.controls
        if too_many := [n for n in settings.source_counts if n > len(self.groups["source"])]:
            raise deltas.InputError(f"expected decomposition.source_counts of at most the {len(self.groups['source'])} source tasks, got "
                                    f"{too_many[0]}; lower it or name more sources")
        if max(settings.k) > solutions - 1 and not learned:
            raise deltas.InputError(f"expected decomposition.k of at most {solutions - 1}, one less than the {solutions} solutions of a type "
                                    f"(sources × seeds), got {max(settings.k)}; lower k or name more sources")
        can_answer(self.backbone, list(self.tasks.values()), self.study.reading)

    def unseen(self) -> list[Task]:
        """The tasks that are tuned inside the subspace, in the order of their groups."""
        return [self.tasks[name] for group, names in self.groups.items() if group != "source" for name in names]

    @cached_property
    def backbone(self) -> deltas.Backbone:
        """The study's backbone."""
        return deltas.load_backbone(self.study.backbone.source, dtype=self.study.backbone.dtype)

    @cached_property
    def bank(self) -> Bank:
        """The bank of the study's folder."""
        return Bank(self.out / "bank", create=True)

    @cached_property
    def labels(self) -> list[str]:
        """The delta types by label, in the order of the study file."""
        return [config.label for config in self.study.delta_types()]

    @cached_property
    def attached(self) -> dict[str, Attached]:
        """The backbone with each type at the bank's θ0: one for all stages, so that nothing compiles twice."""
        return {label: deltas.attached_from(self.bank, self.backbone, label) for label in self.labels}

    def pairs(self) -> list[tuple[str, int]]:
        """The (task, seed) pairs that are decomposed: sources for which every type has a solution."""
        wanted = set(self.groups["source"])
        return [pair for pair in self.bank.pairs(self.labels) if pair[0] in wanted]

    def exam(self, task: Task, split: str = "test") -> Exam:
        """The rows that a task is scored on."""
        return Exam.of(self.backbone, task, split, self.study.reading,
                       self.study.tasks.test_rows if split == "test" else self.study.training.dev_rows)

    def kept(self, name: str, key: Any, make: Callable[[], Any]) -> Any:
        """The JSON value of a stage from its file, where that was made from the same `key`; otherwise made now and stored."""
        return kept(self.out, name, key, make)


