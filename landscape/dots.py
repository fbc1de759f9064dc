"""Rows of dots: a mean and its interval a row, in one or several series, before the single tasks and the controls."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from deltas.errors import InputError
from landscape.style import FAINT, INK, OKABE_ITO, SOFT, STYLE, Estimate, sheet, write
from landscape.taskmap import SYMBOLS


def draw_dots(
    series: Mapping[str, Mapping[str, Estimate]],
    path: str | Path,
    *,
    points: Mapping[str, Mapping[str, float]] | None = None,
    references: Mapping[str, float] | None = None,
    groups: Mapping[str, str] | None = None,
    xlabel: str = "score",
    title: str | None = None,
) -> Path:
    """Draw the estimates, a row a name from top to bottom.

    Args:
        series: {series: {row: Estimate}}; several stand above one another within a row, and two of one row are joined.
        points: {row: {task: value}}, small marks of the tasks behind the first series.
        references: {name: value}, dashed lines over all rows.
        groups: {row: group}; a line parts rows of different groups, and the group is named at the right.
    """
    rows = list(dict.fromkeys(row for line in series.values() for row in line))
    if not rows:
        raise InputError("expected at least one row to draw, got none; give an estimate")
    points = points or {}
    tasks = list(dict.fromkeys(task for row in rows for task in points.get(row, {})))
    with mpl.rc_context(STYLE):
        figure = sheet(6.6, 0.3 * len(rows) + 1.2)
        ax = figure.add_subplot()
        for n, (name, value) in enumerate((references or {}).items()):
            ax.axvline(value, color=SOFT, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
            ax.annotate(name, (value, 1), xycoords=("data", "axes fraction"), xytext=(0, 3 + 9 * n), textcoords="offset points", ha="center",
                        fontsize=7.5, color=SOFT)
        _tasks(ax, rows, points, tasks)
        _series(ax, rows, series)
        for n, row in enumerate(rows[1:], 1):
            if groups and groups.get(row) != groups.get(rows[n - 1]):
                ax.axhline(n - 0.5, color=FAINT, linewidth=0.9)
        for group, row in {groups[row]: row for row in reversed(rows) if row in groups}.items() if groups else ():
            ax.annotate(group, (1, rows.index(row)), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
                        va="center", fontsize=8, color=SOFT, annotation_clip=False)
        ax.set_yticks(range(len(rows)), rows, color=INK)
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.set_xlabel(xlabel)
        if len(series) > 1 or tasks:
            figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=4)
        if title:
            ax.set_title(title, loc="left", pad=16)
        return write(figure, path)


def _tasks(ax: Axes, rows: list[str], points: Mapping[str, Mapping[str, float]], tasks: list[str]) -> None:
    for n, task in enumerate(tasks):
        at = [(points[row][task], i) for i, row in enumerate(rows) if task in points.get(row, {})]
        ax.scatter(*np.transpose(at), s=16, marker=SYMBOLS[n % len(SYMBOLS)], color=OKABE_ITO[(n + 1) % len(OKABE_ITO)], alpha=0.65, linewidth=0,
                   label=task, zorder=2)


def _series(ax: Axes, rows: list[str], series: Mapping[str, Mapping[str, Estimate]]) -> None:
    step = 0.26 if len(series) > 1 else 0.0
    for i, row in enumerate(rows):
        here = [(line[row].value, i + step * (n - (len(series) - 1) / 2)) for n, line in enumerate(series.values()) if row in line]
        if len(here) == 2:
            ax.plot(*np.transpose(here), color=FAINT, linewidth=1.2, zorder=1)
    for n, (name, line) in enumerate(series.items()):
        colour = INK if len(series) == 1 else OKABE_ITO[n % len(OKABE_ITO)]
        for k, (row, estimate) in enumerate(line.items()):
            y = rows.index(row) + step * (n - (len(series) - 1) / 2)
            ax.errorbar(estimate.value, y, xerr=estimate.bars, fmt="o", color=colour, markersize=5.5, elinewidth=1.3, capsize=2, zorder=3,
                        label=name if k == 0 else None)
