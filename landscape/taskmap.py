"""Tasks as points of a plane, with names that do not cover each other, coloured and shaped by category."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from deltas.errors import InputError
from landscape.style import FAINT, INK, OKABE_ITO, SOFT, STYLE, halo, sheet, write

SYMBOLS = "osD^vPXh*<>p"
INKED = {"*": 2.2}
"""Area of a symbol that has little ink, in place of that of the others."""
NAMED = 64
"""Tasks that are named at most, the outermost first."""
ROUNDS = 6
"""How often every name looks for a better place once all have one."""
REACH = (5.0, 9.0, 14.0, 20.0, 28.0, 38.0, 50.0)
"""Points (1/72 inch) between a task and its name."""


def looks(categories: Mapping[str, str] | None, tasks: Sequence[str]) -> dict[str, tuple[str, str]]:
    """{category: (colour, marker)} of the tasks' categories: the marker alone tells twelve of them apart, with the colour 24."""
    kinds = sorted({category_of(categories, task) for task in tasks})
    return {kind: (OKABE_ITO[n % len(OKABE_ITO)], SYMBOLS[n % len(SYMBOLS)]) for n, kind in enumerate(kinds)}


def category_of(categories: Mapping[str, str] | None, task: str) -> str:
    """The task's category, or "other"."""
    return (categories or {}).get(task, "") or "other"


def legend_of(look: Mapping[str, tuple[str, str]]) -> list[Line2D]:
    """The legend's entries."""
    return [Line2D([], [], color=colour, marker=marker, linestyle="", markersize=5 * INKED.get(marker, 1.0) ** 0.5, markeredgecolor="white",
                   label=kind)
            for kind, (colour, marker) in look.items()]


def draw_map(
    points: Float[np.ndarray, "N 2"],
    pairs: Sequence[tuple[str, int]],
    path: str | Path,
    *,
    categories: Mapping[str, str] | None = None,
    axes: tuple[str, str] | None = None,
    title: str | None = None,
) -> Path:
    """Sources in a plane; seeds of a task are joined to the middle that bears its name.

    Args:
        points: a row a source, of `subspace.task_map` or two coordinates of z.
        pairs: (task, seed) of each row.
        categories: {task: category}.
        axes: what the axes are; None leaves them without ticks, for maps whose axes mean nothing.
    """
    points = np.asarray(points, float)
    if points.shape != (len(pairs), 2):
        raise InputError(f"expected points [{len(pairs)}, 2] of the {len(pairs)} sources, got shape {points.shape}; map them to a plane first")
    tasks = list(dict.fromkeys(task for task, _ in pairs))
    look = looks(categories, tasks)
    with mpl.rc_context(STYLE):
        figure = sheet(8.2 if len(look) > 1 else 7.0, 6.2)
        ax = figure.add_subplot()
        centres = np.empty((len(tasks), 2))
        for n, task in enumerate(tasks):
            here = points[[i for i, pair in enumerate(pairs) if pair[0] == task]]
            colour, symbol = look[category_of(categories, task)]
            centres[n] = here.mean(0)
            if len(here) > 1:
                for point in here:
                    ax.plot(*np.stack([centres[n], point]).T, color=colour, linewidth=0.7, alpha=0.5, zorder=1)
            ax.scatter(*here.T, s=30 * INKED.get(symbol, 1.0), color=colour, marker=symbol, edgecolor="white", linewidth=0.5, zorder=3)
        ax.margins(0.1)
        if axes is None:
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set_visible(True)
            ax.spines[:].set_color(FAINT)
        else:
            ax.axhline(0, color=FAINT, linewidth=0.8, zorder=0)
            ax.axvline(0, color=FAINT, linewidth=0.8, zorder=0)
            ax.set_xlabel(axes[0])
            ax.set_ylabel(axes[1])
        if len(look) > 1:
            ax.legend(handles=legend_of(look), loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
        if title:
            ax.set_title(title, loc="left")
        figure.draw_without_rendering()  # places everything, so that names can be measured
        figure.set_layout_engine("none")
        outermost = np.argsort(-np.linalg.norm(centres - centres.mean(0), axis=1), kind="stable")[:NAMED]
        chosen = sorted(outermost.tolist())
        _name(ax, [tasks[n] for n in chosen], centres[chosen], points)
        return write(figure, path)


def _name(ax: Axes, tasks: Sequence[str], centres: np.ndarray, points: np.ndarray) -> None:
    """Write the tasks' names where `places` finds room, with a line to the task where that is away from it."""
    size = 6.5 if len(tasks) <= 40 else 5.5
    figure: Any = ax.figure
    scale = figure.dpi / 72
    texts = [ax.text(0, 0, task, fontsize=size, color=INK, ha="center", va="center", path_effects=halo("white"), zorder=4) for task in tasks]
    renderer = figure.canvas.get_renderer()
    boxes = np.array([(t.get_window_extent(renderer).width, t.get_window_extent(renderer).height) for t in texts])
    at, all_points = ax.transData.transform(centres), ax.transData.transform(points)
    frame = ax.get_window_extent(renderer)
    where = places(at, boxes, all_points, (frame.x0, frame.y0, frame.x1, frame.y1), scale)
    for text, point, place, box in zip(texts, at, where, boxes, strict=True):
        text.set_position(tuple(ax.transData.inverted().transform(place)))
        nearest = np.clip(point, place - box / 2, place + box / 2)
        if np.hypot(*(nearest - point)) > 8 * scale:
            ax.plot(*ax.transData.inverted().transform(np.stack([point, nearest])).T, color=SOFT, linewidth=0.4, alpha=0.7, zorder=2)


def places(
    at: Float[np.ndarray, "tasks 2"],
    boxes: Float[np.ndarray, "tasks 2"],
    points: Float[np.ndarray, "N 2"],
    frame: tuple[float, float, float, float],
    scale: float = 1.0,
) -> Float[np.ndarray, "tasks 2"]:
    """Middles of boxes beside their points that cover neither each other nor a point, as far as possible.

    Each box has candidates around its point, near ones first; the crowded ones choose first, and then all once more, a few times over, knowing
    the places of the others.

    Args:
        at: where each box belongs.
        boxes: widths and heights.
        points: what should not be covered.
        frame: left, bottom, right and top, to stay in.
        scale: pixels in a point of 1/72 inch.
    """
    angles = np.arange(16) * (2 * np.pi / 16)
    turns = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    candidates, prices = [], []
    for point, box in zip(at, boxes, strict=True):
        # a box at a distance from its point: its middle lies as much further away as it reaches in that direction
        reach = np.array(REACH)[:, None] * scale
        offset = turns[None] * (reach[..., None] + box / 2 * np.abs(turns)[None])
        middles = (point + offset).reshape(-1, 2)
        low, high = middles - box / 2, middles + box / 2
        out = np.maximum(np.array(frame[:2]) - low, 0).sum(1) + np.maximum(high - np.array(frame[2:]), 0).sum(1)
        near = ((points[None] > low[:, None] - 2 * scale) & (points[None] < high[:, None] + 2 * scale)).all(-1).sum(1)
        beside = 0.15 * np.abs(np.sin(angles))  # to the right or left reads best
        price = np.repeat(np.arange(len(REACH), dtype=float), 16) + np.tile(beside, len(REACH))
        candidates.append(middles)
        prices.append(0.4 * price + 8.0 * near + 1e3 * out / scale)
    crowd = -np.sum(np.linalg.norm(at[:, None] - at[None], axis=-1) < 60 * scale, axis=1)
    placed = np.full((len(at), 2), np.inf)
    for _ in range(1 + ROUNDS):
        for n in np.argsort(crowd, kind="stable"):
            placed[n] = np.inf
            gap = np.abs(candidates[n][:, None] - placed[None]) - (boxes[n] + boxes[None]) / 2
            covered = np.prod(np.maximum(-gap, 0.0), axis=-1).sum(1) / np.prod(boxes[n])
            placed[n] = candidates[n][int(np.argmin(prices[n] + 60.0 * covered + 6.0 * (covered > 0)))]
    return placed
