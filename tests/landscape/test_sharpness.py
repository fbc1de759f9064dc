"""Sharpness of quadratics, whose worst and average case in a ball are known, and what scaling does not change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

from landscape.sharpness import average_case, worst_case


def quadratic(matrix, slope):
    """½ xᵀ A x + gᵀ x and its gradient."""
    return lambda x: (0.5 * x @ matrix @ x + slope @ x, matrix @ x + slope)


def highest(matrix, slope, radius):
    """max over the ball: ε = (λ − A)⁻¹ g with λ ≥ λ₁ such that ‖ε‖ = ρ, where A bends up or g is long enough."""
    values, vectors = np.linalg.eigh(matrix)
    g = vectors.T @ slope
    top = brentq(lambda shift: np.linalg.norm(g / (shift - values)) - radius, values[-1] + 1e-12, values[-1] + 1e4)
    epsilon = g / (top - values)
    return 0.5 * epsilon @ (values * epsilon) + g @ epsilon


@pytest.fixture(scope="module")
def bowl():
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.standard_normal((12, 12)))
    values = np.array([8.0, 5, 3, *np.linspace(-4, 2, 9)])
    return (turn * values) @ turn.T, rng.standard_normal(12)


@pytest.mark.parametrize("radius", [0.05, 0.4, 2.0])
def test_the_worst_in_a_ball_is_that_of_the_quadratic(bowl, radius):
    matrix, slope = bowl
    found = worst_case(quadratic(matrix, slope), np.zeros(12), radius, steps=60)
    assert found.value == pytest.approx(highest(matrix, slope, radius), rel=1e-3)
    # SAM's step: straight up the gradient to the edge
    step = radius * slope / np.linalg.norm(slope)
    assert found.first == pytest.approx(0.5 * step @ matrix @ step + slope @ step)
    assert found.rises[0] == pytest.approx(found.first)
    assert list(found.rises) == sorted(found.rises)
    assert np.linalg.norm(found.epsilon) == pytest.approx(radius, rel=1e-6)
    assert quadratic(matrix, slope)(found.epsilon)[0] == pytest.approx(found.value, rel=1e-5)


def test_at_a_minimum_it_is_half_the_largest_eigenvalue():
    matrix = np.diag([5.0, 1, 0.5, 0])
    found = worst_case(quadratic(matrix, np.zeros(4)), np.zeros(4), 0.1, steps=20)
    assert found.value == pytest.approx(0.5 * 5 * 0.01, rel=1e-4)
    assert abs(found.epsilon[0]) == pytest.approx(0.1, rel=1e-3)
    assert worst_case(quadratic(-matrix, np.zeros(4)), np.zeros(4), 0.1).value < 1e-4  # a top: nothing rises but along the flat axis


def test_the_average_is_that_of_the_trace(bowl):
    matrix, slope = bowl
    f, wanted = (lambda x: quadratic(matrix, slope)(x)[0]), 0.3**2 * np.trace(matrix) / 24
    for over in ("sphere", "gaussian"):
        inside = [average_case(f, np.zeros(12), 0.3, over=over, draws=30, seed=seed) for seed in range(40)]
        assert sum(found.low <= wanted <= found.high for found in inside) >= 34
        assert np.mean([found.value for found in inside]) == pytest.approx(wanted, abs=0.007)


def test_a_relative_radius_is_a_share_of_the_point(bowl):
    matrix, slope = bowl
    x = np.full(12, 0.5)
    one = worst_case(quadratic(matrix, slope), x, 0.1 * np.sqrt(3))
    other = worst_case(quadratic(matrix, slope), x, 0.1, relative=True)
    assert one.radius == pytest.approx(other.radius)
    assert one.value == pytest.approx(other.value)


def test_what_is_scaled_does_not_feel_a_rescaling():
    """f sees products alone: weights twice as large beside weights half as large are one function, whose plain sharpness differs."""
    slope = jax.jit(jax.value_and_grad(lambda x: jnp.sum((x[:3] * x[3:] - 1.2) ** 2)))
    x = np.array([1.0, -0.5, 2.0, 1.0, 1.5, 0.7], np.float32)
    turned = x * np.array([4, 4, 4, 0.25, 0.25, 0.25], np.float32)
    plain = [worst_case(slope, at, 0.1).value for at in (x, turned)]
    scaled = [worst_case(slope, at, 0.1, scale=np.abs(at)).value for at in (x, turned)]
    assert plain[1] > 1.5 * plain[0]
    assert scaled[0] == pytest.approx(scaled[1], rel=1e-4)
    means = [average_case(lambda at: slope(at)[0], at, 0.1, scale=np.abs(at)).value for at in (x, turned)]
    assert means[0] == pytest.approx(means[1], rel=1e-3)
    still = worst_case(slope, x, 0.1, scale=np.array([1.0, 0, 0, 0, 0, 0]))
    assert (still.epsilon[0] != 0, *(still.epsilon[1:] == 0)) == (True,) * 6


def test_refusals(refused):
    up = quadratic(np.eye(2), np.ones(2))
    with refused("radius above 0", "length 0"):
        worst_case(up, np.zeros(2), 0.1, relative=True)
    with refused("radius above 0"):
        worst_case(up, np.zeros(2), -1)
    with refused("one step"):
        worst_case(up, np.zeros(2), 1, steps=0)
    with refused("scale", "shape (3,)"):
        worst_case(up, np.zeros(2), 1, scale=np.ones(3))
    with refused("scale", "relative"):
        worst_case(up, np.ones(2), 1, scale=np.ones(2), relative=True)
    with refused("finite in the ball", "nan"):
        worst_case(lambda x: (np.nan if x[0] > 0 else 0.0, np.ones(2)), np.zeros(2), 1)
    with refused("2 draws"):
        average_case(lambda x: up(x)[0], np.zeros(2), 1, draws=1)
    with refused("'sphere' or a 'gaussian'", "'cube'"):
        average_case(lambda x: up(x)[0], np.zeros(2), 1, over="cube")  # type: ignore[arg-type]
