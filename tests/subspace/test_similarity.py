"""Similarities that are known, against dense computations and against chance."""

import sys

import numpy as np
import pytest
from lora_sources import loras
from scipy.linalg import subspace_angles
from scipy.spatial.distance import pdist
from subspace_fakes import FakeBank, planted

import subspace
from subspace.maps import code_points, points_of, task_map
from subspace.product import in_product_space
from subspace.similarity import (
    against_permuted,
    cka,
    clustered,
    code_overlap,
    cosines,
    criterion,
    own_codes,
    product_gram,
    task_cosines,
    type_similarity,
)
from subspace.sources import gather


@pytest.fixture(scope="module")
def wide():
    return planted(tasks=16, seeds=2, rank=3, noise=0.5)


@pytest.fixture(scope="module")
def strangers():
    """Types that share nothing but the names of their tasks."""
    rng, x = np.random.default_rng(4), {}
    one = planted(tasks=16, seeds=2, rank=3, noise=0.5)
    for label, rows in one.x.items():
        other = dict(zip(sorted({t for t, _ in rows}), rng.permutation(sorted({t for t, _ in rows})), strict=True))
        x[label] = {(task, s): rows[(other[task], s)] for task, s in rows}
    return FakeBank(x, one.starts)


def averaged(bank, label):
    tasks = sorted({task for task, _ in bank.pairs()})
    x = np.stack([np.mean([bank.x[label][(task, s)] for s in (0, 1)], axis=0, dtype=np.float64) for task in tasks])
    return x - x.mean(0)


def test_cosines_between_tasks(wide):
    tasks, found = task_cosines(wide)
    assert tasks == sorted({task for task, _ in wide.pairs()})
    for label, matrix in found.items():
        x = averaged(wide, label)
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        np.testing.assert_allclose(matrix, unit @ unit.T, atol=1e-6)
    at_mean = cosines(np.diag([1.0, 0.0, 4.0]))
    np.testing.assert_array_equal(at_mean, np.eye(3))


def test_alike_tasks_stand_together():
    group = np.array([0, 1, 2, 0, 1, 2, 0, 1])
    similarity = np.where(group[:, None] == group[None], 0.8, 0.05)
    np.fill_diagonal(similarity, 1.0)
    found = clustered(similarity)
    assert sorted(found.order) == list(range(8))
    assert np.sum(np.diff(group[found.order]) != 0) == 2  # three blocks
    assert found.linkage.shape == (7, 4)


def test_criterion_is_the_mean_over_independent_draws():
    """The plain criterion is not 0 on average, the debiased one is; and it equals its definition as a sum over distinct places."""
    rng, plain, debiased = np.random.default_rng(0), [], []
    for _ in range(400):
        k, l = (z @ z.T for z in rng.standard_normal((2, 8, 5)))  # noqa: E741
        plain.append(cka(k, l, debiased=False))
        debiased.append(criterion(k, l))
    assert np.mean(plain) > 0.3
    assert abs(np.mean(debiased)) < 3 * np.std(debiased) / 20
    n, places = 8, range(8)
    first = sum(k[i, j] * l[i, j] for i in places for j in places if i != j) / (n * (n - 1))
    second = sum(k[i, j] * l[i, q] for i in places for j in places for q in places if len({i, j, q}) == 3) / (n * (n - 1) * (n - 2))
    off_k, off_l = (m - np.diag(np.diagonal(m)) for m in (k, l))
    third = sum(off_k[i, j] * off_l[p, q] for i in places for j in places for p in places for q in places if len({i, j, p, q}) == 4)
    assert criterion(k, l) == pytest.approx(first - 2 * second + third / (n * (n - 1) * (n - 2) * (n - 3)))


def test_cka_of_equal_turned_and_scaled_codes():
    rng = np.random.default_rng(1)
    z = rng.standard_normal((12, 3))
    turned = 7 * z @ np.linalg.qr(rng.standard_normal((3, 3)))[0] + 2
    for debiased in (True, False):
        assert cka(z @ z.T, turned @ turned.T, debiased=debiased) == pytest.approx(1)
    assert np.isnan(cka(np.eye(12), z @ z.T))


def test_overlap_of_codes():
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((2, 12, 3))
    assert code_overlap(a, b) == pytest.approx(np.mean(np.cos(subspace_angles(a, b)) ** 2))
    assert code_overlap(a, a @ rng.standard_normal((3, 3))) == pytest.approx(1)


def test_own_codes_are_principal_components(wide):
    x = averaged(wide, "lora")
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    codes = own_codes(x @ x.T, 4)
    np.testing.assert_allclose(np.abs(codes), np.abs(u[:, :4] * s[:4]), atol=1e-6)


def test_types_that_share_and_types_that_do_not(wide, strangers):
    shared, apart = (type_similarity(bank, 3, permutations=200) for bank in (wide, strangers))
    assert set(shared) == set(apart) == {"adapter|lora", "adapter|prefix", "lora|prefix"}
    for pair, measures in shared.items():
        assert set(measures) == {"gram", "cosines", "cka", "plain_cka", "overlap"}
        for entry in measures.values():
            assert entry["value"] > 0.8, pair
            assert entry["p"] < 0.02
            assert entry["null_interval"][1] < entry["value"]
    for measures in apart.values():
        assert all(measures[name]["value"] < 0.5 for name in ("gram", "cosines", "cka"))
        assert measures["plain_cka"]["null_mean"] > 0.05 + measures["cka"]["null_mean"]  # inflated, even in permuted order
    assert sum(entry["p"] < 0.05 for measures in apart.values() for entry in measures.values()) <= 3


def test_products_do_not_know_the_gauge():
    plain, turned = loras(), loras(gauges=True)
    found = product_gram(plain.blocks["lora"])
    np.testing.assert_allclose(found, product_gram(turned.blocks["lora"]), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found, in_product_space(plain).rows["lora"].gram(), rtol=1e-6)
    assert np.abs(task_cosines(plain)[1]["lora"] - task_cosines(turned)[1]["lora"]).max() > 0.3
    block = plain.blocks["lora"]
    parts = [block.layout.unflatten(block.theta0 + block.rows[n]) for n in (0, 1)]
    changes = [[1.5 * np.asarray(p[f"{site}.a"]) @ np.asarray(p[f"{site}.b"]) for site in ("encoder.0.q", "encoder.0.v")] for p in parts]
    assert found[0, 1] == pytest.approx(sum(np.sum(a * b) for a, b in zip(*changes, strict=True)), rel=1e-4)


def test_gram_correlation_is_the_known_one(wide):
    found, known = type_similarity(wide, 3, permutations=5), subspace.gram_correlation(wide, permutations=5)
    for pair, entry in known.items():
        assert found[pair]["gram"]["value"] == pytest.approx(entry["correlation"])


def test_codes_that_are_given(wide):
    space = subspace.joint_svd(wide, 3)
    codes = {label: space.codes * (1 if label == "lora" else -2) for label in space.labels}
    for measures in type_similarity(wide, 3, codes=codes, permutations=20).values():
        assert measures["cka"]["value"] == measures["overlap"]["value"] == pytest.approx(1)
        assert measures["gram"]["value"] < 1


def test_what_is_not_defined_is_none():
    assert against_permuted(lambda order: float("nan"), [np.arange(3)])["value"] is None


# ------------------------------------------------------------ maps
def test_points_have_the_distances_of_the_rows():
    x = np.random.default_rng(0).standard_normal((9, 30)) + 5
    points = points_of(x @ x.T)
    np.testing.assert_allclose(pdist(points), pdist(x), rtol=1e-6)
    assert (np.diff(np.linalg.norm(points, axis=0)) <= 1e-6).all()


def test_code_points_have_the_distances_of_the_decoded(bank):
    space = subspace.joint_svd(bank, 5)
    wanted = 0.0
    for label, part in space.parts.items():
        wanted = wanted + pdist(space.decode(label, space.codes).astype(float)) ** 2 / np.sum(part.basis.astype(float) ** 2)
    points = code_points(space)
    np.testing.assert_allclose(pdist(points) ** 2, wanted, rtol=1e-3)
    assert task_map(points).share > 0.6  # of white codes a plane holds 2/5
    assert not code_points(subspace.mean_only(bank, 3)).any()


def test_pca_is_the_plane_that_holds_most():
    x = np.random.default_rng(0).standard_normal((20, 5)) * [1, 9, 1, 4, 1] + 3
    found = task_map(x)
    centred = x - x.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(found.points), np.abs(u[:, :2] * s[:2]), atol=1e-9)
    assert found.share == pytest.approx(np.sum(s[:2] ** 2) / np.sum(s**2))
    assert (found.points[np.abs(found.points).argmax(0), [0, 1]] > 0).all()
    np.testing.assert_allclose(pdist(task_map(points_of(x @ x.T)).points), pdist(found.points), atol=1e-6)


@pytest.mark.parametrize("method", ["tsne", pytest.param("umap", marks=pytest.mark.slow)])
def test_neighbours_stay_neighbours(method):
    if method == "umap":
        pytest.importorskip("umap")
    rng = np.random.default_rng(0)
    group = np.repeat([0, 1, 2], 8)
    x = 10 * rng.standard_normal((3, 6))[group] + rng.standard_normal((24, 6))
    found, again = (task_map(x, method=method, seed=1) for _ in range(2))
    np.testing.assert_array_equal(found.points, again.points)
    assert found.points.shape == (24, 2)
    assert found.share is None
    distance = np.linalg.norm(found.points[:, None] - found.points[None], axis=-1) + 1e9 * np.eye(24)
    assert np.mean(group[distance.argmin(1)] == group) > 0.9


def test_umap_is_an_extra(monkeypatch, refused):
    monkeypatch.setitem(sys.modules, "umap", None)
    with refused("umap-learn", "deltaspace[maps]"):
        task_map(np.eye(6), method="umap")


def test_refusals(bank, refused):
    with refused("at least 5 tasks", "got 4"):
        type_similarity(bank, 2, pairs=[p for p in bank.pairs() if p[0] < "task4"])
    for k in (0, 7):
        with refused("between 1 and 6", "8 tasks", f"got {k}"):
            type_similarity(bank, k)
    with refused("factors A and B", "layout of x"):
        product_gram(gather(bank).blocks["lora"])
    with refused("at least 2 tasks", "got 1"):
        clustered(np.ones((1, 1)))
    with refused("pca, tsne, umap", "isomap"):
        task_map(np.eye(6), method="isomap")
    for points in (np.ones((3, 4)), np.ones((5, 1)), np.full((5, 2), np.nan), np.ones(4)):
        with refused("finite points", "shape"):
            task_map(points)
