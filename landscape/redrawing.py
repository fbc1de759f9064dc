"""All figures that a folder's files allow, from their arrays alone: nothing is evaluated, so that a figure can be drawn again in seconds.

    surfaces     plane, relief of the loss, overlap and worst type where there are several types, page where pages are wanted
    several      small multiples of score and of loss, a row each; of those on one plane, what the tasks' regions share
    paths        loss and score along all paths of one task and space
    curvature    of one task and space, for every matrix: densities, leading eigenvalues with traces; the sharpness

Files are known by the key of their header. A command that draws what it has evaluated in this way, too, draws the same again.
"""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from deltas.errors import InputError
from landscape.basins import by_plane, overlaps
from landscape.interactive import available, draw_page
from landscape.multiples import draw_multiples
from landscape.overlap_maps import draw_overlaps
from landscape.panels import heading
from landscape.paths import KINDS
from landscape.plotting import draw_combined, draw_overlap, plot
from landscape.profiles import draw_profiles
from landscape.relief import draw_relief
from landscape.sections import SPACES, Section
from landscape.sharpness_figure import draw_sharpness
from landscape.spectral_figures import draw_densities, draw_eigenvalues
from landscape.surface import Surface

READERS: dict[str, tuple[str, str]] = {
    "surface": ("landscape.surface", "Surface"), "walk": ("landscape.walk", "Walk"), "bending": ("landscape.bending", "Bending"),
}  # fmt: skip
"""The header's key by which a file is known, and the class that loads it; imported where there is such a file."""
MATRICES = {"hessian": "Hessian", "gauss_newton": "Gauss-Newton matrix"}
SUFFIXES = ("png", "svg", "pdf")


def redraw(folder: str | Path, out: str | Path | None = None, *, suffix: str = "png", tolerance: float = 0.1, pages: bool = False) -> list[Path]:
    """Draw every figure that the files of a folder allow.

    Args:
        folder: with surfaces, paths and curvature as their `save` wrote them; other files are passed over.
        out: where figures are written, under the names of their files; None is the folder itself.
        suffix: "png", "svg" or "pdf".
        tolerance: of the regions, see `region`.
        pages: an interactive page of every surface too.

    Returns:
        The paths of what was drawn.

    Raises:
        InputError: no such folder, nothing in it to draw, another suffix, or pages without plotly.

    Example:
        landscape.redraw("out/landscape", suffix="pdf")
    """
    if suffix not in SUFFIXES:
        raise InputError(f"expected figures as {', '.join(SUFFIXES)}, got {suffix!r}; choose one of them")
    if pages:
        available()
    kept = saved(folder)
    out = Path(folder) if out is None else Path(out)
    drawn = []
    for name, surface in kept["surface"].items():
        drawn += _surface(surface, out, name, suffix, tolerance)
        if pages:
            drawn.append(draw_page(surface, out / f"{name}.html"))
    if len(kept["surface"]) > 1:
        rows = list(kept["surface"].values())
        drawn += [draw_multiples(rows, out / f"tasks-{by}.{suffix}", by=by, tolerance=tolerance) for by in ("score", "loss")]
    drawn += _overlaps(kept["surface"], out, suffix, tolerance)
    return [*drawn, *_paths(kept["walk"], out, suffix), *_curvature(_ordered(kept), out, suffix)]


def saved(folder: str | Path) -> dict[str, dict[str, Any]]:
    """{kind: {name: what was saved}} of a folder's own files, by name; kinds as in `READERS`.

    Raises:
        InputError: no such folder, or nothing in it to draw.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"expected a folder of saved surfaces, paths or curvature, got nothing at {folder}; check the path")
    found: dict[str, dict[str, Any]] = {kind: {} for kind in READERS}
    for path in sorted(folder.glob("*.safetensors")):
        kind = _kind(path)
        if kind is not None:
            module, name = READERS[kind]
            found[kind][path.stem] = getattr(importlib.import_module(module), name).load(path)
    if not any(found.values()):
        raise InputError(f"expected saved surfaces, paths or curvature in {folder}, got none; run `deltaspace landscape` with it as --out first")
    return found


def _kind(path: Path) -> str | None:
    try:
        with safe_open(path, framework="numpy") as file:
            header = dict(file.metadata() or {})
    except SafetensorError as error:
        raise InputError(f"expected a whole safetensors file, got a damaged one at {path} ({error}); delete it") from None
    return next((kind for kind in READERS if kind in header), None)


def _surface(surface: Surface, out: Path, name: str, suffix: str, tolerance: float) -> list[Path]:
    drawn = [plot(surface, out / f"{name}.{suffix}", tolerance=tolerance), draw_relief(surface, out / f"{name}-relief.{suffix}")]
    if len(surface.labels) > 1:
        drawn.append(draw_overlap(surface, out / f"{name}-overlap.{suffix}", tolerance=tolerance))
        drawn.append(draw_combined(surface, out / f"{name}-combined.{suffix}", tolerance=tolerance))
    return drawn


def _overlaps(surfaces: Mapping[str, Surface], out: Path, suffix: str, tolerance: float) -> list[Path]:
    """Of every plane that several files show; tasks of one name are told apart by their files."""
    drawn: list[Path] = []
    for plane in (plane for plane in by_plane(surfaces) if len(plane) > 1):
        often, first = Counter(surface.task for surface in plane.values()), next(iter(plane.values()))
        tasks = {stem if often[surface.task] > 1 or not surface.task else surface.task: surface for stem, surface in plane.items()}
        path, title = out / f"{_stem('overlaps', first.space, first.split)}.{suffix}", f"shared basins · {heading(replace(first, task=''))}"
        if path in drawn:
            path = path.with_stem(f"{path.stem}-{len(drawn) + 1}")
        drawn.append(draw_overlaps(overlaps(tasks, tolerance=tolerance), path, title=title))
    return drawn


def _paths(walks: Mapping[str, Any], out: Path, suffix: str) -> list[Path]:
    """Paths of one name, as of several pairs of ends, are told apart by their files."""
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for stem, walk in sorted(walks.items(), key=lambda item: (KINDS.index(item[1].path.kind), item[0])):
        groups.setdefault((walk.task, walk.where), {})[stem] = walk
    drawn: list[Path] = []
    whats: tuple[Literal["loss", "score"], ...] = ("loss", "score")
    for (task, where), group in groups.items():
        often = Counter(walk.path.kind for walk in group.values())
        for what in whats:
            sections = [Section.of(walk, what, name=stem if often[walk.path.kind] > 1 else None) for stem, walk in group.items()]
            drawn.append(draw_profiles(sections, out / f"{_stem('paths', task, where, what)}.{suffix}"))
    return drawn


def _ordered(kept: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Curvature of the types in the order that planes and paths have them, in which they have their colours."""
    labels = [label for kind in ("surface", "walk") for one in kept[kind].values() for label in one.labels]
    places = {label: n for n, label in enumerate(dict.fromkeys(labels))}
    return dict(sorted(kept["bending"].items(), key=lambda item: places.get(item[1].label, len(places))))


def _curvature(bendings: Mapping[str, Any], out: Path, suffix: str) -> list[Path]:
    """Points of one type, as of several seeds, are told apart by their files."""
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for stem, one in bendings.items():
        groups.setdefault((one.task, one.where), {})[stem] = one
    drawn = []
    for (task, where), group in groups.items():
        often = Counter(one.label for one in group.values())
        named = {stem if often[one.label] > 1 else one.label: one for stem, one in group.items()}
        for of in dict.fromkeys(of for one in group.values() for of in one.matrices):
            found = {name: one.matrices[of] for name, one in named.items() if of in one.matrices}
            words, stem = " · ".join([task, f"{MATRICES.get(of, of)} in {SPACES.get(where, where)}"]), _stem("curvature", task, where, of)
            if densities := {name: matrix.density for name, matrix in found.items() if matrix.density is not None}:
                drawn.append(draw_densities(densities, out / f"{stem}-density.{suffix}", title=words))
            eigen, traces = ({name: getattr(matrix, part) for name, matrix in found.items()} for part in ("eigen", "trace"))
            drawn.append(draw_eigenvalues(eigen, out / f"{stem}-eigenvalues.{suffix}", traces=traces, title=words))
        if any(one.worst is not None for one in group.values()):
            drawn.append(draw_sharpness(named, out / f"{_stem('sharpness', task, where)}.{suffix}"))
    return drawn


def _stem(*words: str) -> str:
    return re.sub(r"[^\w.-]", "_", "-".join(filter(None, words)).replace("θ", "theta"))
