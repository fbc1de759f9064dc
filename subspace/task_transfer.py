"""Whether solutions transfer between tasks without training: a matrix S[s, t], the score of the solution of task s on task t.

    gain       S[s, t] − zero_shot[t]                                          what the delta of s is worth on t
    relative   S[s, t] / S[t, t]                                               beside t's own delta
    share      Σ_t mean_s (S[s, t] − zero_shot[t]) / Σ_t (S[t, t] − zero_shot[t])     of what the own deltas gain; a quotient of sums

Pairs inside a category are compared with pairs across, target by target: a target that everything helps is on both sides. That a category
matters is tested by giving the tasks' categories to the tasks in random order: rows and columns move together, as they must, since the
entries of one row or column are no independent evidence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from deltas.errors import InputError
from subspace.scores import interval

DRAWS = 5000


@dataclass(frozen=True)
class Sides:
    """A mean and its [low, high] inside categories, across, and of the difference target by target; p of the permutation test."""

    inside: float
    inside_interval: list[float] | None
    across: float
    across_interval: list[float] | None
    difference: float
    difference_interval: list[float] | None
    p: float
    null_interval: list[float]
    """Where 95% of the permuted differences lie."""
    targets: int
    """Tasks with others both inside and outside their category."""

    def to_json(self) -> dict[str, Any]:
        """Every field."""
        return dict(vars(self))


def gain(scores: Float[np.ndarray, "*seeds S T"], zero_shot: Float[np.ndarray, " T"]) -> Float[np.ndarray, "*seeds S T"]:
    """S[s, t] − zero_shot[t]."""
    return np.asarray(scores, float) - np.asarray(zero_shot, float)


def relative(scores: Float[np.ndarray, "*seeds T T"]) -> Float[np.ndarray, "*seeds T T"]:
    """S[s, t] / S[t, t], NaN where a task's own delta scores nothing."""
    scores = np.asarray(scores, float)
    own = np.diagonal(scores, axis1=-2, axis2=-1)[..., None, :]
    return np.divide(scores, own, out=np.full(scores.shape, np.nan), where=own > 0)


def same_category(tasks: Sequence[str], categories: Mapping[str, str]) -> Bool[np.ndarray, "T T"]:
    """Which pairs of different tasks share a category."""
    return _pairs(np.array([categories[task] for task in tasks]))


def share(scores: Float[np.ndarray, "seeds T T"], zero_shot: Float[np.ndarray, " T"], pairs: Bool[np.ndarray, "T T"], tasks: Sequence[str],
          seed: int = 0) -> tuple[float, list[float] | None]:
    """What the pairs' transfer gains, as a share of what the targets' own deltas gain, and its interval over targets and seeds.

    Args:
        pairs: which of [source, target] count; targets without any are left out.

    Returns:
        (NaN, None) where the own deltas gain nothing in all.
    """
    gained = gain(scores, zero_shot)
    over = {task: gained[:, t, t].tolist() for t, task in enumerate(tasks) if pairs[:, t].any()}
    moved = {task: gained[:, pairs[:, t], t].mean(axis=1).tolist() for t, task in enumerate(tasks) if pairs[:, t].any()}
    below = np.mean([np.mean(v) for v in over.values()]) if over else 0.0
    if below <= 1e-9:
        return float("nan"), None
    return float(np.mean([np.mean(v) for v in moved.values()]) / below), interval(moved, over=over, seed=seed)


def inside_and_across(values: Float[np.ndarray, "seeds T T"], tasks: Sequence[str], categories: Mapping[str, str], *, draws: int = DRAWS,
                      seed: int = 0) -> Sides:
    """Transfer inside categories against transfer across them.

    Args:
        values: [seed, source, target], such as `gain`; the diagonal is not looked at.
        categories: task → category.
        draws: permutations of the categories.

    Raises:
        InputError: values of another shape, or no target with others both inside and outside its category.
    """
    values = np.asarray(values, float)
    n = len(tasks)
    if values.ndim != 3 or values.shape[1:] != (n, n):
        raise InputError(f"expected values [seeds, {n}, {n}] of the {n} tasks, got shape {values.shape}; give a source × target matrix a seed")
    own = same_category(tasks, categories)
    other = ~own & ~np.eye(n, dtype=bool)
    both = np.asarray(own.any(axis=0) & other.any(axis=0))
    if not both.any():
        raise InputError("expected a category with two tasks beside another category, got none; group the tasks otherwise")
    inside, across = (_by_target(values, pairs, tasks, both) for pairs in (own, other))
    apart = {task: (np.array(inside[task]) - across[task]).tolist() for task in inside}
    found = _apart(values.mean(axis=0), own)
    rng = np.random.default_rng(seed)
    mean, kinds = values.mean(axis=0), np.array([categories[task] for task in tasks])
    null = np.array([_apart(mean, _pairs(rng.permutation(kinds))) for _ in range(draws)])
    return Sides(_mean(inside), interval(inside, seed=seed), _mean(across), interval(across, seed=seed), found, interval(apart, seed=seed),
                 float((1 + np.sum(null >= found - 1e-12)) / (1 + draws)), np.quantile(null, [0.025, 0.975]).tolist(), int(both.sum()))


def _pairs(kinds: np.ndarray) -> np.ndarray:
    return (kinds[:, None] == kinds) & ~np.eye(len(kinds), dtype=bool)


def _apart(mean: np.ndarray, own: np.ndarray) -> float:
    """Mean over targets of mean inside − mean across, of a matrix [source, target]."""
    other = ~own & ~np.eye(len(own), dtype=bool)
    counts, others = own.sum(axis=0), other.sum(axis=0)
    both = (counts > 0) & (others > 0)
    inside = np.where(own, mean, 0.0).sum(axis=0)[both] / counts[both]
    return float(np.mean(inside - np.where(other, mean, 0.0).sum(axis=0)[both] / others[both]))


def _by_target(values: np.ndarray, pairs: np.ndarray, tasks: Sequence[str], which: np.ndarray) -> dict[str, list[float]]:
    """Target → a mean over its sources for each seed."""
    return {task: values[:, pairs[:, t], t].mean(axis=1).tolist() for t, task in enumerate(tasks) if which[t]}


def _mean(values: Mapping[str, Sequence[float]]) -> float:
    return float(np.mean([np.mean(v) for v in values.values()]))
