"""Refined decoders: the source loss falls, codes stay, the rest of the contract holds."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from subspace_fakes import attach, texts

import subspace
from deltas.tasks import Reading
from subspace.refine import Refine, divergence, learn

READING = Reading(buckets=(12,))  # one length, one compilation
SETTINGS = Refine(steps=30, batch_size=4, evaluate_every=10, segment=5, learning_rate=3e-3)


def refined(bank, k=4, settings=SETTINGS, **options):
    train, dev = texts(bank)
    space = subspace.joint_svd(bank, k)
    return space, learn(space, attached=attach(bank), train=train, dev=dev, reading=READING, settings=settings, **options)


@pytest.fixture(scope="module")
def found(bank):
    return refined(bank)


def test_the_loss_of_the_sources_falls_and_their_codes_stay(found):
    before, after = found
    losses = [entry["dev_loss"] for entry in after.history]
    assert min(losses) < 0.98 * losses[0]
    np.testing.assert_array_equal(after.codes, before.codes)
    assert after.method == "refined"
    assert after.settings["from"] == "joint_svd"
    for label in before.labels:
        assert not np.array_equal(after.parts[label].basis, before.parts[label].basis)
        there = after.decode(label, after.codes)
        np.testing.assert_allclose(after.encode(label, there), after.codes, atol=2e-4)  # the encoder follows the decoder


def test_a_step_too_large_leaves_what_was(bank):
    before, after = refined(bank, settings=replace(SETTINGS, learning_rate=30.0))
    for label in before.labels:
        np.testing.assert_array_equal(after.parts[label].basis, before.parts[label].basis)


def test_an_interrupted_run_ends_as_a_whole_one(bank, found, tmp_path):
    def stop(step, log):
        if step == 15:
            raise KeyboardInterrupt

    state = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        refined(bank, checkpoint=state, save_every=0, on_step=stop)
    assert state.is_file()
    _, after = refined(bank, checkpoint=state)
    for label in after.labels:
        np.testing.assert_array_equal(after.parts[label].basis, found[1].parts[label].basis)


def test_divergence_is_zero_where_types_agree_and_pulls_them_together():
    rng, mask = np.random.default_rng(0), jnp.asarray([[1.0, 1.0, 0.0]])
    a, b = (jnp.asarray(rng.standard_normal((1, 3, 5)), jnp.float32) for _ in range(2))
    assert float(divergence([a, a + 2.0], mask)) == pytest.approx(0, abs=1e-6)  # a shift of all logits is no difference
    apart = float(divergence([a, b], mask))
    by_hand = 0.0
    for place in range(2):
        p, q = (np.exp(x[0, place]) / np.exp(x[0, place]).sum() for x in (a, b))
        mean = (p + q) / 2
        by_hand += (mean @ np.log(mean / p) + mean @ np.log(mean / q)) / 4
    assert apart == pytest.approx(by_hand, abs=1e-5)
    slope = jax.grad(lambda x: divergence([x, b], mask))(a)
    assert float(divergence([a - 0.5 * slope, b], mask)) < apart


def test_bad_input(bank, refused):
    space, train = subspace.joint_svd(bank, 3), texts(bank)[0]
    with refused("prefix", "adapter, lora"):
        subspace.refine(space, attached=attach(bank, ["adapter", "lora"]), tasks=[_Named(name) for name in train])
    with refused("task0", "none"):
        subspace.refine(space, attached=attach(bank), tasks=[])
    for wrong in ({"steps": 0}, {"learning_rate": 0.0}, {"agreement": -1.0}):
        with refused("refine" if "steps" in wrong else "above 0"):
            Refine(**wrong)


class _Named:
    def __init__(self, name):
        self.name = name
