"""What one panel of a plane shows: a type's field and its holes, the edge of its region, marks, and the ways of optimizers.

Figures of planes are made of these. Between grid points every one of them reads the surface bilinearly, as `region` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LogNorm, Normalize
from matplotlib.lines import Line2D

from landscape.region import REFINE, Region, refine
from landscape.style import INK, SOFT, halo
from landscape.surface import Surface, Trail

By = Literal["score", "loss"]
SHARED = "#F0E442"
LOGARITHMIC = 30.0
"""From this ratio of the largest loss to the smallest on, its scale is logarithmic."""
LEGEND = (
    ("corner", "o", "solution on the plane"),
    ("found", "*", "solution found"),
    ("origin", "+", "z = 0, the mean"),
    ("centre", "D", "centre of the plane"),
    ("source", ".", "source solution, projected"),
)
SYMBOLS = {kind: symbol for kind, symbol, _ in LEGEND}
SIZES = {"corner": 26, "found": 90, "origin": 40, "centre": 22}
DASHES: tuple[Any, ...] = ("solid", (0, (4, 1.4)), (0, (1.2, 1.2)), (0, (5, 1.4, 1.2, 1.4)))
"""Ways are told apart by their dashes: their colour, black in white, is readable on every field."""


def scale_of(surfaces: Sequence[Surface], by: By) -> tuple[Normalize, Colormap]:
    """One scale for all types of all these surfaces; what is good is bright. A loss that spans decades has a logarithmic one."""
    values = np.concatenate([getattr(surface, by).ravel() for surface in surfaces])
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    colours = mpl.colormaps["viridis" if by == "score" else "viridis_r"]
    if by == "loss" and low > 0 and high / low >= LOGARITHMIC:
        return LogNorm(low, high), colours
    if low == high:  # one colour, on a scale that can be read
        low, high = min(0.0, low), max(1.0, high)
    return Normalize(low, high), colours


def height(surface: Surface, values: Float[np.ndarray, "rows columns"], at: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, " points"]:
    """Values of the plane at some of its points (x, y), bilinearly; NaN outside it and beside a hole."""
    found, total = np.zeros(len(at)), np.zeros(len(at))
    where = [np.interp(at[:, n], axis, np.arange(len(axis)), np.nan, np.nan) for n, axis in enumerate((surface.x, surface.y))]
    inside = np.isfinite(where[0]) & np.isfinite(where[1])
    column, row = (np.where(inside, w, 0.0) for w in where)
    for i in (0, 1):
        for j in (0, 1):
            r, c = (np.minimum(np.floor(w).astype(int) + n, size - 1) for w, n, size in zip((row, column), (i, j), values.shape, strict=True))
            weight = np.abs(1 - i - row % 1) * np.abs(1 - j - column % 1)
            found += np.where(weight > 0, weight * values[r, c], 0.0)
            total += weight
    return np.where(inside, found / total, np.nan)


def trails_of(surface: Surface, label: str | None = None) -> list[tuple[int, Trail]]:
    """The optimizers' ways over the plane with their places in its legend; those named for another type are not of this one."""
    trails = list(enumerate(surface.trails))
    return [(n, trail) for n, trail in trails if label is None or trail.name == label or trail.name not in surface.labels]


def way(trail: Trail) -> Float[np.ndarray, "steps 2"]:
    """The feet of an optimizer's points, in order."""
    return np.column_stack([trail.x, trail.y])


def evaluated_of(surface: Surface, t: int) -> str:
    """Of a plane of which some points were filled in between others, how many were evaluated and how far the rest may be off, in words."""
    known = surface.known[t]
    return "" if known.all() else f"{known.mean():.0%} evaluated, the rest within {surface.error[t]:.2g}"


def heading(surface: Surface) -> str:
    """Task, split and the space that is perturbed."""
    split = f"{surface.split} split" if surface.split else ""
    return " · ".join(filter(None, [surface.task, split, f"plane of {surface.space}"]))


def axis_name(surface: Surface, n: int) -> str:
    """Name of an axis, z0 as z with an index."""
    name = surface.axes[n]
    return f"$z_{{{name[1:]}}}$" if name[:1] == "z" and name[1:].isdigit() else name


def metric_name(surface: Surface, by: By) -> str:
    """What the colours are."""
    return "loss" if by == "loss" else surface.metric.replace("_", " ") or "score"


def scale_name(name: str, norm: Normalize) -> str:
    """What stands at a colour bar."""
    return f"{name}, logarithmic" if isinstance(norm, LogNorm) else name


def holes_of(surface: Surface, t: int) -> str:
    """How many points of a type's plane are holes, in words; empty where none is."""
    count = surface.holes[surface.labels[t]]
    return f"{count} hole{'s' if count > 1 else ''}" if count else ""


def _fine(surface: Surface) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.linspace(axis[0], axis[-1], (len(axis) - 1) * REFINE + 1) for axis in (surface.x, surface.y))  # type: ignore[return-value]


def field(ax: Axes, surface: Surface, t: int, by: By, norm: Normalize, colours: Colormap, *, line: float = 0.5) -> Any:
    """The colours of a type, contours of its loss at levels shared by all types of the plane, and its holes, hatched and counted."""
    values = refine(getattr(surface, by)[t])
    ax.set_facecolor("white")
    box = (float(surface.x[0]), float(surface.x[-1]), float(surface.y[0]), float(surface.y[-1]))
    image = ax.imshow(values, origin="lower", extent=box, cmap=colours, norm=norm, interpolation="nearest", rasterized=True)
    losses = surface.loss[np.isfinite(surface.loss)]
    if losses.size and np.ptp(losses) > 0 and np.isfinite(surface.loss[t]).sum() > 3:
        levels = np.unique(np.quantile(losses, np.linspace(0.06, 0.94, 8)))
        ax.contour(*_fine(surface), np.ma.masked_invalid(refine(surface.loss[t])), levels=levels, colors="white", linewidths=line, alpha=0.55)
    if words := holes_of(surface, t):
        bad = np.ma.masked_where(np.isfinite(values), np.ones_like(values))
        ax.contourf(*_fine(surface), bad, levels=[0.5, 1.5], colors="none", hatches=["xxx"])
        ax.text(0.98, 0.02, words, transform=ax.transAxes, ha="right", va="bottom", fontsize=7, path_effects=halo("white"))
    _frame(ax, surface)
    return image


def edge(ax: Axes, surface: Surface, area: Region, t: int, colour: str = "white", width: float = 1.6) -> None:
    """The outline of a type's region, where the plane has some of it and not all; open where it meets a hole."""
    if area.inside[t].any() and not area.inside[t].all():
        values = np.ma.masked_invalid(refine(getattr(surface, area.by)[t]))
        lines = ax.contour(*_fine(surface), values, levels=[area.thresholds[t]], colors=[colour], linewidths=width)
        lines.set_path_effects([patheffects.withStroke(linewidth=width + 1.4, foreground=INK if colour == "white" else "white")])


def overlap(ax: Axes, surface: Surface, area: Region, tint: Mapping[str, str], *, width: float = 1.5) -> None:
    """The edge of every type's region and, hatched, what they share."""
    ax.set_facecolor("#f4f4f4")
    everyone = area.everyone.astype(float)
    if everyone.any():
        ax.contourf(*_fine(surface), everyone, levels=[0.5, 1.5], colors=[SHARED], alpha=0.85)
        ax.contourf(*_fine(surface), everyone, levels=[0.5, 1.5], colors="none", hatches=["////"])
    for t, label in enumerate(surface.labels):
        edge(ax, surface, area, t, tint[label], width)
    _frame(ax, surface)


def extent_of(surface: Surface, area: Region) -> str:
    """How large the shared region is, in words."""
    if not area.area:
        return "nowhere on this plane"
    unit = "z²" if surface.space == "z" else "units²"  # around a point a unit is a direction's length
    pieces = "between points only" if not area.components else "1 piece" if area.components == 1 else f"{area.components} pieces"
    return f"{area.fraction:.1%} of the plane, {area.area:.2g} {unit}, {pieces}"


def marks(ax: Axes, surface: Surface, *, on_field: bool, names: bool = True, scale: float = 1.0) -> None:
    """The marks with the names of those that lie on the plane or were found."""
    paper, casing = ("white", INK) if on_field else (INK, "white")
    named = 0
    for mark in surface.marks:
        if mark.kind == "source":
            # mere feet of solutions that lie elsewhere in z: small, so that nobody reads the score under them as theirs
            ax.plot(mark.x, mark.y, ".", markersize=2.6 * scale, color=paper, alpha=0.75, markeredgewidth=0)
            continue
        symbol = SYMBOLS.get(mark.kind, "o")
        face: dict[str, Any] = {"c": paper} if symbol == "+" else {"facecolor": paper, "edgecolor": casing, "linewidths": 0.8 * scale}
        ax.scatter(mark.x, mark.y, s=SIZES.get(mark.kind, 26) * scale**2, marker=symbol, zorder=5, **face)
        if names and mark.kind in ("corner", "found"):
            across = (mark.x - surface.x[0]) / (surface.x[-1] - surface.x[0])
            ax.annotate(
                mark.name, (mark.x, mark.y), xytext=(0, -12 if named % 2 else 6), textcoords="offset points", fontsize=7, color=paper,
                ha="left" if across < 0.2 else "right" if across > 0.8 else "center", zorder=6, path_effects=halo(casing, 1.6),
            )  # fmt: skip
            named += 1
    _frame(ax, surface)


def trails(ax: Axes, surface: Surface, label: str | None = None, *, width: float = 1.2) -> None:
    """The ways of optimizers, from a ring to an arrow's head, as the plane sees them."""
    for n, trail in trails_of(surface, label):
        at = way(trail)
        ax.plot(*at.T, color="white", linewidth=width + 1.6, solid_capstyle="round", zorder=3.5, alpha=0.9)
        ax.plot(*at.T, color=INK, linewidth=width, linestyle=DASHES[n % len(DASHES)], zorder=3.6)
        ax.plot(*at[0], "o", color=INK, markerfacecolor="white", markersize=2.6 * width, markeredgewidth=0.8 * width, zorder=3.7)
        before = at[np.any(at != at[-1], axis=1)]
        if len(before):  # the head is drawn in points, along the last step that moved
            casing = halo("white", width + 1.2)
            head = {"arrowstyle": "-|>", "mutation_scale": 7 * width, "color": INK, "linewidth": width, "path_effects": casing}
            ax.annotate("", at[-1], before[-1], zorder=3.8, annotation_clip=True, arrowprops={"shrinkA": 0, "shrinkB": 0, **head})
    _frame(ax, surface)


def trail_handles(surface: Surface) -> list[Any]:
    """A legend's line for every way, with the share of its motion that the plane holds."""
    return [
        Line2D([], [], color=INK, linewidth=1.2, linestyle=DASHES[n % len(DASHES)],
               label=f"{trail.name}: this plane holds {trail.share:.0%} of its motion")
        for n, trail in trails_of(surface)
    ]  # fmt: skip


def mark_handles(surface: Surface, *without: str) -> list[Any]:
    """A legend's symbol for every kind of mark that the plane has."""
    kinds = [(m, words) for kind, m, words in LEGEND if kind not in without and any(mark.kind == kind for mark in surface.marks)]
    return [Line2D([], [], linestyle="", color=INK, marker=m, markersize=3 if m == "." else 6, label=words) for m, words in kinds]


def _frame(ax: Axes, surface: Surface) -> None:
    ax.set_xlim(surface.x[0], surface.x[-1])
    ax.set_ylim(surface.y[0], surface.y[-1])
    ax.set_aspect("equal")


def note(ax: Axes, words: str) -> None:
    """A soft line between a panel and its title."""
    ax.text(0, 1.02, words, transform=ax.transAxes, fontsize=8, color=SOFT, va="bottom")
