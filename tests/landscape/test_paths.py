"""Paths around and over barriers that are known."""

import jax.numpy as jnp
import numpy as np
import pytest

import landscape
from deltas.layout import Layout
from deltas.types import LoRA
from subspace.gauges import sites_of

A, B = np.float32([-1, 0, 0]), np.float32([1, 0, 0])


def ring(point, batch=None):
    """Low on the unit circle of the first two coordinates, 1 in its middle."""
    return (jnp.hypot(point[0], point[1] + 1e-9) - 1) ** 2 + point[2] ** 2


def on_ring(points):
    return (np.hypot(points[:, 0], points[:, 1]) - 1) ** 2 + points[:, 2] ** 2


def test_the_barrier_of_a_line_is_known():
    found = landscape.profile(on_ring, landscape.straight(A, B), points=21)
    assert found.barrier == pytest.approx(1, abs=1e-6)
    assert found.t[np.argmax(found.values)] == 0.5
    convex = landscape.profile(lambda p: np.sum(p**2, axis=1), landscape.straight(A, B))
    assert convex.barrier == 0
    tilted = landscape.profile(lambda p: p[:, 0], landscape.straight(A, B))
    assert tilted.barrier == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("kind", "bends", "highest"), [("bezier", 1, 0.15), ("bezier", 3, 0.02), ("polygonal", 3, 0.1)])
def test_a_curve_goes_around(kind, bends, highest):
    path = landscape.connected(ring, A, B, lambda step: None, kind=kind, bends=bends, steps=400, learning_rate=0.05, seed=2)
    np.testing.assert_array_equal(path.knots[[0, -1]], [A, B])
    assert len(path.knots) == bends + 2
    assert landscape.profile(on_ring, path, points=101).barrier < highest
    assert 1.2 < path.detour < 2.0  # half a circle is π / 2
    assert path.history[-1]["loss"] < path.history[0]["loss"]


def test_a_training_that_was_stopped_goes_on_to_the_same_curve():
    kept, seen = [], []
    options = {"kind": "polygonal", "bends": 2, "steps": 30, "learning_rate": 0.05, "seed": 4}
    whole = landscape.connected(ring, A, B, lambda step: None, on_tenth=kept.append, **options)
    assert [state.step for state in kept] == list(range(3, 31, 3))
    again = landscape.connected(ring, A, B, lambda step: None, earlier=kept[3], on_step=lambda step, loss: seen.append(step), **options)
    np.testing.assert_array_equal(again.knots, whole.knots)
    assert again.history == whole.history
    assert seen == list(range(13, 31))


def test_curves_are_what_their_formulas_say():
    knots, t = np.array([[0.0], [2.0], [0.0]]), np.array([0, 0.25, 0.5, 1])
    np.testing.assert_allclose(landscape.Path(kind="bezier", knots=knots).at(t)[:, 0], 4 * t * (1 - t))
    np.testing.assert_allclose(landscape.Path(kind="polygonal", knots=knots).at(t)[:, 0], [0, 1, 2, 0])
    np.testing.assert_allclose(landscape.straight(A, B).at(t), np.outer(1 - t, A) + np.outer(t, B))
    assert landscape.straight(A, B).length() == pytest.approx(2)


def test_two_gauges_of_one_lora_have_a_barrier_until_they_are_aligned():
    """f depends on A B alone; halfway between two gauges A B is another matrix."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((6, 2)), rng.standard_normal((2, 5))
    gauge, _ = np.linalg.qr(rng.standard_normal((2, 2)))
    layout, wanted = Layout(("x.a", "x.b"), ((6, 2), (2, 5))), a @ b
    first, second = (np.concatenate([p.ravel(), q.ravel()]) for p, q in ((a, b), (-a @ gauge, -gauge.T @ b)))

    def f(points):
        return np.array([np.sum((p[:12].reshape(6, 2) @ p[12:].reshape(2, 5) - wanted) ** 2) for p in points])

    assert landscape.profile(f, landscape.straight(first, second)).barrier > 1
    (site,) = sites_of(LoRA(rank=2), layout)
    aligned = [theta.copy() for theta in (first, second)]
    for theta in aligned:
        site.write(theta, site.canonical(site.read(theta)))
    turned = aligned[1].copy()
    site.write(turned, site.towards(site.read(aligned[1]), site.read(aligned[0])))
    np.testing.assert_allclose(turned, aligned[0], atol=1e-9)  # one function, one form: nothing is left to walk
    turned[0] += 1e-3
    assert landscape.profile(f, landscape.straight(aligned[0], turned)).barrier < 1e-6


def test_a_hole_has_no_finite_barrier():
    found = landscape.profile(lambda p: np.where(p[:, 0] == 0, np.nan, 1.0), landscape.straight(A, B))
    assert found.barrier == np.inf


def test_refusals(refused):
    with refused("one size"):
        landscape.straight(A, B[:2])
    with refused("different finite"):
        landscape.straight(A, A)
    with refused("'bezier' or 'polygonal'"):
        landscape.connected(ring, A, B, lambda step: None, kind="straight")  # type: ignore[arg-type]
    with refused("at least one bend"):
        landscape.connected(ring, A, B, lambda step: None, bends=0)
    with refused("at least 3 points"):
        landscape.profile(on_ring, landscape.straight(A, B), points=2)
    with refused("finite loss", "step 1"):
        landscape.connected(lambda p, batch: p[0] * jnp.nan, A, B, lambda step: None)
