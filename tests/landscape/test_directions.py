"""Directions of comparable length, and the plane of a trajectory."""

import numpy as np
import pytest

import landscape
from deltas.layout import Layout

LAYOUT = Layout(("kernel", "bias", "dead"), ((4, 3), (3,), (2, 2)))


@pytest.fixture
def x():
    values = np.random.default_rng(0).standard_normal(LAYOUT.size).astype(np.float32)
    values[LAYOUT.offsets[2] :] = 0  # as B of a LoRA before training
    return values


def parts(direction):
    return [direction[:12].reshape(4, 3), direction[12:15], direction[15:].reshape(2, 2)]


def test_filters_have_the_lengths_of_those_they_move(x):
    for direction in landscape.random_directions(x, LAYOUT, seed=1):
        kernel, bias, dead = parts(direction)
        np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), np.linalg.norm(x[:12].reshape(4, 3), axis=0), rtol=1e-5)
        assert not bias.any()
        assert not dead.any()  # and no division by its length
    moved = landscape.random_directions(x, LAYOUT, vectors=True)[0]
    np.testing.assert_allclose(np.linalg.norm(moved[12:15]), np.linalg.norm(x[12:15]), rtol=1e-5)


def test_a_function_that_does_not_change_when_filters_are_scaled_looks_the_same(x):
    """The reason for it: filter j up, what follows it down; the same curve along the scaled direction."""
    a, b = np.float32([1, 10, 0.1]), x.copy()
    b[:12] = (x[:12].reshape(4, 3) * a).reshape(-1)
    first, second = landscape.random_directions(x, LAYOUT, seed=3)[0], landscape.random_directions(b, LAYOUT, seed=3)[0]
    np.testing.assert_allclose(parts(first)[0] * a, parts(second)[0], rtol=1e-5)


def test_parameters_as_wholes(x):
    direction = landscape.random_directions(x, LAYOUT, normalise="layer")[0]
    for own, wanted in zip(parts(direction), parts(x), strict=True):
        np.testing.assert_allclose(np.linalg.norm(own), np.linalg.norm(wanted), rtol=1e-5)
    plain = landscape.random_directions(x, LAYOUT, normalise="none")[0]
    np.testing.assert_allclose(np.linalg.norm(plain), np.linalg.norm(x), rtol=1e-5)


def test_the_plane_of_a_trajectory():
    rng = np.random.default_rng(0)
    u, v = np.linalg.qr(rng.standard_normal((9, 2)))[0].T
    t = np.linspace(1, 0, 12)[:, None]
    way = 3 + 4 * t * u + np.sin(3 * t) * t * v + 1e-4 * rng.standard_normal((12, 9))
    found = landscape.of_trajectory(way)
    assert found.share.sum() > 0.999
    np.testing.assert_allclose(found.end + found.points @ found.directions, way, atol=1e-3)
    np.testing.assert_array_equal(found.points[-1], 0)


def test_refusals(refused, x):
    with refused("filter", "layer", "'nothing'"):
        landscape.random_directions(x, LAYOUT, normalise="nothing")  # type: ignore[arg-type]
    with refused("19 numbers", "(3,)"):
        landscape.random_directions(x[:3], LAYOUT)
    with refused("all 0"):
        landscape.random_directions(np.zeros(LAYOUT.size), LAYOUT)
    with refused("at least 3 points"):
        landscape.of_trajectory(np.eye(2))
    with refused("on a line"):
        landscape.of_trajectory(np.outer(np.arange(4), np.ones(5)))
