"""What a plane of z shows: loss and score of every type at its points, and the solutions seen from it; one file on disk."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from deltas.errors import InputError
from deltas.files import replacing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mark:
    """A named point of z seen from the plane: its foot (x, y) and its distance `away` from the plane (0: it lies on it)."""

    name: str
    x: float
    y: float
    away: float = 0.0
    kind: str = "source"  # source | found | corner (a solution that spans the plane) | origin (z = 0)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Surface:
    """Loss and score of every type on one plane of z; [type, i, j] is the point origin + x[j] u + y[i] v; NaN is a hole."""

    origin: Float[np.ndarray, " k"]
    directions: Float[np.ndarray, "2 k"]
    x: Float[np.ndarray, " columns"]
    y: Float[np.ndarray, " rows"]
    loss: Float[np.ndarray, "types rows columns"]
    score: Float[np.ndarray, "types rows columns"]
    labels: tuple[str, ...]
    marks: tuple[Mark, ...] = ()
    task: str = ""
    metric: str = ""
    split: str = ""
    axes: tuple[str, str] = ("x", "y")
    space: str = "z"  # the space that is perturbed

    @property
    def holes(self) -> dict[str, int]:
        """Number of points a type without a finite loss and score."""
        return {label: int(np.isnan(self.score[t]).sum()) for t, label in enumerate(self.labels)}

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all."""
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}
        facts = {name: getattr(self, name) for name in ("labels", "task", "metric", "split", "axes", "space")}
        facts["marks"] = [dataclasses.asdict(mark) for mark in self.marks]
        write(Path(path), arrays, {"surface": json.dumps(facts)})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a surface that `save` wrote; raises InputError for anything else."""
        arrays, header = read(Path(path))
        if "surface" not in header or not set(_ARRAYS) <= set(arrays):
            raise InputError(f"expected a surface in {path}, got another file; pass one that Surface.save wrote")
        facts = json.loads(header["surface"])
        marks = tuple(Mark(**mark) for mark in facts.pop("marks"))
        labels, axes = tuple(facts.pop("labels")), tuple(facts.pop("axes"))
        return cls(**{name: arrays[name] for name in _ARRAYS}, labels=labels, axes=axes, marks=marks, **facts)


_ARRAYS = ("origin", "directions", "x", "y", "loss", "score")


def write(path: Path, arrays: Mapping[str, np.ndarray], header: Mapping[str, str]) -> None:
    """Write one safetensors file, whole or not at all."""
    with replacing(path) as temporary:
        Path(temporary).write_bytes(save(dict(arrays), dict(header)))


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays and header of a safetensors file; raises InputError for a missing or damaged one."""
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except FileNotFoundError:
        raise InputError(f"expected a surface file, got no file at {path}") from None
    except SafetensorError as error:
        raise InputError(f"expected a whole safetensors file, got a damaged one at {path} ({error}); delete it") from None
