"""What all figures share: colours, type, estimates, and writing a figure as one whole file.

Delta types have the colours of Okabe and Ito (2008), fields have viridis: both are safe for colour-blind readers. No pyplot:
nothing global is changed, and no display is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import patheffects
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from deltas.errors import InputError
from deltas.files import replacing

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A7A00", "#000000")
INK, SOFT, FAINT = "#1a1a1a", "#6b6b6b", "#d9d9d9"
STAGE_COLOURS = {"optimization": "#0072B2", "transfer": "#D55E00"}
STYLE: Any = {
    "font.family": "sans-serif", "font.size": 9, "axes.titlesize": 10, "axes.titleweight": "bold", "axes.labelsize": 9,
    "xtick.labelsize": 8, "ytick.labelsize": 8, "legend.fontsize": 8, "legend.frameon": False, "axes.spines.top": False,
    "axes.spines.right": False, "axes.edgecolor": SOFT, "axes.labelcolor": INK, "text.color": INK, "xtick.color": SOFT,
    "ytick.color": SOFT, "axes.linewidth": 0.8, "xtick.major.width": 0.8, "ytick.major.width": 0.8, "hatch.linewidth": 0.6,
    "svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "deltaspace",
}  # fmt: skip


class Estimate(NamedTuple):
    """A number and its interval; low = high = NaN where none is known."""

    value: float
    low: float = float("nan")
    high: float = float("nan")

    @property
    def bars(self) -> np.ndarray:
        """Lengths below and above the value, [2, 1], as matplotlib's error bars want them."""
        lengths = np.array([[self.value - self.low], [self.high - self.value]])
        return np.nan_to_num(np.maximum(lengths, 0.0))


def colours(labels: Sequence[str]) -> dict[str, str]:
    """One fixed colour a type, by its place in `labels`."""
    return {label: OKABE_ITO[n % len(OKABE_ITO)] for n, label in enumerate(labels)}


def sheet(width: float, height: float) -> Figure:
    """An empty figure of that size in inches, laid out on saving."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def blank(width: float, height: float) -> Figure:
    """An empty figure of that size in inches, whose axes are placed by hand: what is compared keeps its size whatever the text."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def strip(figure: Figure, image: Any, box: Sequence[float], label: str, *, small: bool = False) -> None:
    """A flat colour bar at (left, bottom, width, height) in inches."""
    width, height = figure.get_size_inches()
    place = figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))
    bar = figure.colorbar(image, cax=place, orientation="horizontal")
    bar.set_label(label, fontsize=8 if small else 9)
    bar.ax.tick_params(labelsize=7 if small else 8)
    bar.outline.set_visible(False)  # type: ignore[union-attr]


def write(figure: Figure, path: str | Path) -> Path:
    """Save a figure in the format of its suffix, whole or not at all; the same numbers give the same bytes."""
    path = Path(path)
    kind = path.suffix.lstrip(".").lower()
    if kind not in ("png", "svg", "pdf"):
        raise InputError(f"expected a figure name that ends in .png, .svg or .pdf, got {path.name!r}; choose one of them")
    path.parent.mkdir(parents=True, exist_ok=True)
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})  # the same numbers give the same file
    with replacing(path) as temporary:
        # pixels of a PNG and, in the other formats, of the fields that would be thousands of shapes
        figure.savefig(temporary, format=kind, dpi=200 if kind == "png" else 300, facecolor="white", metadata=dates)
    return path


def halo(paper: str, width: float = 2.0) -> list[Any]:
    """An outline that keeps text readable on any ground."""
    return [patheffects.withStroke(linewidth=width, foreground=paper)]
