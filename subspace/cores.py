"""Changes of weights as rows: LoRA solutions in the coordinates of what all their products A B reach (see `subspace.product`)."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Self

import numpy as np
from jaxtyping import Float32, Float64

from deltas.attach import natural
from deltas.checkpoints.unplaced import Factors
from deltas.layout import Layout
from deltas.parallel import threads_for
from subspace.rows import MEMORY, Rows

CUTOFF = 1e-12
"""Singular values of all changes of a module side by side below this share of the largest are rounding."""


@dataclass(frozen=True, eq=False)
class Core:
    """What the changes of one module reach: Q [in, R], the size of the output, and the share of Σ‖ΔW‖² that Q keeps."""

    q: Float64[np.ndarray, "in R"]
    n_out: int
    kept: float
    energy: float
    """Σ‖ΔW‖² over the solutions."""
    bounded: bool = False
    """Whether a rank was given that leaves some of them out."""

    @classmethod
    def of(cls, factors: Iterable[tuple[np.ndarray, np.ndarray]], rank: int | None = None) -> Self:
        """The core of changes A B, exact but for rounding, or its leading `rank` directions.

        ΔW ΔWᵀ = F Fᵀ with F = A Rᵀ of Bᵀ = P R, so that the left singular vectors of all F side by side are those of all ΔW, whatever basis A
        and B are written in. F is compressed to [in, in] by another QR decomposition whenever it grows beyond twice that.
        """
        columns, width, n_in, n_out = [], 0, 0, 0
        for a, b in factors:
            n_in, n_out = a.shape[0], b.shape[1]
            columns.append(a.astype(np.float64) @ _triangle(b.T.astype(np.float64)).T)
            width += columns[-1].shape[1]
            if width >= 2 * n_in:
                columns = [_triangle(np.concatenate(columns, axis=1).T).T]
                width = n_in
        whole = np.concatenate(columns, axis=1)
        with threads_for(whole.size):
            q, s, _ = np.linalg.svd(whole, full_matrices=False)
        real = int(np.sum(s > CUTOFF * s[0]))
        wanted = real if rank is None else min(rank, real)
        q = q[:, :wanted] * np.sign(q[np.argmax(np.abs(q[:, :wanted]), axis=0), np.arange(wanted)])
        energy = float(np.sum(s * s))
        return cls(q, n_out, float(np.sum(s[:wanted] ** 2)) / energy if energy else 1.0, energy, wanted < real)


@dataclass(frozen=True)
class Segment:
    """Some of the numbers of one parameter, the columns `begin` to `end` of its vector."""

    module: str
    factor: str
    begin: int
    end: int


class ProductRows(Rows):
    """Row n is the change of weights of solution n in the coordinates of the cores; 0 at the entries of A."""

    def __init__(
        self, solutions: Sequence[Factors], cores: Mapping[str, Core], *, segments: Sequence[Segment] | None = None,
        names: Sequence[str] = (), inner: Float64[np.ndarray, "N N"] | None = None,
    ) -> None:
        """Of solutions whose cores are known; see `product_rows`.

        Args:
            segments: the columns used; all where not given.
            names: what errors call the rows.
            inner: their Gram matrix, where it is known.
        """
        self._solutions, self.cores, self._names, self._inner = list(solutions), dict(cores), list(names), inner
        self.layout = layout_of(self.cores)
        sizes = zip(self.layout.names, self.layout.shapes, strict=True)
        self._whole = [Segment(*split(name), 0, prod(shape)) for name, shape in sizes]
        self._segments = list(self._whole if segments is None else segments)
        self.size = sum(segment.end - segment.begin for segment in self._segments)

    def __len__(self) -> int:
        """N."""
        return len(self._solutions)

    def __getitem__(self, n: int) -> Float32[np.ndarray, " D"]:
        """Row n."""
        found = np.concatenate([block[0] for _, block in self.take([n]).blocks()])
        return found.astype(np.float32)

    def name(self, n: int) -> str:
        """The file or folder of row n, where it has one."""
        return self._names[n] if self._names else super().name(n)

    def take(self, order: Sequence[int]) -> Self:
        """The rows in another order, in the same coordinates."""
        inner = None if self._inner is None else self._inner[np.ix_(order, order)]
        return type(self)([self._solutions[n] for n in order], self.cores, segments=self._segments,
                          names=[self._names[n] for n in order] if self._names else (), inner=inner)

    def columns(self, ranges: Sequence[slice]) -> "ProductRows":
        """Some of the columns, of those used so far."""
        segments = []
        for r in ranges:
            place = 0
            for s in self._segments:
                begin, end = max(r.start - place, 0) + s.begin, min(r.stop - place + s.begin, s.end)
                if begin < end:
                    segments.append(replace(s, begin=begin, end=end))
                place += s.end - s.begin
        return type(self)(self._solutions, self.cores, segments=segments, names=self._names)

    @property
    def kept(self) -> float:
        """The share of Σ‖ΔW‖² that the cores keep: 1 unless their rank was bounded."""
        total = sum(core.energy for core in self.cores.values())
        return sum(core.kept * core.energy for core in self.cores.values()) / total if total else 1.0

    def blocks(self, memory: int = MEMORY) -> Iterator[tuple[slice, Float64[np.ndarray, "N c"]]]:
        """Columns of all rows, float64."""
        done, width = 0, max(1, memory // (16 * len(self)))
        for segment in self._segments:
            core = self.cores[segment.module]
            factors = self._read(segment.module, memory // 2) if segment.factor == "b" else None
            for begin, end in _pieces(segment, core.n_out, width):
                block = np.zeros((len(self), end - begin))
                if factors is not None:
                    self._fill(block, factors, core, begin)
                yield slice(done, done + end - begin), block
                done += end - begin

    def gram(self, memory: int = MEMORY) -> Float64[np.ndarray, "N N"]:
        """⟨ΔW_m, ΔW_n⟩ from the factors, exact to float64; kept for later calls."""
        if self._inner is not None:
            return self._inner.copy()
        whole = {s for s in self._segments if s in self._whole}
        if len(whole) < len(self._segments):  # parts of a parameter, or one twice
            return super().gram(memory)
        total = np.zeros((len(self), len(self)))
        for segment in self._segments:
            if segment.factor == "b":
                core, factors = self.cores[segment.module], self._read(segment.module, memory // 2)
                _add_products(total, factors, core.q if core.bounded else None, memory // 2)
        self._inner = total
        return total.copy()

    # ------------------------------------------------------------ the factors of one module
    def _read(self, module: str, memory: int) -> "Factor":
        """Solution n ↦ its A and B at the module, or None; held where all of them fit in `memory`."""
        has = [module in solution for solution in self._solutions]
        first = next((n for n, there in enumerate(has) if there), None)

        def read(n: int) -> tuple[np.ndarray, np.ndarray] | None:
            return self._solutions[n][module] if has[n] else None

        if first is None or 4 * sum(x.size for x in self._solutions[first][module]) * sum(has) > memory:
            return read
        return [read(n) for n in range(len(self))].__getitem__

    def _fill(self, block: np.ndarray, factors: "Factor", core: Core, begin: int) -> None:
        """Entries `begin` on of Qᵀ A B, row-major: whole rows of it, or a part of one."""
        out, end = core.n_out, begin + block.shape[1]
        rows, first = slice(begin // out, -(-end // out)), begin - begin // out * out
        one = slice(first, first + block.shape[1]) if rows.stop - rows.start == 1 else slice(None)
        q = core.q[:, rows].T
        for n in range(len(self)):
            if (pair := factors(n)) is not None:
                found = (q @ pair[0]) @ pair[1][:, one]
                block[n] = found.reshape(-1) if one != slice(None) else found.reshape(-1)[first : first + block.shape[1]]


Factor = Callable[[int], tuple[np.ndarray, np.ndarray] | None]


def _triangle(x: np.ndarray) -> np.ndarray:
    """R of x = Q R."""
    return np.asarray(np.linalg.qr(x, mode="r"))


def _pieces(segment: Segment, out: int, width: int) -> Iterator[tuple[int, int]]:
    """A segment in pieces of at most `width` numbers: whole rows of B, or parts of one row."""
    begin = segment.begin
    while begin < segment.end:
        row = begin // out * out
        end = min(begin + width, row + out) if width < out or begin > row else row + width // out * out
        yield begin, (end := min(end, segment.end))
        begin = end


def _add_products(total: np.ndarray, factors: Factor, q: np.ndarray | None, memory: int) -> None:
    """Add the inner products of one module's changes, or of their part in the core where Q is given, a group of solutions against another."""
    most, width = max(1, int((memory / 32) ** 0.5)), 0  # two matrices of that many columns a side, float64
    groups: list[list[int]] = []
    for n in range(len(total)):
        if (pair := factors(n)) is not None:
            rank = pair[1].shape[0]
            if not groups or width + rank > most:
                groups.append([])
                width = 0
            groups[-1].append(n)
            width += rank

    def stacked(group: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        pairs = [pair for n in group if (pair := factors(n)) is not None]
        a, b = (np.concatenate(own, axis=axis).astype(np.float64) for axis, own in zip((1, 0), zip(*pairs)))
        return a if q is None else q.T @ a, b, np.cumsum([0, *(pair[1].shape[0] for pair in pairs[:-1])])

    for i, left in enumerate(groups):
        a, b, starts = stacked(left)
        for right in groups[: i + 1]:
            other_a, other_b, others = (a, b, starts) if right is left else stacked(right)
            both = (a.T @ other_a) * (b @ other_b.T)
            both = np.add.reduceat(np.add.reduceat(both, starts, axis=0), others, axis=1)
            total[np.ix_(left, right)] += (both + both.T) / 2 if right is left else both
            if right is not left:
                total[np.ix_(right, left)] += both.T


def split(name: str) -> tuple[str, str]:
    """Module and factor of a parameter's name."""
    module, _, factor = name.rpartition(".")
    return module, factor


def layout_of(cores: Mapping[str, Core]) -> Layout:
    """Of the LoRA whose A are the cores."""
    shapes = {}
    for module, core in cores.items():
        shapes |= {f"{module}.a": core.q.shape, f"{module}.b": (core.q.shape[1], core.n_out)}
    names = sorted(shapes, key=natural)
    return Layout(tuple(names), tuple(shapes[name] for name in names))
