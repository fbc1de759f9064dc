"""Small multiples: a row for every task and a column for every type, with what the types share at the end, on scales that can be compared.

One colour scale a metric: rows of one metric have the same colours for the same score, and a row of another metric has a scale of its own below.
The loss has one scale for all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deltas.errors import InputError
from landscape import panels
from landscape.region import Region, region
from landscape.style import INK, SOFT, STYLE, blank, colours, strip, write
from landscape.surface import Surface

SIDE = 1.25
"""Inches of a panel."""
LEFT, HEAD, GAP = 1.05, 0.72, 0.12
BAR = 1.6
"""Inches of a colour bar."""
WORDS = 0.15
"""Inches of a line of small words."""


def draw_multiples(surfaces: Sequence[Surface], path: str | Path, *, by: panels.By = "score", areas: Sequence[Region] | None = None,
                   tolerance: float = 0.1, title: str | None = None) -> Path:
    """Tasks × types, and the region where all types do well, of many planes at once.

    Args:
        surfaces: a row each, from top to bottom; a type that a row has not is left empty.
        path: file to write; its suffix is the format.
        by: what the colours are; contours are of the loss, at levels shared in a row.
        areas: the region of every row; None computes `region(surface, tolerance=tolerance)`, of the score whatever the colours are.
        title: None says what is drawn.

    Returns:
        The path.

    Raises:
        InputError: no surface, another quantity, or not one region a row.

    Example:
        landscape.draw_multiples([landscape.plane(space, backbone, task) for task in tasks], "tasks.pdf")
    """
    if by not in ("score", "loss"):
        raise InputError(f"expected small multiples by 'score' or 'loss', got {by!r}; choose one of them")
    if not surfaces:
        raise InputError("expected at least one surface to draw, got none; evaluate a plane of some task first")
    if areas is None:
        areas = [region(surface, tolerance=tolerance) for surface in surfaces]
    if len(areas) != len(surfaces):
        raise InputError(f"expected one region a surface, got {len(areas)} for {len(surfaces)}; pass them in one order")
    labels = list(dict.fromkeys(label for surface in surfaces for label in surface.labels))
    tint, groups = colours(labels), _groups(surfaces, by)
    with mpl.rc_context(STYLE):
        figure, axes, foot = _sheet(surfaces, len(labels) + 1, len(groups))
        images: dict[str, Any] = {}
        for row, (surface, area) in zip(axes, zip(surfaces, areas, strict=True), strict=True):
            group = panels.metric_name(surface, by)
            for label, ax in zip(labels, row, strict=False):
                if label not in surface.labels:
                    _empty(ax)
                    continue
                images[group] = _type(ax, surface, area, label, by, groups[group])
            _shared(row[-1], surface, area, tint)
            _row_name(row[0], surface)
        for ax, name in zip(axes[0], [*labels, "all types"], strict=True):
            ax.set_title(name, color=tint.get(name, INK), loc="left", fontsize=9, pad=4 if name in tint else 13)
        _legend(figure, images, groups, surfaces, areas[0], foot)
        return _named(figure, surfaces, path, by, title)


def _groups(surfaces: Sequence[Surface], by: panels.By) -> dict[str, tuple[Any, Any]]:
    """The scale of every metric."""
    names = [panels.metric_name(surface, by) for surface in surfaces]
    return {name: panels.scale_of([s for s, other in zip(surfaces, names, strict=True) if other == name], by) for name in dict.fromkeys(names)}


def _type(ax: Axes, surface: Surface, area: Region, label: str, by: panels.By, scale: tuple[Any, Any]) -> Any:
    t = surface.labels.index(label)
    image = panels.field(ax, surface, t, by, *scale, line=0.35)
    panels.edge(ax, surface, area, t, width=1.0)
    panels.trails(ax, surface, label, width=0.8)
    panels.marks(ax, surface, on_field=True, names=False, scale=0.7)
    return image


def _shared(ax: Axes, surface: Surface, area: Region, tint: dict[str, str]) -> None:
    panels.overlap(ax, surface, area, tint, width=1.0)
    panels.marks(ax, surface, on_field=False, names=False, scale=0.7)
    words = f"{area.fraction:.1%} of the plane" if area.area else "nowhere"
    ax.text(0, 1.02, words, transform=ax.transAxes, fontsize=7, color=SOFT, va="bottom")


def _row_name(ax: Axes, surface: Surface) -> None:
    """The task, in lines of a length that fits beside the panel, and its metric."""
    name, lines = surface.task or "plane", [""]
    for piece in name.replace("_", "_ ").replace("-", "- ").split():
        if lines[-1] and len(lines[-1]) + len(piece) > 13:
            lines.append("")
        lines[-1] += piece
    place = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "right", "annotation_clip": False}
    ax.annotate("\n".join(lines), (0, 0.5), xytext=(-26, 1), va="bottom", fontsize=8, fontweight="bold", **place)
    ax.annotate(panels.metric_name(surface, "score"), (0, 0.5), xytext=(-26, -2), va="top", fontsize=7, color=SOFT, **place)


def _empty(ax: Axes) -> None:
    ax.set_facecolor("white")
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.text(0.5, 0.5, "not evaluated", transform=ax.transAxes, ha="center", va="center", fontsize=7, color=SOFT)


def _sheet(surfaces: Sequence[Surface], columns: int, bars: int) -> tuple[Figure, list[list[Axes]], float]:
    """A grid of panels placed to the inch; below it, room for the scales and a line of words, whose height is returned."""
    first = surfaces[0]
    same = all(np.array_equal(s.x, first.x) and np.array_equal(s.y, first.y) for s in surfaces)
    tall = [SIDE * min(max(float(np.ptp(s.y) / np.ptp(s.x)), 0.4), 2.5) for s in surfaces]
    between = 0.2 if same else 0.32  # planes of their own have ticks of their own
    width = max(LEFT + columns * SIDE + (columns - 1) * GAP + 0.15, 5.2)
    across = max(1, int((width - LEFT) / (BAR + 0.35)))
    words = sum(bool(panels.trails_of(s)) for s in surfaces) + 1
    foot = 0.46 + 0.5 * -(-bars // across) + words * WORDS
    height = HEAD + sum(tall) + (len(tall) - 1) * between + foot
    figure, rows, top = blank(width, height), [], HEAD
    for n, (surface, side) in enumerate(zip(surfaces, tall, strict=True)):
        row = []
        for m in range(columns):
            left = LEFT + m * (SIDE + GAP)
            row.append(figure.add_axes((left / width, 1 - (top + side) / height, SIDE / width, side / height)))
            row[-1].tick_params(labelsize=6.5, length=2, pad=1.5, labelleft=m == 0, labelbottom=not same or n == len(surfaces) - 1)
            row[-1].xaxis.set_major_locator(MaxNLocator(3))
            row[-1].yaxis.set_major_locator(MaxNLocator(3))
        row[0].set_ylabel(panels.axis_name(surface, 1), fontsize=7, labelpad=0)
        rows.append(row)
        top += side + between
    rows[-1][0].set_xlabel(panels.axis_name(surfaces[-1], 0), fontsize=7, labelpad=1)
    return figure, rows, foot - 0.46


def _legend(figure: Figure, images: dict[str, Any], groups: dict[str, tuple[Any, Any]], surfaces: Sequence[Surface], area: Region,
            foot: float) -> None:
    """A colour bar for every scale, what the lines are, and how much of the optimizers' motion the planes hold."""
    width, height = figure.get_size_inches()
    across = max(1, int((width - LEFT) / (BAR + 0.35)))
    for n, (name, image) in enumerate(images.items()):
        box = (LEFT + (n % across) * (BAR + 0.35), foot - (n // across) * 0.5, BAR, 0.09)
        strip(figure, image, box, panels.scale_name(name, groups[name][0]), small=True)
    within = f"within {area.tolerance:.0%} of the type's best {area.by}"
    words = f"contours: loss, equal levels in a row · outlined: {within} · hatched: all types within"
    lines = [words, *(f"{s.task}: the plane holds " + ", ".join(f"{trail.share:.0%} of {trail.name}" for _, trail in panels.trails_of(s))
                      for s in surfaces if panels.trails_of(s))]  # fmt: skip
    figure.text(LEFT / width, 0.06 / height, "\n".join(lines), fontsize=7, color=SOFT, va="bottom", linespacing=1.4)


def _named(figure: Figure, surfaces: Sequence[Surface], path: str | Path, by: panels.By, title: str | None) -> Path:
    width, height = figure.get_size_inches()
    spaces = dict.fromkeys(surface.space for surface in surfaces)
    splits = dict.fromkeys(f"{surface.split} split" for surface in surfaces if surface.split)
    words = " · ".join([by, *splits, f"planes of {', '.join(spaces)}"]) if title is None else title
    if words:
        figure.suptitle(words, x=LEFT / width, ha="left", fontsize=11, fontweight="bold", y=1 - 0.08 / height, va="top")
    return write(figure, path)
