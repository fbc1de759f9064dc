"""Solutions as rows: exact Gram matrices and combinations of them, streamed, never held together in memory.

    K = X Xᵀ  float64 [N, N],     C X  for coefficients C [m, N],     X Uᵀ  for directions U [m, D],        X float32 [N, D]

With N in the hundreds and D in the millions, everything a linear decomposition needs is in K; a basis is the m×N matrix C (its dual
form), and is written out only once. float64 throughout: a float32 Gram matrix would cost up to 3e-4 of the singular values, and products
of float32 numbers need 48 bits before the first sum, so no float32 arithmetic of the same speed is exact.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Float64

from deltas.errors import InputError
from subspace.rows import MEMORY, Given, Stored, as_rows
from subspace.sources import Sources


def gram(rows: Given, *, memory: int = MEMORY, state: str | Path | None = None) -> Float64[np.ndarray, "N N"]:
    """K_mn = ⟨x_m, x_n⟩ of N float [D] rows, exact to float64.

    Args:
        memory: bytes that are held beside rows that lie in memory.
        state: a file in which the sum is kept once a minute; another run over the same rows goes on from there.

    Raises:
        InputError: a row with a value that is not finite, or rows of different lengths; a state for rows that are not `Stored`.
    """
    rows = as_rows(rows)
    if state is not None:
        if not isinstance(rows, Stored):
            raise InputError(f"expected rows in memory or in files to keep their Gram matrix in {state}, got {type(rows).__name__}; "
                             "leave the state out")
        rows = rows.kept(state)
    total = rows.gram(memory)
    bad = np.flatnonzero(~np.isfinite(np.diagonal(total)))
    if len(bad):
        raise InputError(f"expected finite solutions, got NaN or infinity in {rows.name(int(bad[0]))}; leave it out")
    return total


def combine(coefficients: Float[np.ndarray, "m N"], rows: Given, *, memory: int = MEMORY) -> Float32[np.ndarray, "m D"]:
    """C X: m combinations of N rows, summed in float64."""
    return as_rows(rows).combine(coefficients, memory)


def products(directions: Float[np.ndarray, "m D"], rows: Given, *, memory: int = MEMORY) -> Float64[np.ndarray, "N m"]:
    """X Uᵀ: the inner products of N rows with m directions, summed in float64.

    Example:
        part = space.part("lora")     # the codes of many solutions at once, as `space.encode` has them one by one
        codes = products(part.encoder, rows) - part.encoder.astype(np.float64) @ part.mean
    """
    return as_rows(rows).products(directions, memory)


def centred(k: Float64[np.ndarray, "N N"]) -> Float64[np.ndarray, "N N"]:
    """The Gram matrix of the rows less their mean: (I − 11ᵀ/N) K (I − 11ᵀ/N)."""
    mean = k.mean(axis=0, keepdims=True)
    return k - mean - mean.T + mean.mean()


def unexplained(
    rows: Given, mean: np.ndarray, codes: np.ndarray, basis: np.ndarray, *, memory: int = MEMORY
) -> tuple[float, float]:
    """Σ_n ‖x_n − μ − z_n U‖² and Σ_n ‖x_n − x̄‖²: what codes [N, k] and basis [k, D] leave, and all there is."""
    return as_rows(rows).unexplained(mean, codes, basis, memory)


def resumable(sources: Sources, folder: str | Path) -> Sources:
    """The same sources, whose Gram matrices are kept in `folder`, one file a type, while they are summed.

    A decomposition of them that was killed goes on from the last minute when it is asked for again; when it is done the folder may go.
    Rows in another order or of some columns (`shuffled`, a subspace a layer) are not kept, nor are those of a product space, which are summed
    in one go.

    Example:
        space = joint_svd(resumable(gather(bank), "out/.state"), k=16)
    """
    blocks = {label: replace(block, rows=block.rows.kept(Path(folder) / f"{label}.gram")) if isinstance(block.rows, Stored) else block
              for label, block in sources.blocks.items()}
    return replace(sources, blocks=blocks)
