from dataclasses import replace

import numpy as np
import pytest
from subspace_fakes import planted

import subspace
from subspace.gcca import gcca
from subspace.gram import gram
from subspace.missing import alternate, joint_svd_of_some, reach
from subspace.pca import pca
from subspace.sources import gather


def lacking(bank, share=1 / 3, seed=0, absent=None):
    """The bank's sources without a share of the blocks, at random, or without those named by type; every source keeps one."""
    sources, rng = gather(bank), np.random.default_rng(seed)
    has = {label: rng.random(len(sources.pairs)) > share for label in sources.labels}
    if absent is not None:
        has = {label: ~np.isin(np.arange(len(sources.pairs)), absent.get(label, ())) for label in sources.labels}
    for n in np.flatnonzero(~np.any(list(has.values()), axis=0)):
        has[sources.labels[n % len(has)]][n] = True
    blocks = {label: replace(block, rows=block.rows.take(np.flatnonzero(has[label]).tolist()), members=np.flatnonzero(has[label]))
              for label, block in sources.blocks.items()}
    return replace(sources, blocks=blocks)


def same_space(a, b, tolerance):
    np.testing.assert_allclose(a @ a.T / len(a), b @ b.T / len(b), atol=tolerance)


def test_on_complete_data_it_is_joint_svd():
    bank = planted(tasks=12, seeds=1, noise=0.5)
    joint, found = subspace.joint_svd(bank, 4), joint_svd_of_some(gather(bank), 4)
    np.testing.assert_allclose(found.codes, joint.codes, atol=1e-6)
    np.testing.assert_allclose(found.spectrum, joint.spectrum[:4], rtol=1e-6)
    for label, part in joint.parts.items():
        np.testing.assert_allclose(found.parts[label].basis, part.basis, atol=1e-6)
        np.testing.assert_allclose(found.parts[label].mean, part.mean, atol=1e-6)
        assert found.energy[label] == pytest.approx(joint.energy[label], abs=1e-6)
    assert found.settings["steps"] == 1


def test_the_alternation_finds_the_svd_from_anywhere():
    bank = planted(tasks=12, seeds=1, noise=0.3)
    grams = {label: gram(bank.rows(label, bank.pairs())) for label in bank.labels()}
    start = np.random.default_rng(0).standard_normal((12, 3))
    found = alternate(grams, dict.fromkeys(grams, np.arange(12)), 12, 3, start=start, tolerance=1e-12, steps=10_000)
    joint = subspace.joint_svd(bank, 3)
    assert found.steps > 5
    np.testing.assert_allclose(found.codes, joint.codes, atol=1e-6)
    np.testing.assert_allclose(found.spectrum, joint.spectrum[:3], rtol=1e-6)


@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_each_half_is_a_least_squares_solution(weight):
    """The decoders against rows written out, and no other codes of an incomplete source do better."""
    sources = lacking(planted(noise=0.5))
    space, draw = joint_svd_of_some(sources, 3, weight=weight), np.zeros((3, 4))
    rows = {label: np.stack([block.rows[i] for i in range(len(block.rows))]).astype(np.float64) for label, block in sources.blocks.items()}
    gone = {label: np.setdiff1d(np.arange(16), block.members) for label, block in sources.blocks.items()}
    scales = {label: 16 * np.mean(np.sum((x - x.mean(0)) ** 2, axis=1)) for label, x in rows.items()}
    for label, part in space.parts.items():  # the code that missing blocks are drawn to, at which the sum of their squares is least
        metric = part.basis @ part.basis.T / scales[label]
        draw += np.c_[len(gone[label]) * metric, metric @ space.codes[gone[label]].sum(0)]
    drawn_to = np.linalg.solve(draw[:, :3], draw[:, 3])
    for label, block in sources.blocks.items():
        x, part = rows[label], space.parts[label]
        design = np.concatenate([np.c_[np.ones(len(x)), space.codes[block.members]],
                                 np.sqrt(weight) * np.c_[np.zeros(len(gone[label])), space.codes[gone[label]] - drawn_to]])
        solved = np.linalg.lstsq(design, np.concatenate([x, np.zeros((len(gone[label]), x.shape[1]))]), rcond=None)[0]
        np.testing.assert_allclose(part.mean, solved[0], atol=1e-4)
        np.testing.assert_allclose(part.basis, solved[1:], atol=1e-4)
        left = np.sum((x - part.mean - space.codes[block.members] @ part.basis) ** 2)
        assert space.energy[label] == pytest.approx(1 - left / np.sum((x - x.mean(0)) ** 2), abs=1e-5)

    def loss(n, z):
        total = 0.0
        for label, part in space.parts.items():
            at = np.flatnonzero(sources.blocks[label].members == n)
            rest = rows[label][at[0]] - part.mean - z @ part.basis if len(at) else np.sqrt(weight) * (z - drawn_to) @ part.basis
            total += np.sum(rest**2) / scales[label]
        return total

    rng = np.random.default_rng(0)
    for n in range(16):
        assert all(loss(n, space.codes[n] + 0.02 * rng.standard_normal(3)) > loss(n, space.codes[n]) for _ in range(5))
    np.testing.assert_allclose(space.codes.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(space.codes.T @ space.codes / 16, np.eye(3), atol=1e-4)


def test_planted_structure_is_recovered_with_a_third_missing():
    """The codes of all sources, and the blocks that were never seen."""
    bank = planted(tasks=24, seeds=1, noise=0.3)
    full, sources = subspace.joint_svd(bank, 4), lacking(bank)
    assert 40 < sum(len(block.rows) for block in sources.blocks.values()) < 56
    space = subspace.joint_svd(sources, 4)
    assert np.linalg.svd(full.codes.T @ space.codes / 24, compute_uv=False).min() > 0.95
    for label, block in sources.blocks.items():
        gone = np.setdiff1d(np.arange(24), block.members)
        x = np.stack(bank.rows(label, bank.pairs()))[gone]
        part = space.parts[label]
        assert np.sum((x - part.mean - space.codes[gone] @ part.basis) ** 2) < 0.15 * np.sum((x - part.mean) ** 2)
    # taking only the sources that are complete is worse
    whole = [pair for n, pair in enumerate(sources.pairs) if all(n in block.members for block in sources.blocks.values())]
    few = subspace.joint_svd(bank, 4, pairs=whole)
    for label in bank.labels():
        x = np.stack(bank.rows(label, bank.pairs())) + space.parts[label].theta0
        left = [np.sum((x - s.decode(label, s.encode(label, x))) ** 2) for s in (space, few)]
        assert left[0] < left[1]


def test_the_weight_keeps_blocks_that_were_never_seen_within_reason():
    """More directions than the structure has: what present types show of them is noise, and missing types would be given it in plenty."""
    bank = planted(tasks=24, seeds=1, noise=1.0)
    sources, left = lacking(bank), {}
    for weight in (0.0, 0.1, 1.0):
        space, left[weight] = joint_svd_of_some(sources, 6, weight=weight), 0.0
        for label, block in sources.blocks.items():
            gone = np.setdiff1d(np.arange(24), block.members)
            x, part = np.stack(bank.rows(label, bank.pairs()))[gone], space.parts[label]
            left[weight] += np.mean((x - part.mean - space.codes[gone] @ part.basis) ** 2) / np.mean((x - part.mean) ** 2) / 3
    assert left[0.1] < 0.85 < min(left[1.0], left[0.0])


def test_order_of_types_and_rows_changes_nothing():
    sources = lacking(planted(noise=0.5))
    order = np.random.default_rng(1).permutation(16)
    turned = sources.of([sources.pairs[i] for i in order]).only(["prefix", "adapter", "lora"])
    one, other = subspace.joint_svd(sources, 3), subspace.joint_svd(turned, 3)
    np.testing.assert_allclose(one.codes[order], other.codes, atol=1e-3)
    for label in one.labels:
        np.testing.assert_allclose(one.parts[label].basis, other.parts[label].basis, atol=1e-3)


def test_controls_take_missing_blocks_where_they_can(refused):
    sources = lacking(planted(noise=0.5))
    mean, drawn = subspace.mean_only(sources, 3), subspace.random_basis(sources, 3)
    joint = subspace.joint_svd(sources, 3)
    for label in joint.labels:
        np.testing.assert_array_equal(mean.parts[label].mean, joint.parts[label].mean)
        assert np.linalg.norm(drawn.parts[label].basis) == pytest.approx(np.linalg.norm(joint.parts[label].basis), rel=1e-5)
    assert np.isfinite(drawn.codes).all()
    for method in (subspace.shuffled, gcca, pca):
        with refused("every source", "got none of", "joint_svd"):
            method(sources, 3)


def test_reach():
    def members(**ranges):
        return {label: np.arange(*ends) for label, ends in ranges.items()}

    assert reach(members(a=(0, 10), b=(0, 10), c=(0, 10))) == (9, "a")
    assert reach(members(a=(0, 10), b=(4, 12), c=(10, 14))) == (1, "c")  # c meets b alone
    assert reach(members(a=(0, 10), b=(10, 14), c=(6, 14))) == (3, "c")  # b is joined through c
    assert reach(members(a=(0, 5))) == (4, "a")


def test_refusals(bank, refused):
    apart = lacking(bank, absent={"adapter": range(8), "lora": range(8, 16)})
    with refused("between 1 and 7", "adapter", "got 9", "shares"):
        subspace.joint_svd(apart, 9)
    with refused("at least 2 sources", "got 0"):
        subspace.joint_svd(apart.only(["adapter", "lora"]), 2)
    with refused("by some type", "task0, seed 0"):
        subspace.joint_svd(apart.only(["adapter"]), 2)
    with refused("weight", "-1"):
        joint_svd_of_some(apart, 2, weight=-1)
    same = {label: {pair: np.ones_like(x) for pair, x in rows.items()} if label == "lora" else rows for label, rows in bank.x.items()}
    with refused("lora", "equal ones"):
        subspace.joint_svd(lacking(replace(bank, x=same)), 2)
