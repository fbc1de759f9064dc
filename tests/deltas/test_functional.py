"""A backbone with one delta as pure functions of θ."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deltas import Attached, LoRA, Solution
from deltas.backbones.blocks import Dropout

LABELS = ["lora", "adapter", "prefix", "network"]


@pytest.fixture(scope="module")
def given(batch):
    return {name: jnp.asarray(value) for name, value in batch.items()}


@pytest.fixture(scope="module")
def loss_and_gradient(attached):
    """Compiled once for all tests here."""
    return {label: jax.jit(jax.value_and_grad(attached[label].loss)) for label in LABELS}


def wider(batch):
    """The same rows with more padding."""
    return {name: jnp.pad(value, ((0, 0), (0, 6 if name in ("input_ids", "attention_mask") else 3))) for name, value in batch.items()}


def near(attached, count=1, scale=0.1):
    noise = np.random.default_rng(0).standard_normal((count, attached.layout.size))
    return jnp.asarray(attached.theta0 + scale * noise, jnp.float32)


def test_no_weight_of_the_backbone_is_copied(backbone, attached):
    from flax import nnx

    theirs = {x.unsafe_buffer_pointer() for x in jax.tree.leaves(nnx.state(backbone.module))}
    for one in attached.values():
        ours = {x.unsafe_buffer_pointer() for x in jax.tree.leaves(one.frozen)}
        assert ours == theirs
    assert not any(site.order for _, site in nnx.iter_modules(backbone.module) if hasattr(site, "order"))


def test_no_weight_is_baked_into_the_program(attached, given):
    """Every array of the backbone is an argument: the traced program has no constant as large as the smallest matrix."""
    one = attached["lora"]
    traced = jax.make_jaxpr(one.loss)(jnp.asarray(one.theta0), one.frozen, given)
    assert max((np.size(c) for c in traced.consts), default=0) < 64


@pytest.mark.parametrize("label", LABELS)
def test_the_gradient_reaches_every_parameter(attached, loss_and_gradient, given, label):
    """After one step: at θ0 LoRA's and the adapter's B = 0 hides A."""
    one = attached[label]
    theta = jnp.asarray(one.theta0)
    gradient = loss_and_gradient[label](theta, one.frozen, given)[1]
    loss, gradient = loss_and_gradient[label](theta - 0.1 * gradient / jnp.linalg.norm(gradient), one.frozen, given)
    assert np.isfinite(loss)
    sizes = {name: float(jnp.abs(value).max()) for name, value in one.layout.unflatten(gradient).items()}
    assert min(sizes.values()) > 0, sizes


@pytest.mark.parametrize("label", ["lora", "network"])
def test_the_gradient_is_the_slope(attached, loss_and_gradient, given, label):
    one, fn = attached[label], loss_and_gradient[label]
    theta = near(one)[0]
    _, gradient = fn(theta, one.frozen, given)
    direction = gradient / jnp.linalg.norm(gradient)
    step = 1e-2
    up, down = (fn(theta + sign * step * direction, one.frozen, given)[0] for sign in (1, -1))
    assert (up - down) / (2 * step) == pytest.approx(float(jnp.linalg.norm(gradient)), rel=0.02)


def test_vmap_is_a_loop_and_jit_is_eager(attached, loss_and_gradient, given):
    one, fn = attached["adapter"], loss_and_gradient["adapter"]
    thetas = near(one, count=3)
    losses, gradients = jax.jit(jax.vmap(fn, in_axes=(0, None, None)))(thetas, one.frozen, given)
    for theta, loss, gradient in zip(thetas, losses, gradients, strict=True):
        expected = fn(theta, one.frozen, given)
        np.testing.assert_allclose(loss, expected[0], rtol=1e-5)
        np.testing.assert_allclose(gradient, expected[1], atol=1e-4)
    np.testing.assert_allclose(one.loss(thetas[0], one.frozen, given), losses[0], rtol=1e-5)


def test_the_loss_is_the_mean_over_target_tokens(attached, loss_and_gradient, given):
    one = attached["lora"]
    theta = near(one)[0]
    loss = loss_and_gradient["lora"](theta, one.frozen, given)[0]
    logits = np.asarray(jax.jit(one.logits)(theta, one.frozen, given), np.float64)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    picked = [-logp[i, j, int(given["target_ids"][i, j])] for i, j in zip(*np.nonzero(np.asarray(given["target_mask"])), strict=True)]
    assert float(loss) == pytest.approx(np.mean(picked), rel=1e-5)
    nothing = {**given, "target_mask": jnp.zeros_like(given["target_mask"])}
    assert loss_and_gradient["lora"](theta, one.frozen, nothing)[0] == 0


def test_padding_changes_nothing(attached, loss_and_gradient, given):
    """More padding on either side of the model, and the same loss."""
    one = attached["prefix"]
    theta = near(one)[0]
    fn = loss_and_gradient["prefix"]
    for ours, theirs in zip(fn(theta, one.frozen, given), fn(theta, one.frozen, wider(given)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_dropout_mask_does_not_follow_from_the_padding():
    """So a job's noise is the same whatever its neighbours' lengths."""

    def masks(length):  # hidden states, then attention weights
        dropout = Dropout(jax.random.key(3), 0.3)
        return dropout(jnp.ones((2, length, 5))), dropout(jnp.ones((2, 3, length, length + 4)))

    (short, weights), (long, wide) = masks(6), masks(9)
    np.testing.assert_array_equal(short, long[:, :6])
    np.testing.assert_array_equal(weights, wide[:, :, :6, :10])


@pytest.mark.slow
def test_dropout_follows_the_key_and_not_the_padding(attached, given):
    one = attached["prefix"]
    theta = near(one)[0]
    loss = jax.jit(one.loss, static_argnames="rate")
    keys = jax.random.split(jax.random.key(0), 3)
    clean, *noisy = (float(loss(theta, one.frozen, given, key, 0.2)) for key in (None, *keys))
    assert len({clean, *noisy}) == 4
    assert float(loss(theta, one.frozen, given, keys[0], 0.2)) == noisy[0]
    assert float(loss(theta, one.frozen, wider(given), keys[0], 0.2)) == pytest.approx(noisy[0], rel=1e-4)


def test_dropout_keeps_the_mean():
    x = jnp.ones((50, 7, 30))
    dropout = Dropout(jax.random.key(1), 0.25)
    first, second = dropout(x), dropout(x)
    assert set(np.unique(first).tolist()) == {0.0, float(np.float32(1 / 0.75))}
    assert float(first.mean()) == pytest.approx(1, abs=0.02)
    assert float((first * second).mean()) == pytest.approx(1, abs=0.03)  # two places draw two masks
    scores = dropout(jnp.ones((2, 3, 20, 21)))
    assert float(scores.mean()) == pytest.approx(1, abs=0.05)
    assert len({tuple(row) for row in np.asarray(scores[0]).reshape(-1, 21).tolist()}) > 55  # every query and head has its own


def test_likelihoods_are_sums_of_token_losses(attached, given):
    one = attached["adapter"]
    theta = near(one)[0]
    labels, mask = jnp.asarray([[60, 1, 0], [61, 5, 1]]), jnp.asarray([[1, 1, 0], [1, 1, 1]])
    ranked = jax.jit(one.likelihoods)(theta, one.frozen, given, labels, mask)
    losses = jax.jit(one.token_losses)
    assert ranked.shape == (4, 2)
    for i in range(2):
        as_targets = {**given, "target_ids": jnp.tile(labels[i], (4, 1)), "target_mask": jnp.tile(mask[i], (4, 1))}
        np.testing.assert_allclose(ranked[:, i], -losses(theta, one.frozen, as_targets).sum(-1), rtol=1e-5)


def test_a_solution_gives_its_logits_to_the_backbone_alone(backbone, attached, given, refused):
    one = attached["lora"]
    vector = np.asarray(near(one)[0] - one.theta0)
    solution = Solution(task="t", seed=0, config=one.config, layout=one.layout, vector=vector, theta0=one.theta0,
                        backbone=backbone.fingerprint, theta0_fingerprint=one.theta0_fingerprint)
    decoder = jnp.pad(given["target_ids"], ((0, 0), (1, 0)))[:, :-1]
    ours = backbone.logits({**given, "decoder_input_ids": decoder}, solution)
    np.testing.assert_allclose(ours, jax.jit(one.logits)(jnp.asarray(solution.theta), one.frozen, given), atol=1e-4)
    other = Attached.of(backbone, LoRA(rank=2), seed=9)
    with refused("θ0", one.theta0_fingerprint, other.theta0_fingerprint):
        other.check(solution)
