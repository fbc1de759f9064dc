"""Transfer between tasks: hand-made matrices, planted categories found, none found where there are none."""

import numpy as np
import pytest

from subspace.task_transfer import gain, inside_and_across, relative, same_category, share

TASKS = ["a1", "a2", "b1", "b2", "c1"]
KINDS = {"a1": "a", "a2": "a", "b1": "b", "b2": "b", "c1": "c"}


def planted(n=12, kinds=4, seeds=2, effect=0.2, seed=0):
    rng = np.random.default_rng(seed)
    tasks = [f"t{i}" for i in range(n)]
    categories = {task: f"k{i % kinds}" for i, task in enumerate(tasks)}
    return effect * same_category(tasks, categories) + 0.02 * rng.standard_normal((seeds, n, n)), tasks, categories


def test_gain_and_relative_by_hand():
    scores = np.array([[0.8, 0.3], [0.4, 0.6]])
    np.testing.assert_allclose(gain(scores, [0.4, 0.5]), [[0.4, -0.2], [0.0, 0.1]])
    np.testing.assert_allclose(relative(scores), [[1.0, 0.5], [0.5, 1.0]])
    assert np.isnan(relative(np.array([[0.0, 1.0], [0.5, 1.0]]))[:, 0]).all()


def test_sides_by_hand():
    values = np.zeros((1, 5, 5))
    values[0, 1, 0], values[0, 0, 1] = 0.6, 0.2  # inside a
    values[0, 4] = 0.1  # c1 helps all
    values[0, :, 4] = 9.0  # nothing is inside with c1: not a target that is counted
    found = inside_and_across(values, TASKS, KINDS, draws=50)
    assert found.targets == 4
    assert found.inside == pytest.approx((0.6 + 0.2) / 4)
    assert found.across == pytest.approx(0.1 / 3)
    assert found.difference == pytest.approx(found.inside - found.across)


def test_planted_categories_are_found_and_absent_ones_are_not():
    values, tasks, categories = planted()
    found = inside_and_across(values, tasks, categories, draws=500)
    assert found.p < 0.01
    assert found.difference == pytest.approx(0.2, abs=0.02)
    assert found.difference_interval[0] > 0.15
    assert found.null_interval[1] < found.difference
    ps = [inside_and_across(*planted(effect=0.0, seed=seed), draws=200).p for seed in range(20)]
    assert sum(p < 0.1 for p in ps) <= 6
    assert np.mean(ps) == pytest.approx(0.5, abs=0.2)


def test_a_target_that_everything_helps_is_no_evidence():
    values, tasks, categories = planted(effect=0.0)
    values[:, :, 0] += 5.0
    found = inside_and_across(values, tasks, categories, draws=500)
    assert abs(found.difference) < 0.05
    assert found.p > 0.05


def test_the_share_is_a_quotient_of_sums():
    scores = np.array([[[0.9, 0.6, 0.5], [0.7, 0.7, 0.5], [0.5, 0.5, 0.5]]])
    pairs = np.zeros((3, 3), bool)
    pairs[1, 0] = pairs[0, 1] = True
    value, between = share(np.concatenate([scores, scores]), np.array([0.5, 0.5, 0.5]), pairs, ["x", "y", "z"])
    assert value == pytest.approx((0.2 + 0.1) / (0.4 + 0.2))
    assert between[0] <= value <= between[1]
    assert share(scores, np.array([0.9, 0.7, 0.5]), pairs, ["x", "y", "z"])[1] is None  # the own deltas gain nothing


def test_bad_matrices(refused):
    with refused("source × target"):
        inside_and_across(np.zeros((5, 5)), TASKS, KINDS)
    with refused("two tasks"):
        inside_and_across(np.zeros((1, 5, 5)), TASKS, dict(zip(TASKS, TASKS, strict=True)))
    with refused("two tasks"):
        inside_and_across(np.zeros((1, 5, 5)), TASKS, dict.fromkeys(TASKS, "a"))
