"""Source task × target task: what each solution is worth on every other task, grouped by category; the matrix need not be symmetric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from deltas.errors import InputError
from landscape.heatmaps import SHADE, mark_categories, name_rows
from landscape.style import INK, STYLE, sheet, write
from landscape.taskmap import category_of, legend_of, looks

CELL = 0.29
"""Inches a task, so that a number fits in."""
NUMBERED = 24
"""Tasks up to which every cell bears its number."""


def draw_transfer(
    matrix: Float[np.ndarray, "tasks tasks"],
    tasks: Sequence[str],
    path: str | Path,
    *,
    categories: Mapping[str, str] | None = None,
    colour_label: str = "gain over zero-shot",
    title: str | None = None,
) -> Path:
    """Heat map of [source, target]: white is 0, the diagonal (a task's own solution) is framed, lines part the categories.

    Raises:
        InputError: a matrix of another shape.
    """
    n, values = len(tasks), np.asarray(matrix, float)
    if values.shape != (n, n) or n == 0:
        raise InputError(f"expected a matrix [{n}, {n}] of the {n} tasks, got shape {values.shape}; give a row a source and a column a target")
    kinds = [category_of(categories, task) for task in tasks]
    places = sorted(range(n), key=lambda i: (kinds[i], tasks[i]))
    shown, names, kinds = values[places][:, places], [tasks[i] for i in places], [kinds[i] for i in places]
    look = looks(categories, tasks)
    many, side = len(look) > 1, max(2.4, CELL * n)
    margin, below = 0.062 * max(map(len, names)) + 0.3, 0.055 * max(map(len, names)) + 0.3
    most = max(float(np.nanmax(np.abs(shown), initial=0.0)), 1e-9)
    with mpl.rc_context(STYLE):
        width, height = margin + side + 1.0 + 1.1 * many, below + side + (0.35 if title else 0.1)
        figure = sheet(width, height)
        figure.set_layout_engine("none")  # fixed places, in inches: a layout engine would shrink the names

        def axes(left: float, low: float, wide: float, high: float) -> Axes:
            return figure.add_axes((left / width, low / height, wide / width, high / height))

        ax = axes(margin, below, side, side)
        image: Any = ax.imshow(shown, cmap=SHADE, norm=Normalize(-most, most), aspect="auto", interpolation="nearest")
        mark_categories(ax, kinds)
        name_rows(ax, names, [look[kind] for kind in kinds] if many else None, side, 7.0)
        ax.set_xticks(range(n), names, rotation=90, fontsize=7, color=INK)
        ax.set_yticks([])
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        for i in range(n):
            ax.add_patch(Rectangle((i - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=INK, linewidth=0.9))
        if n <= NUMBERED:
            _numbers(ax, shown, most)
        ax.set_xlabel("run on")
        figure.text(0.02 / width, (below + side / 2) / height, "trained on", rotation=90, va="center", fontsize=9)
        bar = figure.colorbar(image, cax=axes(margin + side + 0.12, below, 0.1, min(side, 2.6)))
        bar.set_label(colour_label)
        bar.outline.set_visible(False)  # type: ignore[union-attr]
        if many:
            figure.legend(handles=legend_of(look), loc="upper left", bbox_to_anchor=((margin + side + 0.8) / width, (below + side) / height),
                          borderaxespad=0, handletextpad=0.2)
        if title:
            figure.text(0.03 / width, 1 - 0.16 / height, title, fontweight="bold", fontsize=10, va="center")
        return write(figure, path)


def _numbers(ax: Axes, shown: np.ndarray, most: float) -> None:
    """Hundredths, in an ink that the cell's colour leaves readable."""
    for (i, j), value in np.ndenumerate(shown):
        if np.isfinite(value):
            text = f"{round(100 * value):d}".replace("-", "−")
            ax.text(j, i, text, ha="center", va="center", fontsize=6, color="white" if abs(value) > 0.75 * most else INK)
