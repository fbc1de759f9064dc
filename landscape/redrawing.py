"""All figures that a folder's files allow, from their arrays alone: nothing is evaluated, so that a figure can be drawn again in seconds.

    surfaces    plane, relief of the loss, overlap and worst type where there are several types, page where pages are wanted
    several     small multiples of score and of loss, a row each
    sections    profiles of all paths of one task and quantity
    bends       densities, and leading eigenvalues with traces

The command draws in the same way when it has evaluated: what is drawn again is the same.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from deltas.errors import InputError
from landscape.interactive import available, draw_page
from landscape.multiples import draw_multiples
from landscape.plotting import draw_combined, draw_overlap, plot
from landscape.profiles import draw_profiles
from landscape.records import Bends, Section
from landscape.relief import draw_relief
from landscape.spectral_figures import draw_densities, draw_eigenvalues
from landscape.surface import Surface

KINDS: Mapping[str, Any] = {"surface": Surface, "section": Section, "bends": Bends}
"""The header's key by which a file is known, and what reads it."""
SUFFIXES = ("png", "svg", "pdf")


def redraw(folder: str | Path, out: str | Path | None = None, *, suffix: str = "png", tolerance: float = 0.1, pages: bool = False) -> list[Path]:
    """Draw every figure that the files of a folder allow.

    Args:
        folder: with files that `Surface.save`, `Section.save` or `Bends.save` wrote; others are passed over.
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
    drawn += _sections(kept["section"], out, suffix)
    for name, bends in kept["bends"].items():
        told = {"title": " · ".join(filter(None, [bends.task, bends.at, f"{bends.matrix} in {bends.space}"]))}
        if bends.densities:
            drawn.append(draw_densities(bends.densities, out / f"{name}-density.{suffix}", **told))
        if bends.eigen or bends.traces:
            drawn.append(draw_eigenvalues(bends.eigen, out / f"{name}-eigenvalues.{suffix}", traces=bends.traces, **told))
    return drawn


def saved(folder: str | Path) -> dict[str, dict[str, Any]]:
    """{kind: {name: what was saved}} of a folder's own files, by name; kinds as in `KINDS`.

    Raises:
        InputError: no such folder, or nothing in it to draw.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"expected a folder of saved surfaces, paths or curvature, got nothing at {folder}; check the path")
    found: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
    for path in sorted(folder.glob("*.safetensors")):
        kind = _kind(path)
        if kind is not None:
            found[kind][path.stem] = KINDS[kind].load(path)
    if not any(found.values()):
        raise InputError(f"expected saved surfaces, paths or curvature in {folder}, got none; run `deltaspace landscape` with it as --out first")
    return found


def _kind(path: Path) -> str | None:
    try:
        with safe_open(path, framework="numpy") as file:
            header = dict(file.metadata() or {})
    except SafetensorError as error:
        raise InputError(f"expected a whole safetensors file, got a damaged one at {path} ({error}); delete it") from None
    return next((kind for kind in KINDS if kind in header), None)


def _surface(surface: Surface, out: Path, name: str, suffix: str, tolerance: float) -> list[Path]:
    drawn = [plot(surface, out / f"{name}.{suffix}", tolerance=tolerance), draw_relief(surface, out / f"{name}-relief.{suffix}")]
    if len(surface.labels) > 1:
        drawn.append(draw_overlap(surface, out / f"{name}-overlap.{suffix}", tolerance=tolerance))
        drawn.append(draw_combined(surface, out / f"{name}-combined.{suffix}", tolerance=tolerance))
    return drawn


def _sections(sections: Mapping[str, Section], out: Path, suffix: str) -> list[Path]:
    """One figure a task and quantity; paths of one name, as of several pairs of ends, are told apart by their files."""
    groups: dict[tuple[str, str], dict[str, Section]] = {}
    for stem, section in sections.items():
        groups.setdefault((section.task, section.quantity), {})[stem] = section
    drawn = []
    for (task, quantity), group in groups.items():
        often = Counter(section.name for section in group.values())
        named = [dataclasses.replace(section, name=stem) if often[section.name] > 1 else section for stem, section in group.items()]
        name = re.sub(r"[^\w.-]", "_", "-".join(filter(None, ["paths", task, quantity])))
        drawn.append(draw_profiles(named, out / f"{name}.{suffix}"))
    return drawn
