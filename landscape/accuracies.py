"""Pictures of continual learning: accuracy by step and group of classes, and over all classes seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.colors import LinearSegmentedColormap, Normalize

from deltas.errors import InputError
from landscape.style import FAINT, INK, OKABE_ITO, SOFT, STYLE, Estimate, sheet, write

SHADE = LinearSegmentedColormap.from_list("accuracy", ["white", "#8fc3e3", OKABE_ITO[0]]).with_extremes(bad="#efefef")
MARKS = "osD^vPX*"


def draw_accuracy_matrices(
    matrices: Mapping[tuple[str, str], Float[np.ndarray, "steps steps"]], path: str | Path, *, title: str | None = None
) -> Path:
    """R[i, j], the accuracy after step i on the classes of step j, one small map for each (row, column) of panels.

    Args:
        matrices: {(row, column): R}, NaN above the diagonal; all of one size. A pair that is not there stays empty.
        path: its suffix is the format.

    Raises:
        InputError: no matrix, or matrices of several sizes.
    """
    if len({matrix.shape for matrix in matrices.values()}) != 1:
        raise InputError(f"expected accuracy matrices of one size, got {sorted({m.shape for m in matrices.values()})}; draw them apart")
    rows, columns = (list(dict.fromkeys(pair[i] for pair in matrices)) for i in (0, 1))
    n = len(next(iter(matrices.values())))
    side = 0.3 * n + 0.35
    with mpl.rc_context(STYLE):
        figure = sheet(side * len(columns) + 1.3, side * len(rows) + (0.8 if title else 0.6))
        axes = figure.subplots(len(rows), len(columns), squeeze=False)
        image: Any = None
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                ax, matrix = axes[i][j], matrices.get((row, column))
                ax.spines[:].set_visible(False)
                ax.set_xticks([])
                ax.set_yticks([])
                if i == 0:
                    ax.set_title(column, fontsize=8)
                if j == 0:
                    ax.set_ylabel(f"{row}\nafter step", fontsize=8)
                if i == len(rows) - 1:
                    ax.set_xlabel("classes of step", fontsize=8)
                if matrix is None:
                    continue
                image = ax.imshow(matrix, cmap=SHADE, norm=Normalize(0, 1))
                ax.set_xticks(range(n), [str(step) for step in range(1, n + 1)])
                ax.set_yticks(range(n), [str(step) for step in range(1, n + 1)])
                ax.tick_params(length=0, labelsize=7)
                for a, b in zip(*np.nonzero(np.isfinite(matrix)), strict=True):
                    ax.text(b, a, f"{100 * matrix[a, b]:.0f}", ha="center", va="center", fontsize=6.5,
                            color="white" if matrix[a, b] > 0.7 else INK)
        bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=30)
        bar.set_label("accuracy, in the cells in %")
        bar.outline.set_visible(False)  # type: ignore[union-attr]
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
        return write(figure, path)


def draw_accuracy_steps(
    panels: Mapping[str, Mapping[str, Sequence[Estimate]]], path: str | Path, *, references: Mapping[str, Mapping[str, float]] | None = None,
    title: str | None = None,
) -> Path:
    """A_i, the accuracy over all classes seen, against step i: a panel for each key, a line with its interval for each method.

    Args:
        panels: {panel: {method: A_1 … A_N}}.
        path: its suffix is the format.
        references: {panel: {name: accuracy}}, dashed lines with their name.

    Raises:
        InputError: no panel.
    """
    if not panels:
        raise InputError("expected at least one panel of accuracies, got none; name a type that was learned")
    methods = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    with mpl.rc_context(STYLE):
        figure = sheet(2.5 * len(panels) + 1.9, 3.1)
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for ax, (panel, lines) in zip(axes, panels.items(), strict=True):
            for number, method in enumerate(methods):
                if method not in lines:
                    continue
                colour, values = OKABE_ITO[number % len(OKABE_ITO)], np.array(lines[method], float).reshape(-1, 3)
                at = np.arange(1, len(values) + 1)
                ax.fill_between(at, values[:, 1], values[:, 2], color=colour, alpha=0.1, linewidth=0)
                ax.plot(at, values[:, 0], marker=MARKS[number % len(MARKS)], color=colour, markersize=4, linewidth=1.5, label=method)
                ax.set_xticks(at)
            for name, value in (references or {}).get(panel, {}).items():
                ax.axhline(value, color=SOFT, linewidth=0.9, linestyle=(0, (4, 3)))
                ax.text(0.01, value - 0.01, name, transform=ax.get_yaxis_transform(), ha="left", va="top", fontsize=7, color=SOFT)
            ax.set_title(panel, loc="left")
            ax.set_xlabel("step")
            ax.set_ylim(0, 1)
            ax.grid(axis="y", color=FAINT, linewidth=0.5)
            ax.set_axisbelow(True)
        axes[0].set_ylabel("accuracy over the classes seen")
        handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside right center")
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
        return write(figure, path)
