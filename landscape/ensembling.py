"""Pictures of weight ensembling: who weighs what, what it gains, which blocks tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.colors import LinearSegmentedColormap, Normalize

from deltas.errors import InputError
from landscape.style import FAINT, INK, OKABE_ITO, SOFT, STYLE, Estimate, sheet, write

WEIGHTS = LinearSegmentedColormap.from_list("weights", ["white", "#8fc3e3", OKABE_ITO[0], "#00263d"]).with_extremes(bad="#dedede")
ACROSS = 4
"""Heat maps beside each other."""


def draw_weights(
    matrices: Mapping[str, Float[np.ndarray, "targets sources"]], targets: Sequence[str], sources: Sequence[str], path: str | Path
) -> Path:
    """A heat map a method, all on one scale from 0.

    Args:
        matrices: {method: weights}; NaN, where a source takes no part, is grey, and a negative weight is drawn as 0.
    """
    shape = (len(targets), len(sources))
    if not matrices or any(np.shape(m) != shape for m in matrices.values()):
        raise InputError(f"expected weights {list(shape)} of targets and sources, got {[list(np.shape(m)) for m in matrices.values()]}; give "
                         "one matrix a method")
    most = max(float(np.nanmax(np.abs(m), initial=1e-9)) for m in matrices.values())
    columns = min(ACROSS, len(matrices))
    lines = -(-len(matrices) // columns)
    side = max(1.5, 0.13 * max(shape))
    with mpl.rc_context(STYLE):
        figure = sheet(columns * side + 2.2, lines * (side + 0.3) + 0.9)
        grid = np.asarray(figure.subplots(lines, columns, squeeze=False))
        for ax in grid.ravel()[len(matrices):]:
            ax.set_visible(False)
        image = None
        for number, ((name, matrix), ax) in enumerate(zip(matrices.items(), grid.ravel(), strict=False)):
            image = ax.imshow(np.maximum(matrix, 0.0), cmap=WEIGHTS, norm=Normalize(0, most), aspect="auto", interpolation="nearest")
            ax.set_title(name, loc="left", fontsize=8)
            ax.spines[:].set_visible(False)
            ax.tick_params(length=0, labelsize=5.5, pad=1)
            ax.set_yticks(range(shape[0]), targets if number % columns == 0 else [""] * shape[0])
            last = number + columns >= len(matrices)
            ax.set_xticks(range(shape[1]), sources if last else [""] * shape[1], rotation=90)
        bar = figure.colorbar(image, ax=list(grid.ravel()), shrink=0.5, pad=0.01)  # type: ignore[arg-type]
        bar.set_label("weight of the source")
        bar.outline.set_visible(False)  # type: ignore[union-attr]
        return write(figure, path)


def draw_gains(gains: Mapping[str, Mapping[str, Estimate | None]], path: str | Path, *, xlabel: str) -> Path:
    """Gains with their intervals, a line a method; several kinds of gain beside each other.

    Args:
        gains: {method: {kind: gain, or None where it was not measured}}.
    """
    kinds = list(dict.fromkeys(kind for one in gains.values() for kind in one))
    with mpl.rc_context(STYLE):
        figure = sheet(6.6, 0.34 * len(gains) + 1.1)
        ax = figure.add_subplot()
        ax.axvline(0, color=FAINT, linewidth=1.2, zorder=0)
        for n, kind in enumerate(kinds):
            heights = [i + 0.24 * (n - (len(kinds) - 1) / 2) for i in range(len(gains))]
            for y, one in zip(heights, gains.values(), strict=True):
                if (gain := one.get(kind)) is not None:
                    ax.errorbar(gain.value, y, xerr=gain.bars, fmt="os^D"[n % 4], color=OKABE_ITO[n % 8], markersize=4, linewidth=1.1)
            ax.plot([], [], "os^D"[n % 4], color=OKABE_ITO[n % 8], markersize=4, label=kind)
        ax.set_yticks(range(len(gains)), list(gains))
        ax.set_ylim(len(gains) - 0.4, -0.6)
        ax.tick_params(axis="y", length=0, labelcolor=INK)
        ax.set_xlabel(xlabel)
        figure.legend(loc="outside upper right", ncols=len(kinds))
        return write(figure, path)


def draw_blocks(
    series: Mapping[str, Mapping[str, Estimate | None]], path: str | Path, *, ylabel: str = "Spearman's ρ with the dev loss"
) -> Path:
    """A number a block, in the order of the blocks.

    Args:
        series: {what: {block: its number, or None}}.
    """
    blocks = list(dict.fromkeys(block for one in series.values() for block in one))
    with mpl.rc_context(STYLE):
        figure = sheet(max(4.2, 0.55 * len(blocks) + 1.6), 3.0)
        ax = figure.add_subplot()
        ax.axhline(0, color=FAINT, linewidth=1.2, zorder=0)
        for n, (name, one) in enumerate(series.items()):
            known = [(i, value) for i, block in enumerate(blocks) if (value := one.get(block)) is not None]
            if known:
                at, values = np.array([i for i, _ in known]) + 0.08 * (n - (len(series) - 1) / 2), [value for _, value in known]
                bars = np.concatenate([value.bars for value in values], axis=1)
                ax.errorbar(at, [value.value for value in values], yerr=bars, fmt="os^D"[n % 4], linestyle="-", color=OKABE_ITO[n % 8],
                            markersize=4.5, linewidth=1.2, elinewidth=0.9, label=name)
        ax.set_xlim(-0.5, len(blocks) - 0.5)
        ax.set_xticks(range(len(blocks)), blocks, rotation=30 if len(blocks) > 6 else 0, color=SOFT)
        ax.set_ylabel(ylabel)
        figure.legend(loc="outside upper left", ncols=2)
        return write(figure, path)
