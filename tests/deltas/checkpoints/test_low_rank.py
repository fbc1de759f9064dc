"""Differences of weights as LoRA: the best of their rank, and the least rank that keeps their energy."""

import numpy as np
import pytest
from foreign import PEFT
from hypothesis import given, settings
from hypothesis import strategies as st

import deltas
from deltas.checkpoints import load_peft, save_peft
from deltas.checkpoints.low_rank import differences, factors
from deltas.types import LoRA


def drawn(seed, n_in=7, n_out=5):
    return np.random.default_rng(seed).standard_normal((n_in, n_out)).astype(np.float32)


@given(seed=st.integers(0, 99), rank=st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_the_best_of_a_rank(seed, rank):
    """What is lost is the energy of the singular values left out (Eckart and Young); all of them lose nothing."""
    change = drawn(seed)
    a, b = factors(change, rank=rank, energy=None)
    kept = min(rank, 5)
    assert a.shape == (7, kept)
    s = np.linalg.svd(change.astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(np.sum((change - a @ b) ** 2), np.sum(s[kept:] ** 2), rtol=1e-4, atol=1e-9)


@given(seed=st.integers(0, 99), energy=st.floats(0.05, 1))
@settings(max_examples=20, deadline=None)
def test_the_least_rank_of_an_energy(seed, energy):
    change = drawn(seed)
    a, _ = factors(change, rank=None, energy=energy)
    s = np.linalg.svd(change.astype(np.float64), compute_uv=False)
    share = np.cumsum(s**2) / np.sum(s**2)
    r = a.shape[1]
    assert share[r - 1] >= energy - 1e-9
    assert r == 1 or share[r - 2] < energy


def test_a_difference_of_low_rank_has_no_more():
    """Rounding is no rank."""
    change = drawn(0, 30, 3) @ drawn(1, 3, 20)
    assert factors(change, rank=None, energy=1.0)[0].shape[1] == 3
    assert factors(change, rank=9, energy=None)[0].shape[1] == 3
    assert factors(np.zeros((4, 6), np.float32), rank=None, energy=0.9)[0].shape[1] == 1


def test_signs_are_fixed():
    a, b = factors(drawn(3), rank=3, energy=None)
    assert np.all(a[np.argmax(np.abs(a), axis=0), range(3)] > 0)
    again = factors(drawn(3), rank=3, energy=None)
    np.testing.assert_array_equal(a, again[0])
    np.testing.assert_array_equal(b, again[1])


@pytest.mark.parametrize("name", ["t5-lora", "gpt2-lora"])
def test_a_lora_of_another_rank(name, backbones, tmp_path):
    """Exported with all its energy, a LoRA comes back with the same differences; with less, with smaller ones, module by module."""
    backbone = backbones(PEFT[name])
    start = deltas.Attached.of(backbone, LoRA(rank=3, alpha=5, sites=("q", "ff.out")))
    theta = np.random.default_rng(0).standard_normal(start.layout.size).astype(np.float32)
    solution = deltas.Solution(task="t", seed=0, config=start.config, layout=start.layout, vector=theta - start.theta0, theta0=start.theta0,
                               backbone=backbone.fingerprint, theta0_fingerprint=start.theta0_fingerprint)
    before = differences(solution, backbone)
    whole, less = tmp_path / "whole", tmp_path / "less"
    save_peft(solution, whole, backbone, energy=1.0)
    save_peft(solution, less, backbone, rank=1)
    after, smaller = (differences(load_peft(folder, backbone), backbone) for folder in (whole, less))
    assert set(before) <= set(after)  # a fused module brings its other sites, with a difference of 0
    for site, change in after.items():
        np.testing.assert_allclose(change, before.get(site, 0), atol=1e-4)
        assert np.linalg.matrix_rank(smaller[site], tol=1e-4) <= 1
    assert load_peft(whole, backbone).config.rank == 3

