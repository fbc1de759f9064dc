import numpy as np
import pytest
from subspace_fakes import FakeBank, planted

import subspace
from subspace.gcca import dual, gcca
from subspace.gram import gram


def centred(bank, label):
    x = np.stack(bank.rows(label, bank.pairs())).astype(np.float64)
    return x - x.mean(0)


def projector(codes):
    return codes.astype(np.float64) @ codes.T / len(codes)


def with_private(bank, label, size):
    """One type's solutions differ most along directions that no other type knows of."""
    rng, x = np.random.default_rng(1), {name: dict(rows) for name, rows in bank.x.items()}
    directions = np.linalg.qr(rng.standard_normal((len(bank.starts[label]), 2)))[0].T
    for pair in x[label]:
        x[label][pair] = (x[label][pair] + size * rng.standard_normal(2) @ directions).astype(np.float32)
    return FakeBank(x, bank.starts)


def test_equals_the_definition(bank):
    """Eigenvectors of the sum of ridge projections, each formed from the rows themselves."""
    n, total, ridge = 16, 0.0, 0.3
    for label in bank.labels():
        x = centred(bank, label)
        lam = ridge * np.sum(x**2) / n
        total = total + x @ np.linalg.solve(x.T @ x + lam * np.eye(x.shape[1]), x.T)
    values, vectors = np.linalg.eigh(total)
    space = gcca(bank, 5, ridge=ridge)
    np.testing.assert_allclose(projector(space.codes), vectors[:, -5:] @ vectors[:, -5:].T, atol=1e-5)
    np.testing.assert_allclose(space.settings["agreement"], values[:-6:-1] / 3, rtol=1e-6)


def test_decoders_are_the_least_squares_regression_on_the_codes(bank):
    space = gcca(bank, 5)
    design = np.concatenate([np.ones((16, 1)), space.codes], axis=1).astype(np.float64)
    for label, part in space.parts.items():
        rows = np.stack(bank.rows(label, space.pairs))
        solved = np.linalg.lstsq(design, rows, rcond=None)[0]
        np.testing.assert_allclose(part.mean, solved[0], atol=1e-5)
        np.testing.assert_allclose(part.basis, solved[1:], atol=1e-5)
        left = np.sum((rows - part.mean - space.codes @ part.basis) ** 2)
        assert space.energy[label] == pytest.approx(1 - left / np.sum((rows - rows.mean(0)) ** 2), abs=1e-5)


def test_agreement_before_variance():
    """Joint variance follows what is large in one type alone; agreement does not."""
    bank = with_private(planted(tasks=24, seeds=1), "lora", 200.0)
    shared, spoilt = gcca(planted(tasks=24, seeds=1), 4), gcca(bank, 4)
    cosines = np.linalg.svd(shared.codes.T @ spoilt.codes / 24, compute_uv=False)
    assert cosines.min() > 0.95
    joint = subspace.joint_svd(bank, 4)
    assert np.linalg.svd(shared.codes.T @ joint.codes / 24, compute_uv=False).min() < 0.5


def test_limits_of_the_ridge(bank):
    """One type: its PCA whatever the ridge. A large ridge: joint_svd."""
    for ridge in (0.01, 10.0):
        alone = gcca(bank, 3, labels=["lora"], ridge=ridge)
        np.testing.assert_allclose(alone.codes, subspace.joint_svd(bank, 3, labels=["lora"]).codes, atol=1e-4)
    np.testing.assert_allclose(gcca(bank, 4, ridge=1e6).codes, subspace.joint_svd(bank, 4).codes, atol=1e-3)
    low, high = (gcca(bank, 4, ridge=ridge).settings["agreement"] for ridge in (0.01, 1.0))
    assert all(0 < h < v <= 1 for h, v in zip(high, low, strict=True))
    assert (np.diff(low) <= 0).all()


def test_a_scale_of_a_type_does_not_matter(bank):
    larger = {label: {pair: x * (100 if label == "lora" else 1) for pair, x in rows.items()} for label, rows in bank.x.items()}
    np.testing.assert_allclose(gcca(FakeBank(larger, bank.starts), 4).codes, gcca(bank, 4).codes, atol=1e-4)


def test_dual_form(bank):
    space = gcca(bank, 3)
    for label, coefficients in dual({label: gram(bank.rows(label, space.pairs)) for label in bank.labels()}, 3).items():
        both = coefficients @ np.stack(bank.rows(label, space.pairs))
        np.testing.assert_allclose(both[0], space.parts[label].mean, atol=1e-5)
        np.testing.assert_allclose(both[1:], space.parts[label].basis, atol=1e-5)


def test_refusals(bank, refused):
    for ridge in (0.0, -1.0, np.nan):
        with refused("ridge above 0", str(ridge)):
            gcca(bank, 2, ridge=ridge)
