"""Which method is better: ranks and differences by hand, and that a difference is paired."""

import numpy as np
import pytest

from subspace.ranking import difference, mean_of, mean_ranks, neighbours

METHODS = {"a": {"x": [0.9, 0.7], "y": [0.5]}, "b": {"x": [0.6], "y": [0.5]}, "c": {"x": [0.1], "y": [0.8]}}


def test_ranks_by_hand():
    assert mean_ranks(METHODS) == pytest.approx({"a": (1 + 2.5) / 2, "b": (2 + 2.5) / 2, "c": (3 + 1) / 2})
    assert mean_ranks({**METHODS, "d": {"x": [1.0], "y": []}}) == {"a": 2.0, "b": 3.0, "c": 4.0, "d": 1.0}  # y is left out


def test_means_are_of_tasks():
    assert mean_of({"x": [0.0, 0.0, 0.0], "y": [1.0], "z": []}) == 0.5
    assert np.isnan(mean_of({}))


def test_a_difference_is_paired_by_task_and_seed():
    rng = np.random.default_rng(0)
    theirs = {f"t{i}": rng.random(3).tolist() for i in range(6)}
    ours = {task: [v + 0.01 for v in values] for task, values in theirs.items()}
    d = difference(ours, theirs)
    assert d.value == pytest.approx(0.01)
    assert d.interval == pytest.approx([0.01, 0.01])  # however much the tasks differ from each other
    assert (d.sign, d.tasks, difference(theirs, ours).sign) == (1, 6, -1)
    assert difference(dict(list(ours.items())[:5]), theirs).sign == 0  # five tasks point one way by chance once in sixteen
    assert difference(METHODS["a"], METHODS["c"]).value == pytest.approx((0.7 - 0.3) / 2)
    assert difference(METHODS["a"], METHODS["c"]).sign == 0
    assert difference({"x": [1.0]}, {"x": [0.5]}).interval is None  # one value has no interval


def test_neighbours_pass_over_what_is_missing():
    found = neighbours(("c", "none", "a", "b"), METHODS)
    assert list(found) == [("c", "a"), ("a", "b")]
    assert found["a", "b"].value == pytest.approx((0.2 + 0.0) / 2)


def test_nothing_in_common(refused):
    with refused("same tasks"):
        mean_ranks({"a": {"x": [1.0]}, "b": {"y": [1.0]}})
