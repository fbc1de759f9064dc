"""`python -m deltaspace.bench.landscapes --backbone FOLDER --tasks FOLDER --out FILE`: planes against what else one would use.

    points    seconds a point against a plain PyTorch loop: everything moves, or the decoder alone; answers generated, or labels ranked
    map       evaluations that the adaptive grid needs for a 41 × 41 map at 2 % of the range, and its true error
    foreign   losses on planes of the package loss-landscapes

The map's points are kept beside the results, so that a run that is stopped goes on where it was.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tyro

from ..options import load_tasks
from .timing import machine, pin_threads

if TYPE_CHECKING:
    from deltas import Attached, Backbone, Reading, Task

Part = Literal["points", "map", "foreign"]
TARGETS = {"encoder and decoder": 1.0, "decoder": 3.0, "share": 0.25}
"""The least ratio theirs / ours by what moves, and the largest share of a map's points that are evaluated."""
ERROR = 1e-4
"""The largest difference of two losses."""
SHORT = (2, 4, 8, 16, 32, 64)
"""Buckets of the map's rows: labels of two tokens are not padded to eight."""
SIZE = 0.05
"""Of the random numbers that are a LoRA's factor B where no bank is given."""


@dataclass(frozen=True, kw_only=True)
class Landscapes:
    """Time, map and compare planes of one LoRA on one task."""

    out: Path
    """The JSON that is written."""
    backbone: str = "tiny"
    """A T5: a Hugging Face folder, a hub id, or "tiny"."""
    tasks: str = "gym"
    """A folder with one folder a task, or "gym"."""
    task: str | None = None
    """The task, one with labels; the first with labels where not given."""
    bank: Path | None = None
    """A bank whose solution of LoRA for the task is the planes' centre; random factors where not given."""
    space: Path | None = None
    """A subspace whose leading plane of z is mapped for every type, beside two planes of θ."""
    cache: Path | None = None
    """Where the map's points are kept; a folder beside `out` where not given."""
    only: tuple[Part, ...] = ("points", "map", "foreign")
    """Which parts."""
    rows: int = 64
    """Test rows of the timed points."""
    map_rows: int = 16
    """Test rows of a point of the map, where labels are ranked."""
    map_input: int = 24
    """Tokens kept of their inputs."""
    side: int = 41
    """Points a side of the map."""
    max_input: int = 64
    """Tokens kept of an input."""
    rounds: int = 5
    """Timed rounds, at least 5."""
    threads: int = 2
    """Processors and threads that both ways get."""
    seed: int = 0
    """Of directions."""

    def run(self) -> None:
        """Measure, print, write."""
        from deltas.errors import InputError

        if self.rounds < 5:
            raise InputError(f"expected at least 5 rounds, got {self.rounds}; a median of fewer says little")
        pin_threads(self.threads)
        import deltas
        from deltas.bank import versions
        from deltas.files import write_json

        task = task_of(load_tasks(self.tasks, (self.task,) if self.task else ()))
        backbone = deltas.load_backbone(self.backbone)
        attached, theta = self.centre(backbone, task)
        reading = deltas.Reading(max_input=self.max_input, max_target=16)
        ways: dict[str, Callable[[], Any]] = {
            "points": lambda: timed(attached, theta, task, reading, rounds=self.rounds, threads=self.threads, rows=self.rows, seed=self.seed),
            "map": lambda: self.mapped(attached, theta, task, replace(reading, decode="rank", max_input=self.map_input, buckets=SHORT)),
            "foreign": lambda: foreign(attached, theta, task, replace(reading, decode="rank"), self.threads, self.seed),
        }
        found, load = {}, {}
        for part in self.only:
            found[part] = ways[part]()
            load[part] = round(os.getloadavg()[0], 1)
            print(part, json.dumps(found[part], ensure_ascii=False), flush=True)
        write_json(self.out, {**found, "load": load, "machine": machine(), "versions": {**versions(), **others()}, "settings": self.settings()})

    def settings(self) -> dict[str, Any]:
        """What was asked for, without the folders that lead there."""
        kept = {name: value.name if isinstance(value, Path) else value for name, value in vars(self).items() if name not in ("out", "cache")}
        return kept | {"backbone": Path(self.backbone).name, "tasks": Path(self.tasks).name}

    def centre(self, backbone: "Backbone", task: "Task") -> "tuple[Attached, np.ndarray]":
        """A LoRA and its θ: the bank's solution for the task, or one that is drawn."""
        import deltas

        if self.bank is not None:
            bank = deltas.Bank(self.bank)
            seed = min((seed for name, seed in bank.pairs(["lora"]) if name == task.name), default=0)
            solution = bank.load("lora", task.name, seed)
            return deltas.Attached.of(backbone, solution.config, theta0=solution.theta0), solution.theta
        attached = deltas.Attached.of(backbone, deltas.LoRA(), seed=self.seed)
        drawn = SIZE * np.random.default_rng(self.seed).standard_normal(attached.layout.size)
        return attached, (attached.theta0 + drawn).astype(np.float32)

    def mapped(self, attached: "Attached", theta: np.ndarray, task: "Task", reading: "Reading") -> dict[str, Any]:
        """The planes, each evaluated at all points and then adaptively."""
        import landscape
        from subspace import Subspace

        from .plane_map import against_dense, summary
        from .plane_points import plane_around

        spaces: dict[str, tuple[Any, str]] = {}
        if self.space is not None:
            space = Subspace.load(self.space)
            spaces |= {f"z through {label}": (space, label) for label in space.labels}
        for name, beginning in (("θ of lora", ""), ("θ of lora, decoder", "decoder.")):
            spaces[name] = plane_around(attached, theta, beginning, self.seed), attached.label
        planes = {}
        for name, (space, label) in spaces.items():
            start = time.perf_counter()
            dense = landscape.plane(space, attached.backbone, task, labels=(label,), resolution=self.side, rows=self.map_rows, reading=reading,
                                    cache=self.cache or self.out.with_suffix(""))
            planes[name] = against_dense(dense)[label]
            print(name, f"{time.perf_counter() - start:.0f} s", json.dumps(planes[name]), flush=True)
        worst = summary(planes)
        return {**worst, "target": TARGETS["share"], "met": worst["share"] <= TARGETS["share"], "each": planes, "side": self.side,
                "rows": self.map_rows, "tokens": self.map_input, "decode": reading.decode}


def task_of(tasks: "Sequence[Task]") -> "Task":
    """The first whose answers can be ranked."""
    from deltas.errors import InputError

    found = next((task for task in tasks if task.labels), None)
    if found is None:
        raise InputError(f"expected a task with labels, got {', '.join(task.name for task in tasks)}; name another")
    return found


def timed(attached: "Attached", theta: np.ndarray, task: "Task", reading: "Reading", **options: Any) -> dict[str, Any]:
    """Both kinds of planes, with both ways of answering."""
    from .plane_points import against_pytorch

    found = {}
    for decoder in (False, True):
        for decode in ("generate", "rank"):
            one = against_pytorch(attached, theta, task, replace(reading, decode=decode), decoder=decoder, **options)
            target = TARGETS[one["moving"]]
            print(one["moving"], decode, one["ratio"], one["processor_time"]["ratio"], flush=True)
            found[f"{one['moving']}, {decode}"] = one | {"target": target, "met": one["ratio"] >= target and one["loss_difference"] <= ERROR}
    return found


def foreign(attached: "Attached", theta: np.ndarray, task: "Task", reading: "Reading", threads: int, seed: int) -> dict[str, Any]:
    """Planes of the other package."""
    from . import originals
    from .foreign_planes import compare

    found = compare(attached, theta, task, reading, originals.load(attached.backbone, threads), seed=seed)
    return found | {"target": ERROR, "met": found["difference"] <= ERROR}


def others() -> dict[str, str]:
    """Versions of what we are compared with, where it is installed."""
    found = {}
    for name in ("torch", "loss-landscapes", "scipy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


if __name__ == "__main__":
    tyro.cli(Landscapes).run()
