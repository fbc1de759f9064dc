"""What is in a subspace: its types, how much of the solutions it holds, its spectrum. Importing this teaches `deltas.inspect` about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from rich.text import Text

from deltas.inspection import READERS, Reader, inspect, no_types
from deltas.inspection.text import Cell, Report, bar, columns, count, settings, several, size, table
from deltas.types import DeltaType
from subspace.base import FILE, Subspace

MOST = 32
"""Directions drawn."""


@dataclass(frozen=True, kw_only=True)
class TypeFacts:
    """One delta type of a subspace."""

    label: str
    settings: str
    config: dict[str, Any]
    size: int
    """D."""
    theta0: str
    """Fingerprint of θ0."""
    energy: float | None
    """The share of the solutions' variance that decoding their codes gives back; None where the method does not say."""
    encoder: str
    mean_norm: float
    """Of μ."""


@dataclass(frozen=True, kw_only=True)
class Direction:
    """One singular value of all types' solutions side by side."""

    value: float
    energy: float
    """Its square over the sum of all squares."""
    cumulative: float
    noise: float | None
    """The energy of the same direction in Gaussian noise of the same shapes."""


@dataclass(frozen=True, kw_only=True)
class SubspaceReport(Report):
    """A fitted subspace."""

    kind: ClassVar[str] = "subspace"
    path: str | None
    nbytes: int | None
    method: str
    k: int
    align: str
    backbone: str
    sources: int
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    types: tuple[TypeFacts, ...]
    spectrum: tuple[Direction, ...]
    settings: dict[str, Any]
    logged: int
    """Entries of the history."""

    def lines(self) -> list[Text]:
        """What it is, a row a type, a bar a direction."""
        about = [f"subspace {self.method}", f"k = {self.k}", f"{self.sources} sources × {len(self.types)} types",
                 *([size(self.nbytes)] if self.nbytes is not None else [])]
        facts: list[list[Cell]] = [
            [Text("backbone", "dim"), self.backbone], [Text("align", "dim"), self.align],
            [Text("sources", "dim"), f"{several(self.tasks)}, seeds {several(self.seeds)}"]]
        if self.settings:
            facts.append([Text("settings", "dim"), ", ".join(map(_told, self.settings.items()))])
        if self.logged:
            facts.append([Text("history", "dim"), f"{self.logged} entries"])
        rows: list[list[Cell]] = [
            [Text(t.label, "green"), count(t.size), "–" if t.energy is None else f"{t.energy:.3f}", f"{t.mean_norm:.4g}", t.encoder, t.theta0,
             t.settings] for t in self.types]
        return [Text(" · ".join(about), "bold"), *columns(facts), Text(),
                *table(("type", "D", "energy", "|μ|", "encoder", "θ0", "settings"), rows, right=(1, 2, 3)), Text(), *self._drawn()]

    def _drawn(self) -> list[Text]:
        if not self.spectrum:
            return [Text("no spectrum: the method has none")]
        top, rows = self.spectrum[0].energy or 1.0, []
        for i, d in enumerate(self.spectrum[:MOST], 1):
            inside = "cyan" if i <= self.k else "dim"
            rows.append([Text(f"{i}", "" if i <= self.k else "dim"), f"{d.energy:.4f}", f"{d.cumulative:.4f}",
                         "–" if d.noise is None else f"{d.noise:.4f}", Text(bar(d.energy / top), inside), "← k" if i == self.k else ""])
        more = len(self.spectrum) - MOST
        return [*table(("direction", "energy", "cumulative", "noise", "", ""), rows, right=(0, 1, 2, 3)),
                *([Text(f"and {more} more directions")] if more > 0 else [])]


def _told(setting: tuple[str, Any]) -> str:
    """A setting in a word; of a long one how many entries it has."""
    name, value = setting
    return f"{name} {value}" if len(str(value)) <= 40 or not hasattr(value, "__len__") else f"{name} ({len(value)})"


@inspect.register
def describe(space: Subspace, *, types: Sequence[DeltaType] = (), path: Path | None = None, **_: Any) -> SubspaceReport:
    """The report of a subspace.

    Args:
        types: none: a subspace takes no deltas.
        path: of its file, where it has one.
    """
    no_types(types, "a subspace")
    found = tuple(
        TypeFacts(label=label, settings=settings(part.config), config=part.config.to_json(), size=len(part.theta0),
                  theta0=part.theta0_fingerprint, energy=space.energy.get(label), mean_norm=float(np.linalg.norm(part.mean.astype(np.float64))),
                  encoder="least squares" if part.network is None else "learned")
        for label, part in space.parts.items())
    return SubspaceReport(
        path=None if path is None else str(path), nbytes=None if path is None else path.stat().st_size, method=space.method, k=space.k,
        align=space.align, backbone=space.backbone, sources=len(space.pairs), tasks=tuple(sorted({task for task, _ in space.pairs})),
        seeds=tuple(sorted({seed for _, seed in space.pairs})), types=found, spectrum=directions(space.spectrum, space.null),
        settings=dict(space.settings), logged=len(space.history))


def directions(spectrum: np.ndarray, null: np.ndarray) -> tuple[Direction, ...]:
    """The energy of each singular value, σ² / Σ σ², one after the other and added up, beside that of noise."""
    energy, noise = (np.square(values) / max(float(np.sum(np.square(values))), 1e-300) for values in (spectrum, null))
    return tuple(Direction(value=float(spectrum[i]), energy=float(energy[i]), cumulative=float(np.sum(energy[: i + 1])),
                           noise=float(noise[i]) if i < len(noise) else None) for i in range(len(spectrum)))


READERS.append(Reader(
    f"a subspace (a folder with {FILE})",
    lambda path: path.name == FILE or (path / FILE).is_file(),
    lambda path, tell: describe(Subspace.load(folder := path.parent if path.name == FILE else path), path=folder / FILE)))
