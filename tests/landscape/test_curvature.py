"""Curvature against matrices that are known: quadratics, and a small network whose Hessian is formed whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape import curvature


def known(size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A symmetric matrix and its eigenvalues, of both signs and one double."""
    rng = np.random.default_rng(seed)
    values = np.sort(np.concatenate([[9.0, 5.0, 5.0, -7.0], rng.uniform(-1, 1, size - 4)]))[::-1]
    turn, _ = np.linalg.qr(rng.standard_normal((size, size)))
    return (turn * values) @ turn.T, values


@pytest.fixture(scope="module")
def network():
    """The loss of a small network at a point, its Hessian formed whole, and what Gauss and Newton take of it."""
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.standard_normal((20, 3)), jnp.float32), jnp.asarray(rng.integers(0, 4, 20))
    point = jnp.asarray(0.5 * rng.standard_normal(3 * 5 + 5 * 4), jnp.float32)

    def outputs(v):
        return jnp.tanh(x @ v[:15].reshape(3, 5)) @ v[15:].reshape(5, 4)

    def outer(logits):
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(20), y])

    jacobian = jax.jacobian(outputs)(point).reshape(80, -1)
    inner = jax.hessian(lambda flat: outer(flat.reshape(20, 4)))(outputs(point).reshape(-1))
    return outputs, outer, point, np.asarray(jax.hessian(lambda v: outer(outputs(v)))(point)), np.asarray(jacobian.T @ inner @ jacobian)


def test_products_are_those_of_the_whole_matrix(network):
    outputs, outer, point, whole, gauss = network
    for product, wanted in ((curvature.hessian(lambda v: outer(outputs(v)), point), whole),
                            (curvature.gauss_newton(outputs, outer, point), gauss)):
        np.testing.assert_allclose(curvature.matrix_of(product, len(point)), wanted, atol=2e-6)
    assert np.linalg.eigvalsh(gauss)[0] > -1e-6


@pytest.mark.parametrize("size", [12, 300])
def test_the_largest_eigenvalues_of_both_signs(size):
    a, _ = known(size)
    found = curvature.eigenvalues(lambda v: a @ v, size, 4, tolerance=1e-8)
    # a Krylov space of one start holds one vector of a double eigenvalue
    np.testing.assert_allclose(found.values[:3], [9, -7, 5], rtol=1e-6)
    np.testing.assert_allclose(a @ found.vectors[0], 9 * found.vectors[0], atol=1e-5)
    assert np.all(np.abs(a @ found.vectors.T - found.vectors.T * found.values).max(0) <= found.errors + 1e-8)


def test_eigenvalues_of_a_network(network):
    outputs, outer, point, whole, _ = network
    found = curvature.eigenvalues(curvature.hessian(lambda v: outer(outputs(v)), point), len(point), 5)
    exact = sorted(np.linalg.eigvalsh(whole), key=lambda v: -abs(v))[:5]
    np.testing.assert_allclose(found.values, exact, rtol=1e-3)


def test_the_trace_lies_in_its_interval(network):
    a, values = known(60)
    inside = [curvature.trace(lambda v: a @ v, 60, probes=16, seed=seed) for seed in range(40)]
    assert sum(t.low <= values.sum() <= t.high for t in inside) >= 34  # 95 % of 40 are 38
    diagonal = curvature.trace(lambda v: np.arange(5.0) * v, 5, probes=2)
    assert diagonal.value == diagonal.low == diagonal.high == 10.0  # signs know a diagonal exactly


def test_the_density_is_that_of_the_eigenvalues():
    a, values = known(200)
    found = curvature.spectral_density(lambda v: a @ v, 200, probes=200, steps=40, width=0.3)
    exact = np.exp(-0.5 * ((found.at[:, None] - values) / 0.3) ** 2).mean(1) / (0.3 * np.sqrt(2 * np.pi))
    step = found.at[1] - found.at[0]
    assert np.sum(found.density) * step == pytest.approx(1, abs=1e-3)
    assert np.abs(found.density - exact).sum() * step < 0.06  # twice the total variation
    assert found.moment(2) == pytest.approx(np.mean(values**2), rel=0.15)


def test_a_space_that_closes_is_exact():
    a = np.diag([3.0, 3.0, 1.0, 0.0])
    found = curvature.lanczos(lambda v: a @ v, np.array([1.0, 0, 1, 0]), 4)
    assert len(found.diagonal) == 2
    assert found.residual == 0
    np.testing.assert_allclose(found.eigen()[0], [3, 1], atol=1e-12)


def test_no_product_is_made_twice_and_none_that_is_not_needed():
    a, _ = known(300)
    made = []
    found = curvature.eigenvalues(lambda v: made.append(v) or a @ v, 300, 3, tolerance=1e-3)
    assert len(made) < 40
    assert found.errors.max() <= 9e-3
    assert len(np.unique(np.round(made, 9), axis=0)) == len(made)


def test_a_whole_matrix_has_all_its_eigenvalues():
    a, values = known(12)
    found = curvature.eigenvalues_of(a)
    np.testing.assert_allclose(found.values, sorted(values, key=lambda v: -abs(v)), atol=1e-12)
    np.testing.assert_allclose(a @ found.vectors.T, found.vectors.T * found.values, atol=1e-12)
    spread = curvature.smoothed(values, np.full(12, 1 / 12), width=0.5)
    assert spread.moment(1) == pytest.approx(np.trace(a) / 12)
    assert np.sum(spread.density) * (spread.at[1] - spread.at[0]) == pytest.approx(1, abs=1e-3)


def test_students_interval_is_that_of_the_mean():
    values = np.array([[1.0, 5.0], [3.0, 5.0], [2.0, 5.0]])
    mean, half = curvature.student(values)
    np.testing.assert_allclose(mean, [2, 5])
    np.testing.assert_allclose(half, [4.302653 / np.sqrt(3), 0], atol=1e-5)
    assert np.isnan(curvature.student(values[:1])[1]).all()


def test_refusals(refused):
    with refused("between 1 and 3", "got 4"):
        curvature.eigenvalues(lambda v: v, 3, 4)
    with refused("2 probes"):
        curvature.trace(lambda v: v, 3, probes=1)
    with refused("finite"):
        curvature.lanczos(lambda v: v * np.nan, np.ones(3), 2)
