"""Charts of a study: scores with their controls, the transfer matrix, the spectrum, the codes of the source tasks.

Every function takes plain numbers and writes one file, whose suffix (.png, .svg, .pdf) is its format; it returns the path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from deltas.errors import InputError
from landscape.style import FAINT, INK, OKABE_ITO, SOFT, STAGE_COLOURS, STYLE, Estimate, halo, sheet, write


def curve(
    series: Mapping[str, Mapping[int, Estimate]],
    path: str | Path,
    *,
    references: Mapping[str, Mapping[str, Estimate]] | None = None,
    xlabel: str = "k, dimensions of the shared space",
    ylabel: str = "normalised score",
    title: str | None = None,
) -> Path:
    """Scores against k with interval bands; controls as dashed lines labelled at the right.

    Args:
        series: {"optimization": {k: Estimate}, "transfer": {k: Estimate}}.
        references: {"transfer": {"shuffled": Estimate}}: controls, in their stage's colour.
    """
    with mpl.rc_context(STYLE):
        figure = sheet(6.4, 3.7)
        ax = figure.add_subplot()
        ks = sorted({k for line in series.values() for k in line})
        _scale(ax, 0.0, 1.0)
        labels: list[tuple[float, str, str]] = []
        for n, (name, line) in enumerate(series.items()):
            colour = STAGE_COLOURS.get(name, OKABE_ITO[(n + 2) % len(OKABE_ITO)])
            at = sorted(line)
            values = np.array([line[k] for k in at], float).reshape(-1, 3)
            ax.fill_between(at, values[:, 1], values[:, 2], color=colour, alpha=0.16, linewidth=0)
            ax.plot(at, values[:, 0], "o-" if n == 0 else "s-", color=colour, markersize=4.5, linewidth=1.8, zorder=4)
            if at:
                labels.append((float(values[-1, 0]), name, colour))
            for control, estimate in (references or {}).get(name, {}).items():
                ax.axhline(estimate.value, color=colour, linewidth=0.9, linestyle=(0, (4, 3)), alpha=0.8)
                labels.append((estimate.value, f"{control.replace('_', ' ')}, {name}", colour))
        if len(ks) > 1 and ks[-1] / max(ks[0], 1) > 6:
            ax.set_xscale("log", base=2)
        ax.set_xticks(ks, [str(k) for k in ks])
        ax.minorticks_off()
        ax.set_xlabel(xlabel)
        ax.set_ylabel(ylabel)
        _beside(ax, labels)
        if title:
            ax.set_title(title, loc="left")
        return write(figure, path)


def _scale(ax: Axes, zero: float, one: float) -> None:
    """The two anchors of a normalised score: chance and the full delta."""
    for value in (zero, one):
        ax.axhline(value, color=FAINT, linewidth=1.0, zorder=0)


def _beside(ax: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Text at the right of the axes at its height, pushed apart where lines lie close."""
    low, high = ax.get_ylim()
    low = min([low, *(value for value, _, _ in labels)])
    ax.set_ylim(low - 0.02 * (high - low), high)
    for y, (value, text, colour) in zip(spread([v for v, _, _ in sorted(labels)], 0.056 * (high - low)), sorted(labels), strict=True):
        ax.annotate(
            text, (1.0, value), xycoords=("axes fraction", "data"), xytext=(1.05, y), textcoords=("axes fraction", "data"),
            va="center", fontsize=8, color=colour, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "relpos": (0, 0.5), "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Sorted places at least `gap` apart, each crowd centred on its own values (pool adjacent violators)."""
    crowds: list[list[float]] = []
    for value in values:
        crowds.append([value])
        while len(crowds) > 1 and _place(crowds[-1], gap)[0] < _place(crowds[-2], gap)[-1] + gap:
            last = crowds.pop()
            crowds[-1] += last
    return [place for crowd in crowds for place in _place(crowd, gap)]


def _place(crowd: list[float], gap: float) -> list[float]:
    return [float(np.mean(crowd)) + gap * (n - (len(crowd) - 1) / 2) for n in range(len(crowd))]


def matrix(
    values: Mapping[tuple[str, str], Estimate],
    path: str | Path,
    *,
    labels: Sequence[str] | None = None,
    title: str = "transfer: tuned through the row, run as the column",
    colour_label: str = "normalised score",
) -> Path:
    """Heat map of source type × target type; the diagonal (no transfer: optimization) is framed."""
    names = list(labels or dict.fromkeys(name for pair in values for name in pair))
    field = np.array([[values.get((s, t), Estimate(np.nan)).value for t in names] for s in names], float)
    with mpl.rc_context(STYLE):
        figure = sheet(1.25 * len(names) + 2.3, 0.95 * len(names) + 1.3)
        ax = figure.add_subplot()
        low = min(0.0, float(np.nanmin(field))) if np.isfinite(field).any() else 0.0
        high = max(1.0, float(np.nanmax(field))) if np.isfinite(field).any() else 1.0
        shade = LinearSegmentedColormap.from_list("chance", [(0, OKABE_ITO[1]), (0.5, "white"), (1, OKABE_ITO[0])])
        scale = Normalize(-max(high, -low), max(high, -low))  # white is chance
        ax.set_facecolor("#efefef")
        image = ax.imshow(field, cmap=shade, norm=scale, aspect="auto")
        for i, source in enumerate(names):
            for j, target in enumerate(names):
                estimate = values.get((source, target))
                if estimate is None or not np.isfinite(estimate.value):
                    ax.text(j, i, "–", ha="center", va="center", color=SOFT)
                    continue
                red, green, blue, _ = shade(float(scale(estimate.value)))
                ink = "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.5 else INK
                ax.text(j, i, _number(estimate.value), ha="center", va="center", color=ink, fontsize=12, fontweight="bold")
                if np.isfinite(estimate.low):
                    between = f"[{_number(estimate.low)}, {_number(estimate.high)}]"
                    ax.annotate(
                        between, (j, i), xytext=(0, -14), textcoords="offset points", ha="center", va="center", color=ink, fontsize=7.5
                    )
                if i == j:
                    ax.add_patch(Rectangle((j - 0.46, i - 0.46), 0.92, 0.92, fill=False, edgecolor=ink, linewidth=1, linestyle=(0, (2, 2))))
        ax.set_xticks(range(len(names)), names, fontsize=9)
        ax.set_yticks(range(len(names)), names, fontsize=9)
        ax.tick_params(length=0, labelcolor=INK)
        ax.spines[:].set_visible(False)
        ax.set_xlabel("run as")
        ax.set_ylabel("tuned through")
        ax.set_title(title, loc="left", fontsize=9)
        bar = figure.colorbar(image, ax=ax, aspect=16, pad=0.03)
        bar.ax.set_ylim(low, high)
        bar.set_label(colour_label)
        bar.outline.set_visible(False)  # type: ignore[union-attr]
        return write(figure, path)


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def bars(
    groups: Mapping[str, Mapping[str, Estimate]],
    path: str | Path,
    *,
    xlabel: str = "normalised score (0 chance, 1 full delta)",
    title: str | None = None,
) -> Path:
    """A method beside its controls, one panel a stage: {"optimization": {"joint_svd": Estimate, "shuffled": …}, …}.

    The first name of all is the method, in its stage's colour; its interval runs down the panel, to be compared with.
    """
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    with mpl.rc_context(STYLE):
        figure = sheet(3.2 * len(groups) + 1.3, 0.34 * len(names) + 1.1)
        panels = figure.subplots(1, len(groups), sharex=True, sharey=True, squeeze=False)[0]
        for ax, (stage, group) in zip(panels, groups.items(), strict=True):
            colour = STAGE_COLOURS.get(stage, OKABE_ITO[2])
            ax.axvline(0.0, color=SOFT, linewidth=0.8, zorder=1)
            ax.axvline(1.0, color=FAINT, linewidth=0.8, zorder=0)
            head = group.get(names[0])
            if head is not None and np.isfinite(head.low):
                ax.axvspan(head.low, head.high, color=colour, alpha=0.12, linewidth=0)
            for row, name in enumerate(names):
                if name not in group or not np.isfinite(group[name].value):
                    ax.text(0.02, row, "not measured", va="center", fontsize=7.5, color=SOFT, style="italic")
                    continue
                estimate, main = group[name], row == 0
                ax.barh(row, estimate.value, height=0.62, color=colour if main else "#b5b5b5", zorder=2)
                ax.errorbar(estimate.value, row, xerr=estimate.bars, color=INK, capsize=2.5, elinewidth=1, zorder=3)
                edge = np.nanmax([estimate.value, estimate.high, 0.0])
                ax.text(edge + 0.025, row, _number(estimate.value), va="center", fontsize=8, fontweight="bold" if main else "normal")
            ax.set_title(stage, loc="left", color=colour)
            ax.set_xlabel(xlabel)
            ax.tick_params(axis="y", length=0)
            ax.margins(x=0.12)
            ax.spines["left"].set_visible(False)
        panels[0].set_yticks(range(len(names)), [name.replace("_", " ") for name in names], color=INK)
        panels[0].get_yticklabels()[0].set_fontweight("bold")
        panels[0].invert_yaxis()
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
        return write(figure, path)


def spectrum(singular: Any, null: Any, path: str | Path, *, k: int | None = None, title: str | None = None) -> Path:
    """The joint spectrum against a Gaussian null, and the energy the first directions hold.

    Args:
        singular: singular values [n], largest first.
        null: singular values [n] of Gaussian blocks of the same sizes and scales, or [draws, n].
        k: the dimension chosen, marked.
    """
    singular = np.asarray(singular, float)
    draws = np.atleast_2d(np.asarray(null, float)) if null is not None and np.size(null) else np.empty((0, 0))
    with mpl.rc_context(STYLE):
        figure = sheet(6.8, 2.9)
        left, right = figure.subplots(1, 2)
        at = np.arange(1, len(singular) + 1)
        left.plot(at, singular, "o-", color=OKABE_ITO[0], markersize=3, linewidth=1.4, label="solutions of all types")
        if draws.size:
            over = np.arange(1, draws.shape[1] + 1)
            left.fill_between(over, draws.min(0), draws.max(0), color=SOFT, alpha=0.25, linewidth=0)
            left.plot(over, draws.mean(0), "--", color=SOFT, linewidth=1.2, label="Gaussian null")
        left.set_ylim(0, None)
        left.set_ylabel("singular value")
        left.legend(loc="upper right")
        right.plot(at, np.cumsum(singular**2) / np.sum(singular**2), "o-", color=OKABE_ITO[0], markersize=3, linewidth=1.4)
        if draws.size:
            energy = np.cumsum(draws**2, 1) / np.sum(draws**2, 1, keepdims=True)
            right.plot(np.arange(1, draws.shape[1] + 1), energy.mean(0), "--", color=SOFT, linewidth=1.2)
        right.set_ylim(0, 1.02)
        right.set_ylabel("energy in the first directions")
        for ax in (left, right):
            ax.set_xlabel("direction")
            ax.set_xlim(0.5, len(singular) + 0.5)
            if k:
                ax.axvline(k, color=OKABE_ITO[1], linewidth=1, linestyle=":")
        if k and k <= len(singular):
            share = float(np.sum(singular[:k] ** 2) / np.sum(singular**2))
            right.annotate(
                f"k = {k} holds {share:.0%}", (k, 0.03), xytext=(5, 0), textcoords="offset points", color=OKABE_ITO[1], fontsize=8
            )
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
        return write(figure, path)


def seen_codes(
    codes: Any,
    pairs: Sequence[tuple[str, int]],
    path: str | Path,
    *,
    categories: Mapping[str, str] | None = None,
    title: str | None = None,
) -> Path:
    """Source tasks in the plane of the first two coordinates of z, coloured by category; seeds of a task are joined.

    Args:
        codes: z of the source solutions [N, k], k ≥ 2.
        pairs: (task, seed) of each row.
        categories: {task: category}.
    """
    codes = np.asarray(codes, float)
    if codes.ndim != 2 or codes.shape[1] < 2 or len(codes) != len(pairs):
        raise InputError(f"expected codes [N, k ≥ 2] of {len(pairs)} solutions, got shape {codes.shape}")
    kinds = sorted({(categories or {}).get(task, "") or "other" for task, _ in pairs})
    symbols = "osD^vPXh"
    look = {kind: (OKABE_ITO[n % 8], symbols[(n // 8 + n) % 8]) for n, kind in enumerate(kinds)}
    with mpl.rc_context(STYLE):
        figure = sheet(6.6 if len(kinds) > 1 else 5.0, 4.6)
        ax = figure.add_subplot()
        ax.axhline(0, color=FAINT, linewidth=0.8, zorder=0)
        ax.axvline(0, color=FAINT, linewidth=0.8, zorder=0)
        tasks = list(dict.fromkeys(task for task, _ in pairs))
        centres = np.empty((len(tasks), 2))
        for n, task in enumerate(tasks):
            here = codes[[i for i, pair in enumerate(pairs) if pair[0] == task], :2]
            colour, symbol = look[(categories or {}).get(task, "") or "other"]
            centres[n] = here.mean(0)
            for point in here:
                ax.plot(*np.stack([centres[n], point]).T, color=colour, linewidth=0.7, alpha=0.5, zorder=1)
            ax.scatter(*here.T, s=26, color=colour, marker=symbol, edgecolor="white", linewidth=0.5, zorder=3)
        for n in _sparse(centres, 40):
            ax.annotate(
                tasks[n], centres[n], xytext=(5, 4), textcoords="offset points", fontsize=6.5, color=SOFT, path_effects=halo("white")
            )
        ax.margins(x=0.12)
        ax.set_xlabel("$z_0$")
        ax.set_ylabel("$z_1$")
        if len(kinds) > 1:
            handles = [
                Line2D([], [], color=c, marker=m, linestyle="", markersize=5, markeredgecolor="white", label=kind)
                for kind, (c, m) in look.items()
            ]
            ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
        if title:
            ax.set_title(title, loc="left")
        return write(figure, path)


def _sparse(centres: np.ndarray, most: int) -> list[int]:
    """Points whose names can be written without covering each other, outermost first."""
    size = np.ptp(centres, axis=0) + 1e-9
    chosen: list[int] = []
    for n in np.argsort(-np.linalg.norm(centres, axis=1)):
        gaps = np.abs(centres[chosen] - centres[n]) / size if chosen else np.ones((1, 2))
        if len(chosen) < most and ((gaps[:, 0] > 0.2) | (gaps[:, 1] > 0.045)).all():
            chosen.append(int(n))
    return chosen
