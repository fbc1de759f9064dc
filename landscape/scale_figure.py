"""Score and convergence against the size of the backbone, a line a method."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np

from deltas.errors import InputError
from landscape.style import FAINT, STYLE, Estimate, colours, sheet, write

DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1, 1, 1)))


def draw_scale(series: Mapping[tuple[str, str], Mapping[int, tuple[Estimate, Estimate]]], path: str | Path, *, names: Mapping[int, str],
               part: float) -> Path:
    """Two panels: the score, and the steps to convergence, against the backbone's parameters on a logarithmic axis.

    Args:
        series: {(method, selection): {parameters: (score, steps)}}; a method has a colour, a selection a kind of line.
        names: {parameters: backbone}.
        part: of the way to the best score that counts as converged.

    Raises:
        InputError: nothing to draw, or another suffix than .png, .svg or .pdf.
    """
    if not series:
        raise InputError("expected at least one method to draw, got none; give some")
    tint = colours(list(dict.fromkeys(method for method, _ in series)))
    selections = list(dict.fromkeys(selection for _, selection in series))
    with mpl.rc_context(STYLE):
        figure = sheet(7.6, 3.7)
        axes = figure.subplots(1, 2)
        for n, ((method, selection), points) in enumerate(series.items()):
            at = sorted(points)
            shifted = [p * 1.06 ** (n - len(series) / 2) for p in at]  # intervals stand beside each other
            dashes = DASHES[selections.index(selection) % len(DASHES)]
            for ax, which in zip(axes, (0, 1), strict=True):
                estimates = [points[p][which] for p in at]
                bars = np.concatenate([estimate.bars for estimate in estimates], axis=1)
                ax.errorbar(shifted, [e.value for e in estimates], yerr=bars, color=tint[method], linestyle=dashes, marker="o", markersize=3.5,
                            linewidth=1.3, elinewidth=0.8, capsize=2, label=f"{method}, {selection}")
        axes[0].axhline(0.0, color=FAINT, linewidth=1.0, zorder=0)
        axes[0].set_ylabel("score (0 chance, 1 all right)")
        axes[1].set_ylabel(f"steps to {part:.0%} of the way to the best")
        axes[1].set_ylim(0, None)
        for ax in axes:
            ax.set_xscale("log")
            ax.set_xticks(sorted(names), [f"{names[p]}\n{p / 1e6:.3g} M" for p in sorted(names)])
            ax.minorticks_off()
            ax.margins(x=0.15)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, handlelength=3.5)
        return write(figure, path)
