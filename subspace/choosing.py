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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int

from deltas.bank import Bank
from deltas.errors import InputError
from subspace.joint_svd import grams, scale, wishart
from subspace.remembered import common, remembered
from subspace.sources import Pair, Sources

MOST = 32
"""Steps that are counted where nothing else is asked."""
PAST = 4
"""Steps that are still drawn after the first that is not above chance."""
WHOLE = 100
"""Sources up to which all eigenvalues are computed where only the largest is needed: an iteration is slower there."""
HARDLY = 1 / 20
"""Up to this share of the directions taken out, what a permutation makes of the rest hardly leaves their span (1 % of a singular value)."""


@dataclass(frozen=True, eq=False)
class Band:
    """The mean of the draws, and what 95 % of them lie between."""

    mean: Float64[np.ndarray, " modes"]
    low: Float64[np.ndarray, " modes"]
    high: Float64[np.ndarray, " modes"]

    @classmethod
    def of(cls, drawn: Sequence[Any] | np.ndarray) -> "Band":
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
    return _directions(_scaled(sources))[0]


def energies(sources: Sources) -> dict[str, Float64[np.ndarray, " N-1"]]:
    """By type, the share of its variance that the first 1, 2, … joint directions hold, of sources that every type has."""
    scaled = _scaled(sources)
    vectors = _directions(scaled)[1]
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
    _asked(draws, most)
    sources = common(remembered(bank, labels, pairs), 4)
    scaled, rng, keep = _scaled(sources), np.random.default_rng([seed, 6]), np.arange(len(sources.pairs))
    values, vectors = _directions(scaled)
    orders = [[keep, *(task_order(sources.pairs, rng) for _ in scaled[1:])] for _ in range(draws)]
    spectrum = Band.of([_spectrum(_permuted(scaled, order))[: len(values)] for order in orders])
    tops: list[list[float]] = []
    for step in range(min(most, len(values) - 1)):
        rest = vectors[:, step:]
        left = [rest.T @ k @ rest for k in scaled]
        if step > HARDLY * len(rest):
            drawn = (_turned(left, rest, order) for order in orders)
        else:
            left = [rest @ k @ rest.T for k in left]
            drawn = (_permuted(left, order) for order in orders)
        tops.append([np.sqrt(_largest(total)) for total in drawn])
        if step - _above(values, Band.of(np.transpose(tops))) >= PAST:
            break  # the figure has seen enough
    steps = Band.of(np.transpose(tops))
    return Null(name="permutation", spectrum=spectrum, steps=steps, above=_above(values, steps))


def gaussian_null(
    bank: Bank | Sources, *, draws: int = 100, most: int = MOST, seed: int = 0, labels: Sequence[str] | None = None,
    pairs: Sequence[Pair] | None = None,
) -> Null:  # fmt: skip
    """The joint spectrum of Gaussian noise of the sources' sizes.

    At each step the noise has as many dimensions as the sources have left, and each type the share of the energy that it has left.

    Args and Raises: as of `permutation_null`.
    """
    _asked(draws, most)
    sources = common(remembered(bank, labels, pairs), 4)
    sizes = [sources.rows[label].size for label in sorted(sources.labels)]
    scaled, rng = _scaled(sources), np.random.default_rng([seed, 7])
    values, vectors = _directions(scaled)
    count, modes = min(most, len(values) - 1), len(values)
    held = np.array([np.sum(vectors[:, :count] * (k @ vectors[:, :count]), axis=0) for k in scaled])
    left = 1 - np.cumsum(held, axis=1) + held  # of each type's trace, before each step
    spectra, tops = [], []
    for _ in range(draws):
        noise = [wishart(modes, size, rng) for size in sizes]
        spectra.append(_spectrum(_sum(w / np.trace(w) for w in noise)))
        top = []
        for step in range(count):
            # the leading block of a Wishart matrix is one too: noise that has lost as many dimensions as the sources
            blocks = [w[: modes - step, : modes - step] for w in noise]
            top.append(np.sqrt(_largest(_sum(share * w / np.trace(w) for share, w in zip(left[:, step], blocks, strict=True)))))
        tops.append(top)
    steps = Band.of(tops)
    return Null(name="Gaussian", spectrum=Band.of(spectra), steps=steps, above=_above(values, steps))


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


def _asked(draws: int, most: int) -> None:
    if draws < 1 or most < 1:
        raise InputError(f"expected at least one draw and one step, got {draws} and {most}; 100 draws give a band")


def _directions(scaled: Sequence[np.ndarray]) -> tuple[Float64[np.ndarray, " N-1"], Float64[np.ndarray, "N N-1"]]:
    """The joint singular values, and the joint directions: each is the leading one of what those before it leave."""
    values, vectors = np.linalg.eigh(_sum(scaled))
    return np.sqrt(np.maximum(values[:0:-1], 0.0)), vectors[:, :0:-1]


def _above(values: Float64[np.ndarray, " modes"], steps: Band) -> int:
    """How many leading values lie above the band; a hair's breadth is rounding."""
    above = values[: len(steps.high)] > steps.high * (1 + 1e-9)
    return len(above) if above.all() else int(np.argmin(above))


def _permuted(scaled: Sequence[np.ndarray], order: Sequence[np.ndarray]) -> Float64[np.ndarray, "N N"]:
    return _sum(k[o][:, o] for k, o in zip(scaled, order, strict=True))


def _turned(
    left: Sequence[Float64[np.ndarray, "m m"]], rest: Float64[np.ndarray, "N m"], order: Sequence[Int[np.ndarray, " N"]]
) -> Float64[np.ndarray, "m m"]:
    """The joint Gram matrix of what is left of the types, in the coordinates of the directions that are left, each permuted.

    What a permutation makes of these directions leaves their span, more so the fewer are left. It is brought back by Gram-Schmidt, so that
    the permuted types too fill one and the same space, with the spectra that they have.
    """
    total = left[0].copy()  # the first type keeps its order
    for k, o in zip(left[1:], order[1:], strict=True):
        turn, upper = np.linalg.qr(rest.T @ rest[o])
        turn = turn * np.where(np.diagonal(upper) < 0, -1.0, 1.0)
        total += turn @ k @ turn.T
    return total


def _scaled(sources: Sources) -> list[Float64[np.ndarray, "N N"]]:
    """By type, in the order of the labels, the centred Gram matrix of trace 1."""
    scaled = scale(grams(sources))
    return [scaled[label] for label in sorted(scaled)]


def _sum(matrices: Iterable[np.ndarray]) -> Float64[np.ndarray, "N N"]:
    return functools.reduce(np.add, matrices)


def _spectrum(total: Float64[np.ndarray, "N N"]) -> Float64[np.ndarray, " N"]:
    """All singular values, falling."""
    return np.sqrt(np.maximum(np.linalg.eigvalsh(total)[::-1], 0.0))


def _largest(total: Float64[np.ndarray, "N N"]) -> float:
    """The largest eigenvalue."""
    if len(total) <= WHOLE:
        return max(float(np.linalg.eigvalsh(total)[-1]), 0.0)
    from scipy.sparse.linalg import eigsh

    start = np.random.default_rng(0).standard_normal(len(total))
    found = eigsh(total, 1, v0=start, tol=1e-4, return_eigenvectors=False)  # type: ignore[arg-type]
    return max(float(found[0]), 0.0)
