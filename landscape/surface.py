"""What a plane shows: loss and score of every type at its points, the solutions and optimizers' ways seen from it; one file on disk."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from deltas.errors import InputError
from deltas.files import replacing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mark:
    """A named point seen from the plane: its foot (x, y) and its distance `away` from the plane in the space (0: it lies on it)."""

    name: str
    x: float
    y: float
    away: float = 0.0
    kind: str = "source"  # source | found | corner (a solution that spans the plane) | origin (z = 0) | centre (of a plane of θ)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Trail:
    """An optimizer's way seen from the plane: the feet of its points in order, and the share of its motion that is along the plane.

        share = Σ_i ‖P (x_i − x_end)‖² / Σ_i ‖x_i − x_end‖²,   P the projection onto the plane's directions
    """

    name: str
    x: Float[np.ndarray, " steps"]
    y: Float[np.ndarray, " steps"]
    share: float


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Surface:
    """Loss and score of every type on one plane; [type, i, j] is the point origin + x[j] u + y[i] v; NaN is a hole.

    Points are codes z where `space` is "z", else coordinates of an `Around`: of "θ of lora", say, or of the "weights".
    """

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
    place: str = ""
    """Outside z, what tells its coordinates from those around another point: see `Around.place`."""
    trails: tuple[Trail, ...] = ()
    known: Bool[np.ndarray, "types rows columns"] = None  # type: ignore[assignment]
    """Which points were evaluated; the others were filled in between them. All of them, unless it is said."""
    error: tuple[float, ...] = ()
    """By type, how far filled-in losses were off at most where they were then evaluated; 0 where all points were evaluated."""

    def __post_init__(self) -> None:
        if self.known is None:
            object.__setattr__(self, "known", np.ones(self.loss.shape, bool))
        if not self.error:
            object.__setattr__(self, "error", (0.0,) * len(self.labels))

    @property
    def holes(self) -> dict[str, int]:
        """Number of points a type without a finite loss and score."""
        return {label: int(np.isnan(self.score[t]).sum()) for t, label in enumerate(self.labels)}

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all."""
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in (*_ARRAYS, "known")}
        arrays |= {f"trail.{n}": np.stack([trail.x, trail.y]) for n, trail in enumerate(self.trails)}
        facts = {name: getattr(self, name) for name in ("labels", "task", "metric", "split", "axes", "space", "place", "error")}
        facts["marks"] = [dataclasses.asdict(mark) for mark in self.marks]
        facts["trails"] = [{"name": trail.name, "share": trail.share} for trail in self.trails]
        write(Path(path), arrays, {"surface": json.dumps(facts)})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a surface that `save` wrote; raises InputError for anything else."""
        arrays, header = read(Path(path))
        if "surface" not in header or not set(_ARRAYS) <= set(arrays):
            raise InputError(f"expected a surface in {path}, got another file; pass one that Surface.save wrote")
        facts = json.loads(header["surface"])
        marks = tuple(Mark(**mark) for mark in facts.pop("marks"))
        trails = tuple(Trail(**trail, x=arrays[f"trail.{n}"][0], y=arrays[f"trail.{n}"][1]) for n, trail in enumerate(facts.pop("trails", ())))
        plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()}
        own: dict[str, Any] = {name: arrays.get(name) for name in (*_ARRAYS, "known")}
        return cls(**own, marks=marks, trails=trails, **plain)


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
