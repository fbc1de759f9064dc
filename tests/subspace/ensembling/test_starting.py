"""Starts: the factors' mean, the nearest LoRA to a mean of products, a mean of codes."""

import numpy as np
import pytest
from subspace_fakes import planted

import subspace
from deltas import Adapter, LoRA
from deltas.functional import Attached
from subspace.ensembling import can_be_products, code_start, factor_start, of_one_type, product_start
from subspace.merging import factors_of

WEIGHTS = np.array([0.5, 0.3, 0.2])


@pytest.fixture(scope="module")
def lora(backbone):
    return Attached.of(backbone, LoRA(rank=4, sites=("encoder.0.attn.q", "decoder.0.ff.out")))


def rows_of(attached, count=3):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(attached.layout.size).astype(np.float32) for _ in range(count)]


def change(attached, vector):
    return {module: a @ b for module, (a, b) in factors_of(attached.config, attached.layout, attached.theta0 + vector).items()}


def test_factors_and_products_are_two_different_means(lora):
    rows = rows_of(lora)
    np.testing.assert_allclose(factor_start(rows, WEIGHTS), np.average(rows, axis=0, weights=WEIGHTS), atol=1e-6)
    np.testing.assert_allclose(factor_start(rows, 7 * WEIGHTS), factor_start(rows, WEIGHTS), atol=1e-6)
    found = change(lora, product_start(rows, WEIGHTS, config=lora.config, layout=lora.layout, theta0=lora.theta0))
    by_factors = change(lora, factor_start(rows, WEIGHTS))
    changes = [change(lora, row) for row in rows]
    for module in found:
        whole = sum(w * one[module] for w, one in zip(WEIGHTS, changes, strict=True))
        u, s, vt = np.linalg.svd(whole)
        np.testing.assert_allclose(found[module], (u[:, :4] * s[:4]) @ vt[:4], atol=1e-3)  # the best of rank 4 (Eckart and Young)
        assert np.linalg.norm(found[module] - whole) < np.linalg.norm(by_factors[module] - whole)


def test_one_source_alone_is_that_source_in_every_space(lora):
    rows = rows_of(lora)
    alone = product_start(rows, np.array([0.0, 1.0, 0.0]), config=lora.config, layout=lora.layout, theta0=lora.theta0)
    for module, delta in change(lora, rows[1]).items():
        np.testing.assert_allclose(change(lora, alone)[module], delta, atol=1e-3)
    np.testing.assert_allclose(factor_start(rows, np.array([0.0, 1.0, 0.0])), rows[1])


def test_products_of_untrained_loras_are_no_change(lora):
    rows = [np.zeros(lora.layout.size, np.float32)] * 2
    found = product_start(rows, np.array([0.5, 0.5]), config=lora.config, layout=lora.layout, theta0=lora.theta0)
    for delta in change(lora, found).values():
        np.testing.assert_array_equal(delta, 0)


def test_a_mean_of_codes_is_the_mean_of_factors_where_the_space_holds_all():
    bank = planted(seeds=1)
    pairs, weights = bank.pairs(), np.arange(1.0, 9.0)
    rows = bank.rows("lora", pairs)
    whole = subspace.joint_svd(bank, 7, labels=["lora"])
    np.testing.assert_allclose(code_start(whole, "lora", weights), factor_start(rows, weights), atol=1e-4)
    small = subspace.joint_svd(bank, 2, labels=["lora"])
    found = code_start(small, "lora", weights)
    assert np.linalg.norm(found - factor_start(rows, weights)) > 1e-2
    np.testing.assert_allclose(small.decode("lora", small.encode("lora", found + bank.theta0("lora"))) - bank.theta0("lora"), found, atol=1e-4)


def test_refused(lora, refused):
    with refused("two", "1"):
        factor_start(rows_of(lora, 1), np.array([1.0]))
    with refused("weight for each", "2"):
        factor_start(rows_of(lora), np.array([1.0, 2.0]))
    for config in (Adapter(), LoRA(dora=True)):
        with refused("plain LoRAs", config.label):
            can_be_products(config)
    with refused("two", "0"):
        of_one_type([])
