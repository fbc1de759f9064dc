import numpy as np
import pytest
from subspace_fakes import FakeBank, planted

import subspace
from subspace.gram import gram
from subspace.pca import dual, pca


def rows_of(bank, label):
    return np.stack(bank.rows(label, bank.pairs())).astype(np.float64)


def test_every_type_keeps_its_own_best_directions(bank):
    space = pca(bank, 4)
    for label, part in space.parts.items():
        x = rows_of(bank, label)
        _, s, vh = np.linalg.svd(x - x.mean(0), full_matrices=False)
        own = np.linalg.qr(part.basis.T.astype(np.float64))[0]
        np.testing.assert_allclose(own @ own.T, vh[:4].T @ vh[:4], atol=1e-5)
        assert space.settings["own_energy"][label] == pytest.approx(np.sum(s[:4] ** 2) / np.sum(s**2))
        there = space.decode(label, space.encode(label, part.theta0 + x.astype(np.float32))) - part.theta0
        assert 1 - np.sum((there - x) ** 2) / np.sum((x - x.mean(0)) ** 2) == pytest.approx(space.settings["own_energy"][label], abs=1e-5)


def test_energy_is_that_of_the_joint_codes(bank):
    space, joint = pca(bank, 4), subspace.joint_svd(bank, 4)
    np.testing.assert_array_equal(space.codes, joint.codes)
    for label, part in space.parts.items():
        x = rows_of(bank, label)
        left = np.sum((x - part.mean - space.codes @ part.basis) ** 2)
        assert space.energy[label] == pytest.approx(1 - left / np.sum((x - x.mean(0)) ** 2), abs=1e-5)
        assert space.energy[label] <= joint.energy[label] + 1e-6 <= space.settings["own_energy"][label] + 2e-6


def test_coordinates_are_matched(bank):
    """No orthogonal matrix brings a type's own codes nearer to the joint ones."""
    space, rng = pca(bank, 4), np.random.default_rng(0)
    for label, part in space.parts.items():
        z = space.encode(label, part.theta0 + rows_of(bank, label).astype(np.float32)).astype(np.float64)
        np.testing.assert_allclose(z.T @ z / 16, np.eye(4), atol=1e-3)
        best = np.sum((z - space.codes) ** 2)
        for _ in range(20):
            small = np.linalg.qr(np.eye(4) + 0.05 * rng.standard_normal((4, 4)))
            turn = small[0] * np.sign(np.diag(small[1]))
            assert np.sum((z @ turn - space.codes) ** 2) > best


def test_one_type_is_joint_svd_and_agreeing_types_are(bank):
    alone, joint = (method(bank, 4, labels=["prefix"]) for method in (pca, subspace.joint_svd))
    np.testing.assert_allclose(alone.parts["prefix"].basis, joint.parts["prefix"].basis, atol=1e-5)
    twins = FakeBank({"lora": bank.x["lora"], "adapter": bank.x["lora"]}, bank.starts)
    alone, joint = pca(twins, 4), subspace.joint_svd(twins, 4)
    np.testing.assert_allclose(alone.parts["adapter"].basis, joint.parts["adapter"].basis, atol=1e-5)


def test_dual_form(bank):
    space = pca(bank, 3)
    for label, coefficients in dual({label: gram(bank.rows(label, space.pairs)) for label in bank.labels()}, 3).items():
        both = coefficients @ rows_of(bank, label)
        np.testing.assert_allclose(both[0], space.parts[label].mean, atol=1e-5)
        np.testing.assert_allclose(both[1:], space.parts[label].basis, atol=1e-5)


def test_a_type_that_does_not_span_k_is_refused(refused):
    bank = planted(noise=0.0)  # rank 4 in every type
    flat = {label: dict(rows) for label, rows in bank.x.items()}
    direction = flat["lora"][("task0", 0)]
    flat["lora"] = {pair: (i + 1) * direction for i, pair in enumerate(flat["lora"])}
    with refused("at most 1", "got 3"):
        pca(FakeBank(flat, bank.starts), 3)
