from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

import deltas
import subspace
from deltas.layout import Layout
from subspace.alignment import align_to, aligned
from subspace.gauges import sites_of
from subspace.ranks import of_one_rank
from subspace.rows import Stored
from subspace.sources import Block, Sources, gather

CONFIGS = {
    "lora": deltas.LoRA(rank=3), "adapter": deltas.Adapter(bottleneck=5, bias=True), "prefix": deltas.Prefix(length=4, sites=("cross",)),
}  # fmt: skip
BOTH = ["canonical", "procrustes"]


@pytest.fixture(scope="module")
def ready(backbone):
    """By label the attached type, and 9 solutions that share four factors."""
    rng, found = np.random.default_rng(0), {}
    factors = rng.standard_normal((9, 4))
    for label, config in CONFIGS.items():
        one = deltas.Attached.of(backbone, config)
        x = rng.standard_normal(one.layout.size) + factors @ rng.standard_normal((4, one.layout.size))
        found[label] = one, (0.2 * (x + 0.3 * rng.standard_normal(x.shape))).astype(np.float32)
    return found


def sources_of(ready, rows):
    blocks = {label: Block(config=one.config, layout=one.layout, theta0=one.theta0, fingerprint=label, rows=Stored(list(rows[label])),
                           members=np.arange(9)) for label, (one, _) in ready.items() if label in rows}
    return Sources(name="ready", backbone=next(iter(ready.values()))[0].backbone.fingerprint, pairs=tuple((f"t{n}", 0) for n in range(9)),
                   blocks=blocks)


def turned(one, x, rng):
    """The same functions in other gauges, each solution in its own, from the parameters by name."""
    rows = []
    for row in x:
        values = {name: np.array(value, np.float64) for name, value in one.layout.unflatten(jnp.asarray(one.theta0 + row)).items()}
        for site in sorted({name.rpartition(".")[0] for name in values}):
            if one.label == "lora":
                g = np.linalg.qr(rng.standard_normal((3, 3)))[0] * rng.uniform(0.5, 2, 3)
                values[f"{site}.a"], values[f"{site}.b"] = values[f"{site}.a"] @ np.linalg.inv(g), g @ values[f"{site}.b"]
                continue
            order = rng.permutation(5 if one.label == "adapter" else 4)
            for own, axis in (("a", 1), ("a_bias", 0), ("b", 0)) if one.label == "adapter" else (("keys", 0), ("values", 0)):
                values[f"{site}.{own}"] = np.take(values[f"{site}.{own}"], order, axis=axis)
        rows.append(np.asarray(one.layout.flatten(values)) - one.theta0)
    return np.stack(rows)


def logits(one, theta, batch):
    return np.asarray(one.logits(jnp.asarray(theta), one.frozen, {name: jnp.asarray(value) for name, value in batch.items()}))


def rows_of(sources, label):
    block = sources.blocks[label]
    return np.stack([block.rows[n] for n in range(len(block.rows))])


@pytest.mark.parametrize("label", CONFIGS)
@pytest.mark.parametrize("how", BOTH)
def test_a_gauge_of_every_solution_changes_nothing(ready, batch, label, how):
    """Rows, codes, spectrum and the function of a decoded point; while without alignment they change, and visibly."""
    one, x = ready[label]
    other = turned(one, x, np.random.default_rng(1))
    for n in (0, 5):  # the gauges are gauges
        np.testing.assert_allclose(logits(one, one.theta0 + other[n], batch), logits(one, one.theta0 + x[n], batch), atol=1e-4)
    plain = [sources_of(ready, {label: rows}) for rows in (x, other)]
    bare = [subspace.joint_svd(aligned(sources, "none"), 3) for sources in plain]
    assert np.abs(bare[0].codes - bare[1].codes).max() > 0.3
    assert bare[1].energy[label] < bare[0].energy[label] - 0.1
    moved = [aligned(sources, how, relative=True) for sources in plain]
    np.testing.assert_allclose(rows_of(moved[0], label), rows_of(moved[1], label), atol=1e-4)
    spaces = [subspace.joint_svd(sources, 3) for sources in moved]
    np.testing.assert_allclose(spaces[0].spectrum, spaces[1].spectrum, atol=1e-4)
    np.testing.assert_allclose(spaces[0].codes, spaces[1].codes, atol=1e-4)
    assert [space.align for space in spaces] == [how] * 2
    there = [space.decode(label, space.codes[5]) for space in spaces]
    np.testing.assert_allclose(logits(one, there[0], batch), logits(one, there[1], batch), atol=1e-4)


@pytest.mark.parametrize("how", BOTH)
def test_aligned_solutions_are_the_same_functions(ready, batch, how):
    rows = {label: turned(one, x, np.random.default_rng(1)) for label, (one, x) in ready.items()}
    sources = aligned(sources_of(ready, rows), how, relative=True)
    for label, (one, _) in ready.items():
        block = sources.blocks[label]
        np.testing.assert_array_equal(block.theta0, one.theta0)
        assert np.abs(block.rows[3] - rows[label][3]).max() > 0.05
        np.testing.assert_allclose(logits(one, one.theta0 + block.rows[3], batch), logits(one, one.theta0 + rows[label][3], batch), atol=1e-4)


def test_alignment_brings_solutions_of_different_gauges_together(ready):
    """Turned apart they share little; each alignment gives back what they share, and the reference more than each alone."""
    for label, (one, x) in ready.items():
        apart = sources_of(ready, {label: turned(one, x, np.random.default_rng(1))})
        near = {how: subspace.joint_svd(aligned(apart, how, relative=True), 4).energy[label] for how in ("none", *BOTH)}
        spread = {how: np.var(rows_of(aligned(apart, how, relative=True), label), axis=0).sum() for how in ("none", *BOTH)}
        assert near["procrustes"] > near["none"]
        assert spread["procrustes"] < min(spread["canonical"], spread["none"])


def test_canonical_lora(ready):
    """Against a dense singular value decomposition of A B, site by site."""
    one, x = ready["lora"]
    sources = aligned(sources_of(ready, {"lora": x}), "canonical")
    before, after = (one.layout.unflatten(jnp.asarray(one.theta0 + rows[2])) for rows in (x, rows_of(sources, "lora")))
    for name in one.layout.names:
        if not name.endswith(".a"):
            continue
        a, b = (np.asarray(after[name[:-1] + own], np.float64) for own in "ab")
        whole = np.asarray(before[name], np.float64) @ np.asarray(before[name[:-1] + "b"], np.float64)
        np.testing.assert_allclose(a @ b, whole, atol=1e-5)
        s = np.linalg.svd(whole)[1][:3]
        np.testing.assert_allclose(a.T @ a, np.diag(s), atol=1e-4)
        np.testing.assert_allclose(b @ b.T, np.diag(s), atol=1e-4)
        assert (a[np.abs(a).argmax(0), np.arange(3)] > 0).all()


@pytest.mark.parametrize("shape", [(2, 9), (9, 2), (9, 7)])
def test_lower_ranks_and_narrow_maps(shape):
    """Solutions of a lower rank, filled up with zeros in any place, or in another gauge, and maps narrower than the rank."""
    rng, layout = np.random.default_rng(0), Layout(("s.a", "s.b"), ((shape[0], 3), (3, shape[1])))
    wide, low = (rng.standard_normal((shape[0], r)) @ rng.standard_normal((r, shape[1])) for r in (3, 1))

    def theta(whole, gauge):
        u, s, vh = np.linalg.svd(whole, full_matrices=False)
        r = min(3, len(s))
        a, b = np.zeros((shape[0], 3)), np.zeros((3, shape[1]))
        a[:, :r], b[:r] = u[:, :r] * s[:r], vh[:r]
        return np.concatenate([(a @ np.linalg.inv(gauge)).ravel(), (gauge @ b).ravel()]).astype(np.float32)

    block = Block(config=deltas.LoRA(rank=3), layout=layout, theta0=np.zeros(layout.size, np.float32), fingerprint="x", members=np.arange(3),
                  rows=Stored([theta(wide, np.eye(3)), theta(low, np.eye(3)), theta(low, rng.standard_normal((3, 3)))]))
    sources = Sources(name="ranks", backbone="", pairs=(("a", 0), ("b", 0), ("c", 0)), blocks={"lora": block})
    for how in BOTH:
        rows = rows_of(aligned(sources, how), "lora")
        np.testing.assert_allclose(rows[1], rows[2], atol=1e-4)
        for row, whole in zip(rows, (wide, low, low), strict=True):
            parts = layout.unflatten(jnp.asarray(row))
            np.testing.assert_allclose(parts["s.a"] @ parts["s.b"], whole, atol=1e-4)
        if how == "canonical":
            np.testing.assert_allclose(layout.unflatten(jnp.asarray(rows[1]))["s.a"][:, 1:], 0, atol=1e-3)


def test_slots_of_a_prefix_where_positions_are_relative(backbone, batch, refused):
    """In a T5's self-attention the order of the slots is part of the function: they stay; elsewhere they are moved."""
    one = deltas.Attached.of(backbone, deltas.Prefix(length=4))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, one.layout.size)).astype(np.float32)
    values = one.layout.unflatten(jnp.asarray(one.theta0 + x[0]))
    other = one.layout.flatten({name: value[::-1] for name, value in values.items()})
    assert np.abs(logits(one, other, batch) - logits(one, one.theta0 + x[0], batch)).max() > 1e-3  # the trap
    block = Block(config=one.config, layout=one.layout, theta0=one.theta0, fingerprint="p", rows=Stored(list(x)), members=np.arange(5))
    sources = Sources(name="prefixes", backbone="b", pairs=tuple((f"t{n}", 0) for n in range(5)), blocks={"prefix": block})
    np.testing.assert_array_equal(rows_of(aligned(sources, "procrustes", relative=True), "prefix"), x)
    assert np.abs(rows_of(aligned(sources, "procrustes", relative=False), "prefix") - x).max() > 0.1
    with refused("relative positions", "decoder.0.attn", "T5"):
        aligned(sources, "canonical")


def test_other_types_stay(bank):
    sources = gather(bank)  # of layouts that name no site
    moved = aligned(sources, "procrustes")
    assert all(moved.blocks[label] is block for label, block in sources.blocks.items())
    assert moved.align == "procrustes"
    network = deltas.Prefix(length=4, bottleneck=2)
    layout = Layout(("encoder.0.attn.network.e", "encoder.0.attn.network.w0"), ((4, 8), (8, 2)))
    assert sites_of(network, layout) == sites_of(deltas.BitFit(), layout) == []
    dora = sites_of(deltas.LoRA(dora=True), Layout(("q.a", "q.b", "q.m"), ((4, 2), (2, 4), (4,))))
    assert [set(site.arrays) for site in dora] == [{"a", "b"}]  # lengths have no gauge


def test_rows_in_a_temporary_file(ready, tmp_path):
    sources = sources_of(ready, {"lora": ready["lora"][1]})
    held, filed = (aligned(sources, "procrustes", memory=memory, folder=tmp_path) for memory in (2**30, 0))
    assert isinstance(filed.blocks["lora"].rows[0], np.memmap)
    np.testing.assert_array_equal(rows_of(held, "lora"), rows_of(filed, "lora"))
    assert list(tmp_path.iterdir()) == []


def test_a_solution_from_elsewhere(ready):
    """It is aligned as the sources were: a source itself, in another gauge, is found at its own code."""
    for label, (one, x) in ready.items():
        other = turned(one, x, np.random.default_rng(2))
        for how in BOTH:
            space = subspace.joint_svd(aligned(sources_of(ready, {label: x}), how, relative=True), 4)
            z = space.encode(label, align_to(space, label, one.theta0 + other[4], relative=True))
            bare = space.encode(label, one.theta0 + other[4])
            np.testing.assert_allclose(z, space.codes[4], atol=0.4)
            given = deltas.Solution(task="t", seed=0, config=one.config, layout=one.layout, vector=other[4], theta0=one.theta0,
                                    backbone=space.backbone, theta0_fingerprint=label)
            np.testing.assert_allclose(subspace.project(space, given, relative=True).z, z, atol=1e-4)
            assert np.abs(bare - space.codes[4]).max() > 2 * np.abs(z - space.codes[4]).max()
    plain = subspace.joint_svd(sources_of(ready, {"lora": ready["lora"][1]}), 2)
    np.testing.assert_array_equal(align_to(plain, "lora", ready["lora"][0].theta0), ready["lora"][0].theta0)


def test_refusals(ready, refused):
    sources = sources_of(ready, {label: x for label, (_, x) in ready.items()})
    with refused("none, canonical, procrustes", "'rotate'"):
        aligned(sources, "rotate")
    with refused("aligned by canonical"):
        aligned(aligned(sources, "canonical", relative=True), "procrustes")
    with refused("product space"):
        aligned(replace(sources, space="product"), "canonical")
    space = subspace.joint_svd(sources, 2)
    with refused("θ of lora", "(3,)"):
        align_to(space, "lora", np.zeros(3))


def test_ranks_that_differ_in_one_bank(ready, backbone, batch, refused):
    """Two LoRA types of different ranks, scales and modules become one that runs; aligned, a solution is one whatever its rank."""
    one, x = ready["lora"]
    small = deltas.Attached.of(backbone, deltas.LoRA(rank=2, alpha=3.0, rslora=True, sites=("q", "o"), label="small"))
    y = (0.2 * np.random.default_rng(5).standard_normal((4, small.layout.size))).astype(np.float32)
    blocks = dict(sources_of(ready, {label: rows for label, (_, rows) in ready.items()}).blocks)
    blocks["lora"] = replace(blocks["lora"], rows=Stored(list(x[:5])), members=np.array([0, 2, 4, 6, 8]))
    blocks["small"] = Block(config=small.config, layout=small.layout, theta0=small.theta0, fingerprint="s", rows=Stored(list(y)),
                            members=np.array([1, 3, 5, 7]))
    sources = Sources(name="ranks", backbone=backbone.fingerprint, pairs=tuple((f"t{n}", 0) for n in range(9)), blocks=blocks)
    found = of_one_rank(sources)
    assert found.labels == ["adapter", "prefix", "lora"]
    assert found.complete
    block = found.blocks["lora"]
    np.testing.assert_array_equal(block.members, np.arange(9))
    whole = deltas.Attached.of(backbone, block.config, theta0=block.theta0)
    assert whole.layout == block.layout
    assert whole.theta0_fingerprint == block.fingerprint
    for n, (was, row) in ((3, (small, y[1])), (4, (one, x[2]))):
        np.testing.assert_allclose(logits(whole, block.rows[n], batch), logits(was, was.theta0 + row, batch), atol=1e-4)
    for how in BOTH:
        space = subspace.joint_svd(aligned(found, how, relative=True), 3)
        theta = space.decode("lora", space.codes[3])
        assert np.isfinite(logits(whole, theta, batch)).all()
    with refused("t0, seed 0", "two"):
        of_one_rank(replace(sources, blocks={**blocks, "small": replace(blocks["small"], members=np.arange(4))}))
    with refused("LoRA types", "adapter"):
        of_one_rank(sources, ["adapter", "lora"])
    with refused("another type's"):
        of_one_rank(sources, label="adapter")
    with refused("aligned by canonical"):
        of_one_rank(aligned(sources, "canonical", relative=True))
    name = next(name for name in small.layout.names if name.endswith("q.b"))
    other = Layout(small.layout.names, tuple((2, 8) if n == name else shape for n, shape in zip(small.layout.names, small.layout.shapes)))
    with refused("of one size", name.removesuffix(".b")):
        of_one_rank(replace(sources, blocks={**blocks, "small": replace(blocks["small"], layout=other)}))
