"""(c) joint_svd of 180 × 1M float32 against scikit-learn's randomized SVD, and its singular values against a dense float64 SVD."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from deltas.files import replacing
from subspace.gram import combine, gram
from subspace.joint_svd import decompose

from .timing import compared, interleaved

SOLUTIONS, SIZE, RANK, TOP, DENSE = 180, 1_000_000, 60, 50, 100_000


def svd_against_randomized(folder: Path, rounds: int, seed: int = 0, *, size: int = SIZE, dense: int = DENSE) -> dict[str, Any]:
    """Top 50 singular values and right singular vectors of the centred rows: by `joint_svd`'s own steps, and by `randomized_svd`.

    Both read the same memory-mapped file and centre inside the timing. `error` and `randomized_error` are the largest relative errors
    of the values against a dense float64 SVD, on `dense` columns.

    Args:
        folder: where the rows lie while it runs (4 · 180 · size bytes).
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".rows.") as temporary:
        mapped = _mapped(Path(temporary) / "rows", planted(SOLUTIONS, size, seed))
        seconds = interleaved({"joint_svd": lambda: ours(mapped), "randomized_svd": lambda: theirs(mapped, seed)}, rounds)
        values, basis = ours(mapped)
        checked = float(np.max(np.abs(np.linalg.norm(basis[:TOP].astype(np.float64), axis=1) * np.sqrt(SOLUTIONS) / values - 1)))
        del mapped
    return {"solutions": SOLUTIONS, "size": size, "top": TOP, **compared(seconds, "joint_svd", "randomized_svd"),
            "basis_against_values": checked, **accuracy(dense, seed)}


def planted(solutions: int, size: int, seed: int = 0) -> np.ndarray:
    """Float32 rows of a low rank with a falling spectrum, plus noise and a mean."""
    rng = np.random.default_rng(seed)
    codes = rng.standard_normal((solutions, RANK), dtype=np.float32) * np.geomspace(1, 0.05, RANK, dtype=np.float32)
    rows = codes @ rng.standard_normal((RANK, size), dtype=np.float32)
    rows += 0.02 * rng.standard_normal((solutions, size), dtype=np.float32)
    rows += rng.standard_normal(size, dtype=np.float32)
    return rows


def ours(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(singular values of the centred rows, basis [k, D]): U_k = σ_k V_kᵀ / √N, with the mean solution beside it, as `joint_svd` makes it."""
    listed = list(rows)
    inner = gram(listed)
    found = decompose({"rows": inner}, TOP)
    scale = np.sqrt(np.trace(inner) - inner.mean() * len(inner))  # of the centred rows, by which joint_svd divides
    return found.spectrum[:TOP] * scale, combine(found.coefficients, listed)[1:]


def theirs(rows: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The same by scikit-learn's defaults."""
    from sklearn.utils.extmath import randomized_svd

    _, values, right = randomized_svd(rows - rows.mean(axis=0), TOP, random_state=seed)
    return values, right


def accuracy(size: int = DENSE, seed: int = 0) -> dict[str, Any]:
    """Largest relative error of the top 50 singular values of both, where a dense float64 SVD is feasible."""
    rows = planted(SOLUTIONS, size, seed + 1)
    exact = rows.astype(np.float64)
    dense = np.linalg.svd(exact - exact.mean(axis=0), compute_uv=False)[:TOP]
    errors = [float(np.max(np.abs(values / dense - 1))) for values in (ours(rows)[0], theirs(rows, seed)[0])]
    return {"dense_size": size, "error": errors[0], "randomized_error": errors[1]}


def _mapped(path: Path, rows: np.ndarray) -> np.ndarray:
    with replacing(path) as temporary:
        rows.tofile(temporary)
    return np.memmap(path, np.float32, "r", shape=rows.shape)
