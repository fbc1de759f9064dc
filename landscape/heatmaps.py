"""Task against task, one heat map a delta type, all in one order and on one scale: what is alike in one type can be looked up in the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize

from deltas.errors import InputError
from landscape.style import INK, OKABE_ITO, SOFT, STYLE, sheet, write
from landscape.taskmap import INKED, category_of, legend_of, looks

CELL = 0.1
"""Inches a task, so that names of 6 points stand beside each other."""
LARGEST = 6.5
"""Inches of a heat map at most."""
READABLE = 3.0
"""Points of the smallest names that are written."""
SHADE = LinearSegmentedColormap.from_list("similarity", [OKABE_ITO[1], "#f3b48a", "white", "#8fc3e3", OKABE_ITO[0]]).with_extremes(bad="#dedede")


def similarities(
    matrices: Mapping[str, Float[np.ndarray, "tasks tasks"]],
    tasks: Sequence[str],
    path: str | Path,
    *,
    order: Sequence[int] | None = None,
    linkage: Float[np.ndarray, "tasks-1 4"] | None = None,
    categories: Mapping[str, str] | None = None,
    colour_label: str = "cosine of the solutions less their mean",
    title: str | None = None,
) -> Path:
    """Heat maps of task similarity side by side.

    Args:
        matrices: {label: similarity [tasks, tasks]}; the diagonal is left out of the scale and drawn grey.
        tasks: names of the rows.
        order: places of the tasks from top to bottom, such as `subspace.clustered(…).order`; None groups them by category and name, with lines
            between the groups.
        linkage: the tree that belongs to the order, drawn at the left.
        categories: {task: category}, a marker beside each name.
    """
    kinds = [category_of(categories, task) for task in tasks]
    places, shown = _arranged(matrices, tasks, order, kinds)
    most, beyond = _range(shown)
    look = looks(categories, tasks)
    n, many = len(tasks), len(look) > 1
    side, tree = min(max(2.4, CELL * n), LARGEST), 0.5 if linkage is not None else 0.06
    size = min(7.0, 72 * side / n * 0.82)
    names = 0.055 * max(map(len, tasks)) * size / 6.5 + 0.15 if size >= READABLE else 0.15
    with mpl.rc_context(STYLE):
        width = tree + names + 0.2 * many + len(shown) * (side + 0.12) + 0.9 + 1.0 * many
        height = side + (0.75 if title else 0.5)
        figure = sheet(width, height)
        figure.set_layout_engine("none")  # fixed places, in inches: a layout engine would shrink the tree and the names

        def axes(left: float, wide: float, high: float = side) -> Axes:
            return figure.add_axes((left / width, 0.2 / height, wide / width, high / height))

        image: Any = None
        left = tree + names + 0.2 * many
        for number, (label, matrix) in enumerate(shown.items()):
            ax = axes(left, side)
            image = ax.imshow(matrix, cmap=SHADE, norm=Normalize(-most, most), aspect="auto", interpolation="nearest")
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set_visible(False)
            ax.set_title(label, loc="left", fontsize=9)
            if order is None:
                mark_categories(ax, [kinds[i] for i in places])
            if number == 0:
                name_rows(ax, [tasks[i] for i in places], [look[kinds[i]] for i in places] if many else None, side, size)
            left += side + 0.12
        if linkage is not None:
            _tree(axes(0.03, tree - 0.05), linkage, n)
        bar = figure.colorbar(image, cax=axes(left + 0.05, 0.1, min(side, 2.4)), extend="both" if beyond else "neither")
        bar.set_label(colour_label)
        bar.outline.set_visible(False)  # type: ignore[union-attr]
        if many:
            figure.legend(handles=legend_of(look), loc="upper left", bbox_to_anchor=((left + 0.72) / width, (0.2 + side) / height),
                          borderaxespad=0, handletextpad=0.2)
        if title:
            figure.text(0.03 / width, 1 - 0.16 / height, title, fontweight="bold", fontsize=10, va="center")
        return write(figure, path)


def _arranged(
    matrices: Mapping[str, np.ndarray], tasks: Sequence[str], order: Sequence[int] | None, kinds: Sequence[str]
) -> tuple[list[int], dict[str, Float[np.ndarray, "tasks tasks"]]]:
    """The tasks' places from top to bottom, and the matrices in that order, NaN on the diagonal."""
    n = len(tasks)
    if not matrices or any(np.shape(m) != (n, n) for m in matrices.values()):
        shapes = ", ".join(str(np.shape(m)) for m in matrices.values()) or "none"
        raise InputError(f"expected similarities [{n}, {n}] of the {n} tasks, got {shapes}; give one matrix a type")
    places = list(order) if order is not None else sorted(range(n), key=lambda i: (kinds[i], tasks[i]))
    if sorted(places) != list(range(n)):
        raise InputError(f"expected an order of the {n} tasks, got {len(places)} places; give each task's once")
    shown = {label: np.asarray(m, float)[places][:, places] for label, m in matrices.items()}
    for matrix in shown.values():
        np.fill_diagonal(matrix, np.nan)
    return places, shown


def _range(shown: Mapping[str, np.ndarray]) -> tuple[float, bool]:
    """The largest number that the colours tell apart, all but the most extreme half per cent, and whether any goes beyond."""
    off = np.concatenate([m[~np.eye(len(m), dtype=bool)] for m in shown.values()])
    if not off.size or not np.isfinite(off).all():
        return 1.0, bool(np.nanmax(np.abs(off), initial=0.0) > 1)
    most = max(float(np.quantile(np.abs(off), 0.995)), 1e-9)
    return most, bool(np.abs(off).max() > most)


def name_rows(ax: Axes, tasks: Sequence[str], marks: Sequence[tuple[str, str]] | None, side: float, size: float) -> None:
    """The tasks at the left, with their category's marker between name and map."""
    for row, task in enumerate(tasks):
        if size >= READABLE:
            ax.annotate(task, (0, row), xycoords=("axes fraction", "data"), xytext=(-4 - 10 * (marks is not None), 0), ha="right", va="center",
                        textcoords="offset points", fontsize=size, color=INK, annotation_clip=False)
        if marks is not None:
            colour, marker = marks[row]
            wide = min(5.0, size * 0.8) * INKED.get(marker, 1.0) ** 0.5
            ax.plot([-0.085 / side], [row], transform=ax.get_yaxis_transform(), marker=marker, color=colour, markersize=wide, markeredgewidth=0,
                    clip_on=False)


def mark_categories(ax: Axes, kinds: Sequence[str]) -> None:
    """Lines between the groups of a square map's rows, and of its columns."""
    for row in range(1, len(kinds)):
        if kinds[row] != kinds[row - 1]:
            ax.axhline(row - 0.5, color=SOFT, linewidth=0.7)
            ax.axvline(row - 0.5, color=SOFT, linewidth=0.7)


def _tree(ax: Axes, linkage: np.ndarray, n: int) -> None:
    """The tree, its leaves at the heights of the rows."""
    from scipy.cluster.hierarchy import dendrogram

    drawn: Any = dendrogram(linkage, no_plot=True)
    lines = [np.stack([-np.asarray(d), (np.asarray(i) - 5) / 10], axis=1) for i, d in zip(drawn["icoord"], drawn["dcoord"], strict=True)]
    ax.add_collection(LineCollection(lines, colors=SOFT, linewidths=0.7))
    deepest = max(float(np.max(linkage[:, 2])), 1e-9)
    ax.set_xlim(-1.02 * deepest, 0)
    ax.set_ylim(n - 0.5, -0.5)
    ax.axis("off")
