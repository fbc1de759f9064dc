"""Whether tasks share a basin: task against task, one heat map a delta type and one for all types at once, on one scale from 0 to 1.

    colour    |A ∩ B| / |A ∪ B|, or |A ∩ B| / min(|A|, |B|)        A, B the regions of two tasks, see `landscape.basins`
    hatched   at least `BEYOND` of all shifts of B have as much in common with A: no more than chance

The hatching is of every pair on its own. Of many pairs of unrelated tasks a share of `BEYOND` is beyond chance, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from jaxtyping import Bool
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from deltas.errors import InputError
from landscape.basins import EVERYONE, Overlap
from landscape.heatmaps import READABLE
from landscape.lettering import inches, ink_on, widest, wrapped
from landscape.style import INK, OKABE_ITO, SOFT, STYLE, blank, colours, halo, strip, write

Shown = Literal["jaccard", "smaller"]
BEYOND = 0.05
"""An overlap that more than this share of all shifts have is not beyond chance."""
WRITTEN = 12
"""Up to so many tasks, the number stands in each cell."""
CELL, SMALL, LEAST, MOST = 0.34, 0.14, 1.75, 6.5
"""Inches of a cell with its number, of one without, of a map at least, and of a map of many tasks at the most."""
GAP, HEAD, ACROSS, BESIDE, LINE = 0.25, 0.95, 10.0, 5.2, 0.153
"""Inches between two maps, above them, of all side by side at the most, of what holds the legend beside the scale, and of a line of it."""
LETTERS = 18
"""Of a line of a task's name."""
NOTHING, DIAGONAL, HATCH = "#c9c9c9", "#f1f1f1", "/////"
SHADE = LinearSegmentedColormap.from_list("share", ["white", "#8fc3e3", OKABE_ITO[0]]).with_extremes(bad="white")
WORDS = {"jaccard": "area in both / area in either", "smaller": "area in both / smaller area"}


def draw_overlaps(found: Sequence[Overlap], path: str | Path, *, shown: Shown = "jaccard", title: str | None = None) -> Path:
    """What the regions of every pair of tasks have in common, by type.

    Args:
        found: from `overlaps`, of one tolerance and quantity; a pair that is not there is left empty.
        path: file to write; its suffix is the format.
        shown: the field of `Overlap` that the colours are.
        title: None is "shared basins".

    Returns:
        The path.

    Raises:
        InputError: no pair, one pair twice for a type, regions of several tolerances or quantities, or another field.

    Example:
        landscape.draw_overlaps(landscape.overlaps({"sst2": one, "rte": other}), "figures/basins.pdf")
    """
    _checked(found, shown)
    labels = list(dict.fromkeys(one.label for one in found))
    if len(labels) == 2 and labels[-1] == EVERYONE:
        labels = labels[:1]  # all types are that one
    tasks = list(dict.fromkeys(task for one in found for task in one.tasks))
    tint = colours([label for label in labels if label != EVERYONE]) | {EVERYONE: INK}
    words = "shared basins" if title is None else title
    region = f"regions within {found[0].tolerance:.0%} of a type's best {found[0].by} on a task"
    keys = [Patch(facecolor="white", edgecolor=SOFT, hatch=HATCH, linewidth=0.5, label=f"not beyond chance, p > {BEYOND:g} over shifts"),
            *([Patch(facecolor=NOTHING, linewidth=0, label="a task without a region")] if any(0 in one.areas for one in found) else [])]
    with mpl.rc_context(STYLE):
        figure, axes, left = _sheet(tasks, len(labels), max(inches(words, 11, bold=True), inches(region, 8)), len(keys))
        images = []
        for label, ax in zip(labels, axes, strict=True):
            pairs = [one for one in found if one.label == label]
            images.append(_map(ax, tasks, pairs, shown))
            _titled(ax, label, tint[label], pairs)
        width, height = figure.get_size_inches()
        beside = width - left > BESIDE
        strip(figure, images[0], (left, 0.45 if beside else 0.52 + LINE * len(keys), 2.0, 0.09), WORDS[shown], small=True)
        figure.legend(handles=keys, loc="upper left", borderaxespad=0, borderpad=0, labelspacing=0.35,
                      bbox_to_anchor=((left + 2.4 * beside) / width, (0.56 if beside else 0.07 + LINE * len(keys)) / height))
        if words:
            figure.suptitle(words, x=left / width, ha="left", fontsize=11, fontweight="bold", y=1 - 0.08 / height, va="top")
        figure.text(left / width, 1 - 0.31 / height, region, fontsize=8, color=SOFT, va="top")
        return write(figure, path)


def _checked(found: Sequence[Overlap], shown: str) -> None:
    if shown not in WORDS:
        raise InputError(f"expected to show 'jaccard' or 'smaller' of the overlaps, got {shown!r}; choose one of them")
    if not found:
        raise InputError("expected the overlap of one pair of tasks at least, got none; compare two surfaces on one plane first")
    settings = list(dict.fromkeys(f"{one.tolerance:g} of the {one.by}" for one in found))
    if len(settings) > 1:
        raise InputError(f"expected regions of one tolerance and quantity, got {', '.join(settings)}; draw a figure of each")
    pairs = Counter((*sorted(one.tasks), one.label) for one in found)
    (one, other, label), times = pairs.most_common(1)[0]
    if times > 1:
        raise InputError(f"expected every pair of tasks once a type, got {one} and {other} {times} times for {label}; draw each plane apart")


def _sheet(tasks: Sequence[str], count: int, title: float, keys: int) -> tuple[Figure, list[Axes], float]:
    """Equal maps side by side, placed to the inch, with the tasks' names at the left and below; and how far from the left the first begins."""
    n, cell, size = len(tasks), _cell(len(tasks)), _size(len(tasks))
    side, few = cell * n, n <= WRITTEN
    names = [wrapped(task, LETTERS) if few else task for task in tasks] if size >= READABLE else []
    left, below = 0.2 + widest(names, size), 0.15 + widest(names, size) * (0.75 if few else 1.0)
    rows = -(-count // max(1, int((ACROSS - left + GAP) / (side + GAP))))
    columns = -(-count // rows)
    width = left + max(columns * (side + GAP) - GAP + 0.15, 1.03 * title + 0.15, 2.9)
    foot = 0.75 if width - left > BESIDE else 0.82 + LINE * keys
    height = HEAD + rows * (side + below) + (rows - 1) * 0.5 + foot
    figure, axes = blank(width, height), []
    turned: Any = {"rotation": 45 if few else 90, "ha": "right", "va": "top" if few else "center", "rotation_mode": "anchor"}
    for m in range(count):
        x, y = left + (m % columns) * (side + GAP), HEAD + (m // columns) * (side + below + 0.5)
        ax = figure.add_axes((x / width, 1 - (y + side) / height, side / width, side / height))
        ax.set_xticks(range(n), names or [""] * n, fontsize=size, **turned)
        ax.set_yticks(range(n), names if m % columns == 0 and names else [""] * n, fontsize=size)
        ax.tick_params(length=0, labelcolor=INK, pad=3)
        ax.spines[:].set_visible(False)
        axes.append(ax)
    return figure, axes, left


def _cell(n: int) -> float:
    """Inches of a cell of n tasks: room for its number, or for a name beside it."""
    return max(CELL, LEAST / n) if n <= WRITTEN else min(SMALL, MOST / n)


def _size(n: int) -> float:
    return 7.5 if n <= WRITTEN else min(7.0, 72 * _cell(n) * 0.82)


def _map(ax: Axes, tasks: Sequence[str], pairs: Sequence[Overlap], shown: Shown) -> Any:
    """Every pair on both sides of the diagonal; hatched where it is not beyond chance, grey where a task has no region."""
    n = len(tasks)
    field, empty, chance = np.full((n, n), np.nan), np.zeros((n, n), bool), np.zeros((n, n), bool)
    for one in pairs:
        i, j = (tasks.index(task) for task in one.tasks)
        empty[[i, j], [j, i]], chance[[i, j], [j, i]] = 0 in one.areas, one.chance > BEYOND
        field[[i, j], [j, i]] = np.nan if 0 in one.areas else getattr(one, shown)
    image = ax.imshow(field, cmap=SHADE, norm=Normalize(0, 1), aspect="auto", interpolation="nearest", zorder=0)
    _cover(ax, np.eye(n, dtype=bool), facecolor=DIAGONAL)
    _cover(ax, empty, facecolor=NOTHING)
    _cover(ax, chance & ~empty, facecolor="none", edgecolor=INK, hatch=HATCH, alpha=0.35)
    for i, j in np.argwhere(np.isfinite(field)) if n <= WRITTEN else ():
        ground = SHADE(float(field[i, j]))
        look: Any = {"alpha": 0.75, "path_effects": halo(to_hex(ground), 2.5)} if chance[i, j] else {"fontweight": "bold"}
        ax.text(j, i, f"{field[i, j]:.2f}", ha="center", va="center_baseline", fontsize=8, color=ink_on(ground), **look)
    return image


def _cover(ax: Axes, mask: Bool[np.ndarray, "tasks tasks"], **look: Any) -> None:
    """One layer over some cells."""
    cells = [Rectangle((j - 0.5, i - 0.5), 1, 1) for i, j in np.argwhere(mask)]
    ax.add_collection(PatchCollection(cells, linewidth=0, **look), autolim=False)


def _titled(ax: Axes, label: str, colour: str, pairs: Sequence[Overlap]) -> None:
    beyond = sum(one.chance <= BEYOND and 0 not in one.areas for one in pairs)
    ax.set_title(label, loc="left", color=colour, pad=17)
    words = f"{beyond} of {len(pairs)} pair{'s' * (len(pairs) > 1)} beyond chance"
    ax.annotate(words, (0, 1), xycoords="axes fraction", xytext=(0, 4), textcoords="offset points", fontsize=8, color=SOFT, va="bottom")
