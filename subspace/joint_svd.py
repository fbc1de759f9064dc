"""joint_svd: the closed form. One singular value decomposition of all types' solutions side by side.

    X = [X_A/f_A | X_L/f_L | …],   X_t [N, D_t] the solutions of type t less their mean, f_t = ‖X_t‖_F
    X = P Σ Vᵀ,   z_n = √N P_n[:k]   (mean 0, variance 1 over the sources)
    U_t = argmin_U Σ_n ‖x_n − μ_t − z_n U‖² = zᵀ X_t / N

Only the N×N Gram matrices are decomposed: P comes from the eigenvectors of Σ_t K_t / f_t², and U_t is kept as its k×N coefficients until
it is written out. The sign of each direction is fixed by its largest entry of P.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float64, Int

from deltas.bank import Bank
from deltas.errors import InputError
from subspace.base import Subspace, part_of
from subspace.gram import centred, combine, gram
from subspace.sources import Pair, Sources, gather


@dataclass(frozen=True, eq=False)
class Decomposition:
    """Codes z [N, k], all singular values of X, and the share of each type's variance that z explains."""

    codes: Float64[np.ndarray, "N k"]
    spectrum: Float64[np.ndarray, " modes"]
    energy: Mapping[str, float]

    @property
    def coefficients(self) -> Float64[np.ndarray, "k+1 N"]:
        """The dual form of mean and basis, where every type is regressed on white codes of all sources: [μ_t; U_t] = coefficients · X_t."""
        n = len(self.codes)
        return np.concatenate([np.full((1, n), 1 / n), self.codes.T / n])


def decompose(grams: Mapping[str, Float64[np.ndarray, "N N"]], k: int) -> Decomposition:
    """The joint singular value decomposition from each type's (uncentred) Gram matrix.

    Raises:
        InputError: k below 1 or above N − 1, the most that N centred rows span; or solutions that do not span k dimensions.
    """
    within_reach(k, len(next(iter(grams.values()))))
    scaled = scale(grams)
    values, p = leading(together(scaled), k)
    return Decomposition(np.sqrt(len(p)) * p, np.sqrt(values), explained(p, scaled))


def scale(grams: Mapping[str, Float64[np.ndarray, "N N"]]) -> dict[str, Float64[np.ndarray, "N N"]]:
    """Each type's Gram matrix, centred and of trace 1; solutions of a type that are all equal are refused."""
    scaled = {}
    for label, raw in grams.items():
        inner = centred(raw)
        if np.trace(inner) <= 1e-12 * np.trace(raw):
            raise InputError(f"expected solutions of {label} that differ from each other, got {len(raw)} equal ones; train more tasks")
        scaled[label] = inner / np.trace(inner)
    return scaled


def together(scaled: Mapping[str, Float64[np.ndarray, "N N"]]) -> Float64[np.ndarray, "N N"]:
    """X Xᵀ of the types side by side; sorted, so that the order of types changes nothing, not even the last bit."""
    return np.sum([scaled[label] for label in sorted(scaled)], axis=0)


def leading(inner: Float64[np.ndarray, "N N"], k: int) -> tuple[Float64[np.ndarray, " N-1"], Float64[np.ndarray, "N k"]]:
    """The N − 1 largest eigenvalues of a centred matrix, falling, and the eigenvectors of the first k, their signs fixed.

    Raises:
        InputError: its rank is below k.
    """
    values, vectors = np.linalg.eigh(inner)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    if values[k - 1] <= 1e-12 * values[0]:
        rank = int(np.sum(values > 1e-12 * values[0]))
        raise InputError(f"expected k of at most {rank}, the dimensions that the {len(values)} solutions span, got {k}; lower k or train "
                         "more tasks")
    p = vectors[:, :k]
    p = p * np.sign(p[np.argmax(np.abs(p), axis=0), np.arange(k)])
    return values[:-1], p - p.mean(axis=0)  # the mean is zero but for rounding, which U would multiply by the mean solution


def explained(p: Float64[np.ndarray, "N k"], scaled: Mapping[str, Float64[np.ndarray, "N N"]]) -> dict[str, float]:
    """By type, the share of the variance that regression on the orthonormal codes P explains: tr Pᵀ K_t P of K_t of trace 1."""
    return {label: float(np.einsum("nk,nm,mk->", p, inner, p, optimize=True)) for label, inner in scaled.items()}


def within_reach(k: int, n: int) -> None:
    """Refuse a k that n solutions cannot span."""
    if not 1 <= k <= n - 1:
        raise InputError(f"expected k between 1 and {n - 1}, one less than the {n} solutions to decompose, got {k}; "
                         "lower k or train more tasks")


def joint_svd(
    bank: Bank | Sources, k: int, *, labels: Sequence[str] | None = None, pairs: Sequence[Pair] | None = None, seed: int = 0
) -> Subspace:
    """The shared subspace of a bank's solutions in closed form.

    Sources for which only some types have a solution (`gather(bank, missing=True)`) are decomposed by `subspace.missing`, which minimises the
    same squared error over the solutions that there are.

    Args:
        bank: or sources that were gathered from one.
        k: its dimension, at most the number of solutions a type minus one.
        labels: the delta types, one or more; None is all of the bank.
        pairs: the (task, seed) of the source solutions; None is all that every type has.
        seed: of the Gaussian null spectrum.

    Raises:
        InputError: k out of range, or labels or pairs that the bank does not have.

    Example:
        space = subspace.joint_svd(bank, k=16)

    Source: the linear case of Yi et al. 2022, section 3, solved exactly instead of by gradient descent.
    """
    sources = gather(bank, labels, pairs)
    if not sources.complete:
        from subspace.missing import joint_svd_of_some  # it stands on this file

        return joint_svd_of_some(sources, k)
    return fit(sources, k, "joint_svd", {}, seed)


def fit(sources: Sources, k: int, method: str, settings: Mapping[str, Any], seed: int) -> Subspace:
    """The joint decomposition of sources that are paired as given."""
    within_reach(k, len(sources.pairs))
    sources.needs_all(method)
    found = decompose(grams(sources), k)
    return written(sources, found, dict.fromkeys(sources.labels, found.coefficients), method, settings, null_of(sources, seed))


def null_of(sources: Sources, seed: int) -> Float64[np.ndarray, " N-1"]:
    """The null spectrum of noise of the sources' shapes."""
    return null_spectrum(len(sources.pairs), [rows.size for rows in sources.rows.values()], seed=seed)


def grams(sources: Sources) -> dict[str, Float64[np.ndarray, "n n"]]:
    """By label, X_t X_tᵀ."""
    return {label: gram(rows) for label, rows in sources.rows.items()}


def written(
    sources: Sources, found: Decomposition, coefficients: Mapping[str, Float64[np.ndarray, "k+1 n"]], method: str,
    settings: Mapping[str, Any], null: Float64[np.ndarray, " modes"],
) -> Subspace:
    """The subspace of a decomposition in its dual form, written out: [μ_t; U_t] = C_t X_t."""
    parts = {}
    for label, block in sources.blocks.items():
        both = combine(coefficients[label], block.rows)
        parts[label] = part_of(block, both[0], both[1:])
    return Subspace(
        method=method, backbone=sources.backbone, pairs=sources.pairs, codes=found.codes.astype(np.float32), parts=parts,
        spectrum=found.spectrum, null=null, energy=found.energy, space=sources.space, align=sources.align,
        settings=settings)


def null_spectrum(n: int, sizes: Sequence[int], *, draws: int = 20, seed: int = 0) -> Float64[np.ndarray, " N-1"]:
    """The mean spectrum of Gaussian noise with n rows and blocks of the given sizes, centred and scaled as `decompose` does."""
    rng, spectra = np.random.default_rng([seed, 2]), []
    for _ in range(draws):
        noise = (centred(wishart(n, size, rng)) for size in sorted(sizes))
        total = sum((inner / np.trace(inner) for inner in noise), np.zeros((n, n)))
        spectra.append(np.sqrt(np.maximum(np.linalg.eigvalsh(total)[::-1], 0.0))[: n - 1])
    return np.mean(spectra, axis=0)


def wishart(n: int, size: int, rng: np.random.Generator) -> Float64[np.ndarray, "n n"]:
    """The Gram matrix of n rows of Gaussian noise, `size` numbers each, of which none is formed where they are more than n.

    Bartlett's factor of a Wishart matrix: lower triangular, √χ²(size − i) on the diagonal, standard normal below it.
    """
    if size < n:
        factor = rng.standard_normal((n, size))
    else:
        factor = np.tril(rng.standard_normal((n, n)), -1)
        factor[np.diag_indices(n)] = np.sqrt(rng.chisquare(size - np.arange(n)))
    return factor @ factor.T


def gram_correlation(
    bank: Bank | Sources, *, labels: Sequence[str] | None = None, pairs: Sequence[Pair] | None = None, permutations: int = 1000, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Do two types see the same similarities between tasks? By pair of types, before any subspace is chosen.

    The Pearson correlation of two types' centred Gram matrices over tasks (seeds of a task averaged first), off the diagonal only:
    the diagonal alone would make any two types look alike. Beside it the 95% range when the tasks of one are permuted.

    Returns:
        {"adapter|lora": {"correlation": r, "null_mean": m, "null_interval": [low, high], "p": share of permutations that reach r}}.

    Raises:
        InputError: fewer than 4 tasks.
    """
    sources = gather(bank, labels, pairs)
    sources.needs_all("gram_correlation")
    tasks = sorted({task for task, _ in sources.pairs})
    if len(tasks) < 4:
        raise InputError(f"expected solutions of at least 4 tasks to correlate, got {len(tasks)}; train more tasks")
    average = np.array([[float(task == other) for other, _ in sources.pairs] for task in tasks])
    average /= average.sum(axis=1, keepdims=True)
    inner = {label: centred(average @ gram(rows) @ average.T) for label, rows in sources.rows.items()}
    rng, above = np.random.default_rng([seed, 3]), np.triu_indices(len(tasks), 1)
    orders = [rng.permutation(len(tasks)) for _ in range(permutations)]
    return {f"{a}|{b}": _against_permuted(inner[a], inner[b], above, orders) for a, b in combinations(inner, 2)}


def _against_permuted(
    a: np.ndarray, b: np.ndarray, above: tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]], orders: Sequence[np.ndarray]
) -> dict[str, Any]:
    def correlation(order: np.ndarray | slice) -> float:
        permuted = b[order][:, order]
        return float(np.corrcoef(a[above], permuted[above])[0, 1])

    found, null = correlation(slice(None)), np.array([correlation(order) for order in orders])
    return {
        "correlation": found, "null_mean": float(null.mean()), "null_interval": np.quantile(null, [0.025, 0.975]).tolist(),
        "p": float((1 + np.sum(null >= found)) / (1 + len(null))),
    }  # fmt: skip
