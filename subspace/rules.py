"""Rules that make one vector of many: pure functions of rows τ_m (m = 1 … M), in whatever space the rows lie.

    mean                 Σ_m w_m τ_m / Σ_m w_m
    task arithmetic      λ Σ_m τ_m                                                     Ilharco et al. 2022, arXiv 2212.04089
    TIES                 of each τ_m the largest entries; of each entry the sign of their sum; λ times the mean of the values of that
                         sign                                                          Yadav et al. 2023, arXiv 2306.01708
    DARE                 each entry dropped with probability p, what is left divided by 1 − p; then as one of those above
                                                                                       Yu et al. 2023, arXiv 2311.03099

The first two are linear: they commute with every linear map, and so with decoding a code, and they have an exact form for factors of any
rank. The others act on single entries, so that what they give depends on the coordinates that they are used in.
"""

import abc
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from deltas.errors import InputError
from deltas.files import sha256
from subspace.rows import Given, Rows, as_rows

Block = Callable[[np.ndarray], np.ndarray]
"""Some columns of all rows [M, c] ↦ one row [c]; called once for each block, from left to right."""


class Rule(abc.ABC):
    """What a rule of merging is."""

    def weights(self, count: int) -> Float[np.ndarray, " M"] | None:
        """The coefficients of `count` rows, where the rule is linear; otherwise None."""
        return None

    @abc.abstractmethod
    def over(self, rows: Rows, where: str = "") -> Block:
        """The rule for blocks of columns of these rows; `where` names them, for rules that draw."""


@dataclass(frozen=True, kw_only=True)
class Mean(Rule):
    """Σ w_m τ_m / Σ w_m; equal weights where none are given."""

    given: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "given", tuple(self.given))
        if self.given and (not np.isfinite(self.given).all() or sum(self.given) == 0):
            raise InputError(f"expected finite weights whose sum is not 0 for a mean, got {self.given}; choose others")

    def weights(self, count: int) -> Float[np.ndarray, " M"]:
        """w / Σ w."""
        if self.given and len(self.given) != count:
            raise InputError(f"expected a weight for each of {count} solutions, got {len(self.given)}; give as many")
        w = np.asarray(self.given or (1.0,) * count, np.float64)
        return w / w.sum()

    def over(self, rows: Rows, where: str = "") -> Block:
        """The weighted sum."""
        return _linear(self.weights(len(rows)))


@dataclass(frozen=True, kw_only=True)
class TaskArithmetic(Rule):
    """λ Σ τ_m; λ = 1/M is the mean."""

    scale: float = 1.0

    def __post_init__(self) -> None:
        _finite("task arithmetic", self.scale)

    def weights(self, count: int) -> Float[np.ndarray, " M"]:
        """λ for each."""
        return np.full(count, self.scale, np.float64)

    def over(self, rows: Rows, where: str = "") -> Block:
        """The sum."""
        return _linear(self.weights(len(rows)))


@dataclass(frozen=True, kw_only=True)
class Ties(Rule):
    """Trim, elect a sign, and take the mean of what has it.

    Args:
        density: the share of each row's entries that is kept, the largest; in (0, 1].
        scale: λ.
    """

    density: float = 0.2
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise InputError(f"expected a density above 0 and at most 1 for TIES, got {self.density}; choose another")
        _finite("TIES", self.scale)

    def over(self, rows: Rows, where: str = "") -> Block:
        """A first pass finds where each row is cut."""
        cuts = np.array([_cut(rows[m], self.density) for m in range(len(rows))])[:, None]
        return lambda block: self.scale * disjoint_mean(np.where(np.abs(block) >= cuts, block, 0.0))


@dataclass(frozen=True, kw_only=True)
class Dare(Rule):
    """Drop and rescale, then the mean or λ Σ τ_m; with `elect` the mean of what has the elected sign.

    Args:
        drop: p, in [0, 1).
        elect: elect a sign of each entry, as TIES does.
        scale: λ; None is 1/M, or 1 with `elect`.
        seed: of the draw; each row has its own.
    """

    drop: float = 0.9
    elect: bool = False
    scale: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1:
            raise InputError(f"expected a share to drop of at least 0 and below 1 for DARE, got {self.drop}; choose another")
        if self.scale is not None:
            _finite("DARE", self.scale)

    def over(self, rows: Rows, where: str = "") -> Block:
        """Entries are drawn from left to right, whatever the blocks are."""
        draws = [np.random.default_rng([self.seed, 7, m, int(sha256(where), 16)]) for m in range(len(rows))]
        scale = self.scale if self.scale is not None else 1.0 if self.elect else 1 / len(rows)

        def block(columns: np.ndarray) -> np.ndarray:
            kept = np.stack([rng.random(columns.shape[1]) >= self.drop for rng in draws])
            left = np.where(kept, columns / (1 - self.drop), 0.0)
            return scale * (disjoint_mean(left) if self.elect else left.sum(axis=0))

        return block


def merged(rows: Given, rule: Rule, where: str = "") -> Float32[np.ndarray, " D"]:
    """One vector of M rows float [D], in blocks of columns.

    Args:
        rows: τ_m.
        where: a name for the rows; rows of the same name are drawn alike by one seed.

    Raises:
        InputError: rows of different lengths, or weights that are not as many.
    """
    rows = as_rows(rows)
    weights = rule.weights(len(rows))
    if weights is not None:
        return rows.combine(weights[None])[0]
    block_of, out = rule.over(rows, where), np.empty(rows.size, np.float32)
    for columns, block in rows.blocks():
        out[columns] = block_of(block)
    return out


def disjoint_mean(rows: Float[np.ndarray, "M c"]) -> Float[np.ndarray, " c"]:
    """By column, the mean of the entries whose sign is that of the column's sum; 0 where the sum is."""
    agree = rows * np.sign(rows.sum(axis=0)) > 0
    return np.divide((rows * agree).sum(axis=0), agree.sum(axis=0), out=np.zeros(rows.shape[1]), where=agree.any(axis=0))


def _cut(row: np.ndarray, density: float) -> float:
    """The size of the smallest of a row's entries that is kept."""
    sizes = np.abs(np.asarray(row))
    kept = max(round(density * len(sizes)), 1)
    return float(np.partition(sizes, len(sizes) - kept)[len(sizes) - kept])


def _linear(weights: np.ndarray) -> Block:
    return lambda block: weights @ block


def _finite(name: str, value: float) -> None:
    if not np.isfinite(value):
        raise InputError(f"expected a finite scale for {name}, got {value}; choose another")
