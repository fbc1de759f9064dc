"""Which of several methods is better, task by task: mean ranks, differences with intervals, and an order that is claimed."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from deltas.errors import InputError
from subspace.scores import interval

LEAST_TASKS = 6
"""Tasks from which a verdict is drawn: of n that all point one way the bootstrap's interval leaves out 0 whatever their size, and by mere chance
they do so with probability 2^(1 − n), below 5% from six on."""
Scores = Mapping[str, Sequence[float]]
"""Task → one score a seed."""


class Difference(NamedTuple):
    """How far one method is ahead of another: the mean over tasks, [low, high] (None of fewer than two values), tasks that both have."""

    value: float
    interval: list[float] | None
    tasks: int

    @property
    def sign(self) -> int:
        """1 where the whole interval is above 0, −1 where it is below, 0 where the two cannot be told apart, as with less than `LEAST_TASKS`."""
        if self.interval is None or self.tasks < LEAST_TASKS:
            return 0
        return 1 if self.interval[0] > 0 else -1 if self.interval[1] < 0 else 0


def mean_of(scores: Scores) -> float:
    """Mean over tasks of each task's mean over seeds; NaN without any."""
    known = [float(np.mean(values)) for values in scores.values() if len(values)]
    return float(np.mean(known)) if known else float("nan")


def mean_ranks(methods: Mapping[str, Scores]) -> dict[str, float]:
    """Method → its rank among the methods, 1 the best, averaged over tasks; equal scores share the mean of their ranks.

    Args:
        methods: method → task → scores; tasks that some method lacks are left out.

    Raises:
        InputError: no task that all methods have.
    """
    tasks = _common(methods)
    if not tasks:
        raise InputError("expected a task that every method has a score on, got none; score them on the same tasks")
    table = np.array([[np.mean(scores[task]) for scores in methods.values()] for task in tasks])
    return dict(zip(methods, rankdata(-table, axis=1).mean(axis=0).tolist(), strict=True))


def difference(ours: Scores, theirs: Scores, seed: int = 0) -> Difference:
    """Mean over the common tasks of score − score, paired by task, and by seed where both have as many.

    The interval is the cluster bootstrap of `subspace.scores.interval`.
    """
    tasks = _common({"ours": ours, "theirs": theirs})
    apart: dict[str, list[float]] = {}
    for task in tasks:
        mine, other = np.asarray(ours[task], float), np.asarray(theirs[task], float)
        apart[task] = (mine - (other if len(mine) == len(other) else other.mean())).tolist()
    return Difference(mean_of(apart), interval(apart, seed=seed) if apart else None, len(apart))


def neighbours(order: Sequence[str], methods: Mapping[str, Scores], seed: int = 0) -> dict[tuple[str, str], Difference]:
    """(better, worse) → the difference, of each two that follow one another in a claimed order; methods that are missing are passed over."""
    known = [name for name in order if name in methods]
    return {pair: difference(methods[pair[0]], methods[pair[1]], seed) for pair in pairwise(known)}


def _common(methods: Mapping[str, Scores]) -> list[str]:
    sets = [{task for task, scores in one.items() if len(scores)} for one in methods.values()]
    return sorted(set.intersection(*sets)) if sets else []
