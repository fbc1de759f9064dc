"""What speaks for a k and for a space: spectra against chance, held-out tasks, angles, the agreement of types, scores by type.

Every function takes plain numbers and writes one file, whose suffix (.png, .svg, .pdf) is its format; it returns the path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from deltas.errors import InputError
from landscape.style import FAINT, INK, OKABE_ITO, SOFT, STYLE, Estimate, colours, sheet, write

NULLS = {"Gaussian": (SOFT, (0, (1, 1.5))), "permutation": ("#7b3294", (0, (4, 2)))}
MARKERS = "osD^vPXh"
MEASURES = {
    "gram": "Gram matrices, off the diagonal", "cosines": "cosines between tasks", "cka": "CKA of codes, debiased",
    "plain_cka": "CKA of codes, plain", "overlap": "principal angles of codes, mean cos²",
}  # fmt: skip


def spectra(
    spectrum: Any,
    nulls: Mapping[str, Mapping[str, Any]],
    path: str | Path,
    *,
    energy: Mapping[str, Sequence[float]] | None = None,
    k: int | None = None,
    title: str | None = None,
) -> Path:
    """The joint spectrum against what is chance at each step, and the energy that the first directions hold of each type.

    Args:
        spectrum: singular values, largest first.
        nulls: {name: `subspace.Null.to_json()`}: bands of the steps, and how many directions lie above them.
        energy: {label: share of the type's variance in the first 1, 2, … directions}.
        k: the dimension chosen, marked.
    """
    spectrum = np.asarray(spectrum, float)
    with mpl.rc_context(STYLE):
        figure = sheet(8.2, 3.3)
        left, right = figure.subplots(1, 2)
        at = np.arange(1, len(spectrum) + 1)
        handles = [*left.plot(at, spectrum, "o-", color=OKABE_ITO[0], markersize=3, linewidth=1.2, zorder=4, label="solutions of all types")]
        for name, null in nulls.items():
            colour, dashes = NULLS.get(name, (OKABE_ITO[2], (0, (4, 2))))
            steps = {part: np.asarray(null["steps"][part], float) for part in ("mean", "low", "high")}
            over = np.arange(1, len(steps["mean"]) + 1)
            left.fill_between(over, steps["low"], steps["high"], color=colour, alpha=0.22, linewidth=0)
            most = f"all {len(over)}" if null["above"] == len(over) else null["above"]
            handles += left.plot(over, steps["mean"], linestyle=dashes, color=colour, linewidth=1.3,
                                 label=f"{name} null of what is left: {most} above")
        left.set_ylim(0, None)
        left.set_ylabel("singular value")
        left.legend(handles=handles, loc="upper right")
        for (label, shares), colour in zip((energy or {}).items(), colours(list(energy or {})).values(), strict=True):
            right.plot(np.arange(1, len(shares) + 1), shares, "-", color=colour, linewidth=1.5, label=label)
        right.plot(at, np.cumsum(spectrum**2) / max(float(np.sum(spectrum**2)), 1e-300), ":", color=INK, linewidth=1.2, label="all types")
        for name, null in nulls.items():
            whole = np.asarray(null["spectrum"]["mean"], float) ** 2
            colour, dashes = NULLS.get(name, (OKABE_ITO[2], (0, (4, 2))))
            right.plot(np.arange(1, len(whole) + 1), np.cumsum(whole) / max(float(whole.sum()), 1e-300), linestyle=dashes, color=colour,
                       linewidth=1.0, label=f"all types, {name} null")
        right.set_ylim(0, 1.02)
        right.set_ylabel("energy in the first directions")
        right.legend(loc="lower right")
        for ax in (left, right):
            ax.set_xlabel("direction")
            ax.set_xlim(0.5, len(spectrum) + 0.5)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            if k:
                ax.axvline(k, color=SOFT, linewidth=0.9, linestyle=":", zorder=0)
                ax.annotate(f"k = {k}", (k, 0), xycoords=("data", "axes fraction"), xytext=(3, 3), textcoords="offset points", color=SOFT,
                            fontsize=7.5)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
        return write(figure, path)


def reconstruction(
    rows: Sequence[Mapping[str, Any]],
    path: str | Path,
    *,
    control: Sequence[Mapping[str, Any]] = (),
    k: int | None = None,
    ylabel: str = "share of held-out variance reconstructed",
    title: str | None = None,
) -> Path:
    """Held-out tasks reconstructed, or scored, against k: a panel for each type that is decoded, a line for each that is encoded.

    Args:
        rows: `subspace.CrossValidated.rows()` or `HeldOutScores.rows()`: source, target, k, share, low, high.
        control: the same with shuffled pairing of types; from another type only, dashed.
        k: the dimension chosen, marked.
        ylabel: what a share is a share of.
    """
    if not rows:
        raise InputError("expected rows of a cross-validation, got none; choose at least one k")
    labels = list(dict.fromkeys(row["source"] for row in rows))
    colour, marker = colours(labels), {label: MARKERS[n % len(MARKERS)] for n, label in enumerate(labels)}
    with mpl.rc_context(STYLE):
        figure = sheet(2.75 * len(labels) + 0.7, 3.3)
        panels = figure.subplots(1, len(labels), sharex=True, sharey=True, squeeze=False)[0]
        for ax, target in zip(panels, labels, strict=True):
            ax.axhline(0, color=FAINT, linewidth=1.0, zorder=0)
            for source in labels:
                ks, values = _line(rows, source, target)
                own = source == target
                ax.fill_between(ks, values[:, 1], values[:, 2], color=colour[source], alpha=0.14 if own else 0.09, linewidth=0)
                ax.plot(ks, values[:, 0], linestyle="-", marker=marker[source], markersize=3.5, color=colour[source],
                        linewidth=2.0 if own else 1.2, zorder=4 if own else 3)
                if control and not own:
                    over, wrong = _line(control, source, target)
                    ax.plot(over, wrong[:, 0], linestyle=(0, (3, 2)), color=colour[source], linewidth=1.0, alpha=0.8)
            if k:
                ax.axvline(k, color=SOFT, linewidth=0.9, linestyle=":", zorder=0)
            ax.set_title(f"decoded as {target}", loc="left", color=colour[target])
            ax.set_xlabel("k")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        panels[0].set_ylabel(ylabel)
        handles = [Line2D([], [], color=colour[s], marker=marker[s], markersize=4, label=f"encoded through {s}") for s in labels]
        if control and len(labels) > 1:
            handles.append(Line2D([], [], color=SOFT, linestyle=(0, (3, 2)), label="the same, types paired wrongly"))
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
        return write(figure, path)


def _line(rows: Sequence[Mapping[str, Any]], source: str, target: str) -> tuple[list[int], np.ndarray]:
    chosen = sorted((row for row in rows if (row["source"], row["target"]) == (source, target)), key=lambda row: row["k"])
    return [row["k"] for row in chosen], np.array([[row[part] for part in ("share", "low", "high")] for row in chosen], float).reshape(-1, 3)


def angles(
    found: Mapping[str, Mapping[str, Mapping[str, Any]]], path: str | Path, *, title: str | None = None
) -> Path:
    """Principal angles of repeated fits beside those of chance, a panel a comparison.

    Args:
        found: {"halves of the tasks": {label: `subspace.Angles.to_json()`}, …}.
    """
    labels = list(dict.fromkeys(label for by_type in found.values() for label in by_type))
    if not labels:
        raise InputError("expected angles of at least one delta type, got none; compare two fits first")
    colour = colours(labels)
    with mpl.rc_context(STYLE):
        figure = sheet(3.3 * len(found) + 1.9, 3.1)
        panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
        for ax, (name, by_type) in zip(panels, found.items(), strict=True):
            for n, (label, entry) in enumerate(by_type.items()):
                means = {kind: np.degrees(np.asarray(a, float)) for kind, a in entry["angles"].items()}
                at = np.arange(1, len(means["found"]) + 1)
                ax.plot(at, means["found"], linestyle="-", marker=MARKERS[n % len(MARKERS)], markersize=3.5, color=colour[label], linewidth=1.6,
                        zorder=4)
                if "mixed" in means:
                    ax.plot(at, means["mixed"], linestyle=(0, (4, 2)), color=colour[label], linewidth=1.0)
                ax.plot(at, means["random"], linestyle=(0, (1, 1.5)), color=colour[label], linewidth=1.0)
            ax.set_ylim(0, 93)
            ax.set_yticks(range(0, 91, 15))
            ax.set_xlabel("principal angle, smallest first")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.set_title(name, loc="left")
        panels[0].set_ylabel("degrees")
        handles = [Line2D([], [], color=colour[label], marker=MARKERS[n % len(MARKERS)], markersize=4, label=label)
                   for n, label in enumerate(labels)]
        handles += [Line2D([], [], color=SOFT, linestyle=(0, (4, 2)), label="random directions among\nthe same solutions"),
                    Line2D([], [], color=SOFT, linestyle=(0, (1, 1.5)), label="random subspaces")]
        figure.legend(handles=handles, loc="outside right upper")
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
        return write(figure, path)


def agreement(found: Mapping[str, Mapping[str, Mapping[str, Any]]], path: str | Path, *, title: str | None = None) -> Path:
    """How alike two types see the tasks, by pair of types and measure, beside the same tasks in permuted order.

    Args:
        found: what `subspace.type_similarity` returns.
    """
    if not found:
        raise InputError("expected the similarity of at least two delta types, got none; there is nothing to compare one with")
    names = list(dict.fromkeys(name for measures in found.values() for name in measures))
    look = [(OKABE_ITO[(n + n // 8) % 8], MARKERS[n % 8]) for n in range(len(found))]
    with mpl.rc_context(STYLE):
        figure = sheet(7.0, 0.55 + len(names) * (0.24 + 0.15 * len(found)))
        ax: Axes = figure.add_subplot()
        ax.axvline(0, color=FAINT, linewidth=1.0, zorder=0)
        ax.axvline(1, color=FAINT, linewidth=1.0, zorder=0)
        step = 0.72 / max(len(found), 1)
        for row, name in enumerate(names):
            for n, measures in enumerate(found.values()):
                entry, y = measures.get(name), row + (n - (len(found) - 1) / 2) * step
                if entry is None or entry["value"] is None:
                    ax.text(0.01, y, "not defined", fontsize=6.5, color=SOFT, va="center", style="italic")
                    continue
                low, high = entry["null_interval"]
                ax.plot([low, high], [y, y], color="#b5b5b5", linewidth=4.5, solid_capstyle="butt", zorder=1)
                ax.plot([entry["value"]], [y], color=look[n][0], marker=look[n][1], markersize=5.5, zorder=3, linestyle="")
        ax.set_yticks(range(len(names)), [MEASURES.get(name, name) for name in names], color=INK)
        ax.tick_params(axis="y", length=0)
        ax.set_ylim(len(names) - 0.45, -0.55)
        ax.set_xlim(min(-0.15, ax.get_xlim()[0]), max(1.02, ax.get_xlim()[1]))
        ax.spines["left"].set_visible(False)
        ax.set_xlabel("similarity of two types over tasks (1: the same)")
        handles = [Line2D([], [], color=colour, marker=marker, linestyle="", markersize=5, label=pair.replace("|", " and "))
                   for pair, (colour, marker) in zip(found, look, strict=True)]
        handles.append(Line2D([], [], color="#b5b5b5", linewidth=4.5, label="95 % of permuted tasks"))
        ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        if title:
            ax.set_title(title, loc="left")
        return write(figure, path)


def score_curves(
    panels: Mapping[str, Mapping[str, Mapping[int, Estimate]]],
    path: str | Path,
    *,
    ylabel: str = "normalised score",
    title: str | None = None,
) -> Path:
    """Scores against k, a panel a stage, a line a delta type.

    Args:
        panels: {"optimization": {"lora": {k: Estimate}, …}, "transfer": {…}}.
    """
    labels = list(dict.fromkeys(label for lines in panels.values() for label in lines))
    if not any(line for lines in panels.values() for line in lines.values()):
        raise InputError("expected scores at one k at least, got none; run the study's k's first")
    colour, marker = colours(labels), {label: MARKERS[n % len(MARKERS)] for n, label in enumerate(labels)}
    with mpl.rc_context(STYLE):
        figure = sheet(3.4 * len(panels) + 0.6, 3.3)
        row = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
        ks = sorted({k for lines in panels.values() for line in lines.values() for k in line})
        for ax, (stage, lines) in zip(row, panels.items(), strict=True):
            for value in (0.0, 1.0):
                ax.axhline(value, color=FAINT, linewidth=1.0, zorder=0)
            for label, line in lines.items():
                at = sorted(line)
                values = np.array([line[k] for k in at], float).reshape(-1, 3)
                ax.fill_between(at, values[:, 1], values[:, 2], color=colour[label], alpha=0.12, linewidth=0)
                ax.plot(at, values[:, 0], linestyle="-", marker=marker[label], markersize=4, color=colour[label], linewidth=1.6, label=label)
            if len(ks) > 1 and ks[-1] / max(ks[0], 1) > 6:
                ax.set_xscale("log", base=2)
            ax.set_xticks(ks, [str(k) for k in ks])
            ax.minorticks_off()
            ax.set_xlabel("k, dimensions of the shared space")
            ax.set_title(stage, loc="left")
        row[0].set_ylabel(ylabel)
        handles = [Line2D([], [], color=colour[label], marker=marker[label], markersize=4, label=label) for label in labels]
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
        return write(figure, path)
