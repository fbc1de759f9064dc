"""How sharp a loss is around a point, type beside type: the worst rise in the ball, the mean rise on its sphere, and what a quadratic would do.

    worst     ρ²λ₁/2  ≤  max over ‖ε‖ ≤ ρ of gᵀε + ½ εᵀHε  ≤  ρ‖g‖ + ρ²λ₁/2        λ₁ the largest eigenvalue of H, or 0 where all are below
    average   E[gᵀε + ½ εᵀHε] = ρ² tr H / 2n        ε uniform on the sphere of radius ρ

A worst rise beyond that interval, or a mean beside its mark, says that the loss is no longer a quadratic in the ball, so that eigenvalues say
little of it. What is found of the worst is a lower bound: one below the interval may have been climbed in too few steps.

Source: the bounds are those of a quadratic's maximum on a ball: ε = ±ρ u₁ that goes up gᵀε, and the largest of each term on its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter

from deltas.errors import InputError
from landscape.lettering import widest
from landscape.sections import SPACES
from landscape.style import FAINT, INK, SOFT, STYLE, blank, colours, write

if TYPE_CHECKING:
    from landscape.bending import Bending

SIDE, ROW, GAP, HEAD, FOOT = 2.75, 0.5, 0.3, 0.78, 1.06
"""Inches: a panel's width, a type's height, between two panels, above them, and below them."""
LOWER = 0.27
"""How far below its type the mark of a quadratic lies, in rows."""
WIDE = 50.0
"""Rises that span more than this ratio have a logarithmic scale, symmetric about 0 where one is not above it."""
SAME = 1e-3
"""Radii that differ by less than this part count as one."""
DEEPEST = 1e-6
"""What is below this part of the highest has no decade of its own."""
MARK: Any = {"color": INK, "linewidth": 0.9, "marker": "|", "markersize": 7, "markeredgewidth": 1.4}
POINTS = {"z": "z", "theta": "θ", "weights": "W"}


def draw_sharpness(found: Mapping[str, Bending], path: str | Path, *, title: str | None = None) -> Path:
    """The worst and the mean rise of the loss around one point, of several types, with those of a quadratic of the same curvature.

    Args:
        found: by type, from `side_by_side`, all of one task and space; those measured without sharpness are left out.
        path: file to write; its suffix is the format.
        title: None says task and space.

    Returns:
        The path.

    Raises:
        InputError: no sharpness, or that of several tasks or spaces.

    Example:
        landscape.draw_sharpness(landscape.side_by_side(objectives, points), "figures/sharpness.pdf")
    """
    shown = {label: one for label, one in found.items() if one.worst is not None or one.average is not None}
    if not shown:
        raise InputError("expected the sharpness of one type at least, got none; measure it with a radius above 0")
    for name, values in (("task", [one.task for one in shown.values()]), ("space", [one.where for one in shown.values()])):
        if len(set(values)) > 1:
            raise InputError(f"expected the sharpness of one {name} in a picture, got {', '.join(dict.fromkeys(values))}; draw a figure of each")
    tint, one = colours(list(found)), next(iter(shown.values()))
    with mpl.rc_context(STYLE):
        figure, axes = _sheet(shown, tint)
        height = figure.get_size_inches()[1]
        for ax, handles in zip(axes, (_worst(axes[0], shown, tint), _average(axes[1], shown, tint)), strict=True):
            figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(ax.get_position().x0, (FOOT - 0.5) / height), borderaxespad=0,
                          borderpad=0, labelspacing=0.35, handlelength=1.8)
        words = " · ".join(filter(None, [one.task, f"sharpness in {SPACES.get(one.where, one.where)}"])) if title is None else title
        if words:
            figure.suptitle(words, x=axes[0].get_position().x0, ha="left", fontsize=11, fontweight="bold", y=1 - 0.08 / height, va="top")
        return write(figure, path)


def quadratic_worst(one: Bending) -> tuple[float, float] | None:
    """Between which two numbers the worst rise of a quadratic of that slope and largest eigenvalue lies; None where that is not known.

    Of a few eigenvalues by size, all of them below 0, none is known to be the largest.
    """
    if one.worst is None or "hessian" not in one.matrices:
        return None
    values = one.matrices["hessian"].eigen.values
    top = float(np.max(values, initial=-np.inf))
    if not np.isfinite(top) or (top < 0 and len(values) < one.size):
        return None
    bend = one.worst.radius**2 * max(top, 0.0) / 2
    return bend, bend + one.worst.radius * one.slope


def quadratic_average(one: Bending) -> tuple[float, float, float] | None:
    """The mean rise of a quadratic of that trace with the trace's interval; None where it is not known."""
    if one.average is None or "hessian" not in one.matrices:
        return None
    trace = one.matrices["hessian"].trace
    low, value, high = (one.average.radius**2 * number / (2 * one.size) for number in (trace.low, trace.value, trace.high))
    return low, value, high


def _sheet(shown: Mapping[str, Bending], tint: Mapping[str, str]) -> tuple[Figure, list[Axes]]:
    """Two panels side by side, placed to the inch, with a row a type; at the left its name, its loss and, where they differ, its radius."""
    count, own = len(shown), not _alike([_reach(one) for one in shown.values()])
    notes = [f"loss {one.loss:.3g}" + (f", ρ = {_reach(one):.3g}" if own else "") for one in shown.values()]
    left = 0.24 + max(widest(shown, 9, bold=True), widest(notes, 7))
    width, height = left + 2 * SIDE + GAP + 0.15, HEAD + count * ROW + FOOT
    figure, axes = blank(width, height), []
    for n in (0, 1):
        ax = figure.add_axes(((left + n * (SIDE + GAP)) / width, FOOT / height, SIDE / width, count * ROW / height))
        ax.set_ylim(count - 0.45, -0.55)
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        for row in range(1, count):
            ax.axhline(row - 0.5, color=FAINT, linewidth=0.6, zorder=0)
        axes.append(ax)
    look: Any = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "right", "annotation_clip": False}
    for row, (label, note) in enumerate(zip(shown, notes, strict=True)):
        axes[0].annotate(label, (0, row), xytext=(-8, 1), va="bottom", color=tint[label], fontweight="bold", **look)
        axes[0].annotate(note, (0, row), xytext=(-8, -2), va="top", fontsize=7, color=SOFT, **look)
    return figure, axes


def _worst(ax: Axes, shown: Mapping[str, Bending], tint: Mapping[str, str]) -> list[Line2D]:
    """Where SAM's first step arrives, and the highest that was found; below them what is possible of a quadratic."""
    found = {row: (label, one.worst) for row, (label, one) in enumerate(shown.items()) if one.worst is not None}
    expected = {row: between for row, one in enumerate(shown.values()) if (between := quadratic_worst(one))}
    _scale(ax, [number for _, worst in found.values() for number in (worst.first, worst.value)], expected)
    for row, (label, worst) in found.items():
        ax.plot([worst.first, worst.value], [row, row], color=tint[label], linewidth=1.2, zorder=3)
        ax.plot(worst.first, row, "o", color=tint[label], markerfacecolor="white", markersize=5, zorder=4)
        ax.plot(worst.value, row, "o", color=tint[label], markersize=6, zorder=4.1)
        _number(ax, worst.value, row)
    for row, (low, high) in expected.items():
        ax.plot([low, high], [row + LOWER] * 2, markevery=[0], **MARK)
    steps = {len(worst.rises) for _, worst in found.values()}
    _titled(ax, "at the worst in the ball", f"found in {steps.pop()} steps up the gradient" if len(steps) == 1 else "found up the gradient")
    ax.set_xlabel(f"rise of the loss, ‖ε‖ ≤ {_radius(shown)}")
    handles = [Line2D([], [], color=SOFT, marker="o", markersize=6, linewidth=0, label="highest found"),
               Line2D([], [], color=SOFT, marker="o", markersize=5, linewidth=0, markerfacecolor="white", label="after SAM's first step")]
    return [*handles, *([Line2D([], [], label="if quadratic: ρ²λ₁/2 to ρ²λ₁/2 + ρ‖∇f‖", **MARK)] if expected else [])]


def _average(ax: Axes, shown: Mapping[str, Bending], tint: Mapping[str, str]) -> list[Line2D]:
    """The mean with its interval; below it that of a quadratic, with the interval of its trace."""
    found = {row: (label, one.average) for row, (label, one) in enumerate(shown.items()) if one.average is not None}
    expected = {row: three for row, one in enumerate(shown.values()) if (three := quadratic_average(one))}
    _scale(ax, [number for _, mean in found.values() for number in (mean.low, mean.value, mean.high)], expected)
    for row, (label, mean) in found.items():
        bars = [[mean.value - mean.low], [mean.high - mean.value]]
        ax.errorbar([mean.value], [row], xerr=bars, fmt="o", color=tint[label], markersize=6, capsize=3, linewidth=1.2, zorder=4)
        _number(ax, mean.value, row)
    for row, three in expected.items():
        ax.plot(three, [row + LOWER] * 3, markevery=[1], **MARK)
    draws = {mean.draws for _, mean in found.values()}
    _titled(ax, "on average over its sphere", f"{draws.pop()} pairs of draws" if len(draws) == 1 else "over pairs of draws")
    ax.set_xlabel(f"rise of the loss, ‖ε‖ = {_radius(shown)}")
    handles = [Line2D([], [], color=SOFT, marker="o", markersize=6, linewidth=1.2, label="mean, 95% interval over draws")]
    if expected:
        estimated = any(high > low for low, _, high in expected.values())
        words = "if quadratic: ρ² tr H / 2n" + (", 95% interval" if estimated else "")
        handles.append(Line2D([], [], label=words, **{**MARK, "linewidth": MARK["linewidth"] * estimated}))
    return handles


def _scale(ax: Axes, rises: Sequence[float], expected: Mapping[int, tuple[float, ...]]) -> None:
    """From 0 on, unless there is something below; by decades where the rises span many."""
    values = [*rises, *(number for numbers in expected.values() for number in numbers)]
    sizes, low, high = np.abs([value for value in values if value]), min(values, default=0.0), max(values, default=0.0)
    if not sizes.size or sizes.max() / sizes.min() <= WIDE:
        ends = min(low, 0.0), max(high, 0.0)
        room = 0.08 * (ends[1] - ends[0]) or 1.0
        ax.set_xlim(ends[0] - room * (low < 0), ends[1] + room)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.axvline(0, color=SOFT, linewidth=0.8, zorder=1)
        return
    floor = max(sizes.min(), sizes.max() * DEEPEST)
    if low >= floor:
        ax.set_xscale("log")
        ax.set_xlim(low / (high / low) ** 0.08, high * (high / low) ** 0.08)
    else:
        ax.set_xscale("symlog", linthresh=float(10 ** np.floor(np.log10(floor))))
        ax.axvline(0, color=SOFT, linewidth=0.8, zorder=1)
        ax.set_xlim(low * 2 if low < 0 else 0, high * 2 if high > 0 else 0)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _number(ax: Axes, value: float, row: int) -> None:
    """A rise in figures above its place, within the panel."""
    across = ax.transAxes.inverted().transform(ax.transData.transform((value, row)))[0]
    ax.annotate(f"{value:.3g}".replace("-", "−"), (value, row), xytext=(0, 5), textcoords="offset points", va="bottom", fontsize=7.5,
                ha="left" if across < 0.1 else "right" if across > 0.9 else "center")  # fmt: skip


def _titled(ax: Axes, name: str, words: str) -> None:
    ax.set_title(name, loc="left", pad=17)
    ax.annotate(words, (0, 1), xycoords="axes fraction", xytext=(0, 3), textcoords="offset points", fontsize=8, color=SOFT, va="bottom")


def _reach(one: Bending) -> float:
    part = one.worst or one.average
    return part.radius if part is not None else 0.0


def _radius(shown: Mapping[str, Bending]) -> str:
    """The radius in words: one for all, one share of every point's length, or a ρ that is each type's own."""
    radii, lengths = ([number(one) for one in shown.values()] for number in (_reach, lambda one: one.length))
    if _alike(radii):
        return f"{radii[0]:.3g}"
    shares = [radius / length if length else np.nan for radius, length in zip(radii, lengths, strict=True)]
    return f"{shares[0]:.3g} ‖{POINTS.get(next(iter(shown.values())).where, 'x')}‖" if _alike(shares) else "ρ"


def _alike(numbers: Sequence[float]) -> bool:
    return bool(np.ptp(numbers) <= SAME * np.max(numbers))
