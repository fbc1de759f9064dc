"""gcca: the shared code on which the types agree best, whatever share of their variance that is.

    K_t = X_t X_tᵀ of the centred solutions of type t,   λ_t = ridge · tr(K_t) / N
    G = the k leading eigenvectors of M = Σ_t K_t (K_t + λ_t I)⁻¹,   z = √N G   (mean 0, variance 1 over the sources)
    U_t = argmin_U Σ_n ‖x_n − μ_t − z_n U‖² = zᵀ X_t / N

M is a sum of T soft projections, one on the space that each type's solutions span: a direction of G counts T where every type can write
it, however small its part in their variance, and 1 where a single type can. joint_svd asks for variance instead, and prefers what is
large in one type to what is small in all.

The ridge says what a type can write: its directions of variance well above `ridge` times the mean over sources count in full, those well
below it not at all. Without a ridge N solutions of more than N numbers span everything, and all codes agree perfectly; with a large one M
tends to the sum of the K_t of equal trace, divided by the ridge: to joint_svd.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64

from deltas.bank import Bank
from deltas.errors import InputError
from subspace.base import Subspace
from subspace.joint_svd import Decomposition, explained, grams, leading, null_of, scale, together, within_reach, written
from subspace.sources import Pair, Sources, gather

RIDGE = 0.1
"""By `scripts/bench/ridges.py`: what codes found through one type say of held-out tasks in the others is best between 0.01 and 1 on every
bank tried, and there it hardly depends on the ridge."""


def gcca(
    bank: Bank | Sources, k: int, *, labels: Sequence[str] | None = None, pairs: Sequence[Pair] | None = None, ridge: float = RIDGE,
    seed: int = 0
) -> Subspace:
    """The shared subspace of maximal agreement (MAXVAR generalised canonical correlation).

    Args:
        bank: or sources that were gathered from one.
        k: its dimension, at most the number of solutions a type minus one.
        labels: the delta types, one or more; None is all of the bank. Of a single type it is the type's PCA.
        pairs: the (task, seed) of the source solutions; None is all that every type has.
        ridge: of a type's variance a source, above 0; see the module.
        seed: of the Gaussian null spectrum.

    Returns:
        A subspace whose coordinates fall by agreement; `settings["agreement"]` is each one's eigenvalue over T, between 0 and 1. Its
        `spectrum` is that of the joint matrix, as in joint_svd: a fact of the sources, not of these coordinates.

    Raises:
        InputError: k out of range, a ridge that is not above 0, a source that some type lacks, or labels or pairs that are not there.

    Source: MAXVAR, Kettenring 1971, Biometrika 58(3); the ridge as in regularised GCCA (Tenenhaus and Tenenhaus 2011, Psychometrika 76(2)).
    """
    sources = gather(bank, labels, pairs)
    within_reach(k, len(sources.pairs))
    sources.needs_all("gcca")
    if not (np.isfinite(ridge) and ridge > 0):
        raise InputError(f"expected a ridge above 0 for gcca, got {ridge}; choose one between 0.01 and 10")
    found, agreement = agree(grams(sources), k, ridge)
    settings = {"ridge": ridge, "agreement": agreement.tolist()}
    return written(sources, found, dict.fromkeys(sources.labels, found.coefficients), "gcca", settings, null_of(sources, seed))


def dual(
    inner: Mapping[str, Float64[np.ndarray, "N N"]], k: int, ridge: float = RIDGE
) -> dict[str, Float64[np.ndarray, "k+1 N"]]:
    """[μ_t; U_t] as coefficients over the rows, from each type's Gram matrix: the `method` of `subspace.validation.cross_validated`."""
    return dict.fromkeys(inner, agree(inner, k, ridge)[0].coefficients)


def agree(
    inner: Mapping[str, Float64[np.ndarray, "N N"]], k: int, ridge: float
) -> tuple[Decomposition, Float64[np.ndarray, " k"]]:
    """The decomposition from each type's (uncentred) Gram matrix, and the agreement of each coordinate."""
    scaled = scale(inner)
    n = len(next(iter(scaled.values())))
    total = np.zeros((n, n))
    for label in sorted(scaled):  # sorted: the order of types changes nothing
        values, vectors = np.linalg.eigh(scaled[label])
        values = np.maximum(values, 0.0)
        total += (vectors * (values / (values + ridge / n))) @ vectors.T
    agreement, p = leading(total, k)
    joint = np.linalg.eigvalsh(together(scaled))[::-1]
    found = Decomposition(np.sqrt(n) * p, np.sqrt(np.maximum(joint[: n - 1], 0.0)), explained(p, scaled))
    return found, agreement[:k] / len(scaled)
