"""Any difference of weights as a LoRA, by the singular value decomposition.

ΔW = U S Vᵀ, and of its best approximation of rank r (Eckart and Young 1936) A = U √S and B = √S Vᵀ, so that both factors have the same
size. The rank is given, or the least that keeps a share of the energy |ΔW|² = Σ s².
"""

import jax.numpy as jnp
import numpy as np

from deltas.attach import sites
from deltas.backbones.loading import Backbone
from deltas.bank import Solution
from deltas.errors import InputError
from deltas.functional import Attached
from deltas.parallel import threads_for
from deltas.types.bitfit import Bias
from deltas.types.full import Difference
from deltas.types.lora import LowRank, Magnitude
from deltas.types.together import flat

Arrays = dict[str, np.ndarray]
ADDED = (LowRank, Difference, Bias)
"""Parts whose change does not depend on the weights."""
NOISE = 1e-6
"""Singular values below this share of the largest are those of rounding in float32, and never kept."""


def factors(change: np.ndarray, *, rank: int | None, energy: float | None) -> tuple[np.ndarray, np.ndarray]:
    """A [in, r] and B [r, out] with A B the best approximation of a difference [in, out]; at least one column, of zeros if need be.

    Args:
        change: the difference.
        rank: r at most; or
        energy: the share of Σ s² that r keeps at least, in (0, 1].
    """
    return _cut(*np.linalg.svd(np.asarray(change, np.float64), full_matrices=False), rank, energy)


def of_product(a: np.ndarray, b: np.ndarray, *, rank: int | None, energy: float | None) -> tuple[np.ndarray, np.ndarray]:
    """`factors` of the difference A B, which is not formed: with A = Q R and Bᵀ = P S, the singular values are those of R Sᵀ [r, r]."""
    with threads_for(a.size + b.size):
        q, left = np.linalg.qr(np.asarray(a, np.float64))
        p, right = np.linalg.qr(np.asarray(b, np.float64).T)
        u, s, vt = np.linalg.svd(left @ right.T, full_matrices=False)
    return _cut(q @ u, s, vt @ p.T, rank, energy)


def _cut(u: np.ndarray, s: np.ndarray, vt: np.ndarray, rank: int | None, energy: float | None) -> tuple[np.ndarray, np.ndarray]:
    real = max(int(np.sum(s > NOISE * s[0])), 1)
    if rank is None:
        assert energy is not None
        kept = np.cumsum(s * s) / max(float(np.sum(s * s)), np.finfo(np.float64).tiny)
        rank = int(np.searchsorted(kept, energy - 1e-12) + 1)  # a share of 1 must not wait for a sum that rounds to less
    r = min(rank, real)
    root = np.sqrt(s[:r])
    a, b = u[:, :r] * root, root[:, None] * vt[:r]
    sign = np.sign(a[np.argmax(np.abs(a), axis=0), np.arange(r)])  # the largest entry of each column of A is positive
    sign[sign == 0] = 1
    return (a * sign).astype(np.float32), (b * sign[:, None]).astype(np.float32)


def check(rank: int | None, energy: float | None) -> None:
    """Refuse a rank or an energy that cannot be."""
    if rank is not None and energy is not None:
        raise InputError(f"expected a rank or an energy, got rank {rank} and energy {energy}; give one of them")
    if rank is not None and (type(rank) is not int or rank < 1):
        raise InputError(f"expected a rank of at least 1, got {rank!r}; choose another")
    if energy is not None and not 0 < energy <= 1:
        raise InputError(f"expected an energy above 0 and at most 1, got {energy!r}; choose another")


def differences(solution: Solution, backbone: Backbone) -> dict[str, np.ndarray]:
    """ΔW [in, out], float32, of each kernel that the solution changes, by site.

    Raises:
        InputError: the solution is no difference of weights, or changes what has no low-rank form (norms, biases, embeddings), all named.
    """
    attached = Attached.of(backbone, solution.config, theta0=solution.theta0)
    attached.check(solution)
    places = sites(attached.module(jnp.asarray(solution.theta), attached.frozen))
    found: dict[str, np.ndarray] = {}
    odd: list[str] = []
    for name, site in places.items():
        parts = site.parts()
        if not parts:
            continue
        own = {key: None if value is None else value.astype(jnp.float32) for key, value in site.plain().items()}
        if all(isinstance(part, ADDED) and not isinstance(part, Magnitude) for part in flat(parts)):  # exact: nothing to subtract again
            own = {key: None if value is None else jnp.zeros_like(value) for key, value in own.items()}
        after = own
        for part in parts:
            after = part.merged(after)
        for key, value in after.items():
            change = _change(own[key], value)
            if key == "kernel":
                found[name] = change
            elif np.any(change):
                odd.append(f"{name}.{key}")
    if odd:
        raise InputError(f"expected a difference of linear maps' kernels, to write it as LoRA, got {solution.label} with one of "
                         f"{', '.join(odd)} too; train it on linear sites alone")
    return found


def _change(old: jnp.ndarray | None, new: jnp.ndarray | None) -> np.ndarray:
    """new − old, where what is not there counts as 0."""
    if new is None:
        return np.zeros(0, np.float32)
    return np.asarray(new, np.float32) - (0 if old is None else np.asarray(old, np.float32))
