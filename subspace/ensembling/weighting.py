"""From scores to weights: z-scores over the sources, a softmax at temperature τ, and τ by leaving one source out.

    s̃_j = (s_j − mean s) / std s             w_j = exp(−s̃_j/τ) / Σ_l exp(−s̃_l/τ),      + for a score that is larger the nearer a source is

Normalised, a score's unit is gone and τ means the same for every method: towards 0 the nearest source alone, towards ∞ the uniform mean.
That is ours; the original divides the score as it is by τ = 0.1.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Float64

from deltas.errors import InputError

LARGER_IS_NEARER = frozenset({"cosine", "weight_cosine", "dev_gain"})
TAUS = (0.1, 0.3, 1.0, 3.0)


def normalised(scores: Float[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
    """z-scores over the sources, population standard deviation; zeros where all are equal.

    Raises:
        InputError: a score that is not finite.
    """
    scores = np.asarray(scores, np.float64)
    if not np.isfinite(scores).all():
        raise InputError(f"expected a finite score of every source, got {scores.tolist()}; leave out the source whose outputs are not finite")
    centred, spread = scores - scores.mean(), scores.std()
    return centred / spread if spread > 1e-12 * max(float(np.abs(scores).max()), 1e-300) else np.zeros_like(scores)


def softmax(scores: Float[np.ndarray, " N"], tau: float, *, larger_is_nearer: bool = False) -> Float64[np.ndarray, " N"]:
    """w_j ∝ exp(∓s̃_j/τ) of scores that `normalised` brings to one scale; they sum to 1.

    Raises:
        InputError: τ not above 0, or fewer than two sources.
    """
    at_least_two(len(scores))
    if not tau > 0:
        raise InputError(f"expected a temperature τ above 0, got {tau}; 0.1 is nearly the nearest source alone")
    z = normalised(scores) / tau * (1 if larger_is_nearer else -1)
    w = np.exp(z - z.max())
    return w / w.sum()


def at_least_two(count: int) -> None:
    """Refuse fewer than two sources: there is nothing to weigh."""
    if count < 2:
        raise InputError(f"expected at least two source solutions to ensemble, got {count}; train more tasks")


def of_category(target: str, sources: Sequence[str], categories: Mapping[str, str]) -> Float64[np.ndarray, " N"]:
    """Equal weights of the sources of the target's category; of all sources where it has none or is alone in it."""
    own = categories.get(target)
    inside = np.array([own is not None and categories.get(source) == own for source in sources], np.float64)
    inside = inside if inside.any() else np.ones(len(sources))
    return inside / inside.sum()


def best_tau(losses: Mapping[float, Sequence[float]]) -> float:
    """The τ with the least mean loss; of equal ones the largest, which trusts a single source least.

    Args:
        losses: τ → the dev loss of the start for each source in turn taken as the target, made of the others without it.
    """
    means = {tau: float(np.mean(values)) for tau, values in losses.items()}
    least = min(means.values())
    return max(tau for tau, value in means.items() if value <= least + 1e-12)


def cosine(rows_times: Float[np.ndarray, " N"], lengths: Float[np.ndarray, " N"], length: float) -> Float64[np.ndarray, " N"]:
    """⟨x_j, v⟩ / (‖x_j‖ ‖v‖) from inner products and lengths; 0 where a length is."""
    below = np.asarray(lengths, np.float64) * length
    return np.divide(rows_times, below, out=np.zeros(len(below)), where=below > 0)
