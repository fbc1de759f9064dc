"""Rows as codes times a basis, the basis rounded to what its file has room for.

    x_n = z_n B,      B [k, D] = stored · scale

float16 has one scale a row of B, its largest entry; int8 one for every `GROUP` columns of a row. No row is formed before it is asked for.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from jaxtyping import Float, Float32, Float64

from subspace.rows import MEMORY, Rows

Width = Literal["float32", "float16", "int8"]
WIDTHS = ("float32", "float16", "int8")
GROUP = 1024
"""Columns that share a scale in int8."""


@dataclass(frozen=True, eq=False)
class Basis:
    """k rows of D numbers as they are stored."""

    stored: np.ndarray
    scale: Float32[np.ndarray, "k groups"]

    @classmethod
    def of(cls, rows: Float32[np.ndarray, "k D"], width: Width) -> Self:
        """The rows, rounded."""
        if width == "float32":
            return cls(rows, np.ones((len(rows), 1), np.float32))
        size = rows.shape[1] if width == "float16" else GROUP
        largest = np.maximum.reduceat(np.abs(rows), np.arange(0, rows.shape[1], size), axis=1)
        scale = np.where(largest > 0, largest / (1 if width == "float16" else 127), 1).astype(np.float32)
        stored = np.empty(rows.shape, width)
        for columns, spread in _groups(scale, rows.shape[1]):
            scaled = rows[:, columns] / spread
            stored[:, columns] = scaled if width == "float16" else np.rint(scaled)
        return cls(stored, scale)

    def columns(self, columns: slice) -> Float32[np.ndarray, "k c"]:
        """Some columns of the rows."""
        whole = self.stored.shape[1]
        if self.scale.shape[1] == 1:
            return self.stored[:, columns].astype(np.float32) * self.scale
        groups = np.arange(*columns.indices(whole)) // GROUP
        return self.stored[:, columns].astype(np.float32) * self.scale[:, groups]


def _groups(scale: np.ndarray, size: int) -> Iterator[tuple[slice, np.ndarray]]:
    width = size if scale.shape[1] == 1 else GROUP
    for g in range(scale.shape[1]):
        yield slice(g * width, min((g + 1) * width, size)), scale[:, g : g + 1]


class Coded(Rows):
    """Rows z_n B."""

    def __init__(self, codes: Float[np.ndarray, "n k"], basis: Basis, ranges: Sequence[slice] | None = None) -> None:
        self.codes, self.basis = codes, basis
        self.ranges = list(ranges) if ranges is not None else [slice(0, basis.stored.shape[1])]
        self.size = sum(r.stop - r.start for r in self.ranges)

    def __len__(self) -> int:
        """n."""
        return len(self.codes)

    def __getitem__(self, n: int) -> Float32[np.ndarray, " D"]:
        """Row n, a block of columns at a time."""
        return np.concatenate([block[0] for _, block in self.take([n]).blocks(MEMORY)]).astype(np.float32)

    def blocks(self, memory: int = MEMORY) -> Iterator[tuple[slice, Float64[np.ndarray, "n c"]]]:
        """Columns of all rows."""
        width, done = max(1, memory // (8 * (len(self) + 2 * self.codes.shape[1] + 1))), 0
        codes = self.codes.astype(np.float64)
        for whole in self.ranges:
            for first in range(whole.start, whole.stop, width):
                columns = slice(first, min(first + width, whole.stop))
                yield slice(done, done + columns.stop - first), codes @ self.basis.columns(columns)
                done += columns.stop - first

    def take(self, order: Sequence[int]) -> Self:
        """The rows in another order."""
        return type(self)(self.codes[list(order)], self.basis, self.ranges)

    def columns(self, ranges: Sequence[slice]) -> "Coded":
        """Some of the columns, of those used so far."""
        if len(self.ranges) != 1 or self.ranges[0].start != 0:
            raise ValueError("columns of columns: take both at once")
        return Coded(self.codes, self.basis, ranges)
