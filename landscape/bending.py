"""How the loss of a real delta bends at a point, per type and side by side: eigenvalues, trace, density and sharpness, in z, θ or weights.

A point of few numbers, as z has, is measured from its whole matrix: every eigenvalue, the trace and the density are exact. One of many is
measured from products: leading eigenvalues with a bound of their error, trace with an interval, density by quadrature (`landscape.curvature`).

    shared    Σ_ij ⟨u_i, w_j⟩² / m,  u and w the m leading eigenvectors of two types in z; of two random m-dimensional spaces it is m/k

says whether types that share z bend along the same directions of it.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import Float, Float32

from deltas.errors import InputError
from deltas.files import sha256
from landscape.curvature import Density, Eigen, Product, Traced, eigenvalues, eigenvalues_of, matrix_of, smoothed, spectral_density, trace
from landscape.objective import Objective
from landscape.sharpness import Average, Worst, average_case, worst_case
from landscape.surface import read, write

Of = Literal["hessian", "gauss_newton"]
Progress = Callable[[str, int, int], None]
WHOLE = 256
"""Numbers of a point up to which its matrix is formed whole."""
MEMORY = 2**32
"""Bytes that the vectors of a Krylov space may take."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Matrix:
    """What is known of one symmetric matrix: leading eigenvalues (of a whole one all), trace, density of all eigenvalues."""

    eigen: Eigen
    trace: Traced
    density: Density | None

    def to_json(self) -> dict[str, Any]:
        """The numbers, without vectors and curves."""
        return {"eigenvalues": self.eigen.values.tolist(), "errors": self.eigen.errors.tolist(), "trace": dataclasses.asdict(self.trace)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measures:
    """What is measured, and how well.

    Args:
        of: which matrices.
        top: leading eigenvalues of a point of more than `WHOLE` numbers, to a tolerance of the largest, with `krylov` vectors at the most.
        probes: of the trace.
        density_probes, density_steps: of the density; 0 probes leave it out. A step is a product, and holds a vector of the point's size.
        radius: ρ of the sharpness; 0 leaves it out.
        relative: ρ is a share of the length of the point (of weights: of W); None does so but in z, whose unit is the spread of the sources.
        steps: of the worst case. draws: of the average case.
        seed: of all draws.
    """

    of: tuple[Of, ...] = ("hessian", "gauss_newton")
    top: int = 5
    tolerance: float = 1e-3
    krylov: int = 100
    probes: int = 16
    density_probes: int = 4
    density_steps: int = 30
    radius: float = 0.05
    relative: bool | None = None
    steps: int = 10
    draws: int = 16
    seed: int = 0


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Bending:
    """The curvature of one type's mean loss at one point.

    Args:
        where: the space of the point: "z", "theta" or "weights".
        size, length: of the point; of weights the length is that of the weights.
        loss, slope: f and ‖∇f‖ there: far from a minimum eigenvalues of both signs are no surprise.
        matrices: by name.
        worst, average: sharpness, None where it was left out.
    """

    where: str
    label: str
    task: str
    split: str
    rows: int
    size: int
    length: float
    loss: float
    slope: float
    matrices: Mapping[str, Matrix]
    worst: Worst | None
    average: Average | None

    def to_json(self) -> dict[str, Any]:
        """A row of a table: all numbers, no vectors."""
        facts = {name: value for name, value in vars(self).items() if name not in ("matrices", "worst", "average")}
        facts |= {name: matrix.to_json() for name, matrix in self.matrices.items()}
        if self.worst is not None and self.average is not None:
            worst = {name: value for name, value in vars(self.worst).items() if name not in ("epsilon", "rises")}
            facts["sharpness"] = {"worst": worst, "average": dataclasses.asdict(self.average)}
        return facts

    # ------------------------------------------------------------ files
    def save(self, path: str | Path, *, key: str = "") -> None:
        """Write one safetensors file, whole or not at all; the key says which call it belongs to."""
        arrays, facts = {}, {}
        for name, part in _flat(self, ""):
            (arrays if isinstance(part, np.ndarray) else facts)[name] = part
        write(Path(path), {name: np.ascontiguousarray(array) for name, array in arrays.items()}, {"bending": json.dumps(facts), "key": key})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote; raises InputError for anything else."""
        arrays, header = read(Path(path))
        if "bending" not in header:
            raise InputError(f"expected the curvature of a point in {path}, got another file; pass one that Bending.save wrote")
        return _nested(cls, {**json.loads(header["bending"]), **arrays}, "")  # the words first: they are in order


def bend(f: Objective, x: Float[np.ndarray, " n"], measures: Measures | None = None, *, file: str | Path | None = None,
         on_progress: Progress | None = None) -> Bending:
    """The curvature of a mean loss at a point.

    Args:
        f: from `in_z`, `in_theta` or `in_weights`.
        x: z [k], θ [D], or zeros [n] for the weights as they are.
        file: where it is kept; what the same call left there is read back.
        on_progress: called with (label, passes over all rows done, passes at the most).

    Raises:
        InputError: a loss or curvature that is not finite there, and as `eigenvalues`, `trace` and `worst_case`.

    Example:
        found = landscape.bend(landscape.in_z(space, attached, rows), z)
        found.matrices["hessian"].eigen.values
    """
    m, x = measures or Measures(), np.asarray(x, np.float32)
    if file is None:
        return _bend(f, x, m, on_progress)
    key = sha256(f.key(x), json.dumps(dataclasses.asdict(m)))
    if Path(file).is_file() and read(Path(file))[1].get("key") == key:
        return Bending.load(file)
    found = _bend(f, x, m, on_progress)
    found.save(file, key=key)
    return found


def _bend(f: Objective, x: Float32[np.ndarray, " n"], m: Measures, on_progress: Progress | None) -> Bending:
    count = _Count(f, m, on_progress)
    loss, slope = f.slope(x)
    if not (np.isfinite(loss) and np.isfinite(slope).all()):
        raise InputError(f"expected a finite loss at the point, got {loss:g} of {f.label}; choose another point")
    count.stage(1)
    matrices = {name: _matrix(count.counted(getattr(f, name)(x)), f.size, m, count) for name in m.of}
    worst, average, length = None, None, f.reach(x)
    if m.radius:
        rho = m.radius * (length if (f.where != "z" if m.relative is None else m.relative) else 1.0)
        worst = worst_case(count.counted(f.slope), x, rho, steps=m.steps, seed=m.seed)
        average = average_case(count.counted(f.value), x, rho, draws=m.draws, seed=m.seed)
        count.stage(count.total)
    return Bending(where=f.where, label=f.label, task=f.rows.task, split=f.rows.split, rows=f.rows.count, size=f.size, length=length, loss=loss,
                   slope=float(np.linalg.norm(slope)), matrices=matrices, worst=worst, average=average)


def side_by_side(objectives: Mapping[str, Objective], points: Mapping[str, Float[np.ndarray, " n"]], measures: Measures | None = None, *,
                 on_progress: Progress | None = None) -> dict[str, Bending]:
    """`bend` of every type: at its own point, or of all at one z where that is given for each.

    Example:
        found = landscape.side_by_side({label: landscape.in_z(space, one, rows) for label, one in attached.items()}, dict.fromkeys(attached, z))
    """
    if missing := [label for label in objectives if label not in points]:
        raise InputError(f"expected a point for every type, got none for {', '.join(missing)}; pass one each")
    return {label: bend(f, points[label], measures, on_progress=on_progress) for label, f in objectives.items()}


def shared_directions(found: Mapping[str, Bending], *, count: int = 3, of: Of = "gauss_newton") -> list[dict[str, Any]]:
    """For each pair of types, how far their leading eigenvectors in z span the same space.

    Returns:
        Rows of types, shared (1: the same space, 0: orthogonal ones) and expected, that of random spaces.

    Raises:
        InputError: points of another space than z, of different subspaces, or fewer eigenvectors than `count`.
    """
    if any(one.where != "z" for one in found.values()) or len({one.size for one in found.values()}) > 1:
        raise InputError(f"expected curvature in one z for all types, got {', '.join(f'{b.where} of {b.size}' for b in found.values())}; "
                         "measure them in the same subspace")
    leading = {label: one.matrices[of].eigen.vectors[:count] for label, one in found.items()}
    if any(len(vectors) < count for vectors in leading.values()):
        raise InputError(f"expected at least {count} eigenvectors of each type, got fewer; lower the count")
    return [{"types": [a, b], "count": count, "of": of, "shared": float(np.sum((leading[a] @ leading[b].T) ** 2) / count),
             "expected": count / found[a].size} for a, b in itertools.combinations(found, 2)]


def _matrix(product: Product, size: int, m: Measures, count: _Count) -> Matrix:
    if size <= WHOLE:
        whole = matrix_of(product, size)
        if not np.isfinite(whole).all():
            raise InputError("expected a finite curvature, got NaN or infinity; choose a point where the loss is finite")
        eigen, sum_ = eigenvalues_of(whole), float(np.trace(whole))
        spread = smoothed(eigen.values, np.full(size, 1 / size)) if m.density_probes else None
        return Matrix(eigen=eigen, trace=Traced(value=sum_, low=sum_, high=sum_, probes=0), density=spread)
    done = count.done
    eigen = eigenvalues(product, size, m.top, steps=held(m.krylov, size), tolerance=m.tolerance, seed=m.seed)
    count.stage(done + max(held(m.krylov, size), m.top))
    found = trace(product, size, probes=m.probes, seed=m.seed)
    spread = None
    if m.density_probes:
        done = count.done
        spread = spectral_density(product, size, probes=m.density_probes, steps=held(m.density_steps, size), seed=m.seed)
        count.stage(done + m.density_probes * held(m.density_steps, size))
    return Matrix(eigen=eigen, trace=found, density=spread)


def held(vectors: int, size: int) -> int:
    """How many vectors of that size a Krylov space may have within `MEMORY`; at least 2."""
    return max(2, min(vectors, MEMORY // (4 * size)))


class _Count:
    """Passes over the rows, told as they are done; a stage that needed fewer than planned is closed at its plan."""

    def __init__(self, f: Objective, m: Measures, tell: Progress | None) -> None:
        each = f.size
        if f.size > WHOLE:
            each = max(held(m.krylov, f.size), m.top) + m.probes + m.density_probes * held(m.density_steps, f.size)
        self.label, self.tell, self.done = f.label, tell, 0
        self.total = 1 + each * len(m.of) + (m.steps + 1 + 2 * m.draws + 1 if m.radius else 0)

    def stage(self, done: int) -> None:
        self.done = done
        if self.tell is not None:
            self.tell(self.label, done, self.total)

    def counted(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def counting(x: Any) -> Any:
            found = function(x)
            self.stage(min(self.done + 1, self.total))
            return found

        return counting


_PARTS = {Bending: {"worst": Worst, "average": Average}, Matrix: {"eigen": Eigen, "trace": Traced, "density": Density}}


def _flat(part: Any, name: str) -> list[tuple[str, Any]]:
    """Every array, number and word of nested dataclasses and mappings, by its path."""
    if dataclasses.is_dataclass(part) or isinstance(part, Mapping):
        fields = part.items() if isinstance(part, Mapping) else vars(part).items()
        return [pair for own, value in fields for pair in _flat(value, f"{name}{own}.")]
    return [] if part is None else [(name.removesuffix("."), part)]


def _nested(kind: Any, flat: Mapping[str, Any], name: str) -> Any:
    """What `_flat` took apart."""
    values, parts = {}, _PARTS.get(kind, {})
    for field in dataclasses.fields(kind):
        inside = [path.removeprefix(f"{name}{field.name}.") for path in flat if path.startswith(f"{name}{field.name}.")]
        if field.name == "matrices":
            matrices = dict.fromkeys(path.partition(".")[0] for path in inside)
            values["matrices"] = {own: _nested(Matrix, flat, f"{name}matrices.{own}.") for own in matrices}
        elif field.name in parts and inside:  # a density has a density of its own, which is an array
            values[field.name] = _nested(parts[field.name], flat, f"{name}{field.name}.")
        else:
            value = flat.get(f"{name}{field.name}")
            values[field.name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)
