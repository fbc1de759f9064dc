"""Score against the number of trained parameters, a panel a backbone: structures as thin lines, their mean, what it is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from deltas.errors import InputError
from landscape.style import OKABE_ITO, SOFT, STYLE, Estimate, halo, sheet, write

MEAN, FULL, LOW, HIGH = OKABE_ITO[0], OKABE_ITO[2], OKABE_ITO[4], OKABE_ITO[1]


@dataclass(frozen=True, kw_only=True)
class BudgetPanel:
    """What is drawn of one backbone.

    structures: a line each, of (parameters, score); mean: {budget: score with its interval}; marks: {"P_low" or "P_high": budget, None
    where it is not reached}.
    """

    title: str
    structures: Sequence[Sequence[tuple[float, float]]]
    mean: Mapping[int, Estimate]
    chance: float
    zero_shot: float
    full: Estimate
    marks: Mapping[str, float | None] = field(default_factory=dict)


def draw_budgets(panels: Sequence[BudgetPanel], path: str | Path, *, ylabel: str = "score on test rows") -> Path:
    """The panels side by side on one scale of scores, P on a logarithmic axis.

    Raises:
        InputError: no panel, or another suffix than .png, .svg or .pdf.
    """
    if not panels:
        raise InputError("expected at least one backbone to draw, got none; give some")
    with mpl.rc_context(STYLE):
        figure = sheet(3.1 * len(panels) + 0.5, 3.5)
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for ax, panel in zip(axes, panels, strict=True):
            _draw(ax, panel)
        axes[0].set_ylabel(ylabel)
        figure.legend(handles=_handles(), loc="outside lower center", ncols=4 if len(panels) > 1 else 2)
        return write(figure, path)


def _draw(ax: Axes, panel: BudgetPanel) -> None:
    for line in panel.structures:
        points = np.array(sorted(line), float)
        ax.plot(points[:, 0], points[:, 1], "-", color=MEAN, linewidth=0.7, alpha=0.45, zorder=2)
    at = sorted(panel.mean)
    values = np.array([panel.mean[p] for p in at], float).reshape(-1, 3)
    ax.fill_between(at, values[:, 1], values[:, 2], color=MEAN, alpha=0.16, linewidth=0, zorder=1)
    ax.plot(at, values[:, 0], "o-", color=MEAN, markersize=4, linewidth=1.8, zorder=4)
    if np.isfinite(panel.full.low):
        ax.axhspan(panel.full.low, panel.full.high, color=FULL, alpha=0.12, linewidth=0, zorder=0)
    ax.axhline(panel.full.value, color=FULL, linewidth=1.2, zorder=3)
    ax.axhline(panel.chance, color=SOFT, linewidth=1.0, linestyle=(0, (4, 3)), zorder=3)
    ax.axhline(panel.zero_shot, color=SOFT, linewidth=1.0, linestyle=(0, (1, 1.5)), zorder=3)
    for (name, budget), colour in zip(panel.marks.items(), (LOW, HIGH), strict=False):
        if budget is not None:
            ax.axvline(budget, color=colour, linewidth=1.2, linestyle=(0, (5, 2)), zorder=2)
            late = budget > np.sqrt(at[0] * at[-1])  # the name stands on the side with room
            ax.annotate(name, (budget, 0.1 if colour == LOW else 0.02), xycoords=("data", "axes fraction"), xytext=(-3 if late else 3, 0),
                        textcoords="offset points", ha="right" if late else "left", color=colour, fontsize=8, path_effects=halo("white"))
    ax.set_xscale("log")
    ax.set_xlabel("trained parameters P")
    ax.set_title(panel.title, loc="left")


def _handles() -> list[Line2D]:
    return [
        Line2D([], [], color=MEAN, marker="o", markersize=4, linewidth=1.8, label="mean, 95% interval"),
        Line2D([], [], color=MEAN, linewidth=0.7, alpha=0.6, label="one structure"),
        Line2D([], [], color=FULL, linewidth=1.2, label="full fine-tuning"),
        Line2D([], [], color=SOFT, linewidth=1.0, linestyle=(0, (4, 3)), label="chance"),
        Line2D([], [], color=SOFT, linewidth=1.0, linestyle=(0, (1, 1.5)), label="bare backbone"),
        Line2D([], [], color=LOW, linewidth=1.2, linestyle=(0, (5, 2)), label="P_low: above chance + ε"),
        Line2D([], [], color=HIGH, linewidth=1.2, linestyle=(0, (5, 2)), label="P_high: full − ε"),
    ]
