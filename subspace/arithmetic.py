"""The float64 arithmetic on a block of columns, as numpy does it on the processor; `subspace.sharded` has the same for a mesh of devices."""

from typing import Any

import numpy as np
from jaxtyping import Float, Float64


class OnHost:
    """Sums over blocks of columns, and what blocks are combined to."""

    dtype: Any = np.float64
    """Of the blocks it takes."""

    def start(self, rows: int, columns: int, found: Float64[np.ndarray, "rows columns"] | None = None) -> Any:
        """A sum of nothing, or what was found of one."""
        return np.zeros((rows, columns)) if found is None else found

    def value(self, total: Any) -> Float64[np.ndarray, "rows columns"]:
        """The sum as numpy has it."""
        return total

    def gram(self, total: Any, block: Float[np.ndarray, "N c"]) -> Any:
        """The sum and B Bᵀ."""
        total += block @ block.T  # numpy calls the symmetric BLAS routine here: half the work, and exactly symmetric
        return total

    def products(self, total: Any, block: Float[np.ndarray, "N c"], directions: Float[np.ndarray, "m c"]) -> Any:
        """The sum and B Uᵀ."""
        total += block @ directions.T.astype(np.float64)
        return total

    def combine(self, coefficients: Float64[np.ndarray, "m N"], block: Float[np.ndarray, "N c"]) -> Float[np.ndarray, "m c"]:
        """C B."""
        return coefficients @ block
