"""Search by forward passes alone: what it minimises, what it costs, and that a seed says it all."""

import numpy as np
import pytest
from small_spaces import READING, random_space

from deltas import evaluate
from subspace.gradient_free import Losses, minimise, search
from subspace.optimize import attach_all

TARGET = np.array([1.0, -0.5, 0.3, 0.0])


def bowl(points):
    """A valley a hundred times as steep one way as the other, lowest at the target."""
    return ((points - TARGET) ** 2 * np.array([100.0, 1.0, 10.0, 1.0])).sum(1)


def test_the_bottom_of_a_valley_is_found():
    last = list(minimise(bowl, 4, evaluations=1200, seed=1))[-1]
    np.testing.assert_allclose(last.best, TARGET, atol=1e-3)
    np.testing.assert_allclose(last.mean, TARGET, atol=1e-3)
    assert last.evaluations <= 1200
    assert len(list(minimise(lambda z: (z[:, 0] - 2) ** 2, 1, evaluations=40))) == 10  # one dimension is a dimension


def test_a_seed_says_it_all_and_the_global_one_is_left_alone():
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    found = [list(minimise(bowl, 4, evaluations=80, seed=s))[-1].mean for s in (3, 3, 4)]
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[0] - found[2]).max() > 1e-3


def test_what_is_not_finite_is_avoided():
    def walled(points):
        return np.where(points[:, 0] > 0.8, np.nan, bowl(points))

    last = list(minimise(walled, 4, evaluations=400))[-1]
    assert last.best[0] <= 0.8
    assert bowl(last.best[None]) < bowl(np.zeros((1, 4)))
    assert len(list(minimise(lambda z: np.full(len(z), np.inf), 4, evaluations=400))) == 1  # nothing to go by


@pytest.fixture(scope="module")
def space(tmp_path_factory, attached):
    return random_space(tmp_path_factory.mktemp("bank"), [attached["lora"]])


def test_search_beats_the_mean_solution(space, backbone, small_tasks):
    task, told = small_tasks[2], []
    options = {"evaluations": 48, "population": 8, "rows": 8, "look_every": 3, "dev_rows": 8, "test_rows": 8, "reading": READING}
    found = search(space, backbone, task, "lora", on_progress=told.append, **options)
    start, *_, end = found.history
    assert (start["step"], start["evaluations"], start["forward"]) == (0, 0, 0)
    assert (end["evaluations"], end["forward"], found.forward, found.backward) == (48, 48 * 8, 48 * 8, 0)
    assert sum(told) == 48
    assert [look["step"] for look in found.history] == [0, 3, 6]
    assert end["dev_loss"] < start["dev_loss"] - 0.05
    at_z, at_0 = evaluate(attach_all(space, backbone, "lora"), space.decode("lora", np.stack([found.z, 0 * found.z])), task, "dev",
                          reading=READING, rows=8)
    assert (found.dev, at_z.loss < at_0.loss) == (at_z.score, True)
    again = search(space, backbone, task, "lora", **options)
    np.testing.assert_array_equal(again.z, found.z)
    assert again.history == found.history


def test_the_loss_is_that_of_the_rows_and_no_candidate_knows_its_neighbours(space, backbone, small_tasks):
    member = attach_all(space, backbone, "lora")
    points = np.random.default_rng(0).standard_normal((5, 2))
    together = Losses(space, (member,), small_tasks[2], READING, 8)
    found = together(points)
    np.testing.assert_allclose(together(points[3:4]), found[3:4], rtol=1e-5)
    wanted = [score.loss for score in evaluate(member, space.decode("lora", points), small_tasks[2], "train", reading=READING)]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_refusals(space, backbone, small_tasks, refused):
    with refused("10", "4"):
        search(space, backbone, small_tasks[0], "lora", evaluations=4, population=10)
    with refused("'prefix'"):
        search(space, backbone, small_tasks[0], "prefix")
