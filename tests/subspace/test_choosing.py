"""Spectra against chance, and held-out tasks against a dense computation."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from subspace_fakes import FakeBank, planted

from subspace import choosing
from subspace.choosing import energies, gaussian_null, joint_spectrum, permutation_null, task_order
from subspace.gcca import dual as gcca_dual
from subspace.gcca import gcca
from subspace.joint_svd import joint_svd
from subspace.pca import dual as pca_dual
from subspace.pca import pca
from subspace.remembered import Remembered, common, remembered
from subspace.rows import Stored
from subspace.sources import gather
from subspace.validation import CrossValidated, cross_validated, encoded, held_out, recommended


def unpaired(bank, seed=0):
    """Every type keeps its solutions, under other tasks' names."""
    rng, x = np.random.default_rng(seed), {}
    tasks = sorted({task for task, _ in bank.pairs()})
    for label, rows in bank.x.items():
        other = dict(zip(tasks, rng.permutation(tasks), strict=True))
        x[label] = {(task, s): rows[(other[task], s)] for task, s in rows}
    return FakeBank(x, bank.starts)


@pytest.fixture(scope="module")
def wide():
    """Many tasks of few factors."""
    return planted(tasks=16, seeds=1, rank=3, noise=0.5)


def test_spectrum_is_that_of_the_subspace(bank):
    np.testing.assert_allclose(joint_spectrum(remembered(bank)), joint_svd(bank, 3).spectrum, rtol=1e-9)


def test_energies_are_those_of_the_subspace(bank):
    found = energies(remembered(bank))
    for k in (1, 4):
        assert {label: shares[k - 1] for label, shares in found.items()} == pytest.approx(dict(joint_svd(bank, k).energy))
    assert all(shares[-1] == pytest.approx(1) for shares in found.values())


def test_nulls_see_structure_and_sharing(wide):
    apart = unpaired(wide)
    for given, shared in ((wide, 3), (apart, 0)):
        sources = remembered(given)
        spectrum, gaussian, permuted = joint_spectrum(sources), gaussian_null(sources, draws=50), permutation_null(sources, draws=60)
        assert gaussian.above >= 3  # single types' structure is enough for that
        assert permuted.above == shared
        for null in (gaussian, permuted):
            for band, longest in ((null.spectrum, 15), (null.steps, 14)):
                assert len(band.mean) == len(band.low) == len(band.high) <= longest
                assert (band.low <= band.mean).all()
                assert (band.mean <= band.high).all()
            assert len(null.steps.mean) > null.above
            np.testing.assert_allclose(null.steps.mean[0], null.spectrum.mean[0])  # the first step is the plain comparison
        assert len(null.spectrum.mean) == len(spectrum) == 15
    assert gaussian.spectrum.high[0] < permuted.spectrum.low[0]


def test_nothing_stands_above_noise():
    noise = planted(tasks=12, seeds=1, noise=1000.0)
    assert gaussian_null(noise, draws=40).above == permutation_null(noise, draws=40).above == 0


def test_gaussian_null_is_that_of_the_subspace(wide):
    np.testing.assert_allclose(gaussian_null(wide, draws=200, most=1).spectrum.mean, joint_svd(wide, 2).null, rtol=0.03)


@pytest.mark.parametrize(("shortcut", "value"), [("WHOLE", 1), ("HARDLY", 1.0)])
def test_what_large_matrices_are_spared_changes_little(wide, monkeypatch, shortcut, value):
    whole = [null(wide, draws=30) for null in (permutation_null, gaussian_null)]
    monkeypatch.setattr(choosing, shortcut, value)
    for one, other in zip(whole, (permutation_null(wide, draws=30), gaussian_null(wide, draws=30)), strict=True):
        assert other.above == one.above
        np.testing.assert_allclose(other.steps.mean[0], one.steps.mean[0], rtol=1e-4)
        np.testing.assert_allclose(other.steps.mean[:4], one.steps.mean[:4], rtol=0.03)


def test_what_is_left_keeps_its_spectrum_when_it_is_turned():
    rng = np.random.default_rng(0)
    x, rest, order = rng.standard_normal((9, 9)), np.linalg.qr(rng.standard_normal((9, 5)))[0], rng.permutation(9)
    k = x @ x.T
    left = rest.T @ k @ rest
    nothing = np.zeros_like
    np.testing.assert_allclose(np.linalg.eigvalsh(choosing._turned([nothing(left), left], rest, [order, order])), np.linalg.eigvalsh(left))
    whole = choosing._turned([nothing(k), k], np.eye(9), [order, order])  # of all directions, the permutation itself
    np.testing.assert_allclose(whole, k[order][:, order], atol=1e-12)


def test_nulls_repeat_and_one_type_is_its_own_null(wide):
    for null in (gaussian_null, permutation_null):
        found = [null(wide, draws=5, most=2, seed=seed).spectrum.high for seed in (3, 3, 4)]
        np.testing.assert_array_equal(found[0], found[1])
        assert (found[0] != found[2]).any()
    alone = permutation_null(wide, draws=5, labels=["lora"])
    np.testing.assert_allclose(alone.spectrum.high, joint_spectrum(remembered(wide, ["lora"])), atol=1e-12)
    assert alone.above == 0


def test_tasks_are_permuted_as_wholes():
    pairs = [(f"t{n}", s) for n, s in itertools.product(range(6), range(2))]
    pairs = [pairs[i] for i in np.random.default_rng(0).permutation(12)]
    order = task_order(pairs, np.random.default_rng(1))
    assert sorted(order) == list(range(12))
    there = {pair: pairs[i] for pair, i in zip(pairs, order, strict=True)}
    assert all(seed == there[(task, seed)][1] for task, seed in pairs)
    assert all(there[(task, 0)][0] == there[(task, 1)][0] for task, _ in pairs)
    assert len({there[(task, 0)][0] for task, _ in pairs}) == 6
    uneven = [("a", 0), ("b", 0), ("b", 1), ("c", 0)]
    assert sorted(task_order(uneven, np.random.default_rng(1))) == list(range(4))


# ------------------------------------------------------------ held-out tasks
def naive(bank, k, parts, turned=None):
    """share(s → t) in full size and float64."""
    pairs, names = bank.pairs(), bank.labels()
    left, total = np.zeros((len(names), len(names))), np.zeros(len(names))
    for held in parts:
        train = np.setdiff1d(np.arange(len(pairs)), held)
        x = {}
        for label in names:
            rows = np.stack(bank.rows(label, pairs)).astype(np.float64)
            x[label] = rows[train[turned(train, label)] if turned else train], rows[held]
        scaled = [(a - a.mean(0)) / np.linalg.norm(a - a.mean(0)) for a, _ in x.values()]
        p = np.linalg.svd(np.concatenate(scaled, axis=1), full_matrices=False)[0][:, :k]
        basis = {label: np.linalg.lstsq(p, a - a.mean(0), rcond=None)[0] for label, (a, _) in x.items()}
        for s, source in enumerate(names):
            z = (x[source][1] - x[source][0].mean(0)) @ np.linalg.pinv(basis[source])
            for t, target in enumerate(names):
                there = x[target][0].mean(0) + z @ basis[target]
                left[s, t] += np.sum((x[target][1] - there) ** 2)
        total += [np.sum((x[label][1] - x[label][0].mean(0)) ** 2) for label in names]
    return 1 - left / total


@pytest.mark.parametrize("folds", ["leave_one_task_out", 3])
def test_equals_a_dense_computation(bank, folds):
    found = cross_validated(bank, [4, 1, 9], folds=folds)
    assert found.ks == (1, 4, 9)
    assert found.labels == ("adapter", "lora", "prefix")
    parts = held_out(bank.pairs(), folds, 0)
    for k, share in zip(found.ks, found.share, strict=True):
        np.testing.assert_allclose(share, naive(bank, k, parts), atol=1e-8)


def test_shuffled_control_equals_a_dense_computation_and_shows_sharing(wide):
    found, control = cross_validated(wide, [3]), cross_validated(wide, [3], shuffled=True)
    assert found.mean(across=True)[0] > 0.7
    assert control.mean(across=True)[0] < 0.1
    assert abs(control.mean(across=False)[0] - found.mean(across=False)[0]) < 0.3  # a type's own directions span it, whatever they are called
    from subspace.controls import derangements

    pairs = wide.pairs()
    orders = lambda train, label: dict(zip(wide.labels(), derangements([pairs[i] for i in train], 3, 0), strict=True))[label]  # noqa: E731
    np.testing.assert_allclose(control.share[0], naive(wide, 3, held_out(pairs, "leave_one_task_out", 0), orders), atol=1e-8)


def test_tasks_are_held_out_whole(bank):
    pairs = bank.pairs()
    for folds, count in (("leave_one_task_out", 8), (3, 3)):
        parts = held_out(pairs, folds, 1)
        assert len(parts) == count
        assert sorted(np.concatenate(parts)) == list(range(16))
        owners = [{pairs[i][0] for i in part} for part in parts]
        assert all(not a & b for a, b in itertools.combinations(owners, 2))


def test_intervals_hold_the_share_and_narrow_with_tasks(wide):
    found = cross_validated(wide, [2, 5])
    low, high = found.interval
    assert (low <= found.share).all()
    assert (found.share <= high).all()
    for across in (True, False):
        share, error = found.mean(across=across)
        below, above = found.mean_interval(across=across)
        assert ((below <= share) & (share <= above)).all()
        np.testing.assert_allclose(above - below, 4 * error, rtol=0.25)
    np.testing.assert_array_equal(found.mean_interval(across=True, less=found), 0)
    few = cross_validated(wide, [2], pairs=wide.pairs()[:6])
    assert few.mean(across=True)[1][0] > found.mean(across=True)[1][0]
    rows = found.rows()
    assert len(rows) == 18
    at = next(row for row in rows if (row["source"], row["target"], row["k"]) == ("lora", "prefix", 5))
    assert at["share"] == found.share[1, 1, 2]
    assert at["low"] == low[1, 1, 2]


def test_another_method(wide):
    """One that knows only the mean leaves all the variance there is about it."""
    def mean_only(grams, k):
        n = len(next(iter(grams.values())))
        return dict.fromkeys(grams, np.concatenate([np.full((1, n), 1 / n), np.zeros((k, n))]))

    np.testing.assert_allclose(cross_validated(wide, [1, 3], method=mean_only).share, 0, atol=1e-12)


@pytest.mark.parametrize(("fit", "dual"), [(gcca, gcca_dual), (pca, pca_dual)])
def test_the_other_methods_equal_their_subspaces(wide, fit, dual):
    """What is left of one held-out task against a subspace that was written out."""
    pairs = wide.pairs()
    found = cross_validated(wide, [2, 4], method=dual, nested=fit is gcca)
    for i, k in enumerate(found.ks):
        space = fit(wide, k, pairs=pairs[1:])
        for s, source in enumerate(found.labels):
            z = space.encode(source, wide.theta0(source) + wide.x[source][pairs[0]])
            for t, target in enumerate(found.labels):
                away = wide.theta0(target) + wide.x[target][pairs[0]] - space.decode(target, z)
                assert found.left[i, s, t, 0] == pytest.approx(np.sum(away.astype(float) ** 2), rel=1e-3)


def test_codes_of_every_k_from_one_factor():
    rng = np.random.default_rng(0)
    basis, x = rng.standard_normal((5, 20)) * [[9], [4], [2], [1], [0.1]], rng.standard_normal((20, 3))
    flat = np.concatenate([basis[:3], basis[:1] + basis[1:2], basis[3:4]])  # a direction that is none
    for u in (basis, flat):
        for k, z in zip((1, 3, 4, 5), encoded(u @ u.T, u @ x, (1, 3, 4, 5)), strict=True):
            np.testing.assert_allclose(z, np.linalg.pinv(u[:k].T) @ x, atol=1e-9)
    assert not encoded(np.zeros((2, 2)), np.zeros((2, 3)), [1, 2])[1].any()


def test_recommended_is_the_smallest_within_one_standard_error():
    shares = np.array([0.1, 0.45, 0.5, 0.49])
    one = np.ones((2, 40))
    spread = one * np.linspace(0.8, 1.2, 40)
    left = (1 - shares)[:, None, None, None] * np.broadcast_to(one * spread, (4, 2, 2, 40))
    exact = CrossValidated(ks=(1, 2, 4, 8), labels=("a", "b"), tasks=tuple(map(str, range(40))), left=left, total=spread)
    chosen = recommended(exact)  # every task has the same share: no error at all
    assert (chosen.k, chosen.best) == (4, 4)
    noisy = replace(exact, left=left + np.linspace(-0.4, 0.4, 40))
    assert 0.02 < noisy.mean(across=True)[1][2] < 0.06
    assert recommended(noisy).k in (2, 4)
    noisier = replace(exact, left=left + np.linspace(-0.9, 0.9, 40))
    assert noisier.mean(across=True)[1][2] > 0.06
    assert recommended(noisier).k == 2
    assert "0.500 at k = 4" in chosen.reason
    alone = CrossValidated(ks=(1, 2), labels=("a",), tasks=("x", "y"), left=np.array([[[[1, 1]]], [[[0.5, 0.5]]]]), total=np.ones((1, 2)))
    assert recommended(alone).k == 2
    assert "within the type" in recommended(alone).reason


def test_few_factors_are_recommended(wide):
    found = recommended(cross_validated(wide, range(1, 11)))
    assert found.k == 3
    assert "mean solution" not in found.reason
    assert "no k is clearly better than the mean" in recommended(cross_validated(unpaired(wide), [1, 2])).reason


# ------------------------------------------------------------ rows that remember
def test_a_gram_matrix_is_computed_once(bank, monkeypatch):
    calls, real = [], Stored.gram
    monkeypatch.setattr(Stored, "gram", lambda self, *a: calls.append(1) or real(self, *a))
    sources = remembered(remembered(bank))
    cross_validated(sources, [2])
    permutation_null(sources, draws=2)
    assert len(calls) == 3
    some = [5, 2, 2]
    taken = sources.rows["lora"].take(some)
    np.testing.assert_array_equal(taken.gram(), real(taken.rows))
    again = taken.take([2, 0])
    np.testing.assert_array_equal(again.gram(), real(again.rows))
    assert len(calls) == 3
    taken.gram()[:] = 0
    assert sources.rows["lora"].gram().any()
    narrow = sources.rows["lora"].columns([slice(0, 7)])
    assert narrow.gram()[0, 0] < sources.rows["lora"].gram()[0, 0]
    assert isinstance(taken, Remembered)


def test_sources_that_some_type_lacks_are_left_out(bank):
    whole = gather(bank)
    lacking = replace(whole, blocks={**whole.blocks, "lora": whole.of(whole.pairs[:12]).blocks["lora"]})
    kept = common(lacking)
    assert kept.pairs == whole.pairs[:12]
    assert kept.complete
    np.testing.assert_allclose(cross_validated(lacking, [3]).share, cross_validated(bank, [3], pairs=whole.pairs[:12]).share, atol=1e-12)


def test_refusals(bank, refused):
    with refused("between 1 and 13", "got 14"):
        cross_validated(bank, [2, 14])
    with refused("between 1 and 13"):
        cross_validated(bank, [0, 2])
    with refused("between 1 and 13"):
        cross_validated(bank, [])
    with refused("2 to the 8 tasks", "got 9"):
        cross_validated(bank, [2], folds=9)
    with refused("at least 3 tasks", "got 2"):
        cross_validated(bank, [1], pairs=bank.pairs()[:4])
    with refused("at least 4 tasks"):
        permutation_null(bank, pairs=bank.pairs()[:6])
    with refused("at least one draw", "got 0 and"):
        gaussian_null(bank, draws=0)
    same = FakeBank({"lora": {(f"t{n}", 0): np.ones(60, np.float32) for n in range(5)}}, bank.starts)
    with refused("lora", "5 equal ones"):
        permutation_null(same)
