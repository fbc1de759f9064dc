"""How much a subspace depends on chance: principal angles between the same fit to other seeds, to other tasks, or of two subspaces.

    cos α_i = σ_i((A Aᵀ)^−½ A Bᵀ (B Bᵀ)^−½)        A, B [k, D] bases of two subspaces; α_1 ≤ … ≤ α_k
    overlap = mean cos² α_i                        1: the same subspace, 0: orthogonal

For bases A = C_A X and B = C_B X of one type's solutions X, all three products come from the Gram matrix X Xᵀ. Beside every angle
stands that of chance: `random`, subspaces drawn in R^D, which are nearly orthogonal; and `mixed`, random directions among the same
solutions less their mean, whose angles only show how alike the solutions are. Angles are in radians.

Source: Björck and Golub 1973.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int

from deltas.bank import Bank
from deltas.errors import InputError
from subspace.base import CUTOFF, Subspace
from subspace.gram import gram
from subspace.joint_svd import wishart
from subspace.remembered import common, remembered
from subspace.rows import Stored
from subspace.sources import Pair, Sources
from subspace.validation import DualFit, joint_dual


@dataclass(frozen=True, eq=False, kw_only=True)
class Angles:
    """Principal angles of one type [draws, k], rising, beside those of chance; `overlap` of each."""

    found: Float64[np.ndarray, "draws k"]
    mixed: Float64[np.ndarray, "draws k"] | None
    """Of random directions among the same solutions; None where the solutions are not at hand."""
    random: Float64[np.ndarray, "draws k"]

    @property
    def overlap(self) -> float:
        """The mean cos² of all draws and angles."""
        return float(np.mean(np.cos(self.found) ** 2))

    def to_json(self) -> dict[str, Any]:
        """Means over the draws, and the overlaps, as JSON."""
        kinds = {"found": self.found, "mixed": self.mixed, "random": self.random}
        return {"draws": len(self.found), "angles": {name: a.mean(0).tolist() for name, a in kinds.items() if a is not None},
                "overlap": {name: float(np.mean(np.cos(a) ** 2)) for name, a in kinds.items() if a is not None}}


def principal_angles(
    a: Float64[np.ndarray, "a a"], cross: Float64[np.ndarray, "a b"], b: Float64[np.ndarray, "b b"]
) -> Float64[np.ndarray, " k"]:
    """The angles between two subspaces, rising, from the products A Aᵀ, A Bᵀ and B Bᵀ of their bases.

    As many as the smaller one has dimensions; directions of a basis below the cut-off of `Part.encoder` are none of it.
    """
    left, right = _whitening(a), _whitening(b)
    cosines = np.linalg.svd(left.T @ cross @ right, compute_uv=False)[: min(left.shape[1], right.shape[1])]
    return np.arccos(np.clip(cosines, 0.0, 1.0))


def angles_between(a: Subspace, b: Subspace, *, draws: int = 20, seed: int = 0) -> dict[str, Angles]:
    """Principal angles between two fitted subspaces, by delta type that both have.

    Raises:
        InputError: no type in both, or one whose vectors differ in size.
    """
    labels = [label for label in a.labels if label in b.labels]
    if not labels:
        raise InputError(f"expected subspaces with a delta type in common, got {', '.join(a.labels)} and {', '.join(b.labels)}; "
                         "compare others")
    found = {}
    for label in labels:
        first, second = a.parts[label], b.parts[label]
        if first.basis.shape[1] != second.basis.shape[1]:
            raise InputError(f"expected {label} of one size in both subspaces, got {first.basis.shape[1]} and {second.basis.shape[1]}; "
                             "compare subspaces of the same delta type")
        whole = gram(Stored([*first.basis, *second.basis]))
        angles = principal_angles(whole[: a.k, : a.k], whole[: a.k, a.k :], whole[a.k :, a.k :])
        found[label] = Angles(found=angles[None], mixed=None, random=random_angles(first.basis.shape[1], a.k, b.k, draws, seed))
    return found


def over_seeds(
    bank: Bank | Sources, k: int, *, method: DualFit = joint_dual, draws: int = 20, seed: int = 0, labels: Sequence[str] | None = None,
    pairs: Sequence[Pair] | None = None,
) -> dict[str, Angles]:  # fmt: skip
    """Each two seeds' solutions of the same tasks, decomposed apart: by delta type, the angles between the two subspaces.

    Args:
        k: dimension of each.
        method: the decomposition.
        draws: of the chance angles for every two seeds.

    Raises:
        InputError: no two seeds share tasks enough for k.
    """
    sources = common(remembered(bank, labels, pairs))
    seeds = sorted({s for _, s in sources.pairs})
    place = {pair: i for i, pair in enumerate(sources.pairs)}
    splits = []
    for s, r in combinations(seeds, 2):
        tasks = [task for task, other in sources.pairs if other == s and (task, r) in place]
        if len(tasks) > k:
            splits.append((np.array([place[task, s] for task in tasks]), np.array([place[task, r] for task in tasks])))
    if not splits:
        raise InputError(f"expected two seeds of at least {k + 1} tasks for k = {k}, got seeds {', '.join(map(str, seeds))} of "
                         f"{len({task for task, _ in sources.pairs})} tasks; train another seed, or lower k")
    return _compared(sources, splits, k, method, draws, seed)


def over_halves(
    bank: Bank | Sources, k: int, *, method: DualFit = joint_dual, halves: int = 20, seed: int = 0, labels: Sequence[str] | None = None,
    pairs: Sequence[Pair] | None = None,
) -> dict[str, Angles]:  # fmt: skip
    """Random halves of the tasks, decomposed apart: by delta type, the angles between the two subspaces.

    Args:
        k: dimension of each.
        halves: random splits; one draw of the chance angles each.

    Raises:
        InputError: half of the tasks have too few solutions for k, or no split.
    """
    sources = common(remembered(bank, labels, pairs), 4)
    tasks = sorted({task for task, _ in sources.pairs})
    rng, splits = np.random.default_rng([seed, 10]), []
    for _ in range(halves):
        turned = [tasks[i] for i in rng.permutation(len(tasks))]
        sides = turned[: len(tasks) // 2], turned[len(tasks) // 2 :]
        splits.append(tuple(np.array([i for i, (task, _) in enumerate(sources.pairs) if task in side]) for side in sides))
    least = min((len(side) for split in splits for side in split), default=0)
    if least <= k:
        raise InputError(f"expected halves of more than {k} solutions for k = {k}, got {halves} splits of {len(sources.pairs)} solutions; "
                         "lower k or train more tasks")
    return _compared(sources, splits, k, method, 1, seed)


def random_angles(size: int, a: int, b: int, draws: int, seed: int) -> Float64[np.ndarray, "draws k"]:
    """Angles between a- and b-dimensional subspaces of R^D in random position.

    No vector of size D is formed: let one be the first a axes and the other be spanned by a Gaussian [b, D]. Its products are those of its
    first a columns, plus those of the rest, a Wishart matrix.
    """
    rng, found = np.random.default_rng([seed, 11]), []
    a, b = min(a, size), min(b, size)
    for _ in range(draws):
        head, rest = rng.standard_normal((b, a)), wishart(b, size - a, rng)
        found.append(principal_angles(np.eye(a), head.T, head @ head.T + rest))
    return np.stack(found)


def _whitening(metric: Float64[np.ndarray, "k k"]) -> Float64[np.ndarray, "k rank"]:
    """W with Wᵀ (A Aᵀ) W = 1."""
    values, vectors = np.linalg.eigh(metric)
    kept = values > CUTOFF**2 * max(values[-1], 0.0)
    return vectors[:, kept] / np.sqrt(values[kept])


def _compared(
    sources: Sources, splits: Sequence[Sequence[Int[np.ndarray, " n"]]], k: int, method: DualFit, draws: int, seed: int
) -> dict[str, Angles]:
    """The fit to the one side of every split against the fit to the other."""
    names = sorted(sources.labels)
    grams = {label: gram(sources.rows[label]) for label in names}
    rng = np.random.default_rng([seed, 12])
    found: dict[str, list[np.ndarray]] = {label: [] for label in names}
    mixed: dict[str, list[np.ndarray]] = {label: [] for label in names}
    for split in splits:
        fitted = [method({label: grams[label][np.ix_(side, side)] for label in names}, k) for side in split]
        for label in names:
            found[label].append(_angles(grams[label], split, [f[label][1:] for f in fitted]))
            for _ in range(draws):
                mixes = [rng.standard_normal((k, len(side))) for side in split]
                mixed[label].append(_angles(grams[label], split, [m - m.mean(1, keepdims=True) for m in mixes]))
    return {label: Angles(found=np.stack(found[label]), mixed=np.stack(mixed[label]),
                          random=random_angles(sources.rows[label].size, k, k, max(draws, 20), seed)) for label in names}


def _angles(
    k: Float64[np.ndarray, "N N"], split: Sequence[Int[np.ndarray, " n"]], bases: Sequence[Float[np.ndarray, "k n"]]
) -> Float64[np.ndarray, " k"]:
    (a, b), (one, two) = split, bases
    return principal_angles(one @ k[np.ix_(a, a)] @ one.T, one @ k[np.ix_(a, b)] @ two.T, two @ k[np.ix_(b, b)] @ two.T)
