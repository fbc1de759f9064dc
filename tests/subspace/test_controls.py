import numpy as np
import pytest
from subspace_fakes import planted

import subspace
from subspace.controls import derangements
from subspace.fastfood import fastfood, hadamard


def transferred(space, bank):
    """Share of a type's variance that codes found by another type explain: of lora, from the adapter."""
    theta = {label: space.parts[label].theta0 + np.stack(bank.rows(label, space.pairs)) for label in ("adapter", "lora")}
    there = space.decode("lora", space.encode("adapter", theta["adapter"]))
    return 1 - np.sum((there - theta["lora"]) ** 2) / np.sum((theta["lora"] - theta["lora"].mean(0)) ** 2)


def test_shuffling_breaks_transfer_and_not_the_types():
    bank = planted(tasks=24, seeds=1)
    joint, wrong = subspace.joint_svd(bank, 4), subspace.shuffled(bank, 4)
    assert transferred(joint, bank) > 0.9
    assert transferred(wrong, bank) < 0.3
    assert wrong.spectrum[0] < 0.8 * joint.spectrum[0]
    # tuning through one type hardly suffers: with as many directions as three types need, each type's solutions are still all there
    wide = subspace.shuffled(bank, 12)
    for label in bank.labels():
        theta = wide.parts[label].theta0 + np.stack(bank.rows(label, wide.pairs))
        rest = theta - wide.decode(label, wide.encode(label, theta))
        assert np.sum(rest**2) < 0.1 * np.sum((theta - theta.mean(0)) ** 2)


@pytest.mark.parametrize(("tasks", "seeds", "types"), [(8, 2, 3), (2, 1, 2), (3, 1, 3), (2, 2, 3), (5, 3, 3), (7, 1, 7), (4, 2, 1)])
def test_derangements(tasks, seeds, types):
    pairs = [(f"t{t}", s) for t in range(tasks) for s in range(seeds)]
    orders = derangements(pairs, types, seed=1)
    names = [[pairs[i][0] for i in order] for order in orders]
    assert all(sorted(order) == list(range(len(pairs))) for order in orders)
    assert list(orders[0]) == list(range(len(pairs)))
    assert all(a != b for other in names[1:] for a, b in zip(names[0], other, strict=True))
    if tasks >= types:
        assert all(len(set(place)) == types for place in zip(*names, strict=True))


def test_uneven_seeds_are_deranged_by_task():
    pairs = [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("c", 0), ("c", 1)]
    for seed in range(20):
        _, order = derangements(pairs, 2, seed)
        assert all(pairs[i][0] != pair[0] for i, pair in zip(order, pairs, strict=True))


def test_one_task_cannot_be_shuffled(bank, refused):
    with refused("more than half", "2 of one task"):
        subspace.shuffled(bank, 1, pairs=[("task0", 0), ("task0", 1), ("task1", 0)])


def test_seeds_of_the_draws(bank):
    for control in (subspace.random_basis, subspace.shuffled):
        one, again, other = control(bank, 3, seed=1), control(bank, 3, seed=1), control(bank, 3, seed=2)
        for label in one.labels[1:]:
            np.testing.assert_array_equal(one.parts[label].basis, again.parts[label].basis)
            assert np.abs(one.parts[label].basis - other.parts[label].basis).max() > 0.01


def test_random_basis_has_the_scale_of_the_real_one(bank):
    joint, drawn = subspace.joint_svd(bank, 5), subspace.random_basis(bank, 5)
    for label in joint.labels:
        assert np.linalg.norm(drawn.parts[label].basis) == pytest.approx(np.linalg.norm(joint.parts[label].basis), rel=1e-5)
        assert drawn.energy[label] < 0.4 * joint.energy[label]
    structured = subspace.random_basis(bank, 5, kind="fastfood")
    for label in joint.labels:
        assert np.linalg.norm(structured.parts[label].basis) == pytest.approx(np.linalg.norm(joint.parts[label].basis), rel=1e-5)
        assert np.abs(structured.parts[label].basis - drawn.parts[label].basis).max() > 0.01
    alone = subspace.random_basis(bank, 5, labels=["lora"])
    direction = [space.parts["lora"].basis / np.linalg.norm(space.parts["lora"].basis) for space in (drawn, alone)]
    np.testing.assert_allclose(*direction, atol=1e-6)  # a type's draw does not depend on the others


def test_hadamard():
    """Against Sylvester's construction."""
    h = np.ones((1, 1), np.float32)
    for _ in range(5):
        np.testing.assert_allclose(hadamard(np.eye(len(h), dtype=np.float32)[-1].copy()), h[-1])
        x = np.random.default_rng(0).standard_normal(len(h)).astype(np.float32)
        np.testing.assert_allclose(hadamard(x.copy()), h @ x, atol=1e-5)
        h = np.block([[h, h], [h, -h]])


@pytest.mark.parametrize(("k", "size"), [(8, 5000), (8, 5), (1, 1)])
def test_fastfood_rows_are_gaussian_and_apart(k, size):
    rows = fastfood(k, size, np.random.default_rng(0)).astype(np.float64)
    assert rows.shape == (k, size)
    assert np.isfinite(rows).all()
    if size > 1000:
        np.testing.assert_allclose((rows**2).mean(1), 1, atol=0.06)
        np.testing.assert_allclose((rows**4).mean(1), 3, atol=0.4)
        np.testing.assert_allclose(rows @ rows.T / size, np.eye(k), atol=0.07)
        assert np.abs(rows.mean(1)).max() < 0.06


def test_a_random_basis_of_another_kind_is_refused(bank, refused):
    with refused("gaussian", "fastfood", "'sparse'"):
        subspace.random_basis(bank, 2, kind="sparse")
