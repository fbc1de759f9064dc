"""Solutions of one type as the rows of X float32 [N, D]: read a block of columns at a time, never held together in memory.

`Stored` rows lie in memory or in files; other spaces (`subspace.product`) are other subclasses. What a decomposition asks of rows is
little: blocks of columns, one row, their Gram matrix, other orders, some of the columns.
"""

import abc
from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np
from jaxtyping import Float32, Float64

from deltas.errors import InputError

MEMORY = 64 * 2**20
"""Bytes of the float64 block of columns that is held at a time."""


class Rows(abc.ABC):
    """N rows of D numbers."""

    size: int
    """D."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """N."""

    @abc.abstractmethod
    def __getitem__(self, n: int) -> Float32[np.ndarray, " D"]:
        """Row n."""

    @abc.abstractmethod
    def blocks(self, memory: int = MEMORY) -> Iterator[tuple[slice, Float64[np.ndarray, "N c"]]]:
        """Columns of all rows, a block of at most `memory` bytes at a time, from left to right; the buffer may be used again."""

    @abc.abstractmethod
    def take(self, order: Sequence[int]) -> Self:
        """The rows in another order, some left out or repeated."""

    @abc.abstractmethod
    def columns(self, ranges: Sequence[slice]) -> "Rows":
        """Some of the columns, side by side."""

    def gram(self, memory: int = MEMORY) -> Float64[np.ndarray, "N N"]:
        """X Xᵀ, exact to float64."""
        total = np.zeros((len(self), len(self)))
        for _, block in self.blocks(memory):
            total += block @ block.T  # numpy calls the symmetric BLAS routine here: half the work, and exactly symmetric
        return total


class Stored(Rows):
    """Rows that are arrays, in memory or memory-mapped."""

    def __init__(self, rows: Sequence[np.ndarray], ranges: Sequence[slice] | None = None) -> None:
        """`rows` of one length; `ranges` are the columns used, all of them where not given."""
        sizes = sorted({row.shape for row in rows})
        if len(sizes) != 1:
            raise InputError(f"expected rows of one length, got {', '.join(map(str, sizes)) or 'no rows'}; keep delta types apart")
        self._rows, self._ranges = list(rows), list(ranges) if ranges is not None else [slice(0, sizes[0][0])]
        self.size = sum(r.stop - r.start for r in self._ranges)

    def __len__(self) -> int:
        """N."""
        return len(self._rows)

    def __getitem__(self, n: int) -> Float32[np.ndarray, " D"]:
        """Row n."""
        parts = [self._rows[n][r] for r in self._ranges]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def blocks(self, memory: int = MEMORY) -> Iterator[tuple[slice, Float64[np.ndarray, "N c"]]]:
        """Columns of all rows, float64, in one buffer."""
        most = max(r.stop - r.start for r in self._ranges)
        width = min(most, max(1, memory // (8 * len(self))))
        buffer, done = np.empty((len(self), width)), 0
        for whole in self._ranges:
            for start in range(whole.start, whole.stop, width):
                columns = slice(start, min(start + width, whole.stop))
                block = buffer[:, : columns.stop - start]
                for n, row in enumerate(self._rows):
                    block[n] = row[columns]
                yield slice(done, done + block.shape[1]), block
                done += block.shape[1]

    def take(self, order: Sequence[int]) -> Self:
        """The rows in another order."""
        return type(self)([self._rows[n] for n in order], self._ranges)

    def columns(self, ranges: Sequence[slice]) -> "Stored":
        """Some of the columns, of those used so far."""
        if len(self._ranges) != 1 or self._ranges[0].start != 0:
            raise ValueError("columns of columns: take both at once")
        return Stored(self._rows, ranges)


def as_rows(rows: Rows | Sequence[np.ndarray]) -> Rows:
    """Arrays as rows."""
    return rows if isinstance(rows, Rows) else Stored(rows)
