"""Rows whose Gram matrix is computed once, however often it is asked for, whole or of some of the rows.

Choosing k, stability and similarity ask the same Gram matrices many times over: of all sources, of all but one task, of half of them.
`remembered` sources answer all of these from one reading of the solutions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Self

import numpy as np
from jaxtyping import Float, Float32, Float64

from deltas.bank import Bank
from deltas.errors import InputError
from subspace.gram import gram
from subspace.rows import MEMORY, Rows
from subspace.sources import Pair, Sources, gather


class Remembered(Rows):
    """The rows of another, of which the Gram matrix is kept."""

    def __init__(
        self, rows: Rows, inner: Float64[np.ndarray, "N N"] | None = None, *, whole: "Remembered | None" = None, order: Sequence[int] = ()
    ) -> None:
        """`rows`, and their Gram matrix `inner` where it is known; that of some rows of `whole`, in this `order`, is read off its own."""
        self.rows, self.size = rows, rows.size
        self._whole, self._order, self._gram = whole, list(order), inner

    def __len__(self) -> int:
        """N."""
        return len(self.rows)

    def __getitem__(self, n: int) -> Float32[np.ndarray, " D"]:
        """Row n."""
        return self.rows[n]

    def blocks(self, memory: int = MEMORY) -> Iterator[tuple[slice, Float64[np.ndarray, "N c"]]]:
        """Columns of all rows."""
        return self.rows.blocks(memory)

    def take(self, order: Sequence[int]) -> Self:
        """The rows in another order; their Gram matrix costs nothing."""
        return type(self)(self.rows.take(order), whole=self, order=order)

    def columns(self, ranges: Sequence[slice]) -> Rows:
        """Some of the columns, whose Gram matrix is another one."""
        return self.rows.columns(ranges)

    def name(self, n: int) -> str:
        """What errors call row n."""
        return self.rows.name(n)

    def combine(self, coefficients: Float[np.ndarray, "m N"], memory: int = MEMORY) -> Float32[np.ndarray, "m D"]:
        """C X, as the rows themselves do it."""
        return self.rows.combine(coefficients, memory)

    def products(self, directions: Float[np.ndarray, "m D"], memory: int = MEMORY) -> Float64[np.ndarray, "N m"]:
        """X Uᵀ, as the rows themselves do it."""
        return self.rows.products(directions, memory)

    def unexplained(self, mean: np.ndarray, codes: np.ndarray, basis: np.ndarray, memory: int = MEMORY) -> tuple[float, float]:
        """What codes and basis leave, as the rows themselves count it."""
        return self.rows.unexplained(mean, codes, basis, memory)

    def gram(self, memory: int = MEMORY) -> Float64[np.ndarray, "N N"]:
        """X Xᵀ, a copy of what is kept."""
        if self._whole is not None:
            return self._whole.gram(memory)[np.ix_(self._order, self._order)]
        if self._gram is None:
            self._gram = gram(self.rows, memory=memory)
        return self._gram.copy()


def remembered(bank: Bank | Sources, labels: Sequence[str] | None = None, pairs: Sequence[Pair] | None = None) -> Sources:
    """The sources, with rows that remember their Gram matrix."""
    sources = gather(bank, labels, pairs)
    return replace(sources, blocks={
        label: block if isinstance(block.rows, Remembered) else replace(block, rows=Remembered(block.rows))
        for label, block in sources.blocks.items()})


def duplicates(sources: Sources) -> list[tuple[str, Pair, Pair]]:
    """Sources that are one solution under two names, by label: those with ‖x_m − x_n‖² at most 1e-12 of ‖x_m‖² + ‖x_n‖²."""
    found = []
    for label, block in sources.blocks.items():
        k = block.rows.gram()
        sizes = np.diagonal(k)
        sums = sizes[:, None] + sizes
        twice = np.triu(sums - 2 * k <= 1e-12 * sums, 1) & (sums > 0)
        found += [(label, sources.pairs[block.members[m]], sources.pairs[block.members[n]]) for m, n in np.argwhere(twice)]
    return found


def common(sources: Sources, least: int = 2) -> Sources:
    """The sources of which every type has a solution.

    Raises:
        InputError: there are fewer than `least` tasks among them.
    """
    kept = sources.pairs
    for block in sources.blocks.values():
        have = {sources.pairs[i] for i in block.members.tolist()}
        kept = tuple(pair for pair in kept if pair in have)
    tasks = len({task for task, _ in kept})
    if tasks < least:
        raise InputError(f"expected at least {least} tasks of which {', '.join(sources.labels)} all have a solution in {sources.name}, got "
                         f"{tasks}; train more tasks, or name fewer types")
    return sources if len(kept) == len(sources.pairs) else sources.of(kept)


def by_task(pairs: Sequence[Pair]) -> tuple[list[str], Float64[np.ndarray, "tasks N"]]:
    """The tasks in order of their names, and the matrix that averages the sources of each."""
    tasks = sorted({task for task, _ in pairs})
    average = np.array([[float(task == other) for other, _ in pairs] for task in tasks])
    return tasks, average / average.sum(axis=1, keepdims=True)
