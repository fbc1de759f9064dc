"""Maps of few evaluations, against the whole map."""

import numpy as np
import pytest

import landscape

X, Y = np.meshgrid(np.linspace(-3, 3, 41), np.linspace(-3, 3, 41))
SURFACES = {
    "bowl": X**2 + 2 * Y**2,
    "two basins": 2 - 1.5 * np.exp(-((X - 1) ** 2) - (Y + 0.5) ** 2 / 2) - np.exp(-((X + 1.5) ** 2 + (Y - 1) ** 2) / 0.5),
    "valley": np.log1p(np.exp(3 * (X + Y))) + 0.3 * X**2,
    "noise": 2 - 1.5 * np.exp(-(X**2) - Y**2) + 0.005 * np.random.default_rng(0).standard_normal(X.shape),
}


class Counted:
    """A surface that counts how often it is asked, and refuses to be asked twice."""

    def __init__(self, surface):
        self.surface, self.seen = surface, set()

    def __call__(self, points):
        for point in map(tuple, points):
            assert point not in self.seen
            self.seen.add(point)
        return self.surface[points[:, 0], points[:, 1]]


@pytest.mark.parametrize("name", SURFACES)
def test_a_quarter_of_the_points_is_enough(name):
    counted = Counted(SURFACES[name])
    found = landscape.adaptive(counted, (41, 41), tolerance=0.02)
    assert found.evaluations == len(counted.seen) <= 41 * 41 / 4
    assert np.abs(found.values - SURFACES[name]).max() <= 0.02 * np.ptp(SURFACES[name])
    assert found.error <= 0.02 * found.range  # as it was measured on the way
    np.testing.assert_array_equal(found.values[found.known], SURFACES[name][found.known])


def test_a_tighter_tolerance_costs_more():
    loose, tight = (landscape.adaptive(Counted(SURFACES["two basins"]), (41, 41), tolerance=t) for t in (0.05, 0.002))
    assert loose.evaluations < tight.evaluations
    assert tight.error < loose.error


def test_a_bound_on_the_evaluations_is_kept_and_its_error_told():
    wild = np.random.default_rng(0).standard_normal((20, 20))
    found = landscape.adaptive(Counted(wild), (20, 20), most=90)
    assert found.evaluations == 90
    assert found.error > 0.1 * found.range  # noise cannot be filled in, and it says so


def test_all_of_a_small_lattice():
    found = landscape.adaptive(Counted(X[:3, :4]), (3, 4), tolerance=1e-9)
    assert found.known.all()
    assert found.error == 0


def test_a_hole_stays_one():
    surface = SURFACES["bowl"].copy()
    surface[20:, 20:] = np.nan
    found = landscape.adaptive(Counted(surface), (41, 41))
    assert np.isnan(found.values[25:, 25:]).mean() > 0.9
    assert np.isfinite(found.values[:15]).all()


def test_refusals(refused):
    with refused("2 × 2", "1 × 5"):
        landscape.adaptive(Counted(X), (1, 5))
    with refused("tolerance"):
        landscape.adaptive(Counted(X), (5, 5), tolerance=0)
