"""The figure of a plane: every type's score and loss on one scale, and the region where all of them do well."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from landscape.region import REFINE, Region, refine, region
from landscape.style import INK, SOFT, STYLE, colours, halo, write
from landscape.surface import Surface

SHARED = "#F0E442"
LEGEND = (
    ("corner", "o", "solution on the plane"),
    ("found", "*", "solution found"),
    ("origin", "+", "z = 0, the mean"),
    ("source", ".", "source solution, projected"),
)
SYMBOLS = {kind: symbol for kind, symbol, _ in LEGEND}


def plot(surface: Surface, path: str | Path, *, area: Region | None = None, tolerance: float = 0.1, title: str | None = None) -> Path:
    """Score (colour), loss (contours) and region (outline) of every type on one scale, then the regions' overlap.

    Args:
        surface: from `plane`.
        path: file to write; its suffix is the format.
        area: the regions to outline; None computes `region(surface, tolerance=tolerance)`.
    Returns: the path.
    """
    area = region(surface, tolerance=tolerance) if area is None else area
    types, tint = len(surface.labels), colours(surface.labels)
    with mpl.rc_context(STYLE):
        figure, panels, foot = _sheet(types + 1, float(np.ptp(surface.y) / np.ptp(surface.x)))
        image: Any = None
        for t, label in enumerate(surface.labels):
            image = _field(panels[t], surface, t)
            _region_edge(panels[t], surface, area.inside[t])
            _marks(panels[t], surface, on_field=True)
            panels[t].set_title(label, color=tint[label], loc="left")
        _overlap(panels[types], surface, area, tint)
        for panel in panels:
            panel.set_aspect("equal")
            panel.locator_params(nbins=5)
        for n, set_name in enumerate(("set_xlabel", "set_ylabel")):
            getattr(panels[0], set_name)(_axis(surface, n))
        width = figure.get_figwidth()
        strip = figure.add_axes((0.6 / width, foot, 2.0 / width, 0.11 / figure.get_figheight()))
        bar = figure.colorbar(image, cax=strip, orientation="horizontal")
        bar.set_label(surface.metric.replace("_", " ") or "score")
        bar.outline.set_visible(False)  # type: ignore[union-attr]
        handles: list[Any] = [
            Line2D([], [], color="#9a9a9a", linewidth=0.8, label="loss, equal levels in all panels"),
            Line2D([], [], color=INK, linewidth=2.2, label=f"within {area.tolerance:.0%} of the type's best {area.by}"),
            Patch(facecolor=SHARED, hatch="////", edgecolor=INK, linewidth=0, label="every type within"),
        ]
        kinds = [(k, m, w) for k, m, w in LEGEND if any(mark.kind == k for mark in surface.marks)]
        handles += [Line2D([], [], linestyle="", color=INK, marker=m, markersize=3 if m == "." else 6, label=w) for _, m, w in kinds]
        figure.legend(handles=handles, loc="center left", bbox_to_anchor=(2.85 / width, foot), borderaxespad=0, labelspacing=0.35, ncols=2)
        heading = title if title is not None else " · ".join(filter(None, [surface.task, surface.split and f"{surface.split} split"]))
        if heading:
            figure.suptitle(
                heading, x=0.6 / width, ha="left", fontsize=11, fontweight="bold", y=1 - 0.08 / figure.get_figheight(), va="top"
            )
        return write(figure, path)


def _sheet(panels: int, shape: float, side: float = 2.15, gap: float = 0.3, head: float = 0.74) -> tuple[Figure, list[Axes], float]:
    """Equal panels, at most four a row, placed to the inch; below them a strip for the scale, whose height is returned."""
    columns = max(2, min(panels, 4))
    rows = -(-panels // columns)
    tall = side * min(max(shape, 0.4), 2.5)
    width, height = 0.6 + columns * side + (columns - 1) * gap + 0.15, head + rows * tall + (rows - 1) * 0.65 + 1.2
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    axes = []
    for n in range(panels):
        left, top = 0.6 + (n % columns) * (side + gap), head + (n // columns) * (tall + 0.65)
        axes.append(figure.add_axes((left / width, 1 - (top + tall) / height, side / width, tall / height)))
        axes[n].tick_params(labelleft=n % columns == 0)
    return figure, axes, 0.47 / height


def _axis(surface: Surface, n: int) -> str:
    name = surface.axes[n]
    return f"$z_{{{name[1:]}}}$" if name[:1] == "z" and name[1:].isdigit() else name


def _corners(surface: Surface) -> tuple[float, float, float, float]:
    return float(surface.x[0]), float(surface.x[-1]), float(surface.y[0]), float(surface.y[-1])


def _fine(surface: Surface) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.linspace(axis[0], axis[-1], (len(axis) - 1) * REFINE + 1) for axis in (surface.x, surface.y))  # type: ignore[return-value]


def _field(ax: Axes, surface: Surface, t: int) -> Any:
    scores = surface.score[np.isfinite(surface.score)]
    low, high = (scores.min(), scores.max()) if scores.size else (0.0, 1.0)
    ax.set_facecolor("white")
    image = ax.imshow(
        refine(surface.score[t]), origin="lower", extent=_corners(surface), cmap="viridis", vmin=low,
        vmax=max(high, low + 1e-9), interpolation="nearest", rasterized=True,
    )  # fmt: skip
    losses = surface.loss[np.isfinite(surface.loss)]
    if losses.size and np.ptp(losses) > 0 and np.isfinite(surface.loss[t]).sum() > 3:
        levels = np.unique(np.quantile(losses, np.linspace(0.06, 0.94, 8)))  # one set of levels for all types
        ax.contour(
            *_fine(surface), np.ma.masked_invalid(refine(surface.loss[t])), levels=levels, colors="white", linewidths=0.5, alpha=0.55
        )
    if surface.holes[surface.labels[t]]:
        bad = np.ma.masked_where(np.isfinite(refine(surface.score[t])), np.ones_like(refine(surface.score[t])))
        ax.contourf(*_fine(surface), bad, levels=[0.5, 1.5], colors="none", hatches=["xxx"])
        ax.text(
            0.98,
            0.02,
            f"{surface.holes[surface.labels[t]]} holes",
            transform=ax.transAxes,
            ha="right",
            va="bottom",
            fontsize=7,
            path_effects=halo("white"),
        )
    return image


def _region_edge(ax: Axes, surface: Surface, inside: np.ndarray, colour: str = "white", width: float = 1.6) -> None:
    if inside.any() and not inside.all():
        casing = INK if colour == "white" else "white"
        lines = ax.contour(*_fine(surface), inside.astype(float), levels=[0.5], colors=[colour], linewidths=width)
        lines.set_path_effects([patheffects.withStroke(linewidth=width + 1.4, foreground=casing)])


def _marks(ax: Axes, surface: Surface, *, on_field: bool) -> None:
    paper = "white" if on_field else INK
    casing = INK if on_field else "white"
    size = {"corner": 26, "found": 90, "origin": 40}
    for n, mark in enumerate(surface.marks):
        if mark.kind == "source":
            # mere feet of solutions that lie elsewhere in z: small, so that nobody reads the score under them as theirs
            ax.plot(mark.x, mark.y, ".", markersize=2.6, color=paper, alpha=0.75, markeredgewidth=0)
            continue
        symbol = SYMBOLS.get(mark.kind, "o")
        face: dict[str, Any] = {"c": paper} if symbol == "+" else {"facecolor": paper, "edgecolor": casing, "linewidths": 0.8}
        ax.scatter(mark.x, mark.y, s=size.get(mark.kind, 26), marker=symbol, zorder=5, **face)
        if mark.kind in ("corner", "found"):
            across = (mark.x - surface.x[0]) / (surface.x[-1] - surface.x[0])
            ax.annotate(
                mark.name, (mark.x, mark.y), xytext=(0, -11 if n % 2 else 6), textcoords="offset points", fontsize=7, color=paper,
                ha="left" if across < 0.2 else "right" if across > 0.8 else "center", zorder=6, path_effects=halo(casing, 1.6),
            )  # fmt: skip
    ax.set_xlim(surface.x[0], surface.x[-1])
    ax.set_ylim(surface.y[0], surface.y[-1])


def _overlap(ax: Axes, surface: Surface, area: Region, tint: Mapping[str, str]) -> None:
    ax.set_facecolor("#f4f4f4")
    everyone = area.everyone.astype(float)
    if everyone.any():
        ax.contourf(*_fine(surface), everyone, levels=[0.5, 1.5], colors=[SHARED], alpha=0.85)
        ax.contourf(*_fine(surface), everyone, levels=[0.5, 1.5], colors="none", hatches=["////"])
    for t, label in enumerate(surface.labels):
        _region_edge(ax, surface, area.inside[t], tint[label], 1.5)
    _marks(ax, surface, on_field=False)
    pieces = "1 piece" if area.components == 1 else f"{area.components} pieces"
    words = f"{area.fraction:.1%} of the plane, {area.area:.2g} z², {pieces}" if area.area else "nowhere on this plane"
    ax.set_title("all types", loc="left", pad=17)
    ax.text(0, 1.02, words, transform=ax.transAxes, fontsize=8, color=SOFT, va="bottom")
