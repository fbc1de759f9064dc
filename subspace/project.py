"""One external adapter in a fitted subspace: its code, how much of it the subspace misses, its neighbours.

    z = encode(θ)        residual = ‖x − (μ + z U)‖ / ‖x‖        missed = ‖x − (μ + z U)‖ / ‖x − μ‖        x = θ − θ0

In product space x is the change of weights ΔW, and what of it lies outside the cores, which no z reaches, counts as missed.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from deltas.backbones import Backbone
from deltas.bank import Solution
from deltas.checkpoints import load_checkpoint
from deltas.checkpoints.unplaced import prefix_of
from deltas.checkpoints.unplaced_reading import read_unplaced
from deltas.errors import InputError
from deltas.layout import Layout
from deltas.types import DeltaType, LoRA
from subspace.alignment import align_to
from subspace.base import Part, Subspace
from subspace.export import unplaced
from subspace.gram import products
from subspace.product import coordinates, factors_of, scales
from subspace.rows import Stored
from subspace.sources import NAMED, Pair, Sources


@dataclass(frozen=True)
class Neighbour:
    """A source solution beside the projected one: the cosine of their differences to the mean, and the distance of their codes."""

    task: str
    seed: int
    cosine: float
    distance: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Projection:
    """Where an adapter lies.

    Args:
        label: the type that it was read as.
        name: its folder's or its task's.
        z: its code, by the type's encoder (least squares).
        residual: the share of ‖x‖ that decoding z does not give back.
        missed: the same share of ‖x − μ‖: 1 for an adapter with nothing of the space but the mean, 0 for one inside it.
        outside: the share of ‖x‖ outside the cores of a product space; 0 in the space of factors.
        neighbours: the sources with the largest cosines.
        nearest: those with the nearest codes.
        exact: whether the cosines are those of the solutions themselves, or of what their codes decode to.
    """

    label: str
    name: str
    z: Float32[np.ndarray, " k"]
    residual: float
    missed: float
    outside: float
    neighbours: tuple[Neighbour, ...]
    nearest: tuple[Neighbour, ...]
    exact: bool

    def to_json(self) -> dict[str, Any]:
        """All of it, as JSON."""
        lists = {name: [asdict(n) for n in getattr(self, name)] for name in ("neighbours", "nearest")}
        return {**vars(self), "z": self.z.tolist(), **lists}


def project(space: Subspace, given: str | Path | Solution, *, label: str | None = None, backbone: Backbone | None = None,
            sources: Sources | None = None, neighbours: int = 5, relative: bool | None = None, allow_pickle: bool = False,
            without_head: bool = False) -> Projection:
    """The code of one external adapter, how much of it the subspace misses, and its neighbours among the sources.

    Args:
        space: fitted on a bank or on folders.
        given: the folder of an adapter, or a solution.
        label: the type of the subspace that it is one of; the adapter's own where not given.
        backbone: that of the subspace, to read a folder for a subspace whose types have their places on one.
        sources: those that the subspace was fitted to, for exact cosines; without them, those of what the codes decode to.
        neighbours: how many of either kind.
        relative: for a prefix and aligned sources, whether the backbone has relative positions (see `aligned`).
        allow_pickle, without_head: see `load_checkpoint`.

    Raises:
        InputError: an adapter of another type, shape, base model or backbone.

    Example:
        found = subspace.project(space, "adapters/new")
        print(found.missed, found.neighbours[0].task)

    Source: the least-squares code is `Subspace.encode`; cosines are of differences to the mean, which would make all of them alike.
    """
    name, config, layout, theta0, vector = _read(space, given, backbone, allow_pickle, without_head)
    label = label or config.label
    part = space.part(label)
    if space.space == "product" and isinstance(part.config, LoRA):
        if not isinstance(config, LoRA):
            raise InputError(f"expected a lora for {label} in product space, got {config.label} of {name}; name its own type")
        x, outside, total = coordinates(part.layout, np.asarray(part.theta0), factors_of(config, layout, theta0, Stored([vector]), 0))
    else:
        _same(part, config, layout, label, name)
        x, outside = align_to(space, label, theta0 + np.asarray(vector), relative=relative) - part.theta0, 0.0
        total = _squared(x)
    z = np.asarray(space.encode(label, part.theta0 + x), np.float32)
    left = _squared(x - part.mean - z @ part.basis) + outside
    away = _squared(x - part.mean) + outside
    if sources is None:
        cosines, pairs = _by_codes(space, part, z), list(space.pairs)
    else:
        cosines, pairs = _by_rows(part, label, x, away, sources)
    codes = dict(zip(space.pairs, space.codes, strict=True))
    found = [Neighbour(*pair, float(cosine), float(np.linalg.norm(codes[pair] - z))) for pair, cosine in zip(pairs, cosines) if pair in codes]
    return Projection(
        label=label, name=name, z=z, residual=_share(left, total), missed=_share(left, away), outside=_share(outside, total),
        neighbours=tuple(sorted(found, key=lambda n: -n.cosine)[:neighbours]),
        nearest=tuple(sorted(found, key=lambda n: n.distance)[:neighbours]), exact=sources is not None)


def _read(space: Subspace, given: str | Path | Solution, backbone: Backbone | None, allow_pickle: bool,
          without_head: bool) -> tuple[str, DeltaType, Layout, np.ndarray, Any]:
    """Name, configuration, layout, θ0 and θ − θ0 of an adapter, in the names that the subspace has."""
    if not isinstance(given, Solution) and unplaced(space):
        adapter = read_unplaced(given, allow_pickle=allow_pickle, without_head=without_head)
        base = space.backbone.removeprefix(NAMED)
        if base and adapter.base and adapter.base != base:
            raise InputError(f"expected an adapter of the base model {base} as the subspace's, got {adapter.base} in {given}; choose another")
        adapter = adapter.renamed(prefix_of(name for part in space.parts.values() for name in part.layout.names))
        return adapter.name, adapter.config, adapter.layout, adapter.theta0, adapter.vector
    if not isinstance(given, Solution):
        if backbone is None:
            raise InputError(f"expected the backbone of the subspace, to read {given}, got none; give it")
        given = load_checkpoint(given, backbone, allow_pickle=allow_pickle, without_head=without_head)
    if given.backbone != space.backbone:
        raise InputError(f"expected a solution of the subspace's backbone {space.backbone or '(unknown)'}, got {given.task} of "
                         f"{given.backbone}; use that backbone")
    return given.task, given.config, given.layout, np.asarray(given.theta0), given.vector


BY_THE_WAY = {"label", "sites", "exclude", "start", "std", "a_std", "b_std", "bound", "rank", "alpha", "rslora", "rank_pattern", "alpha_pattern"}
"""Settings that say where a delta stands and how it started, which layout and θ0 tell better; a LoRA's scales are compared as numbers."""


def _same(part: Part, config: DeltaType, layout: Layout, label: str, name: str) -> None:
    """Refuse an adapter whose numbers do not mean what those of the subspace mean."""
    if layout != part.layout:
        odd = sorted(set(zip(layout.names, layout.shapes)) ^ set(zip(part.layout.names, part.layout.shapes)))
        raise InputError(f"expected {label} of the subspace's names and shapes, got {name} with a difference at "
                         f"{odd[0][0] if odd else 'their order'}; compare LoRA of different shapes in product space")
    ours, theirs = ({key: value for key, value in c.to_json().items() if key not in BY_THE_WAY} for c in (part.config, config))
    if isinstance(config, LoRA) and isinstance(part.config, LoRA):
        ours |= {"scale": scales(part.config, layout)}
        theirs |= {"scale": scales(config, layout)}
    if changed := sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)):
        raise InputError(f"expected {label} with the subspace's settings, got {name} with another {', '.join(changed)}; choose another adapter")


def _by_codes(space: Subspace, part: Part, z: np.ndarray) -> Float64[np.ndarray, " N"]:
    """Cosines of z U with every z_n U."""
    metric = products(part.basis, list(part.basis))
    codes, z = space.codes.astype(np.float64), z.astype(np.float64)
    sizes = np.sqrt(np.einsum("nk,kl,nl->n", codes, metric, codes) * (z @ metric @ z))
    return np.divide(codes @ metric @ z, sizes, out=np.zeros(len(codes)), where=sizes > 0)


def _by_rows(part: Part, label: str, x: np.ndarray, away: float, sources: Sources) -> tuple[Float64[np.ndarray, " n"], list[Pair]]:
    """Cosines of x − μ with every x_n − μ, and whose they are."""
    if label not in sources.blocks or sources.blocks[label].fingerprint != part.theta0_fingerprint:
        raise InputError(f"expected the sources that the subspace was fitted to, got {sources.name} with another {label}; gather them as then")
    block = sources.blocks[label]
    mean = np.asarray(part.mean, np.float64)
    along, sizes = np.zeros(len(block.rows)), np.zeros(len(block.rows))
    for columns, numbers in block.rows.blocks():
        numbers = numbers - mean[columns]
        along += numbers @ (x[columns] - mean[columns])
        sizes += np.einsum("nc,nc->n", numbers, numbers)
    sizes = np.sqrt(sizes * away)
    return np.divide(along, sizes, out=np.zeros(len(sizes)), where=sizes > 0), [sources.pairs[i] for i in block.members]


def _squared(x: np.ndarray) -> float:
    return float(np.sum(np.square(x, dtype=np.float64)))


def _share(left: float, whole: float) -> float:
    return math.sqrt(left / whole) if whole > 0 else 0.0
