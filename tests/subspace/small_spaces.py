"""Banks of random solutions on a tiny backbone, and the subspaces of them."""

import numpy as np

import subspace
from deltas import Bank, Reading, Solution, Training

READING = Reading(max_input=20, max_target=4, buckets=(20,))
SHORT = Training(steps=6, batch_size=4, learning_rate=0.1, warmup=0, evaluate_every=3, segment=3, dev_rows=8)


def random_bank(path, kinds, count=5, scale=0.3) -> Bank:
    """`count` random solutions of every attached type, of one task with as many seeds."""
    bank = Bank(path, create=True)
    for number, one in enumerate(kinds):
        bank.add_start(one)
        for seed in range(count):
            vector = scale * np.random.default_rng([number, seed] if number else seed).standard_normal(one.layout.size).astype(np.float32)
            bank.add(Solution(task="random", seed=seed, config=one.config, layout=one.layout, vector=vector.astype(np.float32),
                              theta0=one.theta0, backbone=one.backbone.fingerprint, theta0_fingerprint=one.theta0_fingerprint,
                              scores={"test": seed / 10}))
    return bank


def random_space(path, kinds, k=2, **options):
    return subspace.joint_svd(random_bank(path, kinds, **options), k)
