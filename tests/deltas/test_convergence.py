"""How fast a solution was found: values by hand, and what does not depend on the scale."""

import numpy as np
import pytest

from deltas.convergence import mean_height, steps_to_share

STEPS, SCORES = [0, 10, 20, 30], [0.2, 0.2, 0.8, 1.2]


def test_steps_to_share_by_hand():
    assert steps_to_share(STEPS, SCORES, 1.0) == pytest.approx(30)
    assert steps_to_share(STEPS, SCORES, 0.6) == pytest.approx(20)  # 0.2 + 0.6 · 1.0
    assert steps_to_share(STEPS, SCORES, 0.3) == pytest.approx(15)
    assert steps_to_share([0, 5, 9], [0.0, 1.0, 0.4], 0.9) == pytest.approx(4.5)  # what comes after the best does not count
    assert steps_to_share([0, 5], [0.5, 0.5]) is None
    assert steps_to_share([0, 5], [0.5, 0.1]) is None


def test_mean_height_by_hand():
    assert mean_height(STEPS, SCORES) == pytest.approx((0.2 * 10 + 0.5 * 10 + 1.0 * 10) / 30)
    assert mean_height([3, 7], [1.0, 2.0]) == pytest.approx(1.5)


def test_neither_depends_on_units():
    times, scores = 4 * np.array(STEPS), 100 * np.array(SCORES) - 7
    assert steps_to_share(times, scores, 0.45) == pytest.approx(4 * steps_to_share(STEPS, SCORES, 0.45))
    assert mean_height(times, scores) == pytest.approx(100 * mean_height(STEPS, SCORES) - 7)


def test_bad_histories(refused):
    for steps, scores in (([0], [1.0]), ([0, 1], [1.0]), ([0, 0], [1.0, 2.0]), ([1, 0], [1.0, 2.0])):
        with refused("rising steps"):
            mean_height(steps, scores)
    for share in (0.0, 1.1):
        with refused("share", str(share)):
            steps_to_share(STEPS, SCORES, share)
