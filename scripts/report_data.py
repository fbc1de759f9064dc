"""A finished study as the report reads it: rows of results.csv, the summary, and the few questions asked of them."""

from __future__ import annotations

import csv
import dataclasses
import math
import tomllib
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from deltas.errors import InputError
from deltas.files import read_json
from subspace import scores

NONE = float("nan")
CONTROLS = ("shuffled", "random_basis", "fastfood", "best_source", "mean_only", "zero_shot")
STAGES = ("optimization", "transfer")
COLUMNS = ("stage", "method", "k", "source", "target", "task", "seed", "control", "metric", "score", "relative", "normalised")


@dataclasses.dataclass(frozen=True)
class Number:
    """A value with its interval; NaN where it is not known."""

    value: float = NONE
    low: float = NONE
    high: float = NONE

    @property
    def known(self) -> bool:
        """Whether there is a value at all."""
        return math.isfinite(self.value)

    @property
    def interval(self) -> bool:
        """Whether there is an interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def __str__(self) -> str:
        if not self.known:
            return "–"
        text = f"{self.value:.2f}" + (f" [{self.low:.2f}, {self.high:.2f}]" if self.interval else "")
        return text.replace("-", "−").replace("−0.00", "0.00")

    def against(self, other: Number) -> str:
        """'above' or 'below' when the intervals are apart, 'same' when they overlap, 'unknown' where one is missing."""
        if not (self.known and other.known and self.interval and other.interval):
            return "unknown"
        return "above" if self.low > other.high else "below" if self.high < other.low else "same"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One line of results.csv."""

    stage: str
    method: str
    k: int
    source: str
    target: str
    task: str
    seed: int
    control: str
    metric: str
    score: float
    relative: float
    normalised: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """A study's folder, read; every section may be missing."""

    folder: Path
    settings: str
    rows: tuple[Row, ...]
    summary: Mapping[str, Any]

    @property
    def types(self) -> list[str]:
        """Delta types in the order of the results."""
        names = [r.target for r in self.rows if r.target] + list(self.summary.get("optimization") or {})
        return list(dict.fromkeys(names))

    @property
    def method(self) -> str:
        """The decomposition the headline is about: the study's own, else the one with the most results, joint_svd on a tie."""
        given = (self.summary.get("study") or {}).get("method")
        if given is not None and any(r.method == given for r in self.rows):
            return str(given)
        counts = Counter(r.method for r in self.rows if r.stage in STAGES and not r.control)
        return max(counts, key=lambda m: (counts[m], m == "joint_svd"), default="the subspace")

    @property
    def k(self) -> int | None:
        """The dimension the tables are about: the study's `main`, else where the controls were measured, else the largest."""
        given = self.setting("main")
        if isinstance(given, int):
            return given
        ks = Counter(r.k for r in self.rows if r.control == "shuffled" and r.k) or Counter(r.k for r in self.rows if r.k)
        return max(ks, key=lambda k: (ks[k], k), default=None)

    @property
    def each(self) -> str:
        """Of what part of a delta the k numbers are, where each has its own: " a layer", " a module"."""
        granularity = self.method.partition("/")[0].partition("@")[2]
        return f" a {granularity}" if granularity else ""

    @property
    def title(self) -> str:
        """The study's name, else its folder's."""
        return str(self.setting("title", "name") or self.folder.resolve().name)

    @property
    def tolerance(self) -> float:
        """τ of the regions drawn."""
        given = self.setting("tolerance")
        return float(given) if isinstance(given, (int, float)) else 0.1

    @property
    def apart(self) -> list[str]:
        """Tasks without a normalised score: the full delta is less than 0.1 above chance on dev."""
        return list(self.summary.get("apart") or [])

    @property
    def counted(self) -> frozenset[str]:
        """Tasks that the means are over: the unseen ones (all where nothing is grouped), without those apart."""
        tuned = {r.task for r in self.rows if r.stage in STAGES}
        unseen = {t for group, tasks in self.groups.items() if group.startswith("unseen") for t in tasks}
        return frozenset((unseen or tuned) - set(self.apart))

    @property
    def groups(self) -> dict[str, list[str]]:
        """{group: tasks}, in the order of the summary."""
        tasks: dict[str, list[str]] = {}
        for task, group in (self.summary.get("groups") or {}).items():
            tasks.setdefault(str(group), []).append(task)
        return tasks

    def overall(self, stage: str, control: str = "") -> Number:
        """Mean over types (or pairs of types) and tasks of a stage, or of a control of it, at k."""
        if control:
            entry = ((self.summary.get("controls") or {}).get(control) or {}).get(stage)
            return number(entry) if entry else self.mean(self.select(stage, control))
        for point in self.summary.get("curve") or []:
            if point.get("k") == self.k and point.get(stage):
                return number(point[stage])
        return self.mean(self.select(stage))

    def cell(self, source: str, target: str, scale: str = "normalised") -> Number:
        """Optimization through one type (source = target), or transfer from one to another."""
        part = self.summary.get("optimization" if source == target else "transfer") or {}
        entry = part.get(source if source == target else f"{source}->{target}")
        return number(entry, scale) if entry else Number()

    def curve(self, stage: str) -> dict[int, Number]:
        """{k: score} of a stage."""
        points = {int(p["k"]): number(p.get(stage)) for p in self.summary.get("curve") or [] if "k" in p}
        return {k: n for k, n in sorted(points.items()) if n.known}

    def methods(self) -> list[tuple[str, int, dict[str, Number]]]:
        """(method, k, {stage: score}) of every decomposition of all the sources, in the order of the results; then of the controls."""
        every = [point for point in self._by_k("methods") if "/" not in point[0]]
        names = [name for name in self.summary.get("controls") or {} if name not in ("chance", "full")]
        elsewhere = [point for point in self._by_k("controls_by_k") if point[0] in names and point[1] != self.k]
        for name in names:
            every.append((name, self.k or 0, {stage: self.overall(stage, name) for stage in STAGES}))
            every += [point for point in elsewhere if point[0] == name]
        return every

    def _by_k(self, section: str) -> list[tuple[str, int, dict[str, Number]]]:
        return [(name, int(k), {stage: number(entry) for stage, entry in stages.items()})
                for name, points in (self.summary.get(section) or {}).items() for k, stages in points.items()]

    def by_sources(self, stage: str) -> dict[int, Number]:
        """{number of source tasks: score} of the study's own method at its k, all of them last; empty where only all were used."""
        found = {int(name.partition("/")[2]): number(next(iter(points.values())).get(stage))
                 for name, points in (self.summary.get("methods") or {}).items() if name.startswith(f"{self.method}/")}
        everything = self.summary.get("source_tasks")
        if found and isinstance(everything, int):
            found[everything] = self.overall(stage)
        return {n: score for n, score in sorted(found.items()) if score.known}

    def select(
        self,
        stage: str | None = None,
        control: str = "",
        *,
        tasks: Container[str] | None = None,
        where: Callable[[Row], bool] = lambda _: True,
    ) -> list[Row]:
        """Rows of a stage and a control at the study's k, on the counted tasks or the given ones."""
        tasks = self.counted if tasks is None else tasks
        k, method = self.k, self.method
        return [
            r
            for r in self.rows
            if r.control == control and (stage is None or r.stage == stage) and r.task in tasks and where(r)
            and (not r.k or r.k == k) and (control or r.method == method)
        ]  # fmt: skip

    def setting(self, *names: str) -> Any:
        """The first of the named settings that the study file, or the summary's copy of it, has at any depth; None where none has."""
        try:
            trees: list[Any] = [tomllib.loads(self.settings)]
        except tomllib.TOMLDecodeError:
            trees = []
        trees.append(self.summary.get("study") or {})
        for name in names:
            queue = list(trees)
            while queue:
                tree = queue.pop(0)
                if isinstance(tree, Mapping):
                    if name in tree:
                        return tree[name]
                    queue += tree.values()
        return None

    def mean(self, rows: Iterable[Row], field: str = "normalised") -> Number:
        """Mean over tasks and its interval, as `subspace.scores` has them; no interval of fewer than three tasks."""
        known = self._scales(rows)
        centre, interval = scores.mean(known, field)
        if centre is None:
            return Number()
        return Number(centre, *interval) if interval and len({r["task"] for r in known if r[field] is not None}) >= 3 else Number(centre)

    def difference(self, stage: str, control: str) -> Number:
        """How far a stage is ahead of its control, task by task, as `subspace.scores` has it; unknown of fewer than three tasks."""
        ours, theirs = (self._scales(self.select(stage, name) or self.select("control", name)) for name in ("", control))
        centre, interval = scores.difference(ours, theirs)
        tasks = {r["task"] for r in ours if r["gain"] is not None} & {r["task"] for r in theirs if r["gain"] is not None}
        return Number(centre, *interval) if centre is not None and interval and len(tasks) >= 3 else Number()

    def _scales(self, rows: Iterable[Row]) -> list[dict[str, Any]]:
        chosen = {id(row) for row in rows}
        return [r for r in self.scaled if id(r["row"]) in chosen]

    @cached_property
    def scaled(self) -> list[dict[str, Any]]:
        """The rows with their scales, as `subspace.scores.scaled` makes them."""
        return scores.scaled([dataclasses.asdict(r) | {"row": r} for r in self.rows], undefined=self.apart)


def number(entry: Mapping[str, Any] | None, scale: str = "normalised") -> Number:
    """A summary entry {scale: mean, scale_interval: [low, high]} as a Number."""
    value = (entry or {}).get(scale)
    low, high = (entry or {}).get(f"{scale}_interval") or (None, None)
    return Number(*(NONE if v is None else float(v) for v in (value, low, high)))


def read_study(folder: str | Path) -> Study:
    """Read DIR/results.csv, summary.json and study.toml; raises InputError where the first two are missing or broken."""
    folder = Path(folder)
    for name in ("results.csv", "summary.json"):
        if not (folder / name).is_file():
            raise InputError(f"expected a finished study in {folder}, got no {name} there; run `deltaspace study` first")
    with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or [])]
        if missing:
            raise InputError(f"expected columns {', '.join(COLUMNS)} in {folder / 'results.csv'}, got no {', '.join(missing)}")
        try:
            rows = tuple(_row(line) for line in reader)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"expected numbers in line {reader.line_num} of {folder / 'results.csv'}, got another thing ({error})"
            ) from None
    settings = folder / "study.toml"
    text = settings.read_text(encoding="utf-8") if settings.is_file() else ""
    return Study(folder=folder, settings=text, rows=rows, summary=read_json(folder / "summary.json"))


def _row(line: Mapping[str, str]) -> Row:
    values: dict[str, Any] = {name: line[name] for name in COLUMNS}
    values |= {name: int(float(line[name] or 0)) for name in ("k", "seed")}
    values |= {name: float(line[name]) if line[name] not in ("", "None") else NONE for name in ("score", "relative", "normalised")}
    return Row(**values)
