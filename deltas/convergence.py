"""How fast a solution was found, from its looks at the dev rows: steps (t_0 = 0, t_1, …) and scores (s_0, s_1, …), s_0 before any training.

    gain            g = max_i s_i − s_0
    steps to share  the first t at which the line through the looks reaches s_0 + share · g
    mean height     1/(t_n − t_0) ∫ s dt along that line
"""

from collections.abc import Sequence

import numpy as np

from deltas.errors import InputError


def steps_to_share(steps: Sequence[float], scores: Sequence[float], share: float = 0.9) -> float | None:
    """The step at which `share` of the whole gain is reached, between two looks by a straight line; None where nothing was gained.

    Raises:
        InputError: steps that do not rise, or another number of scores; a share outside (0, 1].
    """
    t, s = _checked(steps, scores)
    if not 0 < share <= 1:
        raise InputError(f"expected a share above 0 and at most 1, got {share}; 0.9 is usual")
    wanted = s[0] + share * (s.max() - s[0])
    if s.max() <= s[0]:
        return None
    after = int(np.argmax(s >= wanted))  # at least 1: the start is below
    return float(t[after - 1] + (wanted - s[after - 1]) / (s[after] - s[after - 1]) * (t[after] - t[after - 1]))


def mean_height(steps: Sequence[float], scores: Sequence[float]) -> float:
    """The mean score over the course: of two that end alike, the faster has more.

    Raises:
        InputError: as `steps_to_share`.
    """
    t, s = _checked(steps, scores)
    return float(np.trapezoid(s, t) / (t[-1] - t[0]))


def _checked(steps: Sequence[float], scores: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    t, s = np.asarray(steps, float), np.asarray(scores, float)
    if t.shape != s.shape or t.ndim != 1 or len(t) < 2 or not (np.diff(t) > 0).all():
        raise InputError(f"expected at least two looks at rising steps with a score each, got {len(t)} steps and {len(s)} scores; give both of "
                         "one history")
    return t, s
