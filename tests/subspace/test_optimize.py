"""Stage 2 on a real backbone: what is found does not depend on how z is stored while it is tuned."""

import importlib

import numpy as np
import pytest

import subspace
from deltas import Bank, Reading, Solution, Training
from deltas.tuning import Job
from subspace.optimize import optimize_many

READING = Reading(max_input=20, max_target=4, buckets=(20,))


@pytest.fixture(scope="module")
def space(tmp_path_factory, attached):
    """Two directions of five random solutions."""
    one, bank = attached["lora"], Bank(tmp_path_factory.mktemp("bank"), create=True)
    bank.add_start(one)
    for seed in range(5):
        vector = 0.3 * np.random.default_rng(seed).standard_normal(one.layout.size).astype(np.float32)
        bank.add(Solution(task="random", seed=seed, config=one.config, layout=one.layout, vector=vector, theta0=one.theta0,
                          backbone=one.backbone.fingerprint, theta0_fingerprint=one.theta0_fingerprint))
    return subspace.joint_svd(bank, 2)


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_padding_of_z_changes_nothing(space, attached, small_tasks, monkeypatch, optimizer):
    training = Training(steps=6, batch_size=4, learning_rate=0.1, warmup=0, evaluate_every=3, segment=3, dev_rows=8, optimizer=optimizer)
    jobs, found = [Job(small_tasks[0], seed) for seed in (0, 1)], []
    for width in (1, 32):
        monkeypatch.setattr(importlib.import_module("subspace.optimize"), "WIDTH", width)
        found.append(optimize_many(space, attached["lora"], jobs, training=training, reading=READING, test_rows=8))
    for bare, padded in zip(*found, strict=True):
        assert padded.z.shape == (2,)
        np.testing.assert_allclose(padded.z, bare.z, atol=1e-5)
        assert (padded.score, padded.dev, padded.step) == (bare.score, bare.dev, bare.step)
        assert np.abs(padded.z).max() > 0.1  # it moved


def test_a_type_that_the_subspace_lacks_is_refused(space, backbone, small_tasks, refused):
    with refused("lora", "'prefix'"):
        subspace.optimize(space, backbone, small_tasks[0], "prefix")
