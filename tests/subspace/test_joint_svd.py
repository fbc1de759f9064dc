import numpy as np
import pytest
from subspace_fakes import SIZES, FakeBank, planted

import subspace
from subspace.joint_svd import decompose, null_spectrum


def dense(bank, pairs):
    """The blocks, centred and of unit norm, side by side in float64."""
    blocks = []
    for label in bank.labels():
        x = np.stack(bank.rows(label, pairs)).astype(np.float64)
        x -= x.mean(0)
        blocks.append(x / np.linalg.norm(x))
    return blocks


def test_equals_a_dense_svd():
    bank = planted(tasks=9, noise=0.5)
    pairs = bank.pairs()
    blocks = dense(bank, pairs)
    p, s, _ = np.linalg.svd(np.concatenate(blocks, axis=1), full_matrices=False)
    space = subspace.joint_svd(bank, 6)
    np.testing.assert_allclose(space.spectrum, s[:17], rtol=1e-7)
    assert np.sum(space.spectrum**2) == pytest.approx(3)
    np.testing.assert_allclose(space.codes @ space.codes.T / 18, p[:, :6] @ p[:, :6].T, atol=1e-5)
    for label, block in zip(bank.labels(), blocks, strict=True):
        assert space.energy[label] == pytest.approx(np.linalg.norm(p[:, :6].T @ block) ** 2)


def test_decoders_are_the_least_squares_regression_on_the_codes():
    bank = planted()
    space = subspace.joint_svd(bank, 5)
    design = np.concatenate([np.ones((16, 1)), space.codes], axis=1).astype(np.float64)
    for label, part in space.parts.items():
        solved = np.linalg.lstsq(design, np.stack(bank.rows(label, space.pairs)), rcond=None)[0]
        np.testing.assert_allclose(part.mean, solved[0], atol=1e-5)
        np.testing.assert_allclose(part.basis, solved[1:], atol=1e-5)


def test_sign_is_fixed(bank):
    codes = subspace.joint_svd(bank, 5).codes
    assert (codes[np.abs(codes).argmax(0), np.arange(5)] > 0).all()


def test_scale_of_a_type_does_not_matter(bank):
    larger = {label: {pair: x * (100 if label == "lora" else 1) for pair, x in rows.items()} for label, rows in bank.x.items()}
    scaled = FakeBank(larger, bank.starts)
    np.testing.assert_allclose(subspace.joint_svd(scaled, 4).codes, subspace.joint_svd(bank, 4).codes, atol=1e-4)


def test_planted_structure_stands_above_the_null(bank):
    space = subspace.joint_svd(bank, 4)
    assert (space.spectrum[:3] > 1.4 * space.null[:3]).all()
    assert (space.spectrum[4:] < space.null[4:]).all()
    assert all(energy > 0.9 for energy in space.energy.values())


def test_null_equals_that_of_drawn_noise():
    """Bartlett's factor has the distribution of the Gram matrix of noise; also where a type is smaller than the number of solutions."""
    rng, n, sizes = np.random.default_rng(0), 12, [90, 41, 7]
    drawn = []
    for _ in range(200):
        grams = {}
        for number, size in enumerate(sizes):
            x = rng.standard_normal((n, size))
            grams[str(number)] = x @ x.T
        drawn.append(decompose(grams, 1).spectrum)
    np.testing.assert_allclose(null_spectrum(n, sizes, draws=200), np.mean(drawn, axis=0), rtol=0.02)
    np.testing.assert_array_equal(null_spectrum(n, sizes, seed=3), null_spectrum(n, sizes[::-1], seed=3))


def test_gram_correlation(bank):
    found = subspace.gram_correlation(bank, permutations=200)
    assert set(found) == {"adapter|lora", "adapter|prefix", "lora|prefix"}
    for entry in found.values():
        assert entry["correlation"] > 0.7
        assert entry["p"] < 0.02
        assert abs(entry["null_mean"]) < 0.1
        assert entry["null_interval"][1] < entry["correlation"]
    noise = planted(noise=1000.0, seeds=1, tasks=12)
    apart = subspace.gram_correlation(noise, permutations=200)
    assert all(abs(entry["correlation"]) < 0.5 and entry["p"] > 0.01 for entry in apart.values())


def test_refusals(bank, refused):
    with refused("at least 4 tasks", "got 3"):
        subspace.gram_correlation(bank, pairs=[p for p in bank.pairs() if p[0] < "task3"])
    same = FakeBank({"lora": {(f"t{n}", 0): np.ones(SIZES["lora"], np.float32) for n in range(4)}}, bank.starts)
    with refused("lora", "4 equal ones"):
        subspace.joint_svd(same, 2)
    twice = FakeBank({"lora": {(f"t{n}", s): bank.x["lora"][(f"task{n}", 0)] for n in range(4) for s in range(2)}}, bank.starts)
    with refused("at most 3", "8 solutions", "got 4"):
        subspace.joint_svd(twice, 4)
