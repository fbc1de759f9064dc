"""What a figure of a path or of curvature is drawn from, as a file: arrays and a few words, so that it can be drawn again without evaluating."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import Float, Float64

from deltas.errors import InputError
from landscape.curvature import Density, Eigen, Traced
from landscape.paths import Profile
from landscape.surface import read, write


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Section:
    """What a quantity is along one path, for every type, batch by batch.

    Args:
        t: places on the path, from 0 to 1, rising.
        values: {label: [batches, points]}; NaN is a hole. One row where there are no batches.
        name: of the path, such as "straight" or "bezier".
        quantity: what the values are.
        good: whether "low" or "high" values are good: a barrier rises over the line between the ends, or falls below it.
        ends: names of the two ends.
        task: whose loss or score it is.
        space: which space the path is in.

    Raises:
        InputError: fewer than 3 places, values of another number of them, or another `good`.
    """

    t: Float64[np.ndarray, " points"]
    values: Mapping[str, Float64[np.ndarray, "batches points"]]
    name: str = "path"
    quantity: str = "loss"
    good: Literal["low", "high"] = "low"
    ends: tuple[str, str] = ("", "")
    task: str = ""
    space: str = "z"

    def __post_init__(self) -> None:
        object.__setattr__(self, "t", np.asarray(self.t, np.float64))
        object.__setattr__(self, "values", {label: np.atleast_2d(np.asarray(v, np.float64)) for label, v in self.values.items()})
        if self.good not in ("low", "high"):
            raise InputError(f"expected good values to be 'low' or 'high', got {self.good!r}; choose one of them")
        if self.t.ndim != 1 or len(self.t) < 3 or not self.values:
            raise InputError(f"expected values at 3 places of a path at least, got {len(self.values)} types at {self.t.size}; evaluate more")
        for label, values in self.values.items():
            if values.ndim != 2 or values.shape[1] != len(self.t) or not len(values):
                raise InputError(f"expected values [batches, {len(self.t)}] of {label!r}, got shape {values.shape}; pass those at `t`")

    def mean(self, label: str) -> Profile:
        """The mean over batches."""
        return Profile(t=self.t, values=self.values[label].mean(axis=0))

    def barrier(self, label: str) -> tuple[int, float]:
        """Where on the path the mean is worst against the line between the ends, and by how much; NaN where an end is a hole.

        Holes between the ends are passed over: where there are some, the barrier is at least this.
        """
        rise = self.mean(label).rise * (1 if self.good == "low" else -1)
        if not np.isfinite(rise).any():
            return 0, float("nan")
        worst = int(np.nanargmax(np.where(np.isfinite(rise), rise, np.nan)))
        return worst, max(float(rise[worst]), 0.0)

    def half(self, label: str) -> Float64[np.ndarray, " points"]:
        """Half the 95 % interval of the mean, by Student's t over batches; NaN of a single one."""
        values = self.values[label]
        if len(values) < 2:
            return np.full(len(self.t), np.nan)
        from scipy import stats

        return float(stats.t.ppf(0.975, len(values) - 1)) * values.std(axis=0, ddof=1) / np.sqrt(len(values))

    @property
    def holes(self) -> dict[str, int]:
        """Number of places a type without a finite mean."""
        return {label: int((~np.isfinite(values.mean(axis=0))).sum()) for label, values in self.values.items()}

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all."""
        arrays = {"t": self.t} | {f"values.{n}": np.ascontiguousarray(v) for n, v in enumerate(self.values.values())}
        facts = {name: getattr(self, name) for name in ("name", "quantity", "good", "ends", "task", "space")}
        write(Path(path), arrays, {"section": json.dumps(facts | {"labels": list(self.values)})})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote; raises InputError for anything else."""
        arrays, facts = _facts(Path(path), "section", "Section.save")
        labels, ends = facts.pop("labels"), tuple(facts.pop("ends"))
        return cls(t=arrays["t"], values={label: arrays[f"values.{n}"] for n, label in enumerate(labels)}, ends=ends, **facts)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Bends:
    """The curvature at one point, by type: what of it was computed.

    Args:
        densities, eigen, traces: {label: …}, each of some types or none.
        matrix: "Hessian" or "Gauss-Newton".
        space: which space it was taken in.
        task: of whose loss.
        at: the point.
    """

    densities: Mapping[str, Density] = dataclasses.field(default_factory=dict)
    eigen: Mapping[str, Eigen] = dataclasses.field(default_factory=dict)
    traces: Mapping[str, Traced] = dataclasses.field(default_factory=dict)
    matrix: str = "Hessian"
    space: str = "z"
    task: str = ""
    at: str = ""

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all; eigenvectors too, which span planes."""
        arrays: dict[str, np.ndarray] = {}
        for n, found in enumerate(self.densities.values()):
            arrays |= {f"density.{n}.{name}": np.ascontiguousarray(getattr(found, name)) for name in _DENSITY}
        for n, found in enumerate(self.eigen.values()):
            arrays |= {f"eigen.{n}.{name}": np.ascontiguousarray(getattr(found, name)) for name in _EIGEN}
        facts: dict[str, Any] = {name: getattr(self, name) for name in ("matrix", "space", "task", "at")}
        facts |= {"densities": {label: found.width for label, found in self.densities.items()}, "eigen": list(self.eigen),
                  "traces": {label: dataclasses.asdict(found) for label, found in self.traces.items()}}  # fmt: skip
        write(Path(path), arrays, {"bends": json.dumps(facts)})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote; raises InputError for anything else."""
        arrays, facts = _facts(Path(path), "bends", "Bends.save")
        widths, labels, traces = facts.pop("densities"), facts.pop("eigen"), facts.pop("traces")
        densities = {label: Density(width=width, **{name: arrays[f"density.{n}.{name}"] for name in _DENSITY})
                     for n, (label, width) in enumerate(widths.items())}  # fmt: skip
        eigen = {label: Eigen(**{name: arrays[f"eigen.{n}.{name}"] for name in _EIGEN}) for n, label in enumerate(labels)}
        return cls(densities=densities, eigen=eigen, traces={label: Traced(**found) for label, found in traces.items()}, **facts)


_DENSITY = ("at", "density", "nodes", "weights")
_EIGEN = ("values", "vectors", "errors")


def _facts(path: Path, kind: str, writer: str) -> tuple[dict[str, Float[np.ndarray, "..."]], dict[str, Any]]:
    arrays, header = read(path)
    if kind not in header:
        raise InputError(f"expected a file that {writer} wrote, got another one at {path}; pass one of those")
    return arrays, json.loads(header[kind])
