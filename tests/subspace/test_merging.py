"""Merging: the rules against what their papers say on small numbers, and what merging in z can and cannot be."""

import numpy as np
import pytest

import subspace
from deltas import Adapter, LoRA, Solution
from deltas.checkpoints import low_rank
from deltas.functional import Attached
from subspace.merging import factors_of, lora_of, merge, merge_codes, merge_factors, merge_solutions
from subspace.rows import Stored
from subspace.rules import Dare, Mean, TaskArithmetic, Ties, disjoint_mean, merged

ROWS = [np.array(row, np.float32) for row in ([4, -1, 0.5, 3, 0], [-6, 2, 0.1, 5, 1], [1, -3, 0.2, -2, 0])]
LABELS = ["adapter", "lora", "prefix"]


def test_rules_on_small_numbers():
    np.testing.assert_allclose(merged(ROWS, Mean()), np.mean(ROWS, axis=0), rtol=1e-6)
    np.testing.assert_allclose(merged(ROWS, Mean(given=(2, 1, 1))), np.average(ROWS, axis=0, weights=[2, 1, 1]), rtol=1e-6)
    np.testing.assert_allclose(merged(ROWS, TaskArithmetic(scale=0.3)), 0.3 * np.sum(ROWS, axis=0), rtol=1e-6)
    # TIES keeps two of five entries a row: [4 . . 3 .], [-6 . . 5 .], [. -3 . -2 .]; signs of the sums: -, -, 0, +, 0
    np.testing.assert_allclose(merged(ROWS, Ties(density=0.4)), [-6, -3, 0, 4, 0])
    np.testing.assert_allclose(merged(ROWS, Ties(density=0.4, scale=0.5)), [-3, -1.5, 0, 2, 0])
    np.testing.assert_allclose(disjoint_mean(np.array([[1.0, 2.0], [-1.0, 4.0]])), [0, 3])  # a draw elects nothing


def test_dare_keeps_the_sum_on_average_and_draws_by_seed():
    rng = np.random.default_rng(0)
    rows = [rng.standard_normal(40_000).astype(np.float32) + 1 for _ in range(3)]
    found = merged(rows, Dare(drop=0.8, seed=1))
    assert abs(found.mean() - 1) < 0.03
    assert abs(np.mean(found == 0) - 0.8**3) < 0.01  # each row has its own draw
    np.testing.assert_array_equal(found, merged(rows, Dare(drop=0.8, seed=1)))
    assert (found != merged(rows, Dare(drop=0.8, seed=2))).any()
    assert (found != merged(rows, Dare(drop=0.8, seed=1), "another module")).any()
    np.testing.assert_allclose(merged(rows, Dare(drop=0.0)), np.mean(rows, axis=0), atol=1e-6)
    np.testing.assert_allclose(merged(rows, Dare(drop=0.0, elect=True)), merged(rows, Ties(density=1.0)), atol=1e-6)
    np.testing.assert_allclose(merged(rows, Dare(drop=0.5, scale=1.0)), 3 * merged(rows, Dare(drop=0.5)), atol=1e-5)


@pytest.mark.parametrize("rule", [Mean(), TaskArithmetic(), Ties(density=0.3), Dare(drop=0.5), Dare(drop=0.5, elect=True)])
def test_blocks_of_columns_change_nothing(rule, monkeypatch):
    rows = Stored([np.random.default_rng(m).standard_normal(1000).astype(np.float32) for m in range(4)])
    whole, blocks = merged(rows, rule), Stored.blocks
    monkeypatch.setattr(Stored, "blocks", lambda self, memory=0: blocks(self, 8 * 4 * 66))
    assert len(list(rows.blocks())) > 10
    np.testing.assert_allclose(merged(rows, rule), whole, atol=1e-6)


def test_a_subspace_merge_by_the_mean_is_the_mean_projected(bank):
    space, pairs = subspace.joint_svd(bank, 4), bank.pairs()[:5]
    for rule in (Mean(), Mean(given=(5, 1, 1, 1, 2))):
        at_z, at_theta = merge(space, pairs, rule), merge(space, pairs, rule, "theta")
        originals = merge(space, pairs, rule, "theta", bank=bank)
        for label in space.labels:
            np.testing.assert_allclose(at_z.thetas[label], at_theta.thetas[label], atol=1e-5)
            theta = bank.theta0(label) + np.stack(bank.rows(label, pairs))
            mean = np.average(theta, axis=0, weights=rule.weights(5))
            np.testing.assert_allclose(originals.thetas[label], mean, atol=1e-5)
            # the projection of the mean is the mean of the projections
            projected = space.decode(label, space.encode(label, theta))
            np.testing.assert_allclose(space.decode(label, space.encode(label, mean)), rule.weights(5) @ projected, atol=1e-4)
        np.testing.assert_allclose(at_z.z, rule.weights(5) @ space.codes[:5], atol=1e-6)


def test_what_looks_at_single_entries_differs_between_z_and_theta(bank):
    space, pairs = subspace.joint_svd(bank, 4), bank.pairs()[:5]
    for rule in (Ties(density=0.5), Dare(drop=0.5)):
        at_z, at_theta = merge(space, pairs, rule), merge(space, pairs, rule, "theta")
        for label in space.labels:
            moved = np.linalg.norm(at_theta.thetas[label] - space.part(label).offset)
            assert np.linalg.norm(at_z.thetas[label] - at_theta.thetas[label]) > 0.1 * moved
            np.testing.assert_allclose(at_z.thetas[label], space.decode(label, at_z.z))
    # and a sum of codes is a sum of departures from the mean solution, not from θ0
    at_z, at_theta = (merge(space, pairs[:2], TaskArithmetic(), where) for where in ("z", "theta"))
    for label in space.labels:
        np.testing.assert_allclose(at_theta.thetas[label] - at_z.thetas[label], space.part(label).mean, atol=1e-4)


# ------------------------------------------------------------ LoRAs
def random_loras(ranks=(2, 3, 1), modules=("encoder.0.attn.q", "encoder.0.attn.v")):
    rng = np.random.default_rng(0)
    return [{module: (rng.standard_normal((6, r)).astype(np.float32), rng.standard_normal((r, 5)).astype(np.float32)) for module in modules}
            for r in ranks]


def changes(factors):
    return {module: a.astype(np.float64) @ b for module, (a, b) in factors.items()}


def test_linear_rules_of_products_are_exact_whatever_the_ranks():
    many = random_loras()
    del many[1]["encoder.0.attn.v"]  # not every LoRA has every module
    for rule in (Mean(), Mean(given=(1, 2, 3)), TaskArithmetic(scale=0.7)):
        found, weights = merge_factors(many, rule), rule.weights(3)
        for module, change in changes(found).items():
            wanted = sum(w * changes(one)[module] for w, one in zip(weights, many, strict=True) if module in one)
            np.testing.assert_allclose(change, wanted, atol=1e-5)
        assert {module: a.shape[1] for module, (a, _) in found.items()} == {"encoder.0.attn.q": 6, "encoder.0.attn.v": 3}
        low = merge_factors(many, rule, rank=2)
        for module, change in changes(low).items():
            full = changes(found)[module]
            s = np.linalg.svd(full, compute_uv=False)
            assert low[module][0].shape[1] == 2
            np.testing.assert_allclose(np.linalg.norm(full - change), np.linalg.norm(s[2:]), rtol=1e-4)  # the best of that rank


def test_ties_of_products_acts_on_the_elements_of_each_module():
    many, rule = random_loras(), Ties(density=0.4)
    found = changes(merge_factors(many, rule, energy=1.0))
    for module, change in found.items():
        rows = [changes(one)[module].astype(np.float32).ravel() for one in many]
        np.testing.assert_allclose(change.ravel(), merged(rows, rule), atol=1e-5)


def test_a_change_of_gauge_changes_no_product_merge():
    many, rng = random_loras(), np.random.default_rng(1)
    turned = []
    for one in many:
        turned.append({})
        for module, (a, b) in one.items():
            g = rng.standard_normal((a.shape[1],) * 2) + 2 * np.eye(a.shape[1])
            turned[-1][module] = ((a @ g).astype(np.float32), np.linalg.solve(g, b).astype(np.float32))
    for rule in (Mean(), Ties(density=0.4), Dare(drop=0.5)):
        old, new = (changes(merge_factors(given, rule, energy=1.0)) for given in (many, turned))
        for module in old:
            np.testing.assert_allclose(new[module], old[module], atol=1e-4)


def solution(attached, seed, task="t"):
    rng = np.random.default_rng(seed)
    return Solution(task=task, seed=seed, config=attached.config, layout=attached.layout, theta0=attached.theta0,
                    vector=0.3 * rng.standard_normal(attached.layout.size).astype(np.float32), backbone=attached.backbone.fingerprint,
                    theta0_fingerprint=attached.theta0_fingerprint, scores={"test": 1.0})


def test_solutions_of_different_ranks_run_as_one(backbone, attached, refused):
    """Merged LoRAs of ranks 2 and 3 and other scales are a delta of the backbone, whose change of weights is the mean of theirs."""
    other = Attached.of(backbone, LoRA(rank=3, alpha=5.0, rslora=True, alpha_pattern=(("encoder.0.attn.q", 2.0),), sites=("q", "o")), seed=1)
    one, two = solution(attached["lora"], 0), solution(other, 1)
    found = merge_solutions([one, two], space="product")
    assert (found.label, found.scores) == ("lora", {})
    assert found.provenance["merged"]["of"] == [["t", "lora", 0], ["t", "lora", 1]]
    again = Attached.of(backbone, found.config, theta0=found.theta0)
    assert again.layout == found.layout
    assert again.theta0_fingerprint == found.theta0_fingerprint
    wanted = [low_rank.differences(each, backbone) for each in (one, two)]
    for name, change in low_rank.differences(found, backbone).items():
        each = [changed.get(name, 0.0) for changed in wanted]  # q in both, v in the first, o in the second
        np.testing.assert_allclose(change, (each[0] + each[1]) / 2, atol=1e-6)
    with refused("'product'"):
        merge_solutions([one, two])
    with refused("rank or an energy"):
        merge_solutions([one, two], Ties(), space="product")
    low = merge_solutions([one, two], Ties(), space="product", rank=2)
    assert set(factors_of(low.config, low.layout, low.theta)) == set(factors_of(found.config, found.layout, found.theta))


def test_solutions_of_one_start_are_merged_as_vectors(attached, refused):
    one, two = solution(attached["adapter"], 0), solution(attached["adapter"], 1)
    found = merge_solutions([one, two], Mean(given=(3, 1)), task="both")
    np.testing.assert_allclose(found.vector, 0.75 * one.vector + 0.25 * two.vector, atol=1e-6)
    assert (found.task, found.theta0_fingerprint) == ("both", one.theta0_fingerprint)
    with refused("adapter"):
        merge_solutions([one, two], space="product")


def test_factors_there_and_back():
    many = random_loras((2, 3))
    many[0]["encoder.0.attn.v"] = many[1]["encoder.0.attn.v"]  # ranks may differ between modules
    config, layout, theta = lora_of(many[0], "mine")
    assert config.label == "mine"
    back = factors_of(config, layout, theta)
    for module, (a, b) in many[0].items():
        np.testing.assert_array_equal(back[module][0], a)
        np.testing.assert_allclose(back[module][1], b, rtol=1e-6)


def test_refusals(bank, refused):
    space = subspace.joint_svd(bank, 2)
    with refused("density", "0"):
        Ties(density=0.0)
    with refused("below 1", "1.0"):
        Dare(drop=1.0)
    with refused("sum is not 0"):
        Mean(given=(1, -1))
    with refused("each of 3", "got 2"):
        merged(ROWS, Mean(given=(1, 1)))
    with refused("task99"):
        merge(space, [("task99", 0)])
    with refused("once"):
        merge(space, [("task0", 0)] * 2)
    with refused("'w'"):
        merge(space, [("task0", 0)], where="w")
    with refused("got none"):
        merge(space, [])
    with refused("codes of 2"):
        merge_codes(space, np.zeros((3, 4)))
    with refused("dora"):
        factors_of(LoRA(dora=True), None, None)
    with refused("adapter"):
        factors_of(Adapter(), None, None)
    many = [*random_loras((2,)), {"encoder.0.attn.q": (np.zeros((4, 2)), np.zeros((2, 5)))}]
    with refused("encoder.0.attn.q", "(4, 5)"):
        merge_factors(many)
