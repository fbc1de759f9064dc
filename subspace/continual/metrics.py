"""What a course of continual learning is judged by.

R[i, j] is the accuracy after step i on the rows whose classes arrived with step j ≤ i, NaN above the diagonal, where answers are any of the
classes seen by then; n_j is the number of those rows.
"""

import numpy as np
from jaxtyping import Bool, Float, Int


def accuracies(
    right: Bool[np.ndarray, "steps R"], step_of_row: Int[np.ndarray, " R"]
) -> Float[np.ndarray, "steps steps"]:
    """R, from whether each row was answered rightly after each step."""
    n = len(right)
    table = np.full((n, n), np.nan)
    for j in range(n):
        table[j:, j] = right[j:, step_of_row == j].mean(axis=1)
    return table


def by_step(table: Float[np.ndarray, "steps steps"], counts: Int[np.ndarray, " steps"]) -> Float[np.ndarray, " steps"]:
    """A_i = Σ_{j ≤ i} n_j R[i, j] / Σ_{j ≤ i} n_j: the accuracy over all rows of the classes seen after step i."""
    return np.array([np.average(table[i, : i + 1], weights=counts[: i + 1]) for i in range(len(table))])


def last(table: Float[np.ndarray, "steps steps"], counts: Int[np.ndarray, " steps"]) -> float:
    """A_N, the accuracy over all classes at the end."""
    return float(by_step(table, counts)[-1])


def average(table: Float[np.ndarray, "steps steps"], counts: Int[np.ndarray, " steps"]) -> float:
    """The average incremental accuracy, mean_i A_i."""
    return float(by_step(table, counts).mean())


def forgetting(table: Float[np.ndarray, "steps steps"]) -> float:
    """mean_{j < N} (max_{i < N} R[i, j] − R[N, j]): what was lost of each earlier step's classes since they were known best; 0 for one step.

    Where nothing was lost, not even to the classes that came later, it is below 0.
    """
    if len(table) < 2:
        return 0.0
    return float(np.mean(np.nanmax(table[:-1, :-1], axis=0) - table[-1, :-1]))
