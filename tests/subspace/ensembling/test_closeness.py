"""Closeness against scipy and values computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import rel_entr, softmax
from scipy.stats import entropy

from subspace.ensembling import closeness


def test_divergence_is_scipys_with_zeros_on_either_side():
    p = np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5], [1.0, 0.0, 0.0]], np.float32)
    q = np.array([[0.25, 0.5, 0.25], [0.2, 0.3, 0.5], [0.5, 0.0, 0.5]], np.float32)
    found = np.asarray(closeness.divergence(jnp.asarray(p), jnp.asarray(q)))
    np.testing.assert_allclose(found, rel_entr(p, q).sum(-1), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found, [entropy(a, b) for a, b in zip(p, q, strict=True)], rtol=1e-5, atol=1e-7)
    assert np.isinf(closeness.divergence(jnp.asarray(q[2]), jnp.asarray(p[2])))  # what has a chance must not be impossible


def test_el2n_and_cosine_by_hand():
    p, y = jnp.array([[0.6, 0.4], [0.0, 1.0], [1.0, 0.0]]), jnp.array([0, 1, 1])
    np.testing.assert_allclose(closeness.el2n(p, y), [np.sqrt(0.4**2 + 0.4**2), 0.0, np.sqrt(2)], rtol=1e-6)
    np.testing.assert_allclose(closeness.label_cosine(p, y), [0.6 / np.sqrt(0.52), 1.0, 0.0], rtol=1e-6)


def test_sums_over_the_tokens_that_count():
    rng = np.random.default_rng(0)
    logits, reference = rng.standard_normal((2, 3, 2, 5)).astype(np.float32)
    targets, mask = rng.integers(0, 5, (3, 2)), np.array([[1, 1], [1, 0], [0, 0]])
    reference[0, 0, 3] = -np.inf  # an entry that the reference gives no chance
    found = closeness.sums(jnp.asarray(logits), jnp.asarray(targets), jnp.asarray(mask), jnp.asarray(reference))
    p, r, y = softmax(logits, -1), softmax(reference, -1), np.eye(5)[targets]
    each = {"loss": -np.log((p * y).sum(-1)), "el2n": np.linalg.norm(p - y, axis=-1), "kl": rel_entr(r, p).sum(-1),
            "cosine": (p * y).sum(-1) / np.linalg.norm(p, axis=-1)}
    for name, value in each.items():
        np.testing.assert_allclose(found[name], (value * mask).sum(), rtol=1e-5)
    assert found["tokens"] == 3
    alone = closeness.sums(jnp.asarray(logits), jnp.asarray(targets), jnp.asarray(mask))
    assert "kl" not in alone
    jax.tree.map(np.testing.assert_allclose, alone, {name: found[name] for name in alone})


def test_a_label_that_is_ruled_out_costs_nothing_elsewhere():
    """Encoders score labels that a neighbour in flight has and they have not with a large negative number."""
    logits = jnp.array([[[2.0, 1.0, -1e9]]])
    found = closeness.sums(logits, jnp.array([[0]]), jnp.array([[1]]), jnp.array([[[1.0, 1.0, -1e9]]]))
    p = softmax([2.0, 1.0])
    np.testing.assert_allclose(found["kl"], rel_entr([0.5, 0.5], p).sum(), rtol=1e-5)
