"""Product space: the change of weights is compared, whatever factors it is written in."""

from dataclasses import replace

import numpy as np
import pytest
from lowrank_fakes import SIZES, changes, dense, factor_sources, product_sources, regauged, solutions
from subspace_fakes import planted

import deltas
import subspace
from deltas.bank import Bank, Solution
from deltas.types import LoRA
from subspace.base import Subspace
from subspace.gram import centred, combine, unexplained
from subspace.optimize import attach_to
from subspace.product import coordinates, in_product_space, product_rows
from subspace.rows import Rows
from subspace.sources import gather


@pytest.fixture(scope="module")
def found():
    return solutions()


def test_the_gram_matrix_is_that_of_all_weights(found):
    """Also a group of solutions at a time, and where only columns of some modules are asked for."""
    naive, rows = dense(found), product_rows(found)
    for inner in (rows.gram(), product_rows(found).gram(memory=2000), Rows.gram(product_rows(found)), Rows.gram(rows, memory=500)):
        np.testing.assert_allclose(inner, naive @ naive.T, rtol=1e-10, atol=1e-10 * np.trace(naive @ naive.T))
        np.testing.assert_array_equal(inner, inner.T)
    order = [3, 3, 0, 7]
    np.testing.assert_array_equal(rows.take(order).gram(), rows.gram()[np.ix_(order, order)])
    np.testing.assert_allclose(product_rows(found).take(order).gram(), rows.gram()[np.ix_(order, order)], rtol=1e-12)


def test_nothing_is_formed_for_it(found, monkeypatch):
    rows = product_rows(found)
    monkeypatch.setattr(rows, "blocks", None)
    rows.gram()


def test_coordinates_have_the_inner_products_of_the_weights(found):
    rows, naive = product_rows(found), dense(found)
    x = np.concatenate([block.copy() for _, block in rows.blocks()], axis=1)
    assert x.shape == (len(found), rows.size) == (9, rows.layout.size)
    np.testing.assert_allclose(x @ x.T, naive @ naive.T, atol=1e-10 * np.trace(naive @ naive.T))
    for memory in (1, 9 * 16 * 5, 9 * 16 * 20, 10**6):  # parts of a row of B, a row, several
        again, done = np.zeros_like(x), 0
        for columns, block in rows.blocks(memory):
            assert columns.start == done
            assert block.shape[1] == columns.stop - columns.start
            again[:, columns], done = block, columns.stop
        assert done == rows.size
        np.testing.assert_allclose(again, x, atol=1e-12)
    np.testing.assert_allclose(rows[4], x[4], rtol=1e-6)
    for name, shape, start in zip(rows.layout.names, rows.layout.shapes, rows.layout.offsets, strict=True):
        own = x[:, start : start + np.prod(shape)]
        assert np.any(own) == name.endswith(".b")
        cut = rows.columns([slice(start, start + int(np.prod(shape)))])
        np.testing.assert_allclose(cut.gram(), own @ own.T, atol=1e-9)
    ragged = [slice(3, 40), slice(100, 260)]
    wanted = np.concatenate([x[:, r] for r in ragged], axis=1)
    cut = rows.columns(ragged)
    np.testing.assert_allclose(cut[2], wanted[2], rtol=1e-6)
    np.testing.assert_allclose(cut.gram(), wanted @ wanted.T, atol=1e-9)
    np.testing.assert_allclose(cut.columns([slice(10, 50)])[2], wanted[2, 10:50], rtol=1e-6)


def test_a_point_is_a_lora_with_the_change_of_weights(found):
    """Codes of all dimensions decode to every solution, and the layout is that of the delta that would be attached."""
    space = subspace.joint_svd(product_sources(found), 8)
    assert space.space == "product"
    part = space.parts["lora"]
    assert isinstance(part.config, LoRA)
    assert part.layout.names == ("layer.2.out.a", "layer.2.out.b", "layer.2.q.a", "layer.2.q.b", "layer.10.q.a", "layer.10.q.b")
    ranks = {name[:-2]: shape[1] for name, shape in zip(part.layout.names, part.layout.shapes, strict=True) if name.endswith(".a")}
    assert ranks == {"layer.2.out": 6, "layer.2.q": 11, "layer.10.q": 9}
    for module, rank in ranks.items():
        assert dict(part.config.rank_pattern).get(module, part.config.rank) == rank
        assert dict(part.config.alpha_pattern).get(module, part.config.alpha) == rank
    for own, z in zip(found, space.codes, strict=True):
        there = changes(part, space.decode("lora", z))
        for module, (n_in, n_out) in SIZES.items():
            wanted = own[module][0] @ own[module][1] if module in own else np.zeros((n_in, n_out))
            np.testing.assert_allclose(there[module], wanted, atol=3e-5)
    np.testing.assert_allclose(space.encode("lora", space.decode("lora", space.codes)), space.codes, atol=1e-4)
    frozen = np.concatenate([np.full(int(np.prod(shape)), name.endswith(".a")) for name, shape in zip(part.layout.names, part.layout.shapes)])
    assert not part.basis[:, frozen].any()
    assert not part.mean[frozen].any()
    assert not part.theta0[~frozen].any()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_gauge_changes_nothing(found, seed):
    one, other = (subspace.joint_svd(product_sources(own), 4) for own in (found, regauged(found, seed)))
    np.testing.assert_allclose(one.codes, other.codes, atol=1e-6)
    np.testing.assert_allclose(one.spectrum, other.spectrum, atol=1e-10)
    for z in np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32):
        there = changes(other.parts["lora"], other.decode("lora", z))
        for module, change in changes(one.parts["lora"], one.decode("lora", z)).items():
            np.testing.assert_allclose(there[module], change, atol=1e-6 * np.abs(change).max())


def test_a_gauge_changes_the_factors_visibly():
    """The trap: the same functions in the files of a bank, and other spectra, other codes, another mean."""
    found = [{module: (a.astype(np.float32), b.astype(np.float32)) for module, (a, b) in own.items()} for own in solutions(ranks=(3,))]
    turned = regauged(found, dtype=np.float32)
    plain, trap = (subspace.joint_svd(factor_sources(own), 4) for own in (found, turned))
    assert np.abs(plain.spectrum - trap.spectrum).max() > 0.02
    assert np.abs(changes(plain.parts["lora"], plain.decode("lora", np.zeros(4)))["layer.2.q"]
                  - changes(trap.parts["lora"], trap.decode("lora", np.zeros(4)))["layer.2.q"]).max() > 0.1
    one, other = (subspace.joint_svd(in_product_space(factor_sources(own)), 4) for own in (found, turned))
    assert one.space == "product"
    np.testing.assert_allclose(one.spectrum, other.spectrum, atol=1e-6)
    np.testing.assert_allclose(one.codes, other.codes, atol=1e-5)


def test_of_a_bank_the_whole_change_counts():
    """θ0 + x with the scale of every site, not the product of what training added."""
    found = solutions(ranks=(3,), n=5)
    theta0 = np.random.default_rng(3).standard_normal(factor_sources(found).blocks["lora"].layout.size).astype(np.float32)
    sources = factor_sources(found, theta0)
    config = LoRA(rank=3, alpha=6.0, alpha_pattern=(("out", 1.5),), sites=("q", "out"))
    sources = replace(sources, blocks={"lora": replace(sources.blocks["lora"], config=config)})
    scaled = [{m: (a, {"layer.2.out": 0.5}.get(m, 2.0) * b) for m, (a, b) in own.items()} for own in found]
    there = in_product_space(sources)
    np.testing.assert_allclose(there.blocks["lora"].rows.gram(), dense(scaled) @ dense(scaled).T, rtol=1e-4, atol=1e-4)
    assert there.blocks["lora"].config.sites == ("q", "out")
    assert there.backbone == "b0"
    assert in_product_space(there) is there
    rs = replace(config, rslora=True)
    sources = replace(sources, blocks={"lora": replace(sources.blocks["lora"], config=rs)})
    np.testing.assert_allclose(in_product_space(sources).blocks["lora"].rows.gram() / there.blocks["lora"].rows.gram(), 3, rtol=1e-5)


def test_a_bounded_rank_keeps_the_leading_directions(found):
    rows, whole = product_rows(found, rank=4), product_rows(found)
    assert whole.kept == 1
    kept = 0.0
    for module, core in rows.cores.items():
        stacked = np.concatenate([own[module][0] @ own[module][1] for own in found if module in own], axis=1)
        s = np.linalg.svd(stacked, compute_uv=False)
        assert core.q.shape[1] == 4
        np.testing.assert_allclose(core.kept, np.sum(s[:4] ** 2) / np.sum(s**2), rtol=1e-9)
        kept += float(np.sum(s[:4] ** 2))
    assert 0.5 < rows.kept < 0.999
    np.testing.assert_allclose(rows.kept, kept / np.trace(whole.gram()), rtol=1e-9)
    np.testing.assert_allclose(np.trace(rows.gram()), kept, rtol=1e-9)
    np.testing.assert_allclose(rows.gram(), Rows.gram(product_rows(found, rank=4)), rtol=1e-9, atol=1e-9)
    few = solutions(n=3, ranks=(1,), sizes={"m": (20, 5)})
    assert product_rows(few).cores["m"].q.shape == (20, 3)
    many = solutions(n=30, ranks=(2,), sizes={"m": (5, 4)})  # more columns than inputs: compressed on the way
    np.testing.assert_allclose(Rows.gram(product_rows(many)), dense(many, {"m": (5, 4)}) @ dense(many, {"m": (5, 4)}).T, rtol=1e-9, atol=1e-9)


def test_coordinates_of_a_newcomer(found):
    """A solution of the rows has theirs; what is orthogonal to the core or at another module is outside, and all adds up."""
    sources = product_sources(found)
    block = sources.blocks["lora"]
    for n in (0, 4):
        x, outside, total = coordinates(block.layout, block.theta0, regauged(found)[n])
        np.testing.assert_allclose(x, block.rows[n], atol=1e-5)
        assert outside < 1e-9 * total
        np.testing.assert_allclose(total, dense(found)[n] @ dense(found)[n], rtol=1e-10)
    few = product_sources(solutions(n=3, ranks=(2,), sizes={"m": (20, 5)})).blocks["lora"]
    new = {"m": (np.random.default_rng(0).standard_normal((20, 2)), np.ones((2, 5))), "other": (np.ones((4, 1)), np.ones((1, 3)))}
    x, outside, total = coordinates(few.layout, few.theta0, new)
    q = few.rows.cores["m"].q
    change = new["m"][0] @ new["m"][1]
    np.testing.assert_allclose(outside, np.sum((change - q @ (q.T @ change)) ** 2) + 12, rtol=1e-5)
    np.testing.assert_allclose(outside + np.sum(x.astype(np.float64) ** 2), total, rtol=1e-5)


def test_streamed_sums_agree(found):
    """What the decompositions ask of any rows."""
    rows = product_rows(found)
    x = np.concatenate([block.copy() for _, block in rows.blocks()], axis=1)
    c = np.random.default_rng(0).standard_normal((3, 9))
    np.testing.assert_allclose(combine(c, rows, memory=3000), c @ x, atol=1e-4)
    space = subspace.joint_svd(product_sources(found), 4)
    left, total = unexplained(rows, space.parts["lora"].mean, space.codes, space.parts["lora"].basis)
    np.testing.assert_allclose(total, np.trace(centred(rows.gram())), rtol=1e-9)
    np.testing.assert_allclose(1 - left / total, space.energy["lora"], atol=1e-5)


def test_saved_and_loaded(found, tmp_path):
    space = subspace.joint_svd(product_sources(found), 3)
    space.save(tmp_path)
    again = Subspace.load(tmp_path)
    assert again.space == "product"
    np.testing.assert_array_equal(again.decode("lora", space.codes), space.decode("lora", space.codes))


def test_a_bank_in_product_space_runs_on_its_backbone(backbone, batch, tmp_path):
    """Codes of all dimensions, decoded and attached, give the logits of the solutions themselves."""
    start, rng = deltas.Attached.of(backbone, deltas.LoRA(rank=2, alpha=3.0)), np.random.default_rng(0)
    bank = Bank(tmp_path, create=True)
    bank.add_start(start)
    own = [Solution(task=f"task{i}", seed=0, config=start.config, layout=start.layout, theta0=start.theta0, backbone=backbone.fingerprint,
                    theta0_fingerprint=start.theta0_fingerprint, vector=0.3 * rng.standard_normal(start.layout.size).astype(np.float32))
           for i in range(4)]
    for solution in own:
        bank.add(solution)
    space = subspace.joint_svd(in_product_space(gather(bank)), 3)
    attached = attach_to(space, backbone, "lora")
    assert attached.layout == space.parts["lora"].layout
    assert attached.theta0_fingerprint == space.parts["lora"].theta0_fingerprint
    for solution, z in zip(own, space.codes, strict=True):
        wanted = start.logits(solution.theta, start.frozen, batch)
        np.testing.assert_allclose(attached.logits(space.decode("lora", z), attached.frozen, batch), wanted, atol=1e-4 * np.abs(wanted).max())


def test_refusals(found, refused):
    with refused("layer.2.q", "11 inputs", "row 0", "12", "row 9"):
        product_rows([*found, {"layer.2.q": (np.ones((12, 1)), np.ones((1, 7)))}])
    with refused("change weights"):
        product_rows([{"m": (np.ones((3, 1)), np.zeros((1, 2)))}])
    with refused("rank", "0"):
        product_rows(found, rank=0)
    sources = factor_sources(solutions(ranks=(3,)))
    with refused("dora"):
        in_product_space(replace(sources, blocks={"lora": replace(sources.blocks["lora"], config=LoRA(rank=3, dora=True))}))
    with refused("lora among", "prefix"):
        in_product_space(gather(planted(["prefix"])))
    with refused("in product space"):
        in_product_space(product_sources(found), rank=2)
