"""Weights of scores: laws, limits, and what is refused."""

import numpy as np
import pytest
from scipy.special import softmax as softmax_of
from scipy.stats import zscore

from subspace.ensembling import best_tau, cosine, normalised, of_category, softmax

SCORES = np.array([3.0, 1.0, 2.0, 6.0])


def test_softmax_of_z_scores():
    np.testing.assert_allclose(softmax(SCORES, 0.5), softmax_of(-zscore(SCORES) / 0.5))
    np.testing.assert_allclose(softmax(SCORES, 0.5, larger_is_nearer=True), softmax_of(zscore(SCORES) / 0.5))
    np.testing.assert_allclose(softmax(1000 * SCORES + 7, 0.5), softmax(SCORES, 0.5))  # a score's unit is gone
    np.testing.assert_allclose(softmax(SCORES, 1e9), 0.25, rtol=1e-6)
    np.testing.assert_allclose(softmax(SCORES, 1e-3), [0, 1, 0, 0], atol=1e-9)
    np.testing.assert_array_equal(normalised(np.full(3, 1e9 + 0.1)), 0)  # equal scores say nothing
    np.testing.assert_allclose(softmax(np.full(3, 0.3), 0.1), 1 / 3)


def test_category_tau_and_cosine():
    kinds = {"a": "x", "b": "x", "c": "y", "d": "x"}
    np.testing.assert_allclose(of_category("a", ["b", "c", "d"], kinds), [0.5, 0, 0.5])
    np.testing.assert_allclose(of_category("c", ["a", "b"], kinds), [0.5, 0.5])  # alone in its category
    np.testing.assert_allclose(of_category("e", ["a", "b"], kinds), [0.5, 0.5])  # of none
    assert best_tau({0.1: [1.0, 3.0], 1.0: [1.0, 1.0], 3.0: [0.5, 2.0]}) == 1.0
    assert best_tau({0.1: [1.0], 1.0: [1.0]}) == 1.0
    rows, v = np.array([[3.0, 4.0], [0.0, 0.0]]), np.array([4.0, 3.0])
    np.testing.assert_allclose(cosine(rows @ v, np.linalg.norm(rows, axis=1), 5.0), [24 / 25, 0])


def test_refused(refused):
    with refused("two", "1"):
        softmax(np.array([1.0]), 0.1)
    for tau in (0.0, -1.0, float("nan")):
        with refused("above 0"):
            softmax(SCORES, tau)
    with refused("finite"):
        softmax(np.array([1.0, np.inf]), 1.0)


@pytest.mark.parametrize("tau", [0.1, 1.0, 10.0])
def test_weights_sum_to_one_and_follow_the_order(tau):
    w = softmax(SCORES, tau)
    assert abs(w.sum() - 1) < 1e-12
    assert (np.argsort(-w) == np.argsort(SCORES)).all()
