"""`python -m deltaspace.bench.ridges BANK --out FILE`: gcca's ridge and the weight of missing blocks, by what they foretell of unseen rows."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from deltas import Bank
from deltas.bank import versions
from deltas.files import write_json
from subspace.gcca import dual
from subspace.joint_svd import grams
from subspace.missing import alternate
from subspace.sources import Sources, gather
from subspace.validation import cross_validated


@dataclass(frozen=True, kw_only=True)
class Ridges:
    """What each setting is worth on one bank, for several k.

    ridge: the share of held-out tasks' variance that gcca rebuilds from the codes of another type (`across`) and of the same (`own`).
    weight: the share of hidden blocks' variance that joint_svd of the others rebuilds, a third of all blocks being hidden, over `draws`.
    """

    bank: Annotated[Path, tyro.conf.Positional]
    out: Path
    ks: tuple[int, ...] = (4, 8, 16)
    ridges: tuple[float, ...] = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
    weights: tuple[float, ...] = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)
    folds: int = 6
    draws: int = 4

    def run(self) -> None:
        """Measure and write."""
        sources = gather(Bank(self.bank))
        by_ridge = {}
        for ridge in self.ridges:
            found = cross_validated(sources, self.ks, folds=self.folds, method=functools.partial(dual, ridge=ridge))
            by_ridge[str(ridge)] = {name: dict(zip(map(str, self.ks), found.mean(across=name == "across")[0].tolist(), strict=True))
                                    for name in ("across", "own")}
        by_weight = {str(weight): {str(k): foretold(sources, k, weight, self.draws) for k in self.ks} for weight in self.weights}
        write_json(self.out, {"sources": len(sources.pairs), "types": sources.labels, "ridge": by_ridge, "weight": by_weight,
                              "folds": self.folds, "draws": self.draws, "versions": versions()})


def foretold(sources: Sources, k: int, weight: float, draws: int) -> float:
    """1 − Σ ‖x − x̂‖² / Σ ‖x − x̄‖² over hidden blocks, from Gram matrices alone: x̂ and the mean x̄ are combinations of the rows left."""
    inner, n = grams(sources), len(sources.pairs)
    left = total = 0.0
    for draw in range(draws):
        kept = shown(inner, n, draw)
        found = alternate({label: inner[label][np.ix_(rows, rows)] for label, rows in kept.items()}, kept, n, k, weight=weight)
        for label, rows in kept.items():
            for hidden in np.setdiff1d(np.arange(n), rows):
                guess = found.coefficients[label][0] + found.codes[hidden] @ found.coefficients[label][1:]
                left += _apart(inner[label], hidden, rows, guess)
                total += _apart(inner[label], hidden, rows, np.full(len(rows), 1 / len(rows)))
    return 1 - left / total


def shown(labels: Mapping[str, Any], n: int, seed: int) -> dict[str, np.ndarray]:
    """By type two thirds of n sources, at random; each source is shown in one type at least."""
    rng = np.random.default_rng(seed)
    has = rng.random((len(labels), n)) > 1 / 3
    for source in np.flatnonzero(~has.any(0)):
        has[rng.integers(len(labels)), source] = True
    return {label: np.flatnonzero(row) for label, row in zip(labels, has, strict=True)}


def _apart(inner: np.ndarray, of: int, rows: np.ndarray, coefficients: np.ndarray) -> float:
    return float(inner[of, of] - 2 * coefficients @ inner[rows, of] + coefficients @ inner[np.ix_(rows, rows)] @ coefficients)


if __name__ == "__main__":
    tyro.cli(Ridges).run()
