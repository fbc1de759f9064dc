"""Solutions of one type as the rows of X float32 [N, D]: read a block of columns at a time, never held together in memory.

`Stored` rows lie in memory or in files; other spaces (`subspace.product`) are other subclasses. What a decomposition asks of rows is
little: blocks of columns, one row, their Gram matrix, combinations and products of them, other orders, some of the columns.
"""

import abc
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Float, Float32, Float64

from deltas.errors import InputError
from deltas.filed import Filed
from deltas.files import sha256
from subspace.arithmetic import OnHost
from subspace.kept import Kept

MEMORY = 512 * 2**20
"""Bytes of the blocks of columns that are held at a time."""
READERS = 4
"""Threads that read: a disk is busier with several reads in flight, and checksums and conversions are shared out."""


class Rows(abc.ABC):
    """N rows of D numbers."""

    size: int
    """D."""
    on: OnHost = OnHost()
    """Where blocks are multiplied."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """N."""

    @abc.abstractmethod
    def __getitem__(self, n: int) -> Float32[np.ndarray, " D"]:
        """Row n."""

    @abc.abstractmethod
    def blocks(self, memory: int = MEMORY) -> Iterator[tuple[slice, Float64[np.ndarray, "N c"]]]:
        """Columns of all rows in at most `memory` bytes, from left to right; a block may be changed, and lasts until the next."""

    @abc.abstractmethod
    def take(self, order: Sequence[int]) -> Self:
        """The rows in another order, some left out or repeated."""

    @abc.abstractmethod
    def columns(self, ranges: Sequence[slice]) -> "Rows":
        """Some of the columns, side by side."""

    def name(self, n: int) -> str:
        """What errors call row n."""
        return f"row {n}"

    def gram(self, memory: int = MEMORY) -> Float64[np.ndarray, "N N"]:
        """X Xᵀ, exact to float64."""
        total = self.on.start(len(self), len(self))
        for _, block in self._parts(memory, self.on.dtype):
            total = self.on.gram(total, block)
        return self.on.value(total)

    def combine(self, coefficients: Float[np.ndarray, "m N"], memory: int = MEMORY) -> Float32[np.ndarray, "m D"]:
        """C X, summed in float64."""
        out = np.empty((len(coefficients), self.size), np.float32)
        for columns, block in self._parts(memory, self.on.dtype):
            out[:, columns] = self.on.combine(np.asarray(coefficients, np.float64), block)
        return out

    def products(self, directions: Float[np.ndarray, "m D"], memory: int = MEMORY) -> Float64[np.ndarray, "N m"]:
        """X Uᵀ, summed in float64."""
        total = self.on.start(len(self), len(directions))
        for columns, block in self._parts(memory, self.on.dtype):
            total = self.on.products(total, block, directions[:, columns])
        return self.on.value(total)

    def unexplained(self, mean: np.ndarray, codes: np.ndarray, basis: np.ndarray, memory: int = MEMORY) -> tuple[float, float]:
        """Σ_n ‖x_n − μ − z_n U‖² and Σ_n ‖x_n − x̄‖²."""
        left = total = 0.0
        for columns, block in self._parts(memory // 2, np.float64):  # the other half is for what is taken from a block
            average = block.mean(axis=0)
            block -= average
            total += float(np.einsum("nc,nc->", block, block))
            block += average - mean[columns]
            block -= codes.astype(np.float64) @ basis[:, columns]
            left += float(np.einsum("nc,nc->", block, block))
        return left, total

    def _parts(self, memory: int, dtype: Any) -> Iterator[tuple[slice, np.ndarray]]:
        """The blocks that this process works on, of `dtype` where it has a choice."""
        return self.blocks(memory)


class Stored(Rows):
    """Rows that are arrays or lie in files (`Filed`), which are read a block ahead of the arithmetic."""

    def __init__(
        self, rows: Sequence[np.ndarray] | Sequence[Filed], ranges: Sequence[slice] | None = None, *, state: str | Path | None = None
    ) -> None:
        """`rows` of one length.

        Args:
            ranges: the columns used, all of them where not given.
            state: a file in which an unfinished Gram matrix is kept, from which it goes on in another run.
        """
        sizes = sorted({row.shape for row in rows})
        if len(sizes) != 1:
            raise InputError(f"expected rows of one length, got {', '.join(map(str, sizes)) or 'no rows'}; keep delta types apart")
        self._rows: list[Any] = list(rows)
        self._ranges = list(ranges) if ranges is not None else [slice(0, sizes[0][0])]
        self.size = sum(r.stop - r.start for r in self._ranges)
        self._state = Path(state) if state is not None else None

    def __len__(self) -> int:
        """N."""
        return len(self._rows)

    def __getitem__(self, n: int) -> Float32[np.ndarray, " D"]:
        """Row n."""
        parts = [self._rows[n][r] for r in self._ranges]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def name(self, n: int) -> str:
        """The file of row n, where it lies in one."""
        row = self._rows[n]
        return str(row.path) if isinstance(row, Filed) else super().name(n)

    def take(self, order: Sequence[int]) -> Self:
        """The rows in another order; a state is not theirs."""
        return self._like([self._rows[n] for n in order], self._ranges)

    def columns(self, ranges: Sequence[slice]) -> "Stored":
        """Some of the columns, of those used so far; a state is not theirs."""
        if len(self._ranges) != 1 or self._ranges[0].start != 0:
            raise ValueError("columns of columns: take both at once")
        return self._like(self._rows, ranges)

    def kept(self, state: str | Path) -> Self:
        """The same rows, whose Gram matrix goes on from the file `state` after a kill."""
        return self._like(self._rows, self._ranges, state=state)

    def blocks(self, memory: int = MEMORY) -> Iterator[tuple[slice, Float64[np.ndarray, "N c"]]]:
        """Columns of all rows, float64; two blocks are held where there are several, one of which is read meanwhile."""
        return self._read(slice(0, self.size), memory, np.float64)

    @property
    def _part(self) -> slice:
        """The columns that this process works on."""
        return slice(0, self.size)

    def _parts(self, memory: int, dtype: Any, first: int = 0) -> Iterator[tuple[slice, np.ndarray]]:
        part = self._part
        return self._read(slice(max(first, part.start), part.stop), memory, dtype)

    def gram(self, memory: int = MEMORY) -> Float64[np.ndarray, "N N"]:
        """X Xᵀ, exact to float64; kept in the state once a minute."""
        if self._state is None:
            return super().gram(memory)
        kept = Kept(self._state, f"{self.identity} {self._part}")
        found, first = kept.load() or (None, self._part.start)
        total = self.on.start(len(self), len(self), found)
        for columns, block in self._parts(memory, self.on.dtype, first):
            total = self.on.gram(total, block)
            kept.save(partial(self.on.value, total), columns.stop)
        if first < self._part.stop:
            kept.save(partial(self.on.value, total), self._part.stop, now=True)
        return self.on.value(total)

    @property
    def identity(self) -> str:
        """A fingerprint of what the rows are: names, lengths, times and checksums of files, contents of arrays, the columns used."""
        return sha256(*(row.identity if isinstance(row, Filed) else row.tobytes() for row in self._rows), str(self._ranges))

    # ------------------------------------------------------------ reading
    def _like(self, rows: Sequence[Any], ranges: Sequence[slice], **changes: Any) -> Self:
        return type(self)(rows, ranges, **changes)

    def _read(self, part: slice, memory: int, dtype: Any) -> Iterator[tuple[slice, np.ndarray]]:
        """The columns of `part`, in blocks of `dtype`; at the end files that were read in part only are compared with their checksums."""
        single = memory // (np.dtype(dtype).itemsize * len(self))
        pieces = self._pieces(part, single if self.size <= single else single // 2)
        width = max((there.stop - there.start for _, there in pieces), default=0)
        buffers = [np.empty((len(self), width), dtype) for _ in pieces[:2]]
        if len(pieces) == 1:
            (done, there), = pieces
            self._fill(buffers[0], there, slice(None))
            yield done, buffers[0]
        elif pieces:
            with ThreadPoolExecutor(READERS) as pool:
                def begin(i: int) -> tuple[np.ndarray, list[Future]]:
                    there = pieces[i][1]
                    block = buffers[i % 2][:, : there.stop - there.start]
                    return block, [pool.submit(self._fill, block, there, slice(r, None, READERS)) for r in range(READERS)]

                coming = begin(0)
                for i, (done, _) in enumerate(pieces):
                    block, reading = coming
                    for one in reading:
                        one.result()
                    if i + 1 < len(pieces):
                        coming = begin(i + 1)
                    yield done, block
        self._verify()

    def _pieces(self, part: slice, width: int) -> list[tuple[slice, slice]]:
        """The columns of `part` in pieces of at most `width`: their place in X, and in the rows as they are stored."""
        pieces, place, width = [], 0, max(1, width)
        for whole in self._ranges:
            first, last = max(part.start - place, 0) + whole.start, min(part.stop - place + whole.start, whole.stop)
            for start in range(first, last, width):
                stop = min(start + width, last)
                pieces.append((slice(start - whole.start + place, stop - whole.start + place), slice(start, stop)))
            place += whole.stop - whole.start
        return pieces

    def _fill(self, block: np.ndarray, there: slice, which: slice) -> None:
        """Some of a block's rows."""
        scratch = np.empty(there.stop - there.start, np.float32)
        for n in range(len(self._rows))[which]:
            row = self._rows[n]
            if not isinstance(row, Filed):
                block[n] = row[there]
            elif block.dtype == np.float32:
                row.read(there.start, block[n])
            else:
                row.read(there.start, scratch)
                block[n] = scratch

    def _verify(self) -> None:
        for row in self._rows:
            if isinstance(row, Filed):
                row.verify()


Given = Rows | Sequence[np.ndarray] | Sequence[Filed]
"""Rows, or vectors that are taken as rows."""


def as_rows(rows: Given) -> Rows:
    """Vectors as rows."""
    return rows if isinstance(rows, Rows) else Stored(rows)
