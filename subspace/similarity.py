"""How alike tasks are within a type, and how alike two types see the tasks.

    cosine     ⟨x_m − x̄, x_n − x̄⟩ / (‖x_m − x̄‖ ‖x_n − x̄‖)                 between tasks m, n of one type, seeds averaged
    gram       the correlation of two types' centred Gram matrices off the diagonal
    cosines    the same of their cosines: how far training moved a task counts for nothing
    CKA        ⟨K, L⟩ / √(⟨K, K⟩ ⟨L, L⟩)                                  K = Z_s Z_sᵀ, L = Z_t Z_tᵀ of the types' codes
    overlap    mean cos² of the principal angles between the columns of the two types' codes [tasks, k]

for ⟨·, ·⟩ the Hilbert-Schmidt independence criterion: plain, ⟨K, L⟩ = tr(K_c L_c) of centred matrices, or debiased. Plain CKA is large on few
tasks whatever they are (a matrix's diagonal alone makes it so): read the debiased one, and every measure against the same tasks in
permuted order. The codes are each type's own leading principal components, found without a look at the other type: codes of a joint fit
agree because they were fitted to.

Source: Kornblith et al. 2019 (CKA); Song et al. 2012, equation 5 (the debiased criterion).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float64, Int

from deltas.bank import Bank
from deltas.errors import InputError
from subspace.cores import Core, ProductRows
from subspace.gram import centred, gram
from subspace.product import factors_of
from subspace.remembered import by_task, common, remembered
from subspace.sources import Block, Pair, Sources
from subspace.stability import principal_angles

Matrix = Float64[np.ndarray, "tasks tasks"]
ORDERED = 300
"""Tasks up to which alike leaves are brought together within the tree, which takes long for many."""


def task_cosines(
    bank: Bank | Sources, *, labels: Sequence[str] | None = None, pairs: Sequence[Pair] | None = None
) -> tuple[list[str], dict[str, Matrix]]:
    """The tasks of which all types have solutions, and by type the cosines between them."""
    tasks, inner = _inner(bank, labels, pairs, 2)
    return tasks, {label: cosines(k) for label, k in inner.items()}


def cosines(k: Matrix) -> Matrix:
    """Of a centred Gram matrix; a row that is the mean itself has cosine 0 with all others."""
    lengths = np.sqrt(np.maximum(np.diagonal(k), 0.0))
    inverse = np.divide(1.0, lengths, where=lengths > 1e-12 * lengths.max(initial=0.0), out=np.zeros_like(lengths))
    found = np.clip(k * np.outer(inverse, inverse), -1.0, 1.0)
    found[np.diag_indices(len(k))] = 1.0
    return found


@dataclass(frozen=True, eq=False, kw_only=True)
class Order:
    """Tasks in an order in which alike ones stand together.

    Args:
        order: places of the tasks.
        linkage: the tree, as `scipy.cluster.hierarchy` writes it; its leaves in the order of the tasks that were given.
    """

    order: Int[np.ndarray, " tasks"]
    linkage: Float64[np.ndarray, "tasks-1 4"]


def clustered(similarity: Matrix) -> Order:
    """Hierarchical clustering by average linkage of the distances 1 − similarity, alike leaves beside each other where they are not too many.

    Raises:
        InputError: fewer than 2 tasks.
    """
    if len(similarity) < 2:
        raise InputError(f"expected at least 2 tasks to put in order, got {len(similarity)}; train more tasks")
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    distance = 1 - (similarity + similarity.T) / 2
    np.fill_diagonal(distance, 0.0)
    tree = linkage(squareform(np.maximum(distance, 0.0), checks=False), "average", optimal_ordering=len(similarity) <= ORDERED)
    return Order(order=leaves_list(tree).astype(np.int64), linkage=tree)


def product_gram(block: Block) -> Float64[np.ndarray, "N N"]:
    """⟨ΔW_m, ΔW_n⟩ between the solutions of a LoRA, from their factors alone: the same in every gauge (see `subspace.product`).

    Raises:
        InputError: a LoRA with `dora`, whose change depends on the backbone's weights, or a layout without factors.
    """
    solutions = [factors_of(block.config, block.layout, block.theta0, block.rows, n) for n in range(len(block.rows))]
    if not solutions or not len(solutions[0]):
        raise InputError(f"expected a LoRA with factors A and B to compare products, got a layout of {', '.join(block.layout.names[:3])}; "
                         "compare its numbers")
    # coordinates are not asked for, so the cores need none
    cores = {module: Core(np.zeros((a.shape[0], 0)), b.shape[1], 1.0, 0.0) for module, (a, b) in solutions[0].items()}
    return ProductRows(solutions, cores).gram()


# ------------------------------------------------------------ between types
def criterion(k: Matrix, l: Matrix) -> float:  # noqa: E741 - the letters of the papers
    """The debiased Hilbert-Schmidt independence criterion: 0 on average for independent codes, whatever their number.

    ⟨K, L⟩ = (tr(K̃ L̃) + 1ᵀK̃1 1ᵀL̃1 / ((n − 1)(n − 2)) − 2 · 1ᵀK̃L̃1 / (n − 2)) / (n (n − 3)),    K̃, L̃ with 0 on the diagonal.
    """
    n = len(k)
    k, l = k - np.diag(np.diagonal(k)), l - np.diag(np.diagonal(l))  # noqa: E741
    rows, columns = k.sum(0), l.sum(0)
    return float((np.sum(k * l) + rows.sum() * columns.sum() / ((n - 1) * (n - 2)) - 2 * (rows @ columns) / (n - 2)) / (n * (n - 3)))


def cka(k: Matrix, l: Matrix, *, debiased: bool = True) -> float:  # noqa: E741
    """Centred kernel alignment of two Gram matrices of codes over the same tasks.

    Debiased it is at most about 1, and 0 on average where there is nothing in common, so it can be negative; NaN where a type's own criterion
    is not positive: its tasks are as unlike as noise.
    """
    if debiased:
        across, own, other = criterion(k, l), criterion(k, k), criterion(l, l)
        return float(across / np.sqrt(own * other)) if min(own, other) > 0 else float("nan")
    k, l = centred(k), centred(l)  # noqa: E741
    return float(np.sum(k * l) / np.sqrt(np.sum(k * k) * np.sum(l * l)))


def own_codes(k: Matrix, dimension: int) -> Float64[np.ndarray, "tasks k"]:
    """The leading principal components of a centred Gram matrix, each with its length."""
    values, vectors = np.linalg.eigh(k)
    return vectors[:, : -dimension - 1 : -1] * np.sqrt(np.maximum(values[: -dimension - 1 : -1], 0.0))


def code_overlap(a: Float64[np.ndarray, "tasks k"], b: Float64[np.ndarray, "tasks k"]) -> float:
    """The mean cos² of the principal angles between the columns of two centred codes."""
    return float(np.mean(np.cos(principal_angles(a.T @ a, a.T @ b, b.T @ b)) ** 2))


def type_similarity(
    bank: Bank | Sources, k: int, *, codes: Mapping[str, Float64[np.ndarray, "N k"]] | None = None, permutations: int = 500, seed: int = 0,
    labels: Sequence[str] | None = None, pairs: Sequence[Pair] | None = None,
) -> dict[str, dict[str, dict[str, Any]]]:  # fmt: skip
    """Do two types see the same similarities between tasks? By pair of types and measure, beside the same tasks in permuted order.

    Args:
        k: dimension of each type's own codes; CKA and the overlap are of these, `gram` and `cosines` of all there is.
        codes: by type the codes to compare instead, a row a source.
        permutations: of the tasks of the second type.

    Returns:
        {"adapter|lora": {"gram": {"value": v, "null_mean": m, "null_interval": [low, high], "p": share of permutations that reach v},
        "cosines": …, "cka": …, "plain_cka": …, "overlap": …}}; a value that is not defined is None.

    Raises:
        InputError: fewer than 5 tasks that all types have, or k out of range.
    """
    sources = common(remembered(bank, labels, pairs), 5)
    tasks, inner = _inner(sources, None, None, 5)
    if not 1 <= k <= len(tasks) - 2:
        raise InputError(f"expected codes of k between 1 and {len(tasks) - 2} to compare over {len(tasks)} tasks, got {k}; lower it")
    if codes is None:
        shown = {label: own_codes(inner[label], k) for label in inner}
    else:
        average = by_task(sources.pairs)[1]
        shown = {label: average @ np.asarray(codes[label], np.float64) for label in inner}
        shown = {label: z - z.mean(0) for label, z in shown.items()}
    rng, above = np.random.default_rng([seed, 13]), np.triu_indices(len(tasks), 1)
    orders = [rng.permutation(len(tasks)) for _ in range(permutations)]
    found, alike = {}, {label: cosines(matrix) for label, matrix in inner.items()}
    for a, b in combinations(sorted(inner), 2):
        first, second, own = shown[a], shown[b], shown[a] @ shown[a].T
        measures: dict[str, Callable[[Any], float]] = {
            "gram": lambda o, x=inner[a], y=inner[b]: float(np.corrcoef(x[above], y[o][:, o][above])[0, 1]),
            "cosines": lambda o, x=alike[a], y=alike[b]: float(np.corrcoef(x[above], y[o][:, o][above])[0, 1]),
            "cka": lambda o, own=own, z=second: cka(own, z[o] @ z[o].T),
            "plain_cka": lambda o, own=own, z=second: cka(own, z[o] @ z[o].T, debiased=False),
            "overlap": lambda o, y=first, z=second: code_overlap(y, z[o]),
        }
        found[f"{a}|{b}"] = {name: against_permuted(measure, orders) for name, measure in measures.items()}
    return found


def against_permuted(measure: Callable[[Any], float], orders: Sequence[Int[np.ndarray, " tasks"]]) -> dict[str, Any]:
    """A measure of tasks in their own order, beside what it is in others."""
    value, null = measure(slice(None)), np.array([measure(order) for order in orders])
    null = null[np.isfinite(null)]
    if not np.isfinite(value) or not len(null):
        return {"value": None, "null_mean": None, "null_interval": [None, None], "p": None}
    return {"value": value, "null_mean": float(null.mean()), "null_interval": np.quantile(null, [0.025, 0.975]).tolist(),
            "p": float((1 + np.sum(null >= value)) / (1 + len(null)))}


def _inner(
    bank: Bank | Sources, labels: Sequence[str] | None, pairs: Sequence[Pair] | None, least: int
) -> tuple[list[str], dict[str, Matrix]]:
    """The tasks that all types have, and by type the centred Gram matrix over them, seeds averaged."""
    sources = common(remembered(bank, labels, pairs), least)
    tasks, average = by_task(sources.pairs)
    return tasks, {label: centred(average @ gram(rows) @ average.T) for label, rows in sources.rows.items()}
