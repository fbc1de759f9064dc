"""Deltas on a module of one's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import deltas


class Own(nnx.Module):
    """An MLP after attention, as anyone might write it."""

    def __init__(self, rngs):
        self.attention = nnx.MultiHeadAttention(num_heads=2, in_features=6, qkv_features=8, decode=False, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(6, 10, rngs=rngs), nnx.Linear(10, 6, use_bias=False, rngs=rngs)])
        self.norm = nnx.LayerNorm(6, rngs=rngs)
        self.out = nnx.Sequential(nnx.Linear(6, 4, rngs=rngs), jax.nn.tanh, nnx.Linear(4, 3, dtype=jnp.bfloat16, rngs=rngs))

    def __call__(self, x):
        x = self.norm(x + self.attention(x, x))
        return self.out(x + self.layers[1](jax.nn.gelu(self.layers[0](x))))


KINDS = (deltas.LoRA(rank=2, sites=("query", "value", "layers.0")), deltas.Adapter(bottleneck=2, sites=("attention.out", "layers.1")),
         deltas.BitFit(), deltas.IA3(sites=("key", "layers.1"), inputs=("layers.1",)))


@pytest.fixture
def model():
    return Own(nnx.Rngs(0))


@pytest.fixture(scope="module")
def x():
    return jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 6)), jnp.float32)


@pytest.mark.parametrize("config", KINDS, ids=lambda c: c.label)
def test_each_type_starts_as_the_model_and_learns(model, x, config):
    expected, before = model(x), nnx.to_flat_state(nnx.state(model))
    deltas.attach(model, config)
    np.testing.assert_allclose(model(x), expected, atol=1e-6)
    graphdef, delta, rest = nnx.split(model, deltas.Delta, ...)
    assert [path for path, _ in nnx.to_flat_state(rest)] == [path for path, _ in before]  # the model's own state is as it was
    loss = jax.jit(lambda delta: jnp.sum(jnp.square(nnx.merge(graphdef, delta, rest)(x) - 1.0)))
    for _ in range(3):
        delta = jax.tree.map(lambda p, g: p - 0.01 * g, delta, jax.grad(loss)(delta))
    assert float(loss(delta)) < float(jnp.sum(jnp.square(expected - 1.0)))
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(jax.grad(loss)(delta)))
    deltas.detach(model, config.label)
    np.testing.assert_allclose(model(x), expected, atol=1e-6)


def test_in_any_order(model, x):
    expected = model(x)
    for config in KINDS:
        deltas.attach(model, config)
    for name in ("ia3", "lora", "bitfit", "adapter"):
        deltas.detach(model, name)
    np.testing.assert_allclose(model(x), expected, atol=1e-6)
    assert not any(site.order for site in deltas.sites(model).values())


@pytest.mark.parametrize("config", [KINDS[0], KINDS[2], KINDS[3], deltas.Full(sites=("query", "layers.0"))], ids=lambda c: c.label)
def test_merging(model, x, config):
    deltas.attach(model, config)
    state = nnx.state(model, deltas.Delta)
    nnx.update(model, jax.tree.map(lambda p: p + 0.3, state))
    expected, shapes = model(x), {path: leaf.shape for path, leaf in nnx.to_flat_state(nnx.state(model.attention.query))}
    deltas.merge(model, config.label)
    np.testing.assert_allclose(model(x), expected, atol=2e-2)  # the last map is bfloat16
    assert model.attention.query.kernel.shape == shapes[("kernel",)]
    deltas.unmerge(model, config.label)
    np.testing.assert_array_equal(model(x), expected)


def test_names_and_refusals(model, refused):
    with refused("'q_proj'"):
        deltas.attach(model, deltas.LoRA(sites=("q_proj",)))
    assert {"attention.query", "attention.out", "layers.0", "out.layers.2"} <= set(deltas.sites(model))
    with refused("start"):
        deltas.attach(deltas.load_backbone("tiny").module, deltas.Prefix(length=2))
