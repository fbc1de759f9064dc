"""pca: each type its own k directions, their coordinates matched afterwards.

    X_t = P_t Σ_t V_tᵀ,   z_t = √N P_t[:, :k]              the type's own whitened codes: its best k dimensions, no other type asked
    R_t = argmin_R ‖z_t R − z‖_F,  R orthogonal            z [N, k] the codes of joint_svd
    U_t = R_tᵀ z_tᵀ X_t / N                                so that z_t R_t is what type t itself says of its sources

The rows of U_t span exactly the k leading principal directions of type t, and R_t turns the axes of that span, nothing else: it is chosen
so that one z means as nearly as possible the same source in every type. This is what a space for each type is worth once its coordinates
are matched. joint_svd instead looks for directions that are worth something in all types together. The two are one for a single type, and
wherever all types order their solutions alike.

The codes that are kept are joint_svd's z. `energy` is that of decoding them; `settings["own_energy"]`, which is never less, that of the
type's own codes z_t R_t, the most that k dimensions can hold of it.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64

from deltas.bank import Bank
from subspace.base import Subspace
from subspace.joint_svd import Decomposition, decompose, grams, null_of, scale, within_reach, written
from subspace.sources import Pair, Sources, gather


def pca(
    bank: Bank | Sources, k: int, *, labels: Sequence[str] | None = None, pairs: Sequence[Pair] | None = None, seed: int = 0
) -> Subspace:
    """Principal components of each type alone, with coordinates matched to the joint ones by orthogonal Procrustes.

    Args:
        bank: or sources that were gathered from one.
        k: its dimension, at most the number of solutions a type minus one, and at most what every single type spans.
        labels: the delta types, one or more; None is all of the bank.
        pairs: the (task, seed) of the source solutions; None is all that every type has.
        seed: of the Gaussian null spectrum.

    Returns:
        A subspace whose `spectrum` is that of the joint matrix: a fact of the sources, not of these coordinates.

    Raises:
        InputError: k out of range, a source that some type lacks, or labels or pairs that are not there.

    Source: orthogonal Procrustes: Schönemann 1966, Psychometrika 31(1).
    """
    sources = gather(bank, labels, pairs)
    within_reach(k, len(sources.pairs))
    sources.needs_all("pca")
    found, turned, own = matched(grams(sources), k)
    n = len(found.codes)
    coefficients = {label: np.concatenate([np.full((1, n), 1 / n), codes.T / n]) for label, codes in turned.items()}
    return written(sources, found, coefficients, "pca", {"own_energy": own}, null_of(sources, seed))


def dual(inner: Mapping[str, Float64[np.ndarray, "N N"]], k: int) -> dict[str, Float64[np.ndarray, "k+1 N"]]:
    """[μ_t; U_t] as coefficients over the rows, from each type's Gram matrix. Those of a smaller k are not the first of a larger."""
    _, turned, _ = matched(inner, k)
    return {label: np.concatenate([np.full((1, len(codes)), 1 / len(codes)), codes.T / len(codes)]) for label, codes in turned.items()}


def matched(
    inner: Mapping[str, Float64[np.ndarray, "N N"]], k: int
) -> tuple[Decomposition, dict[str, Float64[np.ndarray, "N k"]], dict[str, float]]:
    """The joint codes with the energy that each type's decoder gives them, each type's own codes turned to them, and its own energy."""
    joint, scaled = decompose(inner, k), scale(inner)
    n, turned, own, energy = len(joint.codes), {}, {}, {}
    for label, gram in scaled.items():
        alone = decompose({label: inner[label]}, k)
        u, _, vh = np.linalg.svd(alone.codes.T @ joint.codes)
        turned[label], own[label] = alone.codes @ (u @ vh), alone.energy[label]
        # ‖X − z U‖² with U = z_tᵀ X / N: N ‖U‖² is the own energy, since the z are white
        energy[label] = float(2 / n * np.sum(joint.codes * (gram @ turned[label]))) - own[label]
    return Decomposition(joint.codes, joint.spectrum, energy), turned, own
