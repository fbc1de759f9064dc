from dataclasses import replace

import numpy as np
import pytest

import deltas
import subspace
from deltas import Bank
from deltas.bank import Solution
from deltas.layout import Layout
from subspace.base import Subspace
from subspace.gcca import gcca
from subspace.granularity import by_group, columns_of, group_of
from subspace.missing import joint_svd_of_some
from subspace.pca import pca
from subspace.rows import Stored
from subspace.sources import Block, Sources

LAYOUTS = {
    "lora": Layout(("encoder.0.attn.q.a", "encoder.1.attn.q.a", "encoder.0.attn.q.b", "encoder.1.attn.q.b", "head.a"),
                   ((5, 2), (5, 2), (2, 7), (2, 7), (9,))),
    "adapter": Layout(("encoder.0.attn.a", "encoder.0.ff.a", "encoder.1.ff.a", "encoder.1.ff.b"), ((11,), (12,), (6, 2), (8,))),
}  # fmt: skip
NAMES = {
    "encoder.3.attn.q.a": ("encoder.3", "encoder.3.attn"), "encoder.3.attn.keys": ("encoder.3", "encoder.3.attn"),
    "encoder.3.attn_norm.scale": ("encoder.3", "encoder.3.attn"), "decoder.10.cross.v.lora.a": ("decoder.10", "decoder.10.cross"),
    "decoder.1.cross_norm.bias": ("decoder.1", "decoder.1.cross"), "encoder.5.ff.out.b": ("encoder.5", "encoder.5.ff"),
    "encoder.5.ff_norm.scale": ("encoder.5", "encoder.5.ff"), "encoder_norm.scale": ("encoder_norm",) * 2, "shared.table": ("shared",) * 2,
    "head.a": ("head",) * 2, "encoder_input.rows": ("encoder_input",) * 2, "x": ("x",) * 2,
    "encoder.block.3.layer.0.SelfAttention.q": ("encoder.3", "encoder.3.attn"),
    "decoder.block.3.layer.1.EncDecAttention.v.lora_A.weight": ("decoder.3", "decoder.3.cross"),
    "encoder.block.3.layer.1.DenseReluDense.wi": ("encoder.3", "encoder.3.ff"),
    "decoder.block.0.layer.2.layer_norm.weight": ("decoder.0", "decoder.0.ff"),
    "encoder.block.0.layer.0.layer_norm.weight": ("encoder.0", "encoder.0.attn"),
    "decoder.block.0.layer.1.layer_norm.weight": ("decoder.0", "decoder.0.cross"),
    "encoder.final_layer_norm.weight": ("encoder.final_layer_norm",) * 2,
    "base_model.model.model.layers.3.self_attn.q_proj.lora_B.weight": ("decoder.3", "decoder.3.attn"),
    "model.layers.3.mlp.down_proj": ("decoder.3", "decoder.3.ff"), "model.layers.3.input_layernorm.weight": ("decoder.3", "decoder.3.attn"),
    "model.layers.3.post_attention_layernorm.weight": ("decoder.3", "decoder.3.ff"), "model.embed_tokens.weight": ("embed_tokens",) * 2,
    "encoder.layer.3.attention.self.query": ("encoder.3", "encoder.3.attn"),
    "bert.encoder.layer.11.attention.output.dense.bias": ("encoder.11", "encoder.11.attn"),
    "roberta.encoder.layer.3.output.dense": ("encoder.3", "encoder.3.ff"),
    "encoder.layer.3.intermediate.dense": ("encoder.3", "encoder.3.ff"), "bert.embeddings.word_embeddings.weight": ("embeddings",) * 2,
    "model.decoder.layers.0.encoder_attn.k_proj": ("decoder.0", "decoder.0.cross"),
    "model.decoder.layers.0.encoder_attn_layer_norm.bias": ("decoder.0", "decoder.0.cross"),
    "model.encoder.layers.2.self_attn.out_proj": ("encoder.2", "encoder.2.attn"),
    "model.encoder.layers.2.fc1.bias": ("encoder.2", "encoder.2.ff"),
    "model.encoder.layers.2.final_layer_norm.bias": ("encoder.2", "encoder.2.ff"),
    "transformer.h.7.attn.c_attn": ("decoder.7", "decoder.7.attn"), "h.7.mlp.c_fc": ("decoder.7", "decoder.7.ff"),
    "transformer.h.7.ln_2.weight": ("decoder.7", "decoder.7.ff"), "transformer.ln_f.weight": ("ln_f",) * 2,
    "model.layers.3.block_sparse_moe.experts.0.w1": ("decoder.3", "decoder.3.block_sparse_moe"),
    "encoder.2.gamma": ("encoder.2", "encoder.2"),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_group_of(name):
    assert (group_of(name, "layer"), group_of(name, "module")) == NAMES[name]
    assert group_of(name, "whole") == "whole"


def test_groups_of_every_own_parameter(backbone):
    """Of a full delta on a real module: no parameter is lost, and each falls where its site stands."""
    layout = deltas.Attached.of(backbone, deltas.Full()).layout
    found = columns_of(layout, "module")
    assert set(found) == {"encoder.0.attn", "encoder.0.ff", "decoder.0.attn", "decoder.0.cross", "decoder.0.ff", "encoder_norm", "decoder_norm",
                          "encoder_positions", "decoder_positions", "shared", "head"}
    taken = np.concatenate([np.arange(r.start, r.stop) for columns in found.values() for r in columns.ranges])
    np.testing.assert_array_equal(np.sort(taken), np.arange(layout.size))
    assert sum(columns.layout.size for columns in found.values()) == layout.size
    assert len(found["encoder.0.attn"].ranges) == 1  # neighbours are read together
    assert set(columns_of(layout, "layer")) == {"encoder.0", "decoder.0", "encoder_norm", "decoder_norm", "encoder_positions",
                                                "decoder_positions", "shared", "head"}


def planted_sources(tasks=14, noise=0.2, seed=0) -> Sources:
    """Each layer has factors of its own, which its types share."""
    rng, blocks = np.random.default_rng(seed), {}
    factors = {group: rng.standard_normal((tasks, 3)) for group in ("encoder.0", "encoder.1", "head")}
    for label, layout in LAYOUTS.items():
        x = rng.standard_normal(layout.size) + noise * rng.standard_normal((tasks, layout.size))
        for group, columns in columns_of(layout, "layer").items():
            for r in columns.ranges:
                x[:, r] += factors[group] @ rng.standard_normal((3, r.stop - r.start))
        blocks[label] = Block(config={"lora": deltas.LoRA(), "adapter": deltas.Adapter()}[label], layout=layout, fingerprint=label,
                              theta0=rng.standard_normal(layout.size).astype(np.float32), rows=Stored(list(x.astype(np.float32))),
                              members=np.arange(tasks))
    return Sources(name="planted", backbone="b0", pairs=tuple((f"task{n}", 0) for n in range(tasks)), blocks=blocks)


def rows_of(sources, label):
    block = sources.blocks[label]
    return np.stack([block.rows[n] for n in range(len(block.rows))])


@pytest.mark.parametrize("method", [subspace.joint_svd, gcca, pca, subspace.random_basis])
def test_every_group_is_the_method_on_its_columns(method):
    sources = planted_sources()
    space = by_group(method, sources, 3, granularity="layer")
    groups = space.settings["groups"]
    assert list(groups) == ["encoder.0", "encoder.1", "head"]
    assert space.k == 9
    for group, entry in groups.items():
        own = slice(entry["first"], entry["first"] + entry["k"])
        blocks = {label: replace(block, rows=block.rows.columns(columns.ranges), layout=columns.layout,
                                 theta0=np.concatenate([block.theta0[r] for r in columns.ranges]))
                  for label, block in sources.blocks.items() if (columns := columns_of(block.layout, "layer").get(group))}
        alone = method(replace(sources, blocks=blocks), 3)
        np.testing.assert_array_equal(space.codes[:, own], alone.codes)
        assert entry["energy"] == pytest.approx(alone.energy)
        for label, part in space.parts.items():
            moved = np.flatnonzero(np.abs(part.basis[own]).sum(0))
            columns = columns_of(part.layout, "layer").get(group)
            if columns is None:
                assert len(moved) == 0
                continue
            chosen = np.concatenate([np.arange(r.start, r.stop) for r in columns.ranges])
            assert set(moved) <= set(chosen)
            np.testing.assert_array_equal(part.basis[own][:, chosen], alone.parts[label].basis)
            np.testing.assert_array_equal(part.mean[chosen], alone.parts[label].mean)
            assert entry["sizes"][label] == len(chosen)


@pytest.mark.parametrize("granularity", ["layer", "module"])
def test_the_contract(granularity, tmp_path):
    sources = planted_sources()
    space = by_group(subspace.joint_svd, sources, 2, granularity=granularity)
    assert space.method == f"joint_svd by {granularity}"
    assert space.k == 2 * len(space.settings["groups"]) == {"layer": 6, "module": 10}[granularity]
    np.testing.assert_allclose(space.codes.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(space.codes.std(0), 1, atol=1e-4)
    for label, part in space.parts.items():
        x = rows_of(sources, label)
        np.testing.assert_allclose(part.mean, x.mean(0), atol=1e-5)
        theta = part.theta0 + x
        there = space.decode(label, space.encode(label, theta))
        np.testing.assert_allclose(space.decode(label, space.encode(label, there)), there, atol=2e-5)
        np.testing.assert_allclose((theta - there) @ part.basis.T, 0, atol=2e-3)
        left = np.sum((x - part.mean - space.codes @ part.basis) ** 2)
        assert space.energy[label] == pytest.approx(1 - left / np.sum((x - x.mean(0)) ** 2), abs=1e-5)
    space.save(tmp_path)
    again = Subspace.load(tmp_path)
    assert again.describe() == space.describe()
    np.testing.assert_array_equal(again.decode("lora", space.codes), space.decode("lora", space.codes))
    whole = subspace.joint_svd(sources, 2)
    np.testing.assert_allclose(space.spectrum, whole.spectrum, rtol=1e-6)
    np.testing.assert_array_equal(space.null, whole.null)


def test_layers_of_their_own_factors_need_a_z_each():
    sources = planted_sources()
    apart, together = by_group(subspace.joint_svd, sources, 3), subspace.joint_svd(sources, 3)
    for label in sources.labels:
        assert together.energy[label] < 0.9
        assert apart.energy[label] > 0.95


def test_whole_is_the_method_itself():
    sources = planted_sources()
    one, other = by_group(subspace.joint_svd, sources, 3, granularity="whole"), subspace.joint_svd(sources, 3)
    assert one.describe() == other.describe()
    np.testing.assert_array_equal(one.codes, other.codes)


def test_small_and_equal_groups():
    """A group of fewer dimensions than k has those; what no solution changes is the mean, and a type alone that changes goes on alone."""
    sources = planted_sources()
    x = rows_of(sources, "lora")
    x[:, columns_of(LAYOUTS["lora"], "layer")["head"].ranges[0]] = 3.0
    x[:, columns_of(LAYOUTS["lora"], "layer")["encoder.0"].ranges[0]] = 0.0
    x[:, columns_of(LAYOUTS["lora"], "layer")["encoder.0"].ranges[1]] = 0.0
    y = rows_of(sources, "adapter")
    first = columns_of(LAYOUTS["adapter"], "layer")["encoder.0"].ranges[0]
    y[:, first] = np.outer(np.arange(14), np.ones(first.stop - first.start))
    blocks = {label: replace(sources.blocks[label], rows=Stored(list(rows))) for label, rows in (("lora", x), ("adapter", y))}
    space = by_group(subspace.joint_svd, replace(sources, blocks=blocks), 4)
    groups = space.settings["groups"]
    assert {group: entry["k"] for group, entry in groups.items()} == {"encoder.0": 1, "encoder.1": 4}
    assert list(groups["encoder.0"]["sizes"]) == ["adapter"]
    np.testing.assert_allclose(space.decode("lora", space.codes) - space.parts["lora"].theta0 - x, 0, atol=2.0)
    head = columns_of(LAYOUTS["lora"], "layer")["head"].ranges[0]
    np.testing.assert_allclose((space.decode("lora", space.codes) - space.parts["lora"].theta0)[:, head], 3.0, atol=1e-6)


def test_missing_blocks():
    sources = planted_sources()
    block = sources.blocks["lora"]
    less = replace(block, rows=block.rows.take(range(3, 14)), members=np.arange(3, 14))
    sources = replace(sources, blocks={**sources.blocks, "lora": less}).only(["lora", "adapter"])
    space = by_group(subspace.joint_svd, sources.of(sources.pairs), 2, granularity="layer", labels=["adapter", "lora"],
                     pairs=sources.pairs[3:])
    assert len(space.spectrum) == 13 - 3
    part = replace(sources, blocks={label: replace(block, layout=Layout(("encoder.0.ff.a",), ((block.layout.size,),)))
                                    for label, block in sources.blocks.items()})
    space, whole = by_group(subspace.joint_svd, part, 2), joint_svd_of_some(part, 2)
    np.testing.assert_allclose(space.codes, whole.codes, atol=1e-6)
    assert len(space.spectrum) == len(space.null) == 0


def test_refusals(refused):
    sources = planted_sources()
    with refused("whole, layer, module", "'block'"):
        by_group(subspace.joint_svd, sources, 2, granularity="block")
    with refused("between 1 and 13", "got 14"):
        by_group(subspace.joint_svd, sources, 14)
    x = rows_of(sources, "adapter")
    x[:, 23:] = np.outer(np.arange(14), np.ones(20))
    flat = replace(sources, blocks={**sources.blocks, "adapter": replace(sources.blocks["adapter"], rows=Stored(list(x)))})
    with refused("at most 1", "in the group encoder.1"):
        by_group(pca, flat, 2)
    same = replace(sources, blocks={"lora": replace(sources.blocks["lora"], rows=Stored([np.ones(57, np.float32)] * 14))})
    with refused("differ from each other", "planted"):
        by_group(subspace.joint_svd, same, 2)


def test_on_a_real_bank(backbone, tmp_path):
    """A subspace by module of real deltas is one that can be decoded into a running model."""
    bank, rng = Bank(tmp_path / "bank", create=True), np.random.default_rng(0)
    for config in (deltas.LoRA(rank=2), deltas.Adapter(bottleneck=3)):
        one = deltas.Attached.of(backbone, config)
        bank.add_start(one)
        for n in range(5):
            bank.add(Solution(task=f"t{n}", seed=0, config=config, layout=one.layout, theta0=one.theta0,
                              vector=(0.1 * rng.standard_normal(one.layout.size)).astype(np.float32), backbone=backbone.fingerprint,
                              theta0_fingerprint=one.theta0_fingerprint))
    space = by_group(subspace.joint_svd, bank, 2, granularity="module")
    assert list(space.settings["groups"]) == ["decoder.0.attn", "decoder.0.cross", "decoder.0.ff", "encoder.0.attn", "encoder.0.ff"]
    assert set(space.settings["groups"]["encoder.0.ff"]["sizes"]) == {"adapter"}
    space.save(tmp_path / "space")
    assert isinstance(Subspace.load(tmp_path / "space", bank), Subspace)
