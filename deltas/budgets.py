"""How many parameters are enough: budgets on a log grid, the least from which a score lasts, and what structure does at equal budget.

    grid      P_i = P_least (P_most / P_least)^(i / (n − 1)),  i = 0 … n − 1
    P_low     the least P from which, and at every larger P tried, the mean score is above chance + ε
    P_high    the same for at or above full − ε
    spread    Var(structure) = Var_s(m_s) − Var(noise) · mean_s(1 / n_s),   Var(noise) = Σ_sr (x_sr − m_s)² / Σ_s (n_s − 1)

x_sr is the score of seed r of structure s, m_s the mean of its n_s seeds: without the subtraction the noise of training would be called
structure. Arrays in, numbers out; Su et al. 2023 (arXiv 2306.02320) ask the first three, the last is ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from deltas.errors import InputError

DRAWS = 2000
"""Of a bootstrap."""
ROUNDING = 1e-9
"""Two scores nearer than this are equal: shares of few rows often are, but for their last bits."""


def log_grid(least: int, most: int, count: int) -> list[int]:
    """`count` budgets from `least` to `most`, evenly apart in their logarithm, in whole numbers.

    Raises:
        InputError: bounds that are no range, or so near each other that two budgets would be one.
    """
    if not 1 <= least < most:
        raise InputError(f"expected a least budget of at least 1 below the largest, got {least} and {most}; choose others")
    if count < 2:
        raise InputError(f"expected at least 2 budgets, got {count}; raise it")
    grid = np.exp(np.linspace(np.log(least), np.log(most), count)).round().astype(np.int64).tolist()
    grid[0], grid[-1] = least, most  # exact, whatever the rounding of the logarithms
    if len(set(grid)) < count:
        raise InputError(f"expected budgets that differ, got {count} between {least} and {most}; ask for fewer")
    return grid


def budgets_between(sizes: Sequence[int], count: int, least: int | None = None, most: int | None = None) -> list[int]:
    """The grid between the smallest of the groups' sizes and all of them together, or between bounds within that.

    Raises:
        InputError: a bound below the smallest group or above the whole.
    """
    smallest, whole = min(sizes), sum(sizes)
    for what, bound in (("least", least), ("largest", most)):
        if bound is not None and not smallest <= bound <= whole:
            raise InputError(f"expected a {what} budget from {smallest} (the smallest group) to {whole} (all groups), got {bound}; "
                             "choose another")
    return log_grid(smallest if least is None else least, whole if most is None else most, count)


@dataclass(frozen=True)
class Threshold:
    """A least budget and its 95% interval; None where it is not reached: as `high`, the interval is open above.

    `reached` is the share of the bootstrap's draws in which there is one.
    """

    value: int | None
    low: int | None
    high: int | None
    reached: float


def lasting(budgets: Sequence[int], margins: Float[np.ndarray, "*draws budgets"], strict: bool = False) -> Float[np.ndarray, "*draws"]:
    """The least budget from which all margins are at least 0 (above 0 where `strict`); infinite where the last one is not.

    Args:
        budgets: rising.
        margins: the mean score less the level it has to hold, at each budget.
    """
    good = margins > ROUNDING if strict else margins >= -ROUNDING
    lasts = np.flip(np.logical_and.accumulate(np.flip(good, -1), axis=-1), -1)
    first = np.where(lasts.any(-1), lasts.argmax(-1), len(budgets))
    return np.append(np.asarray(budgets, float), np.inf)[first]


def threshold(
    budgets: Sequence[int], scores: Float[np.ndarray, "tasks structures seeds budgets"], reference: Float[np.ndarray, "tasks runs"],
    offset: float, *, strict: bool = False, draws: int = DRAWS, seed: int = 0,
) -> Threshold:
    """The least budget from which the mean score, over tasks, structures and seeds, lasts at reference + offset.

    P_low is that of chance and +ε, strict; P_high that of full fine-tuning and −ε. The interval is a bootstrap's: tasks and structures are
    drawn with replacement (a structure is the same one for every task), and within each the seeds, and the reference's runs within each task.
    With one task or one structure it says nothing of others.

    Args:
        scores: NaN where a structure has fewer seeds.
        reference: one column for a number that is known, such as chance.
    """
    scores, reference = np.asarray(scores, float), np.asarray(reference, float)
    means = _seed_means(scores).mean(axis=(0, 1))
    found = float(lasting(budgets, means - reference.mean() - offset, strict))
    rng = np.random.default_rng(seed)
    drawn = np.sort(lasting(budgets, _drawn(scores, reference, draws, rng) - offset, strict))
    low, high = (_whole(drawn[min(int(q * draws), draws - 1)]) for q in (0.025, 0.975))
    return Threshold(_whole(found), low, high, float(np.isfinite(drawn).mean()))


def _drawn(scores: np.ndarray, reference: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """The mean score less the reference of each draw, [draws, budgets]."""
    tasks, structures, seeds, _ = scores.shape
    counts = np.isfinite(scores[..., 0]).sum(-1)
    t = rng.integers(tasks, size=(draws, tasks))
    s = rng.integers(structures, size=(draws, structures))
    t4, s4 = t[:, :, None, None], s[:, None, :, None]
    n = counts[t4, s4]
    r = (rng.random((draws, tasks, structures, seeds)) * n).astype(int)
    used = np.arange(seeds) < n
    means = (np.where(used[..., None], scores[t4, s4, r], 0.0).sum(3) / n).mean(axis=(1, 2))
    runs = rng.integers(reference.shape[1], size=(draws, tasks, reference.shape[1]))
    return means - reference[t[..., None], runs].mean(axis=(1, 2))[:, None]


def _seed_means(scores: np.ndarray) -> np.ndarray:
    """Means over the seeds that there are."""
    there = np.isfinite(scores)
    return np.where(there, scores, 0.0).sum(2) / there.sum(2)


def _whole(value: float) -> int | None:
    return int(value) if np.isfinite(value) else None


@dataclass(frozen=True)
class Spread:
    """Variances of a score at equal budget: over structures, free of noise, and over the seeds of one structure.

    `structure` is an unbiased estimate and may be below 0; None: only one structure. `noise` is None where no structure has two seeds, and
    then `structure` has the noise in it.
    """

    structure: float | None
    noise: float | None


def spread(scores: Float[np.ndarray, "structures seeds"]) -> Spread:
    """What structure does to the score at one budget of one task, and what the seed does.

    Args:
        scores: NaN where a structure has fewer seeds; each has at least one.
    """
    scores = np.asarray(scores, float)
    counts = np.isfinite(scores).sum(1)
    means = np.nanmean(scores, axis=1)
    free = int((counts - 1).sum())
    noise = float(np.nansum((scores - means[:, None]) ** 2) / free) if free else None
    structure = float(means.var(ddof=1) - (noise or 0.0) * np.mean(1 / counts)) if len(scores) > 1 else None
    return Spread(structure, noise)
