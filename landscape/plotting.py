"""Figures of one plane: every type's score and loss on one scale, the region where all of them do well, the worst type and the mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from deltas.errors import InputError
from landscape import panels
from landscape.region import Region, combined, region
from landscape.style import INK, STYLE, blank, colours, strip, write
from landscape.surface import Surface

LINE = 0.153
"""Inches a line of a legend."""
WORDS = 2.35
"""Inches that a column of a legend wants."""


def plot(surface: Surface, path: str | Path, *, area: Region | None = None, tolerance: float = 0.1, title: str | None = None) -> Path:
    """Score (colour), loss (contours) and region (outline) of every type on one scale, then, of several, the regions' overlap.

    Optimizers' ways are drawn over them, with the share of their motion that the plane holds; one that is named for a type, on that type alone.

    Args:
        surface: from `plane`.
        path: file to write; its suffix is the format.
        area: the regions to outline; None computes `region(surface, tolerance=tolerance)`.
        title: None is task, split and space.

    Returns:
        The path.
    """
    area = region(surface, tolerance=tolerance) if area is None else area
    tint, scale = colours(surface.labels), panels.scale_of([surface], "score")
    several = len(surface.labels) > 1
    handles = [*_handles(surface, area, "the type's best"), *([_shared("where every type is")] if several else [])]
    with mpl.rc_context(STYLE):
        figure, axes, foot = _sheet(surface, len(surface.labels) + several, handles)
        image: Any = None
        for t, label in enumerate(surface.labels):
            image = panels.field(axes[t], surface, t, "score", *scale)
            panels.edge(axes[t], surface, area, t)
            panels.trails(axes[t], surface, label)
            panels.marks(axes[t], surface, on_field=True)
            _titled(axes[t], label, tint[label], panels.evaluated_of(surface, t))
        if several:
            _overlap(axes[-1], surface, area)
        strip(figure, image, (0.6, foot, 2.0, 0.11), panels.metric_name(surface, "score"))
        return _finish(figure, axes, surface, path, title)


def draw_overlap(surface: Surface, path: str | Path, *, area: Region | None = None, tolerance: float = 0.1, title: str | None = None) -> Path:
    """The region of every type and what they share, as a figure of its own.

    Args:
        area, tolerance, title: see `plot`.
    """
    area = region(surface, tolerance=tolerance) if area is None else area
    tint = colours(surface.labels)
    lines: list[Any] = [Line2D([], [], color=tint[label], linewidth=1.8, label=f"{label}: {_share(area, t):.1%} of the plane")
                        for t, label in enumerate(surface.labels)]  # fmt: skip
    lines += [_shared(f"every type within {area.tolerance:.0%} of its best {area.by}")]
    with mpl.rc_context(STYLE):
        figure, axes, _ = _sheet(surface, 1, [*lines, *panels.mark_handles(surface)], side=3.6, bar=False)
        _overlap(axes[0], surface, area)
        return _finish(figure, axes, surface, path, title)


def draw_combined(surface: Surface, path: str | Path, *, tolerance: float = 0.1, title: str | None = None) -> Path:
    """Minimum and mean over types of the score (colour), with the maximum and mean of the loss (contours), on one scale.

    Args:
        tolerance: each is outlined where it is within this of its own best.
        title: see `plot`.

    Raises:
        InputError: a surface of one type.
    """
    if len(surface.labels) < 2:
        raise InputError(f"expected a plane of two types at least to combine them, got {len(surface.labels)}; evaluate more types")
    layers = combined(surface)
    both = dataclasses.replace(layers, loss=layers.loss[:2], score=layers.score[:2], labels=layers.labels[:2])
    area, scale = region(both, tolerance=tolerance), panels.scale_of([both], "score")
    words = {"minimum over types": "contours: maximum of the loss", "mean over types": "contours: mean of the loss"}
    with mpl.rc_context(STYLE):
        figure, axes, foot = _sheet(both, 2, _handles(both, area, "its best"))
        image: Any = None
        for t, (ax, (name, of_loss)) in enumerate(zip(axes, words.items(), strict=True)):
            image = panels.field(ax, both, t, "score", *scale)
            panels.edge(ax, both, area, t)
            panels.trails(ax, both)
            panels.marks(ax, both, on_field=True)
            _titled(ax, name, INK, of_loss)
        strip(figure, image, (0.6, foot, 2.0, 0.11), panels.metric_name(surface, "score"))
        return _finish(figure, axes, both, path, title)


def _share(area: Region, t: int) -> float:
    whole = area.area / area.fraction if area.fraction else 0.0
    return area.areas[t] / whole if whole else float(area.inside[t].mean())


def _titled(ax: Axes, name: str, colour: str, words: str) -> None:
    ax.set_title(name, loc="left", color=colour, pad=17 if words else 6)
    panels.note(ax, words)


def _overlap(ax: Axes, surface: Surface, area: Region) -> None:
    panels.overlap(ax, surface, area, colours(surface.labels))
    panels.trails(ax, surface)
    panels.marks(ax, surface, on_field=False)
    _titled(ax, "all types", INK, panels.extent_of(surface, area))


def _handles(surface: Surface, area: Region, whose: str) -> list[Any]:
    share = "" if len(surface.labels) > 1 else f": {area.fraction:.1%} of the plane"
    casing = [patheffects.withStroke(linewidth=3.2, foreground=INK)]
    return [
        Line2D([], [], color="#9a9a9a", linewidth=0.8, label="loss, equal levels in all panels"),
        Line2D([], [], color="white", linewidth=1.6, path_effects=casing, label=f"within {area.tolerance:.0%} of {whose} {area.by}{share}"),
        *panels.mark_handles(surface),
    ]


def _shared(words: str) -> Patch:
    return Patch(facecolor=panels.SHARED, hatch="////", edgecolor=INK, linewidth=0, label=words)


def _sheet(surface: Surface, count: int, handles: Sequence[Any], *, side: float = 2.15, bar: bool = True) -> tuple[Figure, list[Axes], float]:
    """Equal panels, at most four a row, placed to the inch; below them room for a colour bar, whose height is returned, and the legends."""
    shape, gap, head = float(np.ptp(surface.y) / np.ptp(surface.x)), 0.3, 0.74
    columns = min(count, 4)
    rows, tall = -(-count // columns), side * min(max(shape, 0.4), 2.5)
    width = max(0.75 + columns * side + (columns - 1) * gap, 5.35 if bar else 0)
    left, ways = 2.85 if bar else 0.6, panels.trail_handles(surface)
    beside = min(len(handles), max(1, int((width - left) / WORDS)))
    below = len(ways) * LINE + (0.08 if ways else 0)
    foot = max(0.65 if bar else 0, -(-len(handles) // beside) * LINE) + below + 0.12
    height = head + rows * tall + (rows - 1) * 0.65 + 0.5 + foot
    figure, axes = blank(width, height), []
    for n in range(count):
        x, y = 0.6 + (n % columns) * (side + gap), head + (n // columns) * (tall + 0.65)
        axes.append(figure.add_axes((x / width, 1 - (y + tall) / height, side / width, tall / height)))
        axes[n].tick_params(labelleft=n % columns == 0)
    rest = {"loc": "upper left", "borderaxespad": 0, "borderpad": 0, "labelspacing": 0.35}
    figure.legend(handles=handles, bbox_to_anchor=(left / width, foot / height), ncols=beside, **rest)
    if ways:  # a line each over the whole width: their names are the user's, and long
        figure.legend(handles=ways, bbox_to_anchor=(0.6 / width, (below + 0.1) / height), **rest)
    return figure, axes, foot - 0.16


def _finish(figure: Figure, axes: Sequence[Axes], surface: Surface, path: str | Path, title: str | None) -> Path:
    for ax in axes:
        ax.locator_params(nbins=5)
    axes[0].set_xlabel(panels.axis_name(surface, 0))
    axes[0].set_ylabel(panels.axis_name(surface, 1))
    width, height = figure.get_size_inches()
    if words := panels.heading(surface) if title is None else title:
        figure.suptitle(words, x=0.6 / width, ha="left", fontsize=11, fontweight="bold", y=1 - 0.08 / height, va="top")
    return write(figure, path)
