"""How many directions to keep, from the spectrum against two kinds of chance.

    Gaussian     noise of the same sizes: is there any structure?
    permutation  the types' own rows, each type's tasks in an order of its own: is there structure that types share?

Structure of single types alone lifts a spectrum above noise, so that only the second one speaks of sharing. The squares of the spectrum of
X = [X_A/f_A | X_L/f_L | …] (see `joint_svd`) have a fixed sum: what the leading directions hold beyond chance, the later ones lack, and
a plain comparison counts too few. Directions are therefore counted step by step: at step i the first i − 1 are taken out of every type,
and the largest singular value of what is left is compared with that of noise, or of a permutation, of what is left. What a k is worth is
asked of tasks that the fit has not seen (`subspace.validation`).
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int

from deltas.bank import Bank
from deltas.errors import InputError
from subspace.gram import centred, gram
from subspace.remembered import common, remembered
from subspace.sources import Pair, Sources

MOST = 32
"""Steps that are counted where nothing else is asked."""
PAST = 4
"""Steps that are still drawn after the first that is not above chance."""
WHOLE = 300
"""Sources up to which all eigenvalues are computed where only the largest is needed: an iteration is slower there."""


@dataclass(frozen=True, eq=False)
class Band:
    """The mean of the draws, and what 95 % of them lie between."""

    mean: Float64[np.ndarray, " modes"]
    low: Float64[np.ndarray, " modes"]
    high: Float64[np.ndarray, " modes"]

    @classmethod
    def of(cls, drawn: Sequence[Float64[np.ndarray, " modes"]]) -> "Band":
        """Of a row a draw."""
        low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
        return cls(np.mean(drawn, axis=0), low, high)

    def to_json(self) -> dict[str, list[float]]:
        """As JSON."""
        return {"mean": self.mean.tolist(), "low": self.low.tolist(), "high": self.high.tolist()}


@dataclass(frozen=True, eq=False, kw_only=True)
class Null:
    """What a joint spectrum is by chance.

    Args:
        spectrum: all singular values of a draw.
        steps: the largest singular value of a draw of what the sources' first i − 1 directions leave; of as many steps as were counted, and
            of a few more.
        above: how many leading directions of the sources lie above the band of their step, up to the first that does not: a k.
    """

    name: str
    spectrum: Band
    steps: Band
    above: int

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {"name": self.name, "above": self.above, "spectrum": self.spectrum.to_json(), "steps": self.steps.to_json()}


def joint_spectrum(sources: Sources) -> Float64[np.ndarray, " N-1"]:
    """The singular values of [X_A/f_A | X_L/f_L | …], of sources that every type has."""
    return _spectrum(_sum(_scaled(sources)))[: len(sources.pairs) - 1]


def energies(sources: Sources) -> dict[str, Float64[np.ndarray, " N-1"]]:
    """By type, the share of its variance that the first 1, 2, … joint directions hold, of sources that every type has."""
    scaled = _scaled(sources)
    vectors = np.linalg.eigh(_sum(scaled))[1][:, :0:-1]
    return {label: np.cumsum(np.sum(vectors * (k @ vectors), axis=0)) for label, k in zip(sorted(sources.labels), scaled, strict=True)}


def permutation_null(
    bank: Bank | Sources, *, draws: int = 100, most: int = MOST, seed: int = 0, labels: Sequence[str] | None = None,
    pairs: Sequence[Pair] | None = None,
) -> Null:  # fmt: skip
    """The joint spectrum when the types' sources are permuted against each other.

    Each type keeps its own Gram matrix, and so its own spectrum; the first type (by label) keeps its order, the others' tasks are
    shuffled, the seeds of a task staying together: two seeds of one task are alike in every type, which is no sign of a shared
    space. With one type there is nothing to permute, and the null is the spectrum itself.

    Args:
        draws: permutations.
        most: steps that are counted.

    Raises:
        InputError: fewer than 4 tasks that all types have, or no draw or step.

    Source: parallel analysis (Horn 1965) by permutations (Buja and Eyuboglu 1992), step by step as in Dray 2008.
    """
    sources = common(remembered(bank, labels, pairs), 4)
    rng, keep = np.random.default_rng([seed, 6]), np.arange(len(sources.pairs))
    orders = [[keep, *(task_order(sources.pairs, rng) for _ in sources.labels[1:])] for _ in range(draws)]

    def drawn(left: Sequence[np.ndarray], step: int, draw: int) -> np.ndarray:
        return _sum(k[order][:, order] for k, order in zip(left, orders[draw], strict=True))

    return _null("permutation", sources, drawn, draws, most)


def gaussian_null(
    bank: Bank | Sources, *, draws: int = 100, most: int = MOST, seed: int = 0, labels: Sequence[str] | None = None,
    pairs: Sequence[Pair] | None = None,
) -> Null:  # fmt: skip
    """The joint spectrum of Gaussian noise of the sources' sizes.

    At each step the noise has as many dimensions as the sources have left, and each type the share of the energy that it has left.

    Args and Raises: as of `permutation_null`.
    """
    sources = common(remembered(bank, labels, pairs), 4)
    sizes, modes = [sources.rows[label].size for label in sorted(sources.labels)], len(sources.pairs) - 1
    rng = np.random.default_rng([seed, 7])
    noise = [[wishart(modes, size, rng) for size in sizes] for _ in range(draws)]

    def drawn(left: Sequence[np.ndarray], step: int, draw: int) -> np.ndarray:
        # the leading block of a Wishart matrix is one too: noise that has lost as many dimensions as the sources
        blocks = [w[: modes - step, : modes - step] for w in noise[draw]]
        return _sum(np.trace(k) / np.trace(w) * w for k, w in zip(left, blocks, strict=True))

    return _null("Gaussian", sources, drawn, draws, most)


def task_order(pairs: Sequence[Pair], rng: np.random.Generator) -> Int[np.ndarray, " N"]:
    """A random order of the sources in which the tasks move as wholes.

    Where all tasks have the same seeds, the places of a task's sources take those of another task, seed by seed.
    """
    tasks = sorted({task for task, _ in pairs})
    places = sorted(range(len(pairs)), key=lambda i: pairs[i])
    rank = {tasks[t]: p for p, t in enumerate(rng.permutation(len(tasks)))}
    order = np.empty(len(pairs), np.int64)
    order[places] = sorted(places, key=lambda i: (rank[pairs[i][0]], pairs[i]))
    return order


def _null(
    name: str, sources: Sources, drawn: Callable[[Sequence[np.ndarray], int, int], np.ndarray], draws: int, most: int
) -> Null:
    """`drawn(left, step, draw)` is the joint Gram matrix of a draw of what is left of the types after so many directions."""
    if draws < 1 or most < 1:
        raise InputError(f"expected at least one draw and one step, got {draws} and {most}; 100 draws give a band")
    left, modes = _scaled(sources), len(sources.pairs) - 1
    whole = Band.of([_spectrum(drawn(left, 0, draw))[:modes] for draw in range(draws)])
    steps, above = [], 0
    for step in range(min(most, modes - 1)):
        values, vectors = np.linalg.eigh(_sum(left))
        steps.append(Band.of([np.sqrt(_largest(drawn(left, step, draw)))[None] for draw in range(draws)]))
        if above == step and np.sqrt(max(values[-1], 0.0)) > steps[-1].high[0] * (1 + 1e-9):
            above += 1
        elif step - above >= PAST:
            break
        left = [_without(k, vectors[:, -1]) for k in left]
    joined = Band(*(np.concatenate([getattr(step, part) for step in steps]) for part in ("mean", "low", "high")))
    return Null(name=name, spectrum=whole, steps=joined, above=above)


def _scaled(sources: Sources) -> list[Float64[np.ndarray, "N N"]]:
    """By type, in the order of the labels, the centred Gram matrix of trace 1."""
    found = []
    for label in sorted(sources.labels):
        raw = gram(sources.rows[label])
        inner = centred(raw)
        if np.trace(inner) <= 1e-12 * np.trace(raw):
            raise InputError(f"expected solutions of {label} that differ from each other, got {len(raw)} equal ones; train more tasks")
        found.append(inner / np.trace(inner))
    return found


def _sum(matrices: Iterable[np.ndarray]) -> Float64[np.ndarray, "N N"]:
    return functools.reduce(np.add, matrices)


def _without(k: Float64[np.ndarray, "N N"], p: Float64[np.ndarray, " N"]) -> Float64[np.ndarray, "N N"]:
    """(I − p pᵀ) K (I − p pᵀ)."""
    side = k @ p
    return k - np.outer(p, side) - np.outer(side, p) + (p @ side) * np.outer(p, p)


def wishart(n: int, size: int, rng: np.random.Generator) -> Float64[np.ndarray, "n n"]:
    """The Gram matrix of n rows of Gaussian noise; where they are long, by Bartlett's factor (see `joint_svd.null_spectrum`)."""
    if size < n:
        factor = rng.standard_normal((n, size))
    else:
        factor = np.tril(rng.standard_normal((n, n)), -1)
        factor[np.diag_indices(n)] = np.sqrt(rng.chisquare(size - np.arange(n)))
    return factor @ factor.T


def _spectrum(total: Float64[np.ndarray, "N N"]) -> Float64[np.ndarray, " N"]:
    return np.sqrt(np.maximum(np.linalg.eigvalsh(total)[::-1], 0.0))


def _largest(total: Float64[np.ndarray, "N N"]) -> float:
    """The largest eigenvalue."""
    if len(total) <= WHOLE:
        return max(float(np.linalg.eigvalsh(total)[-1]), 0.0)
    from scipy.sparse.linalg import eigsh

    start = np.random.default_rng(0).standard_normal(len(total))
    found = eigsh(total, 1, v0=start, tol=1e-4, return_eigenvectors=False)  # type: ignore[arg-type]
    return max(float(found[0]), 0.0)
