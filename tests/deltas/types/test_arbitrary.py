"""Arbitrary structures: whole groups, an exact count, and a structure that follows from its key."""

import dataclasses
import hashlib
import math
from collections import Counter

import jax
import numpy as np
import pytest
import single
from flax import nnx

from deltas.attach import sites
from deltas.backbones.architecture import Architecture
from deltas.backbones.sites import Delta
from deltas.backbones.transformer import Transformer
from deltas.functional import Attached
from deltas.types import Arbitrary, LoRA, Together

SMALL = {"rank": 2, "bottleneck": 3, "length": 4}
GROUP = {"lora": {"a", "b"}, "adapter": {"a", "b", "a_bias", "b_bias"}, "prompt": {"rows"}, "prefix": {"keys", "values"}}


@pytest.fixture(scope="module")
def module():
    sizes = {"vocab_size": 16, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_heads": 2, "num_kv_heads": 1, "num_layers": 1, "num_decoder_layers": 1}
    return Transformer(Architecture(**sizes, tied=False), rngs=nnx.Rngs(single.KEY))


@pytest.fixture(scope="module")
def places(module):
    return sites(module)


def shapes(places, config):
    """The shapes of the delta's parameters by (site, kind, name), from the parts themselves."""
    parts = nnx.eval_shape(lambda: nnx.Dict({site.replace(".", "/"): part for site, part in config.build(
        {name: places[name] for name in config.choose(places)}, jax.random.key(0), single.real_tokens(places)).items()}))
    return {(path[0].replace("/", "."), *path[1:]): v.shape for path, v in nnx.to_flat_state(nnx.state(parts, Delta))}


@pytest.mark.parametrize("budget", [8, 40, 333, 1000, 2300])
@pytest.mark.parametrize("structure", [0, 1])
def test_the_realised_count_is_exact_and_within_the_budget(places, budget, structure):
    config = Arbitrary(budget=budget, structure=structure, **SMALL)
    found = shapes(places, config)
    realised = sum(map(math.prod, found.values()))
    assert 0 < realised == config.realised(places) <= budget
    taken = Counter((group.site, group.kind) for group in config.taken(places))
    names: dict[tuple[str, str], set[str]] = {}
    for site, kind, name in found:
        names.setdefault((site, kind), set()).add(name)
    assert set(names) == set(taken)
    for (site, kind), given in names.items():  # whole groups; of a backbone's tensors as many as were taken
        assert given == GROUP[kind] if kind in GROUP else len(given) == taken[site, kind] and given <= set(places[site].own)


def test_no_group_left_out_would_still_fit(places):
    for budget in (100, 700, 1500):
        config = Arbitrary(budget=budget, **SMALL)
        left = set(config.groups(places)) - set(config.taken(places))
        assert min(group.size for group in left) > budget - config.realised(places)


def test_the_whole_is_every_group(places):
    """By hand: 16 linear maps a LoRA, 5 sublayers an adapter, 3 attentions a prefix, one prompt, and every tensor."""
    groups = Arbitrary(budget=1, **SMALL).groups(places)
    assert Counter(group.kind for group in groups if group.kind != "tensor") == {"lora": 17, "adapter": 5, "prefix": 3, "prompt": 1}
    size = {kind: sum(group.size for group in groups if group.kind == kind) for kind in (*GROUP, "tensor")}
    attention = 2 * ((8 + 8) + (8 + 4) + (8 + 4) + (8 + 8))
    assert size["lora"] == 3 * attention + 2 * 2 * (8 + 12 + 12 + 8) + 2 * (8 + 16)
    assert (size["adapter"], size["prefix"], size["prompt"]) == (5 * (2 * 3 * 8 + 3 + 8), 3 * 2 * 4 * 1 * 4, 4 * 8)
    assert size["tensor"] == sum(v.size for site in places.values() for v in jax.tree.leaves(site.plain()))
    whole = sum(size.values())
    assert Arbitrary(budget=whole, **SMALL).realised(places) == whole
    assert set(Arbitrary(budget=whole, **SMALL).taken(places)) == set(groups)


def test_half_of_the_budget_is_for_deltas(places):
    """Unless a half cannot use its own."""
    for structure in range(5):
        for share in (0.25, 0.5, 0.75):
            taken = Arbitrary(budget=1000, share=share, structure=structure, **SMALL).taken(places)
            deltas = sum(group.size for group in taken if group.kind != "tensor")
            assert abs(deltas - share * 1000) < 60, (structure, share)
    kinds = {share: {g.kind for g in Arbitrary(budget=600, share=share, **SMALL).taken(places)} for share in (0.0, 1.0)}
    assert kinds[0.0] == {"tensor"}
    assert "tensor" not in kinds[1.0]


def test_kinds_and_sites_can_be_chosen(places):
    assert {group.kind for group in Arbitrary(budget=150, kinds=("prefix", "adapter"), **SMALL).taken(places)} <= {"prefix", "adapter"}
    config = Arbitrary(budget=300, sites=("decoder.*",), exclude=("cross.q",), **SMALL)
    assert {group.site.split(".")[0] for group in config.taken(places)} == {"decoder"}
    assert "decoder.0.cross.q" not in config.choose(places)


def test_the_key_is_the_structure(places):
    """The same on every machine: groups stand in the order of a hash of their names."""
    one, same, other = (Arbitrary(budget=400, structure=key, **SMALL).taken(places) for key in (0, 0, 1))
    assert one == same
    assert set(one) != set(other)
    assert len({frozenset(Arbitrary(budget=400, structure=key, **SMALL).taken(places)) for key in range(6)}) == 6
    first = Arbitrary(budget=96, kinds=("prefix",), **SMALL).taken(places)
    attentions = [name for name in places if name.endswith(("attn", "cross"))]
    assert [g.site for g in first] == sorted(attentions, key=lambda name: hashlib.sha256(f"0 prefix {name} ".encode()).hexdigest())


def test_budgets_that_no_structure_has(places, refused):
    groups = Arbitrary(budget=1, **SMALL).groups(places)
    least, whole = min(group.size for group in groups), sum(group.size for group in groups)
    assert Arbitrary(budget=least, **SMALL).realised(places) == least
    for budget in (least - 1, whole + 1):
        with refused(f"{least} to {whole}", str(budget)):
            Arbitrary(budget=budget, **SMALL).taken(places)
    with refused("arbitrary", "500"):
        Arbitrary(budget=500, kinds=("prefix",), **SMALL).build(places, single.KEY, single.real_tokens(places))
    with refused("a backbone with sites"):
        Arbitrary(budget=500, kinds=("prompt",), sites=("q",)).taken(places)


def test_inside_together_it_is_the_same_structure(places):
    config = Arbitrary(budget=400, **SMALL)
    both = shapes(places, Together(parts=(LoRA(rank=3), config)))
    alone = shapes(places, config)
    assert {(site, *rest): shape for (site, label, *rest), shape in both.items() if label == "arbitrary"} == alone


def test_what_it_computes():
    """By hand, where every group is taken: the difference to the kernel and to the bias, then the low-rank addition."""
    bare, name, x = single.linear(), "decoder.0.ff.out", single.random(2, 5, single.D)
    config = Arbitrary(budget=1, kinds=("lora", "tensor"), **SMALL)
    config = dataclasses.replace(config, budget=sum(group.size for group in config.groups({name: bare})))
    np.testing.assert_array_equal(single.with_delta(bare, config, name=name, seed=None)(x), bare(x))
    site = single.with_delta(bare, config, name=name)
    w, p = single.weights_of(site), single.numbers(site.attached["arbitrary"])
    assert set(p) == {"lora.a", "lora.b", "tensor.kernel", "tensor.bias"}
    kernel = w["kernel"] + p["tensor.kernel"] + 16 / 2 * p["lora.a"] @ p["lora.b"]
    np.testing.assert_allclose(site(x), np.asarray(x, np.float64) @ kernel + w["bias"] + p["tensor.bias"], atol=1e-4)
    merged = site.parts()[0].merged(site.plain())
    np.testing.assert_allclose(merged["kernel"], kernel, atol=1e-5)
    np.testing.assert_allclose(merged["bias"], w["bias"] + p["tensor.bias"], atol=1e-5)


def test_the_order_of_the_sites_is_nothing_to_the_structure(places):
    """Nor is the order of the kinds: both are a dictionary's or a file's, and may differ from one version to the next."""
    backwards = dict(reversed(places.items()))
    for budget in (100, 700, 1500):
        config = Arbitrary(budget=budget, **SMALL)
        turned = dataclasses.replace(config, kinds=config.kinds[::-1])
        assert config.taken(places) == config.taken(backwards) == turned.taken(places)


def test_attached_it_has_the_realised_count(backbone):
    """What is trained is the count itself, with nothing beside it; two keys give two layouts of the same backbone."""
    layouts = [Attached.of(backbone, Arbitrary(budget=900, structure=key, start="normal", **SMALL)).layout for key in (3, 3, 4)]
    realised = [Arbitrary(budget=900, structure=key, **SMALL).realised(sites(backbone.module)) for key in (3, 3, 4)]
    assert [layout.size for layout in layouts] == realised
    assert layouts[0] == layouts[1] != layouts[2]
