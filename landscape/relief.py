"""A plane as a relief: one panel a type, all of one scale and seen from one side; a hole stays open.

    shade = a + (1 − a) max(0, n · l)        n normal of the surface in the box that is seen, l towards the light, a ambient

Heights are read bilinearly between grid points, as everywhere. What lies behind a hill is drawn faintly, since matplotlib paints lines over
surfaces whatever lies before them: a point is hidden where the line from it to the eye passes below the surface.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.ticker import LogLocator, MaxNLocator

from deltas.errors import InputError
from landscape import panels
from landscape.lettering import wrapped
from landscape.region import refine
from landscape.style import FAINT, INK, SOFT, STYLE, blank, colours, halo, strip, write
from landscape.surface import Surface

BOX = (1.0, 1.0, 0.62)
"""Relative sides of the box that the surface stands in."""
FACES = 72
"""Faces a side that are wanted: enough to look smooth."""
AMBIENT = 0.45
LIGHT = (-0.45, 0.35, 0.82)
SIDE = 2.9


def draw_relief(surface: Surface, path: str | Path, *, by: panels.By = "loss", view: tuple[float, float] = (38.0, -58.0),
                title: str | None = None) -> Path:
    """Every type's loss or score as a height over the plane, with marks and optimizers' ways on it.

    Args:
        surface: from `plane`.
        path: file to write; its suffix is the format.
        by: what the height and the colour are. A loss that spans decades is drawn by its logarithm.
        view: elevation and azimuth of the eye, degrees.
        title: None is task, split and space.

    Returns:
        The path.

    Raises:
        InputError: another quantity.
    """
    if by not in ("score", "loss"):
        raise InputError(f"expected a relief by 'score' or 'loss', got {by!r}; choose one of them")
    norm, shades = panels.scale_of([surface], by)
    tint, count = colours(surface.labels), len(surface.labels)
    columns = min(count, 3)
    rows = -(-count // columns)
    with mpl.rc_context(STYLE):
        handles = [*panels.mark_handles(surface, "source"), *panels.trail_handles(surface)]
        foot = max(0.7, len(handles) * 0.153 + 0.1)
        width, height = max(columns * SIDE + 0.3, 6.2), 0.4 + rows * SIDE + foot
        figure = blank(width, height)
        for t, label in enumerate(surface.labels):
            left, top = (width - columns * SIDE) / 2 + (t % columns) * SIDE, 0.4 + (t // columns) * SIDE
            ax: Any = figure.add_axes((left / width, 1 - (top + SIDE) / height, SIDE / width, SIDE / height), projection="3d")
            ground = _Ground(surface, t, by, norm, view)
            _stand(ax, ground, shades)
            _walk(ax, ground, label)
            _name(ax, ground, label, tint[label])
        strip(figure, ScalarMappable(norm, shades), (0.3, foot - 0.2, 2.0, 0.11), panels.scale_name(panels.metric_name(surface, by), norm))
        figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(2.6 / width, (foot - 0.06) / height), borderaxespad=0, borderpad=0,
                      labelspacing=0.35)  # fmt: skip
        if words := panels.heading(surface) if title is None else title:
            figure.suptitle(words, x=0.3 / width, ha="left", fontsize=11, fontweight="bold", y=1 - 0.08 / height, va="top")
        return write(figure, path)


class _Ground:
    """One type's heights as they are drawn, and what of a line is hidden behind them."""

    def __init__(self, surface: Surface, t: int, by: panels.By, norm: Any, view: tuple[float, float]) -> None:
        self.surface, self.t, self.norm, self.view, self.by = surface, t, norm, view, by
        self.logarithmic = isinstance(norm, LogNorm)
        self.values = self.heights(getattr(surface, by)[t])
        self.low, self.high = (float(v) for v in self.heights(np.array([norm.vmin, norm.vmax])))
        self.spans = np.array([np.ptp(surface.x), np.ptp(surface.y), self.high - self.low])

    def heights(self, values: np.ndarray) -> np.ndarray:
        return np.log10(values) if self.logarithmic else values

    def at(self, points: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, " points"]:
        return panels.height(self.surface, self.values, points)

    def hidden(self, points: Float[np.ndarray, "points 3"]) -> Bool[np.ndarray, " points"]:
        """Whether the surface stands between a point and the eye."""
        up, round_ = np.radians(self.view)
        eye = np.array([np.cos(up) * np.cos(round_), np.cos(up) * np.sin(round_), np.sin(up)]) / np.array(BOX) * self.spans
        steps = np.linspace(0.02, 1.5, 75)
        along = points[:, None, :] + steps[:, None] * eye
        above = panels.height(self.surface, self.values, along[..., :2].reshape(-1, 2)).reshape(len(points), -1)
        with np.errstate(invalid="ignore"):
            return (above > along[..., 2] + 0.01 * self.spans[2]).any(axis=1)


def _stand(ax: Any, ground: _Ground, shades: Any) -> None:
    """The surface, shaded, with its contours on the floor."""
    surface = ground.surface
    factor = max(1, round(FACES / max(ground.values.shape)))
    fine = refine(ground.values, factor)
    x, y = (np.linspace(axis[0], axis[-1], n) for axis, n in ((surface.x, fine.shape[1]), (surface.y, fine.shape[0])))
    middle = (fine[1:, 1:] + fine[:-1, :-1] + fine[1:, :-1] + fine[:-1, 1:]) / 4
    seen = np.isfinite(middle)
    r, c = np.nonzero(seen)
    corners = np.stack([np.column_stack([x[j], y[i], fine[i, j]]) for i, j in ((r, c), (r, c + 1), (r + 1, c + 1), (r + 1, c))], axis=1)
    middle = middle[seen]
    ax.set_proj_type("ortho")
    ax.set_box_aspect(BOX, zoom=0.92)
    ax.patch.set_visible(False)  # panels reach into each other's empty corners
    ax.view_init(*ground.view)
    ax.computed_zorder = False
    if len(corners):
        from mpl_toolkits.mplot3d.art3d import Poly3DCollection

        faces = shades(ground.norm(10**middle if ground.logarithmic else middle))
        faces[:, :3] *= _lit(ground, factor)[seen][:, None]
        ax.add_collection3d(Poly3DCollection(corners, facecolors=faces, edgecolors=faces, linewidths=0.25, zorder=2, rasterized=True))
        if np.ptp(middle) > 0:
            levels = np.linspace(ground.low, ground.high, 9)[1:-1]
            grid = np.meshgrid(x, y)
            ax.contour(*grid, np.ma.masked_invalid(fine), levels=levels, zdir="z", offset=_floor(ground), colors=SOFT, linewidths=0.5, zorder=1,
                       linestyles="solid")  # fmt: skip
    _scales(ax, ground)


def _lit(ground: _Ground, factor: int) -> Float[np.ndarray, "fine_rows fine_columns"]:
    """The light on every face, from slopes at the grid's points read bilinearly: those of the faces would show every kink between them."""
    from scipy.ndimage import distance_transform_edt

    holes = ~np.isfinite(ground.values)
    nearest: Any = distance_transform_edt(holes, return_distances=False, return_indices=True)
    whole = ground.values[tuple(nearest)] / ground.spans[2] * BOX[2]
    slopes = np.gradient(whole, ground.surface.y / ground.spans[1], ground.surface.x / ground.spans[0])
    up, across = (refine(slope, factor)[:-1, :-1] for slope in slopes)
    light = np.array(LIGHT) / np.linalg.norm(LIGHT)
    return AMBIENT + (1 - AMBIENT) * np.maximum(0.0, (light[2] - across * light[0] - up * light[1]) / np.sqrt(1 + across**2 + up**2))


def _floor(ground: _Ground) -> float:
    return ground.low - 0.22 * (ground.high - ground.low)


def _scales(ax: Any, ground: _Ground) -> None:
    surface = ground.surface
    ax.set_xlim(surface.x[0], surface.x[-1])
    ax.set_ylim(surface.y[0], surface.y[-1])
    ax.set_zlim(_floor(ground), ground.high + 0.03 * (ground.high - ground.low))
    for n, axis in enumerate((ax.xaxis, ax.yaxis, ax.zaxis)):
        axis.pane.set(facecolor="white", edgecolor=FAINT, alpha=1.0)
        axis._axinfo["grid"].update(color="#ececec", linewidth=0.5)
        axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], prune="both"))
        axis.set_rotate_label(n < 2 and len(surface.axes[n]) > 3)  # a long name goes along its axis
    ax.tick_params(labelsize=7, pad=-2, length=0)
    if ground.logarithmic:
        ticks = np.array(LogLocator(subs=(1, 3)).tick_values(ground.norm.vmin, ground.norm.vmax))
    else:
        ticks = MaxNLocator(4).tick_values(ground.low, ground.high)
    ticks = ticks[(ticks >= ground.norm.vmin) & (ticks <= ground.norm.vmax)]
    ax.set_zticks(ground.heights(ticks), [f"{tick:g}" for tick in ticks])
    for n, label in enumerate((ax.set_xlabel, ax.set_ylabel)):
        name = panels.axis_name(surface, n)
        words = name if name.startswith("$") else wrapped(name, 20)
        label(words, fontsize=8, labelpad=-5 + 4 * words.count("\n"))


def _walk(ax: Any, ground: _Ground, label: str) -> None:
    """Ways and marks on the surface; a mark over a hole or outside has no height and is left out."""
    lift = 0.012 * ground.spans[2]
    for n, trail in panels.trails_of(ground.surface, label):
        at = _denser(panels.way(trail))
        line = np.column_stack([at, ground.at(at) + lift])
        behind = ground.hidden(line)
        for part, alpha in ((~behind, 1.0), (behind, 0.35)):
            seen = np.where(part[:, None], line, np.nan)
            ax.plot(*seen.T, color="white", linewidth=2.4, alpha=0.8 * alpha, zorder=4)
            ax.plot(*seen.T, color=INK, linewidth=1.1, alpha=alpha, linestyle=panels.DASHES[n % len(panels.DASHES)], zorder=4.1)
        for end, face in ((line[0], "white"), (line[-1], INK)):
            if np.isfinite(end).all():
                ax.plot(*end[:, None], "o", color=INK, markerfacecolor=face, markersize=3.2, zorder=4.2)
    for mark in ground.surface.marks:
        z = float(ground.at(np.array([[mark.x, mark.y]]))[0])
        if mark.kind == "source" or not np.isfinite(z):
            continue
        symbol = panels.SYMBOLS.get(mark.kind, "o")
        size = {"*": 8, "+": 6}.get(symbol, 5)
        faint = 0.35 if ground.hidden(np.array([[mark.x, mark.y, z + lift]]))[0] else 1.0
        ax.plot([mark.x], [mark.y], [z + lift], symbol, color=INK if symbol == "+" else "white", markeredgecolor=INK, markersize=size, zorder=5,
                alpha=faint)  # fmt: skip
        if mark.kind in ("corner", "found"):
            above = z + 0.06 * ground.spans[2]
            ax.text(mark.x, mark.y, above, mark.name, fontsize=7, ha="center", va="bottom", zorder=6, path_effects=halo("white"))


def _denser(at: Float[np.ndarray, "steps 2"], between: int = 8) -> Float[np.ndarray, "points 2"]:
    """More points on the same polygon, so that a long step follows the ground."""
    where = np.arange((len(at) - 1) * between + 1) / between
    return np.column_stack([np.interp(where, np.arange(len(at)), at[:, n]) for n in (0, 1)])


def _name(ax: Any, ground: _Ground, label: str, colour: str) -> None:
    ax.text2D(0.04, 0.97, label, transform=ax.transAxes, color=colour, fontsize=10, fontweight="bold", va="top")
    if words := panels.holes_of(ground.surface, ground.t):
        ax.text2D(0.04, 0.9, f"{words}, left open", transform=ax.transAxes, color=SOFT, fontsize=7, va="top")
