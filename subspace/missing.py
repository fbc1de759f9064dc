"""joint_svd of sources for which only some types have a solution.

    minimise   Σ_t f_t⁻² [ Σ_{n ∈ S_t} ‖x_tn − μ_t − z_n U_t‖² + w Σ_{n ∉ S_t} ‖(z_n − p) U_t‖² ]        over z, μ, U, p

S_t are the sources that type t has, f_t² is N times their mean squared distance from the type's mean: a type counts the same however many
solutions it has, and on complete data f_t is joint_svd's. The second sum draws missing blocks to one point of the space, the best such p ∈ R^k,
with the small weight w: the code of a source that only some types have follows what they show, except along directions that hardly show in
them and much in the types it lacks, where it would follow their noise. w = 0 leaves those free, w = 1 is filling up with means.

Solved by alternating least squares, each step in closed form. Given z, [μ_t; U_t] = C_t X_t with C_t [k+1, n_t] of the k+1 normal equations;
given C_t, the codes of a source ask for U_t U_tᵀ = C K_t Cᵀ and U_t (x_tn − μ_t)ᵀ alone. So everything comes from the Gram matrices K_t, and
no vector of size D is touched before the end. It starts from the joint singular value decomposition with missing blocks at the mean, which on
complete data is the solution. After every step z is brought to mean 0 and variance 1 over all sources, and in the end to joint_svd's axes, U of
all types together orthogonal with falling norms; neither changes a point that is decoded.

How large k can be: a type is placed in the others' coordinates by the sources that it shares with them, and k+1 points fix the coordinates of
k dimensions. So k is at most one less than the sources that each type shares with those joined before it, starting from the largest. That is
enough where solutions have no noise. With hardly more, directions that fit the noise of the few shared sources have the least error too: then
blocks that are not there are guessed worse than by their mean, and a smaller k, or more sources that several types have, is what helps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int

from deltas.errors import InputError
from subspace.base import Subspace
from subspace.gram import centred
from subspace.joint_svd import Decomposition, grams, leading, written
from subspace.sources import Sources

WEIGHT = 0.1
"""w; by `scripts/bench/ridges.py`: with a third of the blocks of a bank hidden, they are guessed best with a weight of 0.03 to 0.3."""
TOLERANCE = 1e-6
"""Of the codes' change in a step, relative: the sine of the angle between the spaces of codes before and after."""
STEPS = 500


@dataclass(frozen=True, eq=False)
class Completed:
    """What the alternation ends with: white codes, by type the coefficients [k+1, n_t] over its rows, energies over what is there."""

    codes: Float64[np.ndarray, "N k"]
    spectrum: Float64[np.ndarray, " k"]
    coefficients: Mapping[str, Float64[np.ndarray, "k+1 n"]]
    energy: Mapping[str, float]
    steps: int
    change: float


def joint_svd_of_some(sources: Sources, k: int, *, weight: float = WEIGHT) -> Subspace:
    """joint_svd where some blocks are missing; what `subspace.joint_svd` does with such sources.

    Args:
        weight: w, at least 0.

    Returns:
        A subspace whose `spectrum` has the k singular values of the blocks completed by their own decoded codes; there is no null for it.

    Raises:
        InputError: a source that no type has, types that share too few sources for k, or a weight below 0.
    """
    if not (np.isfinite(weight) and weight >= 0):
        raise InputError(f"expected a weight of missing blocks of at least 0, got {weight}; choose one between 0 and 1")
    members = {label: block.members for label, block in sources.blocks.items()}
    held = set(np.concatenate(list(members.values())).tolist())
    if len(held) < len(sources.pairs):
        task, seed = next(pair for i, pair in enumerate(sources.pairs) if i not in held)
        raise InputError(f"expected a solution of every source by some type, got none of {task}, seed {seed}; leave it out")
    most, label = reach(members)
    if most < 1:
        raise InputError(f"expected at least 2 sources that {label} shares with the other types, got {most + 1}; train it on more of their "
                         "tasks, or leave it out")
    if not 1 <= k <= most:
        raise InputError(f"expected k between 1 and {most}, one less than the sources that {label} shares with the other types, got {k}; "
                         "lower k, train more tasks, or leave it out")
    found = alternate(grams(sources), members, len(sources.pairs), k, weight=weight)
    settings = {"missing": {label: len(sources.pairs) - len(rows) for label, rows in members.items()}, "weight": weight,
                "steps": found.steps, "change": found.change}
    decomposition = Decomposition(found.codes, found.spectrum, found.energy)
    return written(sources, decomposition, found.coefficients, "joint_svd", settings, null=np.zeros(0))


def reach(members: Mapping[str, Int[np.ndarray, " n"]]) -> tuple[int, str]:
    """The largest k, and the type that bounds it: the types are joined one after the other, the next by the sources it shares most."""
    left = {label: set(rows.tolist()) for label, rows in sorted(members.items())}
    bound = max(left, key=lambda label: len(left[label]))
    joined, shared = left.pop(bound), len(members[bound])
    while left:
        label = max(left, key=lambda label: len(left[label] & joined))
        if len(left[label] & joined) < shared:
            bound, shared = label, len(left[label] & joined)
        joined |= left.pop(label)
    return shared - 1, bound


def alternate(
    inner: Mapping[str, Float64[np.ndarray, "n n"]], members: Mapping[str, Int[np.ndarray, " n"]], sources: int, k: int, *,
    weight: float = WEIGHT, start: Float64[np.ndarray, "N k"] | None = None, tolerance: float = TOLERANCE, steps: int = STEPS,
) -> Completed:
    """The alternation, from each type's (uncentred) Gram matrix over its own rows.

    Args:
        members: by type, the source of every row.
        sources: N.
        start: codes to start from; None is the joint decomposition with missing blocks at the mean.

    Raises:
        InputError: solutions of a type that are all equal, or that do not span k dimensions.
    """
    scaled = {}
    for label in sorted(inner):  # sorted: the order of types changes nothing
        own = centred(inner[label])
        if np.trace(own) <= 1e-12 * np.trace(inner[label]):
            raise InputError(f"expected solutions of {label} that differ from each other, got {len(own)} equal ones; train more tasks")
        scaled[label] = own * (len(own) / (sources * np.trace(own)))
    if start is None:
        padded = np.zeros((sources, sources))
        for label, own in scaled.items():
            padded[np.ix_(members[label], members[label])] += own
        start = leading(centred(padded), k)[1]
    has = np.array([np.isin(np.arange(sources), members[label]) for label in scaled])
    alike = [(pattern, np.flatnonzero((has == pattern[:, None]).all(0))) for pattern in np.unique(has, axis=1).T]
    z, point = white(start, np.zeros((1, k)))
    decoders = {label: decoder(z, point, has[t], weight) for t, label in enumerate(scaled)}
    change, step = np.inf, 0
    while step < steps and change > tolerance:
        step += 1
        new, point = white(*codes(scaled, decoders, members, alike, weight, point))
        change = float(np.linalg.norm(new - z @ (z.T @ new) / sources) / np.sqrt(new.size))
        z = new
        decoders = {label: decoder(z, point, has[t], weight) for t, label in enumerate(scaled)}
    metric = np.sum([c[1:] @ scaled[label] @ c[1:].T for label, c in decoders.items()], axis=0)
    values, turn = np.linalg.eigh(metric)
    z, turn = z @ turn[:, ::-1], turn[:, ::-1]
    signs = np.sign(z[np.argmax(np.abs(z), axis=0), np.arange(k)])
    z, turn = z * signs, turn * signs
    coefficients, energy = {}, {}
    for label, own in scaled.items():
        c = np.concatenate([decoders[label][:1], turn.T @ decoders[label][1:]])
        rest = np.eye(len(own)) - np.concatenate([np.ones((len(own), 1)), z[members[label]]], axis=1) @ c
        energy[label] = 1 - float(np.sum((rest @ own) * rest) / np.trace(own))
        c = c - c.mean(axis=1, keepdims=True)  # of the rows themselves, which have a mean
        c[0] += 1 / len(own)
        coefficients[label] = c
    return Completed(z, np.sqrt(sources * np.maximum(values[::-1], 0.0)), coefficients, energy, step, change)


def white(z: Float64[np.ndarray, "N k"], point: Float64[np.ndarray, "1 k"]) -> tuple[np.ndarray, np.ndarray]:
    """The same codes, and a point among them, in coordinates of mean 0 and covariance 1."""
    mean = z.mean(axis=0)
    q, r = np.linalg.qr(z - mean)
    return q * np.sqrt(len(z)), np.linalg.solve(r.T, (point - mean).T).T * np.sqrt(len(z))


def decoder(
    z: Float64[np.ndarray, "N k"], point: Float64[np.ndarray, "1 k"], has: Bool[np.ndarray, " N"], weight: float
) -> Float64[np.ndarray, "k+1 n"]:
    """[μ; U] of one type as coefficients over its centred rows, given all codes and which of them it has."""
    design = np.concatenate([np.ones((int(has.sum()), 1)), z[has]], axis=1)
    normal, absent = design.T @ design, z[~has] - point
    normal[1:, 1:] += weight * absent.T @ absent
    return np.linalg.pinv(normal, rcond=1e-12, hermitian=True) @ design.T


def codes(
    scaled: Mapping[str, Float64[np.ndarray, "n n"]], decoders: Mapping[str, Float64[np.ndarray, "k+1 n"]],
    members: Mapping[str, Int[np.ndarray, " n"]], alike: Sequence[tuple[np.ndarray, np.ndarray]], weight: float,
    point: Float64[np.ndarray, "1 k"],
) -> tuple[Float64[np.ndarray, "N k"], Float64[np.ndarray, "1 k"]]:
    """All codes given the decoders and the point that missing blocks are drawn to, then that point given the codes.

    `alike` are the sources that the same types have, and so the same equations: (has [T], their places).
    """
    k, n = point.shape[1], sum(len(places) for _, places in alike)
    metrics, right, z = np.empty((len(scaled), k, k)), np.zeros((n, k)), np.empty((n, k))
    for t, (label, own) in enumerate(scaled.items()):
        mean, basis = decoders[label][0], decoders[label][1:]
        seen = basis @ own
        metrics[t] = seen @ basis.T
        right[members[label]] += (seen - (seen @ mean)[:, None]).T
    away, towards = np.zeros((k, k)), np.zeros(k)
    for has, places in alike:
        absent = np.tensordot(1.0 - has, metrics, 1)
        whole = np.tensordot(1.0 * has, metrics, 1) + weight * absent
        z[places] = (right[places] + weight * point @ absent) @ np.linalg.pinv(whole, rcond=1e-12, hermitian=True)
        away += len(places) * absent
        towards += z[places].sum(0) @ absent
    return z, (np.linalg.pinv(away, rcond=1e-12, hermitian=True) @ towards)[None]
