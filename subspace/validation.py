"""Reconstruction of held-out tasks: what a k is worth within a type, and from type to type.

All solutions of a task are held out together; mean and bases are fitted on the rest. For a held-out task with solutions x_s, x_t of two types

    z = (x_s − μ_s) U_s⁺        encoded through type s
    x̂_t = μ_t + z U_t           decoded as type t
    share(s → t) = 1 − Σ ‖x_t − x̂_t‖² / Σ ‖x_t − x̄_t‖²        over the held-out solutions, x̄ the mean of the training ones

so 0 is what the mean alone does and 1 is exact; from type to type it can be negative. Everything comes from the types' Gram matrices over
all sources: [μ; U] = C X of the training rows, U (x − μ)ᵀ = C_U (K_Th − K_TT c_μ) and U Uᵀ = C_U K_TT C_Uᵀ, so no vector of size D
is formed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, Int

from deltas.bank import Bank
from deltas.errors import InputError
from subspace.base import CUTOFF
from subspace.controls import derangements
from subspace.gram import gram
from subspace.joint_svd import decompose
from subspace.remembered import common, remembered
from subspace.sources import Pair, Sources

Coefficients = Float64[np.ndarray, "k+1 N"]
DualFit = Callable[[Mapping[str, Float64[np.ndarray, "N N"]], int], Mapping[str, Coefficients]]
"""From the types' Gram matrices and k to [μ; U] as coefficients over the rows."""
RESAMPLES = 2000
"""Bootstrap samples of tasks."""


def joint_dual(grams: Mapping[str, Float64[np.ndarray, "N N"]], k: int) -> dict[str, Coefficients]:
    """joint_svd in its dual form: the same coefficients for every type."""
    return dict.fromkeys(grams, decompose(grams, k).coefficients)


@dataclass(frozen=True, eq=False, kw_only=True)
class CrossValidated:
    """What is left of every held-out task by k, source type and target type.

    Args:
        left: Σ ‖x_t − x̂_t‖² over a task's solutions, encoded through the second axis, decoded by the third.
        total: Σ ‖x_t − x̄_t‖².
    """

    ks: tuple[int, ...]
    labels: tuple[str, ...]
    tasks: tuple[str, ...]
    left: Float64[np.ndarray, "ks types types tasks"]
    total: Float64[np.ndarray, "types tasks"]
    seed: int = 0

    @property
    def share(self) -> Float64[np.ndarray, "ks types types"]:
        """share(s → t) by k."""
        return 1 - self.left.sum(-1) / self.total.sum(-1)

    @cached_property
    def resampled(self) -> Float64[np.ndarray, "samples ks types types"]:
        """The shares of bootstrap samples of the tasks."""
        rng, n = np.random.default_rng([self.seed, 8]), len(self.tasks)
        weights = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(float)
        left = np.moveaxis(np.tensordot(self.left, weights, (3, 1)), -1, 0)
        return 1 - left / (weights @ self.total.T)[:, None, None, :]

    @property
    def interval(self) -> Float64[np.ndarray, "2 ks types types"]:
        """The 95 % interval of the shares, over tasks."""
        return np.quantile(self.resampled, [0.025, 0.975], axis=0)

    @property
    def across(self) -> bool:
        """Whether there is a second type to go to."""
        return len(self.labels) > 1

    def mean(self, *, across: bool) -> tuple[Float64[np.ndarray, " ks"], Float64[np.ndarray, " ks"]]:
        """The mean share over pairs of different types, or over types on their own, by k; and its standard error over tasks."""
        same = np.eye(len(self.labels), dtype=bool)
        chosen = ~same if across else same
        return self.share[:, chosen].mean(-1), self.resampled[:, :, chosen].mean(-1).std(0, ddof=1)

    def mean_interval(self, *, across: bool, less: "CrossValidated | None" = None) -> Float64[np.ndarray, "2 ks"]:
        """The 95 % interval of `mean`, over tasks; `less` another result of the same tasks, of the difference to its mean."""
        chosen = ~np.eye(len(self.labels), dtype=bool) if across else np.eye(len(self.labels), dtype=bool)
        drawn = self.resampled[:, :, chosen].mean(-1)
        if less is not None:
            drawn = drawn - less.resampled[:, :, chosen].mean(-1)
        return np.quantile(drawn, [0.025, 0.975], axis=0)

    def rows(self) -> list[dict[str, Any]]:
        """As a table: source, target, k, share, low, high."""
        share, (low, high) = self.share, self.interval
        return [{"source": source, "target": target, "k": k, "share": float(share[i, s, t]), "low": float(low[i, s, t]),
                 "high": float(high[i, s, t])}
                for s, source in enumerate(self.labels) for t, target in enumerate(self.labels) for i, k in enumerate(self.ks)]


def cross_validated(
    bank: Bank | Sources, ks: Sequence[int], *, method: DualFit = joint_dual, folds: int | Literal["leave_one_task_out"] = "leave_one_task_out",
    nested: bool = True, shuffled: bool = False, seed: int = 0, labels: Sequence[str] | None = None, pairs: Sequence[Pair] | None = None,
) -> CrossValidated:  # fmt: skip
    """Held-out tasks reconstructed within a type and from type to type, for each k.

    Args:
        bank: or sources; those that some type lacks are left out.
        ks: dimensions of the shared space.
        method: fits a training part.
        nested: whether the directions of a smaller k are the first of those of a larger one, so that one fit gives every k.
        folds: each task on its own, or this many groups of tasks.
        shuffled: the control: in every training part the types' rows are paired with other tasks' rows. What is left of the reconstruction
            from type to type is not owed to the types' sharing a space.
        seed: of the groups, the shuffled pairing and the bootstrap.

    Raises:
        InputError: fewer than 3 tasks that all types have, folds out of range, or a k that a training part cannot span.

    Example:
        found = subspace.cross_validated(bank, ks=(2, 4, 8, 16))
    """
    sources = common(remembered(bank, labels, pairs), 3)
    ks, parts = trained(sources, ks, folds, seed)
    names = sorted(sources.labels)
    grams = {label: gram(sources.rows[label]) for label in names}
    left = np.zeros((len(ks), len(names), len(names), len(sources.pairs)))
    total = np.zeros((len(names), len(sources.pairs)))
    for held in parts:
        orders = training_rows(sources, held, names, seed if shuffled else None)
        left[..., held], total[:, held] = _left(grams, orders, held, ks, method, nested)
    tasks = sorted({task for task, _ in sources.pairs})
    member = np.array([[task == other for task in tasks] for other, _ in sources.pairs], float)
    return CrossValidated(ks=ks, labels=tuple(names), tasks=tuple(tasks), left=left @ member, total=total @ member, seed=seed)


def trained(sources: Sources, ks: Sequence[int], folds: int | str, seed: int) -> tuple[tuple[int, ...], list[Int[np.ndarray, " held"]]]:
    """The dimensions in order, and what is held out of each training part (`held_out`); a k that a part cannot span is refused."""
    parts = held_out(sources.pairs, folds, seed)
    ks, most = tuple(sorted(set(ks))), len(sources.pairs) - max(len(part) for part in parts) - 1
    if not ks or ks[0] < 1 or ks[-1] > most:
        raise InputError(f"expected each k between 1 and {most}, one less than the solutions that the smallest training part has, got "
                         f"{ks[-1] if ks and ks[0] >= 1 else ks[:1]}; lower it or train more tasks")
    return ks, parts


def training_rows(sources: Sources, held: Int[np.ndarray, " held"], names: Sequence[str], shuffled: int | None) -> dict[str, np.ndarray]:
    """By type the places of the sources that are not held out; with the seed `shuffled` paired with other tasks from type to type."""
    train = np.setdiff1d(np.arange(len(sources.pairs)), held)
    orders = [train] * len(names)
    if shuffled is not None:
        orders = [train[order] for order in derangements([sources.pairs[i] for i in train], len(names), shuffled)]
    return dict(zip(names, orders, strict=True))


def held_out(pairs: Sequence[Pair], folds: int | str, seed: int) -> list[Int[np.ndarray, " held"]]:
    """The places of the sources that are held out together; every task is in one part."""
    tasks = sorted({task for task, _ in pairs})
    if folds == "leave_one_task_out":
        groups = [[task] for task in tasks]
    elif isinstance(folds, int) and 2 <= folds <= len(tasks):
        turned = np.random.default_rng([seed, 9]).permutation(len(tasks))
        groups = [[tasks[i] for i in part] for part in np.array_split(turned, folds)]
    else:
        raise InputError(f"expected folds of 'leave_one_task_out' or a number from 2 to the {len(tasks)} tasks, got {folds!r}; choose one")
    return [np.array([i for i, (task, _) in enumerate(pairs) if task in group]) for group in groups]


@dataclass(frozen=True, eq=False)
class Fitted:
    """One type's mean and directions in a training part, in the part's Gram matrix.

    Args:
        coefficients: [μ; U] over the part's rows.
        projected: U (x − μ)ᵀ of the held-out solutions.
        metric: U Uᵀ.
    """

    coefficients: Coefficients
    projected: Float64[np.ndarray, "k held"]
    metric: Float64[np.ndarray, "k k"]


def fit(grams: Mapping[str, np.ndarray], orders: Mapping[str, np.ndarray], held: np.ndarray, k: int, method: DualFit) -> dict[str, Fitted]:
    """Mean and directions of every type, fitted on the rows of `orders`, and the held-out solutions along them."""
    inner = {label: grams[label][np.ix_(order, order)] for label, order in orders.items()}
    found, fitted = method(inner, k), {}
    for label, order in orders.items():
        mean, basis = found[label][0], found[label][1:]
        seen = basis @ (grams[label][np.ix_(order, held)] - (inner[label] @ mean)[:, None])
        fitted[label] = Fitted(found[label], seen, basis @ inner[label] @ basis.T)
    return fitted


def encoded(metric: Float64[np.ndarray, "k k"], seen: Float64[np.ndarray, "k n"], ks: Sequence[int]) -> list[Float64[np.ndarray, "k n"]]:
    """For each k the codes z = (U Uᵀ)⁺ U x of the first k directions, by the cut-off of `Part.encoder`, from U Uᵀ and U x of all.

    Where the cut-off drops nothing, one Cholesky factor serves every k: the factor of a leading block is the leading block of the factor.
    """
    from scipy.linalg import solve_triangular

    values = np.linalg.eigvalsh(metric)
    if values[0] > 4 * CUTOFF**2 * values[-1] > 0:  # then of every leading block too, whose eigenvalues lie between these
        factor = np.linalg.cholesky(metric)
        half = solve_triangular(factor, seen, lower=True)
        return [solve_triangular(factor[:k, :k], half[:k], lower=True, trans=1) for k in ks]
    return [np.linalg.pinv(metric[:k, :k], rcond=CUTOFF**2, hermitian=True) @ seen[:k] for k in ks]


def _left(
    grams: Mapping[str, np.ndarray], orders: Mapping[str, np.ndarray], held: np.ndarray, ks: Sequence[int], method: DualFit, nested: bool
) -> tuple[Float64[np.ndarray, "ks types types held"], Float64[np.ndarray, "types held"]]:
    """One part: what is left of each held-out solution, and how far it is from the training mean."""
    if not nested and len(ks) > 1:
        each = [_left(grams, orders, held, [k], method, nested) for k in ks]
        return np.concatenate([left for left, _ in each]), each[0][1]
    distance, total, fitted = [], [], fit(grams, orders, held, ks[-1], method)
    for label, order in orders.items():
        mean, inner = fitted[label].coefficients[0], grams[label][np.ix_(order, order)]
        cross, own = grams[label][np.ix_(order, held)], np.diagonal(grams[label])[held]
        away = [own - 2 * m @ cross + m @ inner @ m for m in (mean, np.full(len(order), 1 / len(order)))]
        distance.append(away[0])
        total.append(away[1])
    projected, metrics = [own.projected for own in fitted.values()], [own.metric for own in fitted.values()]
    left = np.empty((len(ks), len(orders), len(orders), len(held)))
    for s, (seen, metric) in enumerate(zip(projected, metrics, strict=True)):
        for i, (k, z) in enumerate(zip(ks, encoded(metric, seen, ks), strict=True)):
            for t in range(len(orders)):
                left[i, s, t] = distance[t] - 2 * np.sum(z * projected[t][:k], 0) + np.sum(z * (metrics[t][:k, :k] @ z), 0)
    return left, np.stack(total)


@dataclass(frozen=True, kw_only=True)
class Recommended:
    """A k, and why."""

    k: int
    best: int
    """The k of the best reconstruction."""
    reason: str


def recommended(found: CrossValidated) -> Recommended:
    """The smallest k whose held-out reconstruction is within one standard error of the best.

    The reconstruction is the mean share from type to type, or within the type where there is only one; its standard error is over tasks, at
    the best k.

    Source: the one-standard-error rule, Breiman et al. 1984, section 3.4.3.
    """
    share, error = found.mean(across=found.across)
    best = int(np.argmax(share))
    chosen = int(np.argmax(share >= share[best] - error[best]))
    what = "from type to type" if found.across else "within the type"
    reason = (f"the smallest k whose reconstruction of held-out tasks {what} ({share[chosen]:.3f}) is within one standard error "
              f"({error[best]:.3f}) of the best ({share[best]:.3f} at k = {found.ks[best]})")
    if share[best] <= 2 * error[best]:
        reason += "; no k is clearly better than the mean solution"
    return Recommended(k=found.ks[chosen], best=found.ks[best], reason=reason)
