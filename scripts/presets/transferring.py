"""The numbers of the transferability study, of one type's matrix of scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from subspace.task_transfer import Sides

Mean = tuple[float, list[float] | None]
"""A mean over targets and its interval."""
Controls = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Measured:
    """One type's transfer: score − zero-shot, score − chance and score / own, inside categories and across; the gain as a share of the own
    deltas'; and the same of the own deltas and of the backbone alone."""

    gain: Sides
    above: Sides
    relative: Sides
    share_inside: Mean
    share_across: Mean
    own_gain: Mean
    own_above: Mean
    zero_shot_above: Mean
    zero_shot_relative: Mean

    def to_json(self) -> dict[str, Any]:
        """Every number."""
        return {name: list(one) if isinstance(one, tuple) else one.to_json() for name, one in vars(self).items()}


def measure(scores: np.ndarray, controls: Controls, names: list[str], categories: dict[str, str]) -> Measured:
    """The numbers of one type, from its scores [seeds, source, target]."""
    from subspace.ranking import mean_of
    from subspace.scores import interval
    from subspace.task_transfer import gain, inside_and_across, relative, same_category, share

    bare, chance = (np.array([controls[name][what] for name in names]) for what in ("zero_shot", "chance"))
    inside = same_category(names, categories)

    def mean(values: np.ndarray) -> Mean:
        """Of values [seeds, target]; a target without a number is left out."""
        known = {name: values[:, t].tolist() for t, name in enumerate(names) if np.isfinite(values[:, t]).all()}
        return mean_of(known), interval(known)

    own = np.diagonal(scores, axis1=1, axis2=2)
    beside = np.divide(np.broadcast_to(bare, own.shape), own, out=np.full(own.shape, np.nan), where=own > 0)
    return Measured(
        gain=inside_and_across(gain(scores, bare), names, categories),
        above=inside_and_across(gain(scores, chance), names, categories),
        relative=inside_and_across(np.nan_to_num(relative(scores)), names, categories),
        share_inside=share(scores, bare, inside, names),
        share_across=share(scores, bare, ~inside & ~np.eye(len(names), dtype=bool), names),
        own_gain=mean(own - bare), own_above=mean(own - chance), zero_shot_above=mean((bare - chance)[None]), zero_shot_relative=mean(beside))


def blocks_of(scores: np.ndarray, controls: Controls, names: list[str], categories: dict[str, str]) -> dict[str, dict[str, float]]:
    """Category trained on → run on → the mean gain of other tasks' solutions; NaN where there are none."""
    from subspace.task_transfer import gain

    of = np.array([categories[name] for name in names])
    mean = gain(scores, np.array([controls[name]["zero_shot"] for name in names])).mean(axis=0)
    np.fill_diagonal(mean, np.nan)
    kinds = sorted({categories[name] for name in names})
    cells = {(a, b): mean[np.ix_(of == a, of == b)] for a in kinds for b in kinds}
    return {a: {b: float(np.nanmean(cells[a, b])) if np.isfinite(cells[a, b]).any() else float("nan") for b in kinds} for a in kinds}
