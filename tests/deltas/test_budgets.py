"""Budgets and what is read from curves over them: by hand, and as laws."""

import numpy as np
import pytest

from deltas.budgets import budgets_between, lasting, log_grid, spread, threshold

P = [10, 100, 1000, 10000]


def curves(*lines):
    """One task and one seed, a structure a line."""
    return np.array(lines, float)[None, :, None, :]


def test_the_grid_is_even_in_the_logarithm_and_ends_exactly():
    assert log_grid(10, 10000, 4) == P
    grid = log_grid(384, 11502624, 7)
    assert (grid[0], grid[-1]) == (384, 11502624)
    ratios = np.array(grid[1:]) / np.array(grid[:-1])
    np.testing.assert_allclose(ratios, (11502624 / 384) ** (1 / 6), rtol=1e-2)
    assert budgets_between([4, 16, 80], 2) == [4, 100]
    assert budgets_between([4, 16, 80], 2, 5, 50) == [5, 50]


def test_grids_that_there_are_not(refused):
    with refused("at least 2 budgets", "1"):
        log_grid(1, 10, 1)
    with refused("differ", "9"):
        log_grid(1, 4, 9)
    for bounds in ((10, 10), (0, 5)):
        with refused("below the largest", str(bounds[0])):
            log_grid(*bounds, 3)
    for least, most, what in ((3, None, "least"), (None, 101, "largest")):
        with refused(what, "4 (the smallest group) to 100 (all groups)", str(least or most)):
            budgets_between([4, 16, 80], 3, least, most)


def test_what_lasts():
    """A level that is lost again at a larger budget does not count before."""
    margins = np.array([[-1, 0, 1, 2], [1, -1, 0.5, 1], [1, 1, 1, -1], [0, 0, 0, 0]])
    np.testing.assert_array_equal(lasting(P, margins), [100, 1000, np.inf, 10])
    np.testing.assert_array_equal(lasting(P, margins, strict=True), [1000, 1000, np.inf, np.inf])


def test_p_low_and_p_high_by_hand():
    scores, chance, full = curves([0.5, 0.5, 0.8, 0.92], [0.5, 0.6, 0.8, 0.9]), np.array([[0.5]]), np.array([[0.9, 0.94]])
    low = threshold(P, scores, chance, 0.05, strict=True)
    assert low.value == 1000  # the mean at 100 is 0.55, not above 0.5 + 0.05
    assert (low.low, low.high, low.reached) == (100, 1000, 1.0)  # drawn twice, the second structure is above at 100; the first is not
    high = threshold(P, scores, full, -0.05)
    assert (high.value, high.low, high.high, high.reached) == (10000, 10000, 10000, 1.0)  # 0.91 against 0.92 − 0.05
    never = threshold(P, scores, np.array([[0.99]]), -0.05)
    assert (never.value, never.low, never.high, never.reached) == (None, None, None, 0.0)


def test_an_interval_may_be_open_above():
    found = threshold(P, curves([0.5, 0.9, 0.9, 0.9], [0.5, 0.5, 0.5, 0.5]), np.array([[0.9]]), -0.05)
    assert (found.value, found.low, found.high) == (None, 100, None)
    assert found.reached == pytest.approx(0.25, abs=0.03)  # both draws are the first structure


def test_seeds_count_within_their_structure_and_tasks_are_drawn_with_their_reference():
    """Two seeds of one structure weigh as much as the one of the other; a task that is easy by chance is not better."""
    scores = np.array([[[[0.5, 1.0], [0.5, 1.0]], [[0.5, 0.2], [np.nan, np.nan]]]])
    assert threshold([1, 10], scores, np.array([[0.6]]), 0.0).value is not None  # (1.0 + 0.2) / 2, not (1 + 1 + 0.2) / 3
    assert threshold([1, 10], scores, np.array([[0.61]]), 0.0).value is None
    shifted = np.stack([np.full((1, 1, 2), 0.3), np.full((1, 1, 2), 0.8)])
    same = threshold([1, 10], shifted, np.array([[0.2], [0.7]]), 0.05, strict=True)
    assert (same.value, same.low, same.high, same.reached) == (1, 1, 1, 1.0)
    assert threshold([1, 10], shifted, np.array([[0.2], [0.7]]), 0.15).reached == 0.0


def test_the_same_seed_gives_the_same_interval():
    rng = np.random.default_rng(0)
    scores, chance = rng.random((2, 3, 2, 4)), np.array([[0.4], [0.5]])
    assert threshold(P, scores, chance, 0.05) == threshold(P, scores, chance, 0.05)


def test_noise_is_taken_off_the_spread_of_structures():
    """By hand: means 0.2 and 0.4 vary by 0.02, the seeds by 0.005 within, of which half is in each mean."""
    found = spread(np.array([[0.15, 0.25], [0.35, 0.45]]))
    assert found.noise == pytest.approx(0.005)
    assert found.structure == pytest.approx(0.02 - 0.005 / 2)
    alone = spread(np.array([[0.15, 0.25], [0.4, np.nan]]))
    assert (alone.noise, alone.structure) == (pytest.approx(0.005), pytest.approx(0.02 - 0.005 * 0.75))
    assert spread(np.array([[0.1], [0.3]])).noise is None
    assert spread(np.array([[0.1], [0.3]])).structure == pytest.approx(0.02)
    assert spread(np.array([[0.1, 0.3]])).structure is None


def test_the_spread_is_unbiased():
    rng = np.random.default_rng(1)
    for true in (0.0, 0.04):
        drawn = [spread(rng.normal(0, np.sqrt(true), (3, 1)) + rng.normal(0, 0.3, (3, 2))) for _ in range(4000)]
        assert np.mean([d.structure for d in drawn]) == pytest.approx(true, abs=0.006)
        assert np.mean([d.noise for d in drawn]) == pytest.approx(0.09, abs=0.006)
