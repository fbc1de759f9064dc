"""Principal angles against a dense computation, and what planted structure makes of them."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import subspace_angles
from subspace_fakes import planted

import subspace
from subspace.stability import angles_between, over_halves, over_seeds, principal_angles, random_angles


def test_angles_from_products_are_those_of_the_bases():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((3, 9)), rng.standard_normal((5, 9))
    b[:2] = a[:2] + 1e-3 * b[:2]
    found = principal_angles(a @ a.T, a @ b.T, b @ b.T)
    np.testing.assert_allclose(found, subspace_angles(a.T, b.T)[::-1], atol=1e-9)
    turned = rng.standard_normal((3, 3)) @ a  # another basis of the same subspace
    np.testing.assert_allclose(principal_angles(a @ a.T, a @ turned.T, turned @ turned.T), 0, atol=1e-6)
    short = np.concatenate([a[:2], a[:1]])  # two dimensions
    assert principal_angles(short @ short.T, short @ b.T, b @ b.T).shape == (2,)


@pytest.mark.parametrize(("size", "a", "b"), [(60, 3, 3), (7, 3, 4), (8, 2, 5), (4, 5, 3)])
def test_random_angles_are_those_of_drawn_subspaces(size, a, b):
    rng, drawn = np.random.default_rng(0), []
    for _ in range(300):
        drawn.append(np.sort(subspace_angles(rng.standard_normal((size, a)), rng.standard_normal((size, b)))))
    found = random_angles(size, a, b, 300, 1)
    np.testing.assert_allclose(found.mean(0), np.mean(drawn, 0), atol=0.05)
    np.testing.assert_allclose(found.std(0), np.std(drawn, 0), atol=0.05)


def test_halves_equal_fits_to_the_halves(bank):
    """The dual form against subspaces that were written out."""
    found = over_halves(bank, 3, halves=2, seed=5)
    rng, tasks = np.random.default_rng([5, 10]), [f"task{t}" for t in range(8)]
    for draw in range(2):
        first = {tasks[i] for i in rng.permutation(8)[:4]}
        spaces = [subspace.joint_svd(bank, 3, pairs=[p for p in bank.pairs() if (p[0] in first) == side]) for side in (True, False)]
        for label, angles in angles_between(*spaces).items():
            np.testing.assert_allclose(found[label].found[draw], angles.found[0], atol=1e-3)


def test_shared_factors_are_stable_and_noise_is_not():
    clear, noise = planted(tasks=24, noise=0.2, rank=3), planted(tasks=24, noise=100.0, rank=3)
    for compare in (over_halves, over_seeds):
        for label, angles in compare(clear, 3).items():
            assert angles.overlap > 0.95, label
            at = angles.to_json()
            assert at["overlap"]["random"] < at["overlap"]["found"] - 0.8
            assert all(np.diff(a).min() >= 0 for a in (angles.found, angles.mixed, angles.random))
        for angles in compare(noise, 3).values():
            assert abs(angles.overlap - angles.to_json()["overlap"]["random"]) < 0.1
            assert abs(angles.overlap - angles.to_json()["overlap"]["mixed"]) < 0.1


def test_mixed_directions_are_the_solutions_own():
    """With as many directions as solutions, nothing is left to choose: the fit and the mixture span the same."""
    bank = planted(tasks=8, seeds=1, noise=0.5)
    for angles in over_halves(bank, 3, halves=3).values():  # halves of 4 tasks, centred
        np.testing.assert_allclose(angles.found, angles.mixed, atol=1e-5)


def test_seeds_of_three_and_tasks_that_only_one_has():
    bank = planted(tasks=9, seeds=3)
    assert over_seeds(bank, 4)["lora"].found.shape == (3, 4)
    some = [p for p in bank.pairs() if p not in (("task0", 1), ("task1", 2))]
    assert over_seeds(bank, 4, pairs=some)["lora"].found.shape == (3, 4)


def test_the_same_subspace_has_no_angle(bank):
    space = subspace.joint_svd(bank, 4)
    for label, angles in angles_between(space, subspace.joint_svd(bank, 4, seed=3)).items():
        np.testing.assert_allclose(angles.found, 0, atol=1e-3)
        assert angles.to_json()["overlap"]["found"] == pytest.approx(1, abs=1e-5)
        assert "mixed" not in angles.to_json()["angles"], label
    inside = angles_between(space, subspace.joint_svd(bank, 2))
    assert inside["lora"].found.shape == (1, 2)
    np.testing.assert_allclose(inside["lora"].found, 0, atol=1e-3)
    apart = angles_between(space, subspace.random_basis(bank, 4))["prefix"]
    np.testing.assert_allclose(apart.found[0], apart.random.mean(0), atol=0.4)


def test_another_decomposition(bank):
    """One that ignores the solutions' Gram matrix: the leading rows themselves."""
    def first_rows(grams, k):
        n = len(next(iter(grams.values())))
        return dict.fromkeys(grams, np.concatenate([np.full((1, n), 1 / n), np.eye(n)[:k]]))

    assert over_halves(bank, 3, method=first_rows)["lora"].overlap < over_halves(bank, 3)["lora"].overlap


def test_refusals(bank, refused):
    with refused("halves of more than 8", "16 solutions"):
        over_halves(bank, 8)
    with refused("0 splits"):
        over_halves(bank, 2, halves=0)
    with refused("two seeds of at least 5 tasks", "seeds 0 of 8"):
        over_seeds(bank, 4, pairs=[p for p in bank.pairs() if p[1] == 0])
    with refused("two seeds of at least 9"):
        over_seeds(bank, 8)
    space = subspace.joint_svd(bank, 2)
    with refused("in common", "lora", "prefix"):
        angles_between(subspace.joint_svd(bank, 2, labels=["lora"]), subspace.joint_svd(bank, 2, labels=["prefix"]))
    part = space.parts["lora"]
    shorter = replace(space, parts={"lora": replace(part, basis=part.basis[:, :-1])})
    with refused("lora", "60", "59"):
        angles_between(space, shorter)
