"""Curves against steps with intervals, one panel a measure, one colour a method."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np

from deltas.errors import InputError
from landscape.style import STYLE, Estimate, colours, sheet, write

MARKERS = "os^Dv<>p"


def draw_courses(
    panels: Mapping[str, Mapping[str, Mapping[float, Estimate]]], path: str | Path, *, xlabel: str = "steps", title: str | None = None
) -> Path:
    """Draw {panel, its name at the axis: {method: {step: Estimate}}}; a method has one colour and one marker in all panels."""
    methods = list(dict.fromkeys(method for lines in panels.values() for method in lines))
    if not methods:
        raise InputError("expected at least one curve to draw, got none; give an estimate a step")
    look = colours(methods)
    with mpl.rc_context(STYLE):
        figure = sheet(3.6 * len(panels), 3.3)
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for ax, (name, lines) in zip(axes, panels.items(), strict=True):
            reach = max((step for line in lines.values() for step in line), default=0.0)
            for method, line in lines.items():
                aside = 0.008 * reach * (methods.index(method) - (len(methods) - 1) / 2)  # intervals beside each other, not on one another
                at = np.array(sorted(line), float) + aside
                values = np.array([line[step] for step in sorted(line)], float).reshape(-1, 3)
                ax.vlines(at, values[:, 1], values[:, 2], color=look[method], linewidth=0.8, alpha=0.55)
                ax.plot(at, values[:, 0], color=look[method], marker=MARKERS[methods.index(method) % len(MARKERS)], markersize=4, linewidth=1.6,
                        label=method)
            ax.set_xlabel(xlabel)
            ax.set_ylabel(name)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(len(methods), 6))
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
        return write(figure, path)
