"""What `deltaspace landscape` looks at: a subspace, a study's folder or a bank, with the solutions and points that are named there."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

import deltas
import subspace
from deltas import Backbone, Bank, Reading, Solution, Task
from deltas.errors import InputError
from deltas.files import read_json
from deltas.functional import Attached
from subspace import Subspace
from subspace.optimize import attach_to

if TYPE_CHECKING:
    from .landscape import Landscape

Where = Literal["z", "theta", "weights"]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Given:
    """What is looked at.

    Args:
        space: None of a bank. bank: None of a subspace alone.
        found: {task: {label: z}}, the points found for it through each type.
        through: the type whose θ, weights, eigenvectors or way it is.
    """

    where: Where
    space: Subspace | None
    bank: Bank | None
    backbone: Backbone
    tasks: list[Task]
    reading: Reading
    found: dict[str, dict[str, np.ndarray]]
    labels: list[str]
    through: str

    @cached_property
    def _attached(self) -> dict[str, Attached]:
        return {}

    def attached(self, label: str) -> Attached:
        """A type on the backbone, made once."""
        if label not in self._attached:
            if self.space is not None:
                self._attached[label] = attach_to(self.space, self.backbone, label)
            else:
                assert self.bank is not None  # there is one of both
                self._attached[label] = deltas.attached_from(self.bank, self.backbone, label)
        return self._attached[label]

    @property
    def relative(self) -> bool:
        """Whether positions are relative, which tells the slots of a prefix in self-attention apart."""
        return self.backbone.config.positions == "relative"

    def points(self, task: Task) -> dict[str, np.ndarray]:
        """The points of z found for a task, by the type that each was found through."""
        return self.found.get(task.name, {})

    def solution(self, text: str) -> Solution:
        """A solution of the bank, from `task`, `task.seed` or `type:task.seed`."""
        label, pair = split_name(text)
        if self.bank is None:
            raise InputError(f"expected a bank to read the solution {text} from, got a subspace alone; name it with --bank")
        return self.bank.load(label or self.through, *pair)

    def code(self, text: str) -> tuple[str, np.ndarray]:
        """A solution's name and z: a source's own code, or that of one type's solution where it is named with its type."""
        label, pair = split_name(text)
        assert self.space is not None  # codes are asked for in z alone
        if label is None and pair in self.space.pairs:
            return f"{pair[0]} {pair[1]}", np.asarray(self.space.codes[list(self.space.pairs).index(pair)])
        if label is None and self.bank is None:
            raise InputError(f"expected a source of the subspace, as task or task.seed, got {text!r}; name another, or --bank with the solution")
        found = subspace.project(self.space, self.solution(text), relative=self.relative)
        return f"{found.name} ({found.label})", found.z

    def centre(self, task: Task, names: Sequence[str]) -> tuple[str, np.ndarray]:
        """The point of z that is looked around: the one that is named, or that found for the task through `through`."""
        if names:
            return self.code(names[0])
        points = self.points(task)
        if not points:
            raise InputError(f"expected a point of z to look around for {task.name}, got none; name a source with --solutions, or points with "
                             "--found")
        label = self.through if self.through in points else next(iter(points))
        return f"{label}'s point", points[label]

    def theta(self, task: Task, names: Sequence[str], label: str | None = None) -> tuple[str, np.ndarray]:
        """θ of a type that is looked around: of the solution that is named, else of the task's own in the bank, else decoded from z."""
        label = label or self.through
        if names or self.space is None or not self.points(task):
            text = names[0] if names else task.name
            solution = self.solution(text if split_name(text)[0] else f"{label}:{text}")
            if solution.label != label:
                raise InputError(f"expected a solution of {label}, got {text}; leave its type out, or look --through {solution.label}")
            return f"{solution.task} {solution.seed}", np.asarray(solution.theta)
        name, z = self.centre(task, ())
        return name, np.asarray(self.space.decode(label, z))


def given_of(asked: Landscape) -> Given:
    """What the command was given; every refusal comes before any work."""
    path = asked.given
    assert path is not None  # refused before
    if (path / "study.toml").is_file():
        space, bank, backbone, tasks, reading, found = _study(path, asked)
    else:
        is_bank = (path / "theta0").is_dir()
        space = None if is_bank else Subspace.load(path)
        bank = Bank(path) if is_bank else Bank(asked.bank) if asked.bank is not None else None
        backbone, tasks, reading = asked.load()
        found = {}
        if space is not None:
            space = subspace.placed(space, backbone)
    if asked.found is not None:
        found = _found(asked.found, space)
    where: Where = asked.where or ("theta" if space is None else "z")
    if where == "z" and space is None:
        raise InputError(f"expected a subspace or a study to move z of, got the bank {path}; decompose it first, or choose --where theta")
    tasks = [task.scored_by(asked.metric) for task in tasks]
    labels = list(space.labels) if space is not None else bank.labels() if bank is not None else []
    through = asked.through or next(iter(labels), "")
    if through not in labels:
        raise InputError(f"expected --through of {', '.join(labels)}, got {through!r}; choose one of them")
    return Given(where=where, space=space, bank=bank, backbone=backbone, tasks=tasks, reading=reading, found=found, labels=labels,
                 through=through)


def _study(folder: Path, asked: Landscape) -> tuple[Subspace, Bank, Backbone, list[Task], Reading, dict[str, dict[str, np.ndarray]]]:
    """The study's own subspace with the points it found; --backbone and --tasks where they lie elsewhere now."""
    from .options import use_devices
    from .progress import Bars
    from .run import Run
    from .stages import found_points
    from .study_file import parse_study

    use_devices(asked.cpu_devices)
    study = parse_study((folder / "study.toml").read_text(encoding="utf-8"))
    source, tasks = study.backbone, study.tasks
    if asked.backbone != "tiny":
        source = dataclasses.replace(source, source=asked.backbone)
    if asked.tasks != "gym":
        tasks = dataclasses.replace(tasks, folder=asked.tasks)
    run, settings = Run(dataclasses.replace(study, backbone=source, tasks=tasks), folder, Bars()), study.decomposition
    unseen = [task.name for task in run.unseen()]
    names = asked.names or (study.landscape.tasks if study.landscape else ()) or unseen[:1]
    for name in names:
        if name not in run.tasks:
            raise InputError(f"expected tasks of the study, got {name!r}; choose among {', '.join(run.tasks)}")
    space = Subspace.load(folder / "subspace" / f"{settings.methods[0]}-k{settings.tables}")
    return (space, run.bank, run.backbone, [run.tasks[name] for name in names], study.reading,
            {name: found_points(run, name) for name in names})


def _found(path: Path, space: Subspace | None) -> dict[str, dict[str, np.ndarray]]:
    """The points of `found.json`: seed 0 of every task and type."""
    found: dict[str, dict[str, np.ndarray]] = {}
    if not path.is_file():
        raise InputError(f"expected `found.json` of `optimize` at {path}, got nothing there; check the path")
    for point in read_json(path):
        if space is None or len(point["z"]) != space.k:
            what = "a bank" if space is None else f"a subspace of {space.k}"
            raise InputError(f"expected points of the subspace that is looked at, got {len(point['z'])} numbers and {what}; use "
                             "that of `optimize`")
        if point["seed"] == 0:
            found.setdefault(point["task"], {})[point["through"]] = np.asarray(point["z"], np.float32)
    return found


def split_name(text: str) -> tuple[str | None, tuple[str, int]]:
    """(type, (task, seed)) from `task`, `task.seed` or `type:task.seed`; a name may itself hold dots."""
    label, colon, rest = text.rpartition(":")
    name, dot, seed = rest.rpartition(".")
    return label if colon else None, (name, int(seed)) if dot and seed.isdigit() else (rest, 0)

