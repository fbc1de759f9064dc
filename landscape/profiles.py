"""Profiles along paths: the mean over batches with its 95 % interval, and the barrier over the line between the ends.

    band      mean ± t_{0.975, B−1} s / √B       over B batches, at every place on the path
    barrier   max_t [ f̄(t) − ((1 − t) f̄(0) + t f̄(1)) ]       of the mean f̄; a bar from the line to the curve. Of a score, how far it falls

All panels have one scale: a path or a type can be compared with the next by eye.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from deltas.errors import InputError
from landscape.sections import Section
from landscape.style import INK, OKABE_ITO, SOFT, STYLE, blank, colours, write

Across = Literal["paths", "types"]
SIDE, TALL, LEFT, GAP, HEAD = 2.5, 1.95, 0.68, 0.2, 0.75
"""Inches: a panel's sides, what is left of the first, between two, and above them."""
LINE = 0.153
MARKERS = "osD^vPX*"
"""Lines are told apart by their markers too."""


def draw_profiles(sections: Sequence[Section], path: str | Path, *, across: Across = "paths", title: str | None = None) -> Path:
    """What a quantity is along one or several paths, for one or several types, in one picture on one scale.

    Args:
        sections: a path each, all of one quantity.
        path: file to write; its suffix is the format.
        across: what has a panel each: "paths" (the lines are types) or "types" (the lines are paths).
        title: None is task, quantity and space.

    Returns:
        The path.

    Raises:
        InputError: no section, sections of several quantities, two paths of one name, or another `across`.

    Example:
        landscape.draw_profiles([straight, bezier], "paths.svg", across="types")
    """
    _checked(sections, across)
    labels = list(dict.fromkeys(label for section in sections for label in section.values))
    by_name = {section.name: section for section in sections}
    panels, lines = (list(by_name), labels) if across == "paths" else (labels, list(by_name))
    tint = colours(labels) | ({name: OKABE_ITO[-1 - n % len(OKABE_ITO)] for n, name in enumerate(by_name)} if across == "types" else {})
    with mpl.rc_context(STYLE):
        figure, axes = _sheet(len(panels), len(lines))
        for ax, panel in zip(axes, panels, strict=True):
            handles = []
            for n, line in enumerate(lines):
                name, label = (panel, line) if across == "paths" else (line, panel)
                if label in by_name[name].values:
                    handles.append(_line(ax, by_name[name], label, line, tint[line], MARKERS[n % len(MARKERS)]))
            _between(ax, [by_name[panel]] if across == "paths" else sections)
            ax.set_title(panel, loc="left", color=INK if across == "paths" else tint[panel])
            ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(-0.02, -0.46 / TALL), borderaxespad=0, borderpad=0, labelspacing=0.35)
        _one_scale(axes, sections)
        return _finish(figure, sections, path, title)


def _checked(sections: Sequence[Section], across: str) -> None:
    if across not in ("paths", "types"):
        raise InputError(f"expected panels across 'paths' or 'types', got {across!r}; choose one of them")
    if not sections:
        raise InputError("expected at least one path to draw, got none; evaluate one first")
    kinds = list(dict.fromkeys(section.quantity for section in sections))
    if len(kinds) > 1:
        raise InputError(f"expected one quantity on one scale, got {', '.join(kinds)}; draw a figure of each")
    names = [section.name for section in sections]
    if len(set(names)) < len(names):
        raise InputError(f"expected paths of different names, got {', '.join(names)}; name each")


def _line(ax: Axes, section: Section, label: str, name: str, colour: str, marker: str) -> Line2D:
    """One curve with its band, the line between its ends and its barrier; what the legend says of it."""
    values, half, t = section.mean(label).values, section.half(label), section.t
    if np.isfinite(half).any():
        ax.fill_between(t, values - half, values + half, color=colour, alpha=0.18, linewidth=0)
    look: dict[str, Any] = {"color": colour, "linewidth": 1.6, "marker": marker, "markersize": 3.2}
    ax.plot(t, values, markevery=max(1, len(t) // 10), zorder=3, **look)
    ax.plot(t[[0, -1]], values[[0, -1]], color=colour, linewidth=0.8, linestyle=(0, (4, 3)), zorder=2)
    worst, height = section.barrier(label)
    if height > 0:
        foot = values[worst] - height * (1 if section.good == "low" else -1)
        ax.plot([t[worst]] * 2, [foot, values[worst]], color=colour, linewidth=1.1, marker="_", markersize=6, zorder=4)
    holes = section.holes(label)
    least = "at least " if holes else ""
    words = f"barrier {least}{height:.3g}" if np.isfinite(height) else "no barrier, as an end is a hole"
    return Line2D([], [], label=f"{name}: {words}" + (f", {holes} hole{'s' if holes > 1 else ''}" if holes else ""), **look)


def _between(ax: Axes, sections: Sequence[Section]) -> None:
    """The ends' names in place of 0 and 1, where all lines have the same."""
    ends = {section.ends for section in sections}
    first, last = ends.pop() if len(ends) == 1 else ("", "")
    ax.set_xlim(-0.03, 1.03)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
    for name, at, side in ((first, 0.0, "left"), (last, 1.0, "right")):
        ax.annotate(name, (at, 0), xycoords=ax.get_xaxis_transform(), xytext=(0, -16), textcoords="offset points", ha=side, va="top", fontsize=8)
    if not (first or last):
        ax.set_xlabel("place on the path")


def _one_scale(axes: Sequence[Axes], sections: Sequence[Section]) -> None:
    low, high = (f(limit) for f, limit in zip((min, max), zip(*(ax.get_ylim() for ax in axes), strict=True), strict=True))
    for ax in axes:
        ax.set_ylim(low, high)
    axes[0].set_ylabel(sections[0].quantity.replace("_", " "))


def _sheet(panels: int, lines: int) -> tuple[Figure, list[Axes]]:
    """Panels side by side, at most three a row, placed to the inch; below each, its legend."""
    columns = min(panels, 3)
    rows, below = -(-panels // columns), 0.5 + lines * LINE
    width = max(LEFT + columns * SIDE + (columns - 1) * GAP + 0.15, 4.2)
    height = HEAD + rows * (TALL + below) + (rows - 1) * 0.35 + 0.28
    figure, axes = blank(width, height), []
    for n in range(panels):
        left, top = LEFT + (n % columns) * (SIDE + GAP), HEAD + (n // columns) * (TALL + below + 0.35)
        axes.append(figure.add_axes((left / width, 1 - (top + TALL) / height, SIDE / width, TALL / height)))
        axes[n].tick_params(labelleft=n % columns == 0)
    return figure, axes


def _finish(figure: Figure, sections: Sequence[Section], path: str | Path, title: str | None) -> Path:
    width, height = figure.get_size_inches()
    first = sections[0]
    tasks, spaces = (dict.fromkeys(filter(None, (getattr(s, name) for s in sections))) for name in ("task", "space"))
    words = " · ".join(filter(None, [", ".join(tasks), first.quantity.replace("_", " "), f"paths in {', '.join(spaces)}" if spaces else ""]))
    if words := words if title is None else title:
        figure.suptitle(words, x=LEFT / width, ha="left", fontsize=11, fontweight="bold", y=1 - 0.08 / height, va="top")
    batches = [len(values) for section in sections for values in section.values.values()]
    number = f"{min(batches)}" if min(batches) == max(batches) else f"{min(batches)} to {max(batches)}"
    foot = f"dashed: the line between the ends · bands: 95% interval of the mean over {number} batches" if max(batches) > 1 else \
        "dashed: the line between the ends"  # fmt: skip
    figure.text(LEFT / width, 0.07 / height, foot, fontsize=7, color=SOFT, va="bottom")
    return write(figure, path)
