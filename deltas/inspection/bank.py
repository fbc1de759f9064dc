"""What is in a bank: types, tasks, seeds, scores, what is missing; a damaged file is a fact like any other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from rich.text import Text

from deltas.bank import Bank, Solution
from deltas.errors import InputError
from deltas.files import read_json
from deltas.inspection.solution import member, norm
from deltas.inspection.text import Cell, Report, count, settings, several, size, table


@dataclass(frozen=True, kw_only=True)
class Range:
    """Mean, lowest and highest of some numbers."""

    mean: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Range | None":
        """That of the finite values; None where there are none."""
        kept = [float(v) for v in values if np.isfinite(v)]
        return cls(mean=float(np.mean(kept)), low=min(kept), high=max(kept), n=len(kept)) if kept else None


def _shown(found: Range | None, form: str = ".3f") -> str:
    return f"{found.mean:{form}} [{found.low:{form}}, {found.high:{form}}]" if found is not None else "–"


@dataclass(frozen=True, kw_only=True)
class LabelFacts:
    """One delta type of a bank."""

    label: str
    settings: str
    config: dict[str, Any]
    size: int
    """D."""
    backbone: str
    theta0: str
    """Fingerprint of θ0."""
    solutions: int
    missing: tuple[tuple[str, int], ...]
    """(task, seed) that another label has, finished or failed, and this one has not finished."""
    dev: Range | None
    test: Range | None
    norm: Range | None
    """Of the vectors θ − θ0."""


@dataclass(frozen=True, kw_only=True)
class BankReport(Report):
    """A bank as it is on the disk."""

    kind: ClassVar[str] = "bank"
    path: str
    nbytes: int
    backbones: tuple[str, ...]
    """Fingerprints; of a sound bank one."""
    labels: tuple[LabelFacts, ...]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    metrics: dict[str, int]
    """How many solutions are scored by each."""
    solutions: tuple[dict[str, Any], ...]
    """Label, task, seed, the norm of θ − θ0, and the scores of each."""
    failed: tuple[dict[str, Any], ...]
    damaged: dict[str, str]
    """File, below the bank's folder, and what is wrong with it."""

    def lines(self) -> list[Text]:
        """What it is, a row a type, what is missing, what failed, what is damaged."""
        lines = [Text(f"bank {self.path} · {len(self.solutions)} solutions of {len(self.tasks)} tasks × {len(self.labels)} types, "
                      f"seeds {several(self.seeds) or 'none'} · {size(self.nbytes)}", "bold"),
                 Text(f"backbone {' and '.join(self.backbones) or 'unknown'}")]
        if len(self.backbones) > 1:
            lines.append(Text("solutions of different backbones do not belong together", "red"))
        rows: list[list[Cell]] = [
            [Text(f.label, "green"), count(f.size), count(f.solutions), count(len(f.missing)), _shown(f.dev), _shown(f.test),
             _shown(f.norm, ".4g"), f.theta0, f.settings] for f in self.labels]
        head = ("type", "D", "solutions", "missing", "dev", "test", "|θ − θ0|", "θ0", "settings")
        lines += [Text(), *table(head, rows, right=(1, 2, 3)), Text(), Text(f"tasks: {several(self.tasks, 60) or 'none'}")]
        if self.metrics:
            lines.append(Text("metrics: " + ", ".join(f"{name} ({n})" for name, n in self.metrics.items())))
        return lines + self._coverage() + self._troubles()

    def _coverage(self) -> list[Text]:
        """The tasks that are not complete: the seeds that each type has."""
        absent = {(f.label, *pair) for f in self.labels for pair in f.missing}
        tasks = [task for task in self.tasks if any(task == of for _, of, _ in absent)]
        if not tasks:
            return [Text("complete: every type has every task and seed")] if self.solutions else []
        there = {(s["label"], s["task"], s["seed"]) for s in self.solutions}
        rows: list[list[Cell]] = []
        for task in tasks:
            seeds = {f.label: [seed for seed in self.seeds if (f.label, task, seed) in there] for f in self.labels}
            rows.append([task, *(several(has) if has else Text("–", "red") for has in seeds.values())])
        return [Text(), *table(("incomplete, its seeds:", *(f.label for f in self.labels)), rows)]

    def _troubles(self) -> list[Text]:
        return [*(Text(f"failed: {f['label']} {f['task']}.{f['seed']} at step {f['step']}", "yellow") for f in self.failed),
                *(Text(f"damaged: {name}: {what}", "red") for name, what in self.damaged.items())]


def describe_bank(bank: Bank, on_progress: Callable[[int, int], None] | None = None) -> BankReport:
    """The report of a bank, of which every file is read and checked.

    Args:
        on_progress: told (files read, files in all).
    """
    damaged: dict[str, str] = {}
    starts = {}
    for label in bank.labels():
        try:
            starts[label] = bank.start(label)
        except InputError as error:
            damaged[f"theta0/{label}.safetensors"] = str(error)
    found, files = [], sorted((bank.path / "solutions").glob("*/[!.]*.safetensors"))
    for i, path in enumerate(files):
        try:
            solution = member(bank, path)
            found.append({"label": solution.label, "task": solution.task, "seed": solution.seed, "norm": norm(solution.vector),
                          **_scores(solution)})
        except InputError as error:
            damaged[str(path.relative_to(bank.path))] = str(error)
        if on_progress is not None:
            on_progress(i + 1, len(files))
    failed = []
    for path in sorted((bank.path / "failed").glob("*/[!.]*.json")):
        try:
            about = read_json(path)
            failed.append({name: kind(about[name]) for name, kind in (("label", str), ("task", str), ("seed", int), ("step", int))})
        except (InputError, KeyError, TypeError, ValueError) as error:
            damaged[str(path.relative_to(bank.path))] = str(error)
    pairs = {(each["task"], each["seed"]) for each in (*found, *failed)}
    metrics = [str(each["metric"]) for each in found if "metric" in each]
    return BankReport(
        path=str(bank.path), nbytes=sum(p.stat().st_size for p in bank.path.rglob("*") if p.is_file()),
        backbones=tuple(sorted({start.backbone for start in starts.values()})),
        labels=tuple(_label(label, start, [each for each in found if each["label"] == label], pairs) for label, start in starts.items()),
        tasks=tuple(sorted({task for task, _ in pairs})), seeds=tuple(sorted({seed for _, seed in pairs})),
        metrics={name: metrics.count(name) for name in sorted(set(metrics))}, solutions=tuple(found), failed=tuple(failed), damaged=damaged)


def _label(label: str, start: Any, found: Sequence[Mapping[str, Any]], pairs: set[tuple[str, int]]) -> LabelFacts:
    has = {(each["task"], each["seed"]) for each in found}
    return LabelFacts(
        label=label, settings=settings(start.config), config=start.config.to_json(), size=start.layout.size, backbone=start.backbone,
        theta0=start.fingerprint, solutions=len(found), missing=tuple(sorted(pairs - has)),
        **{name: Range.of([each[name] for each in found if name in each]) for name in ("dev", "test", "norm")})


def _scores(solution: Solution) -> dict[str, Any]:
    wanted = {"metric": str, "dev": int | float, "test": int | float}
    return {name: solution.scores[name] for name, kind in wanted.items() if isinstance(solution.scores.get(name), kind)}
