"""Parameters ↔ one vector."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltas import Layout

shapes = st.lists(st.lists(st.integers(1, 4), max_size=3).map(tuple), min_size=1, max_size=6)


def layout_of(sizes):
    return Layout(tuple(f"p.{i}" for i in range(len(sizes))), tuple(sizes))


@settings(max_examples=25, deadline=None)
@given(shapes, st.integers(0, 2**32 - 1))
def test_round_trip(sizes, seed):
    layout, rng = layout_of(sizes), np.random.default_rng(seed)
    parameters = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in zip(layout.names, sizes, strict=True)}
    theta = layout.flatten(dict(reversed(parameters.items())))  # the order of the dictionary is of no matter
    assert theta.shape == (layout.size,) == (sum(math.prod(s) for s in sizes),)
    assert theta.dtype == np.float32
    np.testing.assert_array_equal(theta, np.concatenate([p.ravel() for p in parameters.values()]))
    back = layout.unflatten(theta)
    assert list(back) == list(layout.names)
    jax.tree.map(np.testing.assert_array_equal, back, parameters)
    for name, start in zip(layout.names, layout.offsets, strict=True):
        np.testing.assert_array_equal(theta[start : start + parameters[name].size], parameters[name].ravel())


@settings(max_examples=15, deadline=None)
@given(shapes)
def test_json_round_trip(sizes):
    layout = layout_of(sizes)
    assert Layout.from_json(json.loads(json.dumps(layout.to_json()))) == layout


def test_leading_axes_are_kept():
    layout = layout_of([(2, 3), (), (4,)])
    thetas = np.arange(2 * 5 * 11, dtype=np.float32).reshape(2, 5, 11)
    whole, vmapped = layout.unflatten(thetas), jax.vmap(jax.vmap(layout.unflatten))(thetas)
    assert {n: v.shape for n, v in whole.items()} == {"p.0": (2, 5, 2, 3), "p.1": (2, 5), "p.2": (2, 5, 4)}
    jax.tree.map(np.testing.assert_array_equal, whole, vmapped)


def test_the_gradient_is_put_together_once():
    """And not summed from a vector of D numbers for every parameter: that is what full fine-tuning would spend its time and memory on."""
    layout = layout_of([(2, 3), (), (4,)])
    slope = jax.grad(lambda theta: sum(jnp.sum(p**2) for p in layout.unflatten(theta).values()))
    theta = jnp.arange(11.0)
    np.testing.assert_array_equal(slope(theta), 2 * theta)
    used = {str(e.primitive) for e in jax.make_jaxpr(slope)(theta).jaxpr.eqns}
    assert "concatenate" in used
    assert "pad" not in used


def test_refusals(refused):
    layout = layout_of([(2,), (3,)])
    with refused("p.1"):
        layout.flatten({"p.0": np.zeros(2)})
    with refused("'p.9'"):
        layout.flatten({"p.0": np.zeros(2), "p.1": np.zeros(3), "p.9": np.zeros(1)})
    with refused("5", "6"):
        layout.unflatten(np.zeros(6))


@pytest.mark.parametrize("shape", [(3,), (1, 2), ()])
def test_a_parameter_of_another_shape_is_refused(refused, shape):
    layout = layout_of([(2, 1), (3,)])
    with refused("p.0", "(2, 1)", str(shape)):
        layout.flatten({"p.0": np.zeros(shape), "p.1": np.zeros(3)})
