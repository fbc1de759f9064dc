"""What a study file says: backbone, tasks, types, seeds, decomposition, k's, landscapes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from deltas import DeltaType, InputError, Reading, Training
from deltas.types import TYPES
from subspace import Autoencoder, Refine
from subspace.optimize import IN_SUBSPACE

from .methods import CLOSED, CONTROLS, LEARNED, Method
from .settings import fill, parse_toml, read_toml


@dataclass(frozen=True, kw_only=True)
class BackboneSettings:
    """Which frozen backbone: a Hugging Face folder, a hub id, or `tiny`; its dtype."""

    source: str
    dtype: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """Which tasks. `folder` holds one folder a task, or is `gym` for the built-in tasks; there the lists may stay empty, and `groups` says
    which of the gym's own groups take part.

    sources are decomposed; unseen are only ever tuned inside the subspace; dev is for choices of yours and is reported apart. `shots` picks
    few-shot files (`16_100`); `train_rows` cuts every training split; `metrics` overrides a task's metric by name.
    """

    folder: str
    sources: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    dev: tuple[str, ...] = ()
    groups: tuple[str, ...] = ("source", "unseen_met", "unseen_new")
    shots: str | None = None
    train_rows: int | None = None
    test_rows: int | None = None
    metrics: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DecompositionSettings:
    """How the solutions are decomposed: `methods` (the first is the study's own), every k of the curve, and the `main` k of the tables.

    A method or control is a name, with @layer or @module where every layer or module has k numbers of its own: joint_svd@layer. A control
    that does not say is fitted as the first method is (@whole: with one z). Only the first method has the whole curve unless `all_k`.
    Controls are fitted at the main k, and at those in `control_k` (but for mean_only, which is the same at every k). `source_counts`: the
    first method fitted on so many of the source tasks, at the main k (or one less than there are, where that is less).
    """

    methods: tuple[str, ...] = ("joint_svd",)
    k: tuple[int, ...] = (2, 4, 8, 16)
    main: int | None = None
    all_k: bool = True
    controls: tuple[str, ...] = ("mean_only", "random_basis", "shuffled", "best_source")
    control_k: tuple[int, ...] = ()
    source_counts: tuple[int, ...] = ()
    autoencoder: Autoencoder = field(default_factory=Autoencoder)
    refined: Refine = field(default_factory=Refine)

    def __post_init__(self) -> None:
        if not self.methods:
            raise InputError("expected decomposition.methods to name a method, got none; joint_svd is the usual one")
        for text in self.methods:
            Method.of(text, CLOSED + LEARNED)
        for text in self.controls:
            Method.of(text, (*CONTROLS, "best_source"))
        if self.source_counts and (Method.of(self.methods[0], CLOSED + LEARNED).name in LEARNED or min(self.source_counts) < 2):
            raise InputError(f"expected decomposition.source_counts of at least 2 source tasks, for a closed form ({', '.join(CLOSED)}) first, "
                             f"got {list(self.source_counts)} for {self.methods[0]}; change one of them")
        if not self.k or min(self.k) < 1:
            raise InputError(f"expected decomposition.k to list numbers of at least 1, got {list(self.k)}; give some")
        if unknown := set(self.control_k) - set(self.k):
            raise InputError(f"expected decomposition.control_k among k = {list(self.k)}, got {min(unknown)}; add it to k")
        if self.main is not None and self.main not in self.k:
            raise InputError(f"expected decomposition.main to be one of k = {list(self.k)}, got {self.main}; add it to k")

    def plan(self) -> list[tuple[Method, int]]:
        """Every decomposition and control with its k, the study's own first."""
        every = [Method.of(text, CLOSED + LEARNED) for text in self.methods]
        found = [(method, k) for method in every for k in (self.k if self.all_k or method == every[0] else (self.tables,))]
        found += [(method, k) for method in self.fitted_controls() for k in dict.fromkeys((self.tables, *self.control_k))
                  if k == self.tables or method.name != "mean_only"]
        return found + [(replace(every[0], tasks=n), self.tables) for n in self.source_counts]

    def fitted_controls(self) -> dict[Method, str]:
        """The controls that are subspaces, and what the tables call each: its name alone where its granularity is the first method's."""
        own = Method.of(self.methods[0], CLOSED + LEARNED).granularity
        every = [Method.of(text if "@" in text else f"{text}@{own}", CONTROLS) for text in self.controls if text != "best_source"]
        return {method: method.name if method.granularity == own else f"{method.name}@{method.granularity}" for method in every}

    @property
    def tables(self) -> int:
        """The k of the tables: `main`, else the largest."""
        return self.main or max(self.k)


@dataclass(frozen=True, kw_only=True)
class OptimizationSettings:
    """Stage 2: how z is tuned, over how many `seeds` (the rest of the k curve and the controls use `curve_seeds`), from N(0, std²).

    method_seeds: of some methods other numbers of seeds.
    """

    training: Training = IN_SUBSPACE
    seeds: int = 3
    method_seeds: dict[str, int] = field(default_factory=dict)
    curve_seeds: int = 1
    std: float = 0.02


@dataclass(frozen=True, kw_only=True)
class LandscapeSettings:
    """Planes of z: on which tasks (none named: the first of each unseen group).

    spanned_by: "found", the affine plane through the points found for the task by three types (by two: and z = 0); or two directions of z;
    or three (task, seed) source solutions. `rows` test rows a point; `tolerance` of the region where every type stays near its best.
    """

    tasks: tuple[str, ...] = ()
    spanned_by: tuple[Any, ...] = ("found",)
    resolution: int = 15
    extent: float | None = None
    rows: int = 32
    tolerance: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Study:
    """A whole study."""

    name: str
    backbone: BackboneSettings
    tasks: TaskSettings
    types: dict[str, Any]
    seed: int = 0
    seeds: int = 1
    in_flight: int | None = None
    training: Training = field(default_factory=Training)
    reading: Reading = field(default_factory=Reading)
    decomposition: DecompositionSettings = field(default_factory=DecompositionSettings)
    optimization: OptimizationSettings = field(default_factory=OptimizationSettings)
    landscape: LandscapeSettings | None = None

    def delta_types(self) -> list[DeltaType]:
        """The configurations of [types.<label>]; `type` is the label where it is not given."""
        found = []
        for label, table in self.types.items():
            kind = table.get("type", label)
            if kind not in TYPES:
                raise InputError(f"expected [types.{label}] to have a type ({', '.join(TYPES)}), got {kind!r}; add type = …")
            found.append(TYPES[kind].from_json({**table, "label": label}))
        if not found:
            raise InputError("expected at least one delta type, got none; add [types.lora] or another")
        return found


def read_study(path: str | Path) -> Study:
    """The study in a TOML file; relative paths in it are relative to where the command runs."""
    return study_from(read_toml(path))


def parse_study(text: str) -> Study:
    """The study in the text of a TOML file."""
    return study_from(parse_toml(text, "the study file"))


def study_from(table: Mapping[str, Any]) -> Study:
    """The study in a TOML table."""
    study = fill(Study, table, "study")
    for label, fields in study.types.items():
        if not isinstance(fields, Mapping):
            raise InputError(f"expected a table [types.{label}], got {fields!r}; write its sizes below that heading")
    study.delta_types()
    methods = study.decomposition.methods
    for method, count in study.optimization.method_seeds.items():
        if method not in methods or count < 1:
            raise InputError(f"expected optimization.method_seeds of {', '.join(methods)}, 1 or more each, got {method} = {count}; mend "
                             "that")
    return study
