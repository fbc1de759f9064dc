"""Memory and time of a training step against the batch size, a line a delta type."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import LogLocator, StrMethodFormatter

from deltas.errors import InputError
from landscape.style import INK, STYLE, Estimate, colours, sheet, write


def draw_costs(series: Mapping[str, Mapping[int, tuple[float, Estimate]]], path: str | Path) -> Path:
    """Two panels on logarithmic axes: memory in MiB, and milliseconds with their range.

    Args:
        series: {type: {batch size: (MiB, milliseconds)}}; the last type is the one compared with, in black.

    Raises:
        InputError: nothing to draw, or another suffix than .png, .svg or .pdf.
    """
    if not series:
        raise InputError("expected at least one delta type to draw, got none; give some")
    tint = colours(list(series)) | {list(series)[-1]: INK}
    with mpl.rc_context(STYLE):
        figure = sheet(7.4, 3.5)
        left, right = figure.subplots(1, 2)
        for label, points in series.items():
            at = sorted(points)
            left.plot(at, [points[size][0] for size in at], "o-", color=tint[label], markersize=4, linewidth=1.5, label=label)
            times = [points[size][1] for size in at]
            bars = np.concatenate([time.bars for time in times], axis=1)
            right.errorbar(at, [time.value for time in times], yerr=bars, color=tint[label], marker="o", markersize=4, linewidth=1.5,
                           elinewidth=0.8, capsize=2)
        for ax, name in ((left, "memory of a step, MiB"), (right, "time of a step, ms (median, range)")):
            ax.set_xscale("log", base=2)
            ax.set_yscale("log")
            sizes = sorted({size for points in series.values() for size in points})
            ax.set_xticks(sizes, [str(size) for size in sizes])
            ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            ax.minorticks_off()
            ax.set_xlabel("rows a step")
            ax.set_ylabel(name)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(series))
        return write(figure, path)
