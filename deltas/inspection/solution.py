"""What one solution's file says, and how large its vector is at which sites."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote

import numpy as np
from rich.text import Text

from deltas.bank import Bank, Solution, _header, _read
from deltas.errors import InputError
from deltas.inspection.text import Cell, Report, columns, count, heights, percent, settings, shape, size, table
from deltas.layout import Layout
from deltas.types import delta_type

SOLUTION = "deltaspace.solution."


@dataclass(frozen=True, kw_only=True)
class Group:
    """The same site of every layer: `encoder.*.attn.q`."""

    name: str
    shapes: dict[str, str]
    """By parameter; several where sites differ."""
    parameters: int
    norm: float
    share: float
    """Of the squared norm of the whole vector."""
    sites: dict[str, float]
    """The norm at each site, in the order of the layout."""


@dataclass(frozen=True, kw_only=True)
class SolutionReport(Report):
    """One solution: what its header says, and how large its vector is where."""

    kind: ClassVar[str] = "solution"
    path: str | None
    nbytes: int | None
    task: str
    seed: int
    label: str
    settings: str
    config: dict[str, Any]
    size: int
    """D."""
    backbone: str
    theta0: str
    scores: dict[str, Any]
    provenance: dict[str, Any]
    norm: float
    """Of θ − θ0."""
    theta0_norm: float | None
    """None where θ0 is not beside the file."""
    groups: tuple[Group, ...]

    def lines(self) -> list[Text]:
        """Header, scores, a row a group of sites."""
        relative = f", that of θ0 {self.theta0_norm:.4g}" if self.theta0_norm is not None else ""
        about = [("settings", self.settings), ("size", f"D = {count(self.size)}" + (f", {size(self.nbytes)}" if self.nbytes else "")),
                 ("backbone", self.backbone), ("θ0", self.theta0),
                 ("scores", ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in self.scores.items()) or "none"),
                 *((k if k != "task" else "task's data", _short(v)) for k, v in self.provenance.items()),
                 ("norm", f"|θ − θ0| = {self.norm:.4g}{relative}")]
        rows: list[list[Cell]] = [
            [Text(g.name, "green"), count(len(g.sites)), " · ".join(f"{k} {v}" for k, v in g.shapes.items()), count(g.parameters),
             f"{g.norm:.4g}", percent(g.share), Text(heights(list(g.sites.values())), "cyan")] for g in self.groups]
        head = ("site", "sites", "shapes", "numbers", "norm", "of norm²", "norm by layer")
        return [Text(f"solution {self.label} of {self.task}, seed {self.seed}", "bold"), Text(),
                *columns([[Text(name, "dim"), text] for name, text in about]), Text(), *table(head, rows, right=(1, 3, 4, 5))]


def _short(value: Any) -> str:
    """A value of the provenance on one line: of a history how long it is."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return f"{len(value)} entries" if isinstance(value, list | tuple) else str(value)


def describe_solution(solution: Solution, path: Path | None = None, *, theta0: bool = True) -> SolutionReport:
    """The report of a solution; `theta0` says whether its θ0 is known."""
    return SolutionReport(
        path=None if path is None else str(path), nbytes=None if path is None else path.stat().st_size, task=solution.task, seed=solution.seed,
        label=solution.label, settings=settings(solution.config), config=solution.config.to_json(), size=solution.layout.size,
        backbone=solution.backbone, theta0=solution.theta0_fingerprint, scores=dict(solution.scores), provenance=dict(solution.provenance),
        norm=norm(solution.vector), theta0_norm=norm(solution.theta0) if theta0 else None, groups=groups(solution.layout, solution.vector))


def groups(layout: Layout, vector: np.ndarray) -> tuple[Group, ...]:
    """The vector by site, and the sites by what they are called apart from the numbers of their layers."""
    squares: dict[str, dict[str, float]] = {}
    shapes: dict[str, dict[str, dict[str, None]]] = {}
    sizes: dict[str, int] = {}
    for name, sides, start in zip(layout.names, layout.shapes, layout.offsets, strict=True):
        site, _, parameter = name.rpartition(".")
        group, length = re.sub(r"(?<![^.])\d+(?![^.])", "*", site), int(np.prod(sides))
        values = np.asarray(vector[start : start + length], np.float64)
        own = squares.setdefault(group, {})
        own[site] = own.get(site, 0.0) + float(values @ values)
        shapes.setdefault(group, {}).setdefault(parameter, {})[shape(sides)] = None
        sizes[group] = sizes.get(group, 0) + length
    total = sum(sum(own.values()) for own in squares.values())
    return tuple(
        Group(name=group, shapes={parameter: " or ".join(found) for parameter, found in shapes[group].items()}, parameters=sizes[group],
              norm=sum(own.values()) ** 0.5, share=sum(own.values()) / total if total else 0.0,
              sites={site: square**0.5 for site, square in own.items()})
        for group, own in squares.items())


def describe_solution_file(path: Path) -> SolutionReport:
    """The report of a solution's file, in its bank or apart from it.

    Raises:
        InputError: a damaged or altered file, or one that does not fit the bank around it.
    """
    if path.parent.parent.name == "solutions" and (path.parents[2] / "theta0" / f"{path.parent.name}.safetensors").is_file():
        return describe_solution(member(Bank(path.parents[2]), path), path)
    return describe_solution(_alone(path), path, theta0=False)


def _alone(path: Path) -> Solution:
    """The solution in a file whose bank is elsewhere, with an empty θ0."""
    header, vector = _read(path, "vector")
    try:
        solution = Solution(
            task=header["task"], seed=header["seed"], config=delta_type(header["type"]), layout=Layout.from_json(header["layout"]),
            vector=vector, theta0=np.zeros(0, np.float32), backbone=header["backbone"], theta0_fingerprint=header["theta0"],
            scores=header["scores"], provenance=header["provenance"])
        if json.loads(solution.header()["checksum"]) != header["checksum"]:
            raise ValueError("its checksum differs")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"expected {path} as it was written, got other contents ({error}); train it again") from None
    return solution


def is_solution(path: Path) -> bool:
    """Whether the file is a solution, whole or not."""
    try:
        return path.is_file() and str(_header(path)[0].get("format")).startswith(SOLUTION)
    except InputError:
        return path.parent.parent.name == "solutions"  # damaged beyond its header, but its place says what it was


def member(bank: Bank, path: Path) -> Solution:
    """The solution in a bank's file, which says of itself what its name says."""
    label, (task, _, seed) = path.parent.name, path.name.removesuffix(".safetensors").rpartition(".")
    if not seed.isdigit():
        raise InputError(f"expected the name TASK.SEED.safetensors, got {path.name}; rename or remove it")
    solution = bank.load(label, unquote(task), int(seed))
    if (solution.label, solution.task, solution.seed) != (label, unquote(task), int(seed)):
        raise InputError(f"expected the {label} of {unquote(task)}.{seed} as the file is named, got the {solution.label} of "
                         f"{solution.task}.{solution.seed}; put it back in its place")
    return solution


def norm(vector: np.ndarray) -> float:
    """|vector|, in float64."""
    return float(np.linalg.norm(np.asarray(vector, np.float64)))
