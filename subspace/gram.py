"""Solutions as rows: exact Gram matrices and combinations of them, streamed, never held together in memory.

    K = X Xᵀ  float64 [N, N],        C X  for coefficients C [m, N],        X float32 [N, D], row by row and memory-mapped

With N in the hundreds and D in the millions, everything a linear decomposition needs is in K; a basis is the m×N matrix C (its dual
form), and is written out only once. float64 throughout: a float32 Gram matrix would cost up to 3e-4 of the singular values.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, Float64

from deltas.errors import InputError
from subspace.rows import MEMORY, Rows, as_rows

Given = Rows | Sequence[np.ndarray]
"""Rows, or arrays that are taken as rows."""


def gram(rows: Given, *, memory: int = MEMORY) -> Float64[np.ndarray, "N N"]:
    """K_mn = ⟨x_m, x_n⟩ of N float [D] rows, exact to float64.

    Args:
        memory: bytes that are held beside the rows' own pages.

    Raises:
        InputError: a row with a value that is not finite, or rows of different lengths.
    """
    total = as_rows(rows).gram(memory)
    bad = np.flatnonzero(~np.isfinite(np.diagonal(total)))
    if len(bad):
        raise InputError(f"expected finite solutions, got NaN or infinity in row {bad[0]}; leave it out")
    return total


def combine(
    coefficients: Float[np.ndarray, "m N"], rows: Given, *, memory: int = MEMORY
) -> Float32[np.ndarray, "m D"]:
    """C X: m combinations of N rows, summed in float64."""
    rows = as_rows(rows)
    out = np.empty((len(coefficients), rows.size), np.float32)
    for columns, block in rows.blocks(memory):
        out[:, columns] = coefficients @ block
    return out


def centred(k: Float64[np.ndarray, "N N"]) -> Float64[np.ndarray, "N N"]:
    """The Gram matrix of the rows less their mean: (I − 11ᵀ/N) K (I − 11ᵀ/N)."""
    mean = k.mean(axis=0, keepdims=True)
    return k - mean - mean.T + mean.mean()


def unexplained(
    rows: Given, mean: np.ndarray, codes: np.ndarray, basis: np.ndarray, *, memory: int = MEMORY
) -> tuple[float, float]:
    """Σ_n ‖x_n − μ − z_n U‖² and Σ_n ‖x_n − x̄‖²: what codes [N, k] and basis [k, D] leave, and all there is."""
    left = total = 0.0
    for columns, block in as_rows(rows).blocks(memory):
        left += float(np.sum((block - mean[columns] - codes.astype(np.float64) @ basis[:, columns]) ** 2))
        total += float(np.sum((block - block.mean(axis=0)) ** 2))
    return left, total
