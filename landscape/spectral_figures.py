"""Figures of curvature: how eigenvalues are spread, the leading ones with their errors, and the trace with its interval, by type.

Densities are on a logarithmic scale, since the few large eigenvalues that matter are a tiny part of all; what is below 0 is hatched and counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from deltas.errors import InputError
from landscape.curvature import Density, Eigen, Traced
from landscape.style import FAINT, INK, SOFT, STYLE, blank, colours, write

SIDE, TALL, LEFT, GAP, HEAD = 2.3, 1.9, 0.72, 0.2, 0.82
"""Inches: a panel's sides, what is left of the first, between two, and above them."""
FLOOR = 1e-5
"""Densities below this part of the highest are not drawn: they are tails of the Gaussians that smooth."""
ROUNDING = 1e-6
"""Nodes below 0 by less than this part of the largest count as 0."""
WIDE = 50.0
"""Eigenvalues that span more than this ratio have a symmetric logarithmic scale."""


def draw_densities(densities: Mapping[str, Density], path: str | Path, *, matrix: str = "Hessian", space: str = "z",
                   title: str | None = None) -> Path:
    """Spectral densities of several types side by side, on one scale.

    Args:
        densities: by type, from `spectral_density`.
        path: file to write; its suffix is the format.
        matrix, space: what the eigenvalues are of, and where; for the title.
        title: None says matrix and space.

    Returns:
        The path.

    Raises:
        InputError: no density.
    """
    if not densities:
        raise InputError("expected the spectral density of one type at least, got none; compute one first")
    tint, columns = colours(list(densities)), min(len(densities), 4)
    rows = -(-len(densities) // columns)
    top = max(float(found.density.max()) for found in densities.values())
    low, high = min(float(found.at[0]) for found in densities.values()), max(float(found.at[-1]) for found in densities.values())
    margin = 0.02 * (high - low)
    with mpl.rc_context(STYLE):
        width, height = max(LEFT + columns * SIDE + (columns - 1) * GAP + 0.15, 4.6), HEAD + rows * TALL + (rows - 1) * 0.75 + 0.78
        figure = blank(width, height)
        for n, (label, found) in enumerate(densities.items()):
            left, down = LEFT + (n % columns) * (SIDE + GAP), HEAD + (n // columns) * (TALL + 0.75)
            ax = figure.add_axes((left / width, 1 - (down + TALL) / height, SIDE / width, TALL / height))
            _density(ax, found, tint[label], top)
            ax.set_title(label, loc="left", color=tint[label], pad=17)
            ax.set_xlim(low - margin, high + margin)
            ax.tick_params(labelleft=n % columns == 0)
            if n % columns == 0:
                ax.set_ylabel("density")
            if n == 0:
                ax.set_xlabel("eigenvalue")
        handles = [Patch(facecolor=SOFT, alpha=0.45, label="above 0"),
                   Patch(facecolor="white", edgecolor=INK, hatch="////", linewidth=0.6, label="below 0")]  # fmt: skip
        figure.legend(handles=handles, loc="lower left", bbox_to_anchor=(LEFT / width, 0.06 / height), ncols=2, borderaxespad=0, borderpad=0)
        words = f"spectrum of the {matrix} in {space}" if title is None else title
        if words:
            figure.suptitle(words, x=LEFT / width, ha="left", fontsize=11, fontweight="bold", y=1 - 0.08 / height, va="top")
        return write(figure, path)


def _density(ax: Axes, found: Density, colour: str, top: float) -> None:
    floor = FLOOR * top
    height = np.maximum(found.density, floor)
    ax.set_yscale("log")
    below = found.at <= 0
    ax.fill_between(found.at, floor, height, where=~below, color=colour, alpha=0.45, linewidth=0)
    ax.fill_between(found.at, floor, height, where=below, facecolor="white", edgecolor=colour, hatch="////", linewidth=0)
    ax.plot(found.at, height, color=colour, linewidth=1.2)
    ax.axvline(0, color=INK, linewidth=0.7, zorder=3)
    heavy = found.nodes[found.weights > FLOOR]
    ax.plot(heavy, np.full(len(heavy), 0.015), "|", color=INK, markersize=4, markeredgewidth=0.5, alpha=0.5, transform=ax.get_xaxis_transform())
    ax.set_ylim(floor, top * 3)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    share = negative(found)
    words = f"{share:.1%} below 0" if share >= 5e-4 else "none below 0" if share == 0 else f"{share:.1g} of all below 0"
    ax.text(0, 1.02, f"{words}, largest {found.nodes.max():.3g}", transform=ax.transAxes, fontsize=8, color=SOFT, va="bottom")


def negative(found: Density) -> float:
    """The part of all eigenvalues that is below 0 by more than rounding."""
    return float(found.weights[found.nodes < -ROUNDING * np.abs(found.nodes).max()].sum())


def draw_eigenvalues(eigen: Mapping[str, Eigen], path: str | Path, *, traces: Mapping[str, Traced] | None = None, most: int = 10,
                     matrix: str = "Hessian", space: str = "z", title: str | None = None) -> Path:
    """The leading eigenvalues of every type with error bars and, beside them, the trace with its 95 % interval.

    Args:
        eigen: by type, from `eigenvalues`.
        path: file to write; its suffix is the format.
        traces: by type, from `trace`.
        most: eigenvalues of a type that are drawn, those of largest size.
        matrix, space: what the eigenvalues are of, and where; for the title.
        title: None says matrix and space.

    Returns:
        The path.

    Raises:
        InputError: neither an eigenvalue nor a trace.
    """
    traces = traces or {}
    labels = list(dict.fromkeys([*eigen, *traces]))
    if not labels:
        raise InputError("expected the eigenvalues or the trace of one type at least, got neither; compute some first")
    most = max((len(found.values[:most]) for found in eigen.values()), default=0)
    wide, narrow = (max(2.4, 0.2 + 0.16 * most * len(eigen)) if eigen else 0.0), (0.5 + 0.45 * len(labels) if traces else 0.0)
    tint, gap = colours(labels), 0.85 if eigen and traces else 0.0
    with mpl.rc_context(STYLE):
        width, height = max(LEFT + wide + gap + narrow + 0.2, 4.0), HEAD + TALL + 0.6
        figure = blank(width, height)
        bottom, tall = 0.6 / height, TALL / height
        if eigen:
            ax = figure.add_axes((LEFT / width, bottom, wide / width, tall))
            _leading(ax, eigen, tint, most)
        if traces:
            _traces(figure.add_axes(((LEFT + wide + gap) / width, bottom, narrow / width, tall)), traces, tint)
        words = f"curvature: {matrix} in {space}" if title is None else title
        if words:
            figure.suptitle(words, x=LEFT / width, ha="left", fontsize=11, fontweight="bold", y=1 - 0.08 / height, va="top")
        return write(figure, path)


def _leading(ax: Axes, eigen: Mapping[str, Eigen], tint: Mapping[str, str], most: int) -> None:
    """Falling by size; types beside each other at every rank."""
    markers = "osD^vPX*"
    for n, (label, found) in enumerate(eigen.items()):
        values, errors = found.values[:most], found.errors[:most]
        at = np.arange(1, len(values) + 1) + (n - (len(eigen) - 1) / 2) * 0.7 / len(eigen)
        look = {"fmt": markers[n % len(markers)], "color": tint[label], "markersize": 4, "capsize": 2, "linewidth": 1.0}
        ax.errorbar(at, values, yerr=errors, label=label, **look)
    every = np.concatenate([found.values[:most] for found in eigen.values()])
    sizes = np.abs(every[every != 0])
    if sizes.size and sizes.max() / sizes.min() > WIDE:
        ax.set_yscale("symlog", linthresh=float(10 ** np.floor(np.log10(max(sizes.min(), sizes.max() * 1e-6)))))
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.axhline(0, color=FAINT, linewidth=1.0, zorder=0)
    ax.set_xlim(0.5, most + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    ax.set_xlabel("rank by size")
    ax.set_ylabel("eigenvalue")
    ax.set_title("leading eigenvalues", loc="left", pad=19)
    ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=len(eigen), borderaxespad=0.2, borderpad=0, handletextpad=0.2,
              columnspacing=1.0)  # fmt: skip


def _traces(ax: Axes, traces: Mapping[str, Traced], tint: Mapping[str, str]) -> None:
    for n, (label, found) in enumerate(traces.items()):
        bars = [[found.value - found.low], [found.high - found.value]]
        ax.errorbar([n], [found.value], yerr=bars, fmt="o", color=tint[label], markersize=4.5, capsize=3, linewidth=1.2)
    ax.axhline(0, color=FAINT, linewidth=1.0, zorder=0)
    ax.set_xlim(-0.6, len(traces) - 0.4)
    ax.set_xticks(range(len(traces)), list(traces))
    for tick, label in zip(ax.get_xticklabels(), traces, strict=True):
        tick.set_color(tint[label])
    ax.set_title("trace", loc="left", pad=19)
    probes = {found.probes for found in traces.values()}
    words = "95% interval over probes" if len(probes) > 1 else "exact" if probes == {0} else f"{probes.pop()} probes, 95% interval"
    ax.text(0, 1.02, words, transform=ax.transAxes, fontsize=8, color=SOFT, va="bottom")
