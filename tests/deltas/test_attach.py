"""Sites, patterns, attaching and detaching."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import deltas
from deltas import Adapter, Attached, LoRA, Prefix
from deltas.attach import attach, detach, own, select, sites
from deltas.backbones.blocks import Linear
from deltas.backbones.sites import Delta, Part
from deltas.backbones.transformer import Transformer

KINDS = {"z_lora": LoRA(rank=2), "a_adapter": Adapter(bottleneck=3, b_std=0.3), "m_prefix": Prefix(length=2, start="normal"),
         "b_all": LoRA(rank=1, sites=("re:.*\\.[qkvo]", "up", "gate", "out", "head"))}


class Times(Part):
    """y → factor · y."""

    def __init__(self, factor: float) -> None:
        self.factor = Delta(jnp.float32(factor))

    def output(self, x, y):
        return self.factor[...] * y


class Plus(Part):
    """y → y + what."""

    def __init__(self, what: float) -> None:
        self.what = Delta(jnp.float32(what))

    def output(self, x, y):
        return y + self.what[...]


@pytest.fixture(scope="module")
def module():
    return Transformer(toy.config_of(), rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def names(module):
    return list(sites(module))


def parts(module, kind):
    config = KINDS[kind]
    places = sites(module)
    chosen = {name: places[name] for name in select(places, config.sites, config.exclude)}
    return config.build(chosen, jax.random.key(len(kind)), lambda length: {})


def test_the_sites_of_a_t5(names):
    assert len(names) == len(set(names))
    for stack, sublayers in (("encoder", ("attn",)), ("decoder", ("attn", "cross"))):
        for layer, sublayer in itertools.product(range(2), sublayers):
            assert {f"{stack}.{layer}.{sublayer}{end}" for end in ("", ".q", ".k", ".v", ".o")} <= set(names)
            assert {f"{stack}.{layer}.ff{end}" for end in ("", ".gate", ".up", ".out")} <= set(names)
    whole = {"head", "shared", *(f"{stack}_{what}" for stack in ("encoder", "decoder") for what in ("input", "norm", "positions"))}
    assert whole <= set(names)
    assert len(names) == 2 * (5 + 4 + 2) + 2 * (10 + 4 + 3) + len(whole)


def test_layer_two_comes_before_layer_ten():
    found = list(sites(nnx.eval_shape(lambda: Transformer(toy.config_of(num_layers=11), rngs=nnx.Rngs(0)))))
    assert found.index("encoder.2.attn") < found.index("encoder.10.attn")


@pytest.mark.parametrize(("patterns", "exclude", "expected"), [
    (["decoder.1.cross.v"], [], ["decoder.1.cross.v"]),
    (["attn.q"], [], ["decoder.0.attn.q", "decoder.1.attn.q", "encoder.0.attn.q", "encoder.1.attn.q"]),
    (["cross"], [], ["decoder.0.cross", "decoder.1.cross"]),
    (["encoder.*.attn.?"], ["k", "o"], [f"encoder.{i}.attn.{m}" for i in range(2) for m in "qv"]),
    (["encoder.[1-9].ff.*"], [], [f"encoder.1.ff.{m}" for m in ("gate", "out", "up")]),
    (["re:.*\\.[01]\\.ff"], ["encoder.*"], ["decoder.0.ff", "decoder.1.ff"]),
    (["v", "cross.v"], ["re:.*attn.*"], ["decoder.0.cross.v", "decoder.1.cross.v"]),
    (["head"], [], ["head"]),
])
def test_select(names, patterns, exclude, expected):
    assert select(names, patterns, exclude) == sorted(expected)


@given(st.permutations(["v", "cross", "encoder.*.ff", "re:.*\\.q"]))
def test_the_order_of_patterns_does_not_matter(order):
    names = ["encoder.0.attn.q", "encoder.0.attn.v", "encoder.0.ff", "decoder.0.cross", "decoder.0.ff"]
    assert select(names, order) == [n for n in names if n != "decoder.0.ff"]


@pytest.mark.parametrize(("pattern", "near"), [("attn.qq", "attn.q"), ("encoder.0.atn.q", "encoder.0.attn.q"), ("crosss", "cross"),
                                               ("encoder.7.*", "encoder"), ("re:.*nothing", "nearest"), ("ttn.q", "attn.q")])
def test_a_pattern_that_matches_nothing_names_near_misses(names, pattern, near, refused):
    with refused(repr(pattern), near):
        select(names, ["q", pattern])


@pytest.mark.parametrize("pattern", ["re:[", "re:*x"])
def test_a_broken_expression_is_refused(names, pattern, refused):
    with refused(repr(pattern)):
        select(names, [pattern])


def test_excluding_everything_is_refused(backbone, refused):
    with refused("q, v", "re:.*"):
        Attached.of(backbone, LoRA(exclude=("re:.*",)))


@settings(max_examples=6, deadline=None)
@given(order=st.permutations(list(KINDS)), off=st.permutations(list(KINDS)))
def test_attach_and_detach_in_any_order_restores_exactly(module, order, off):
    before = nnx.split(module)
    for name in order:
        attach(module, name, parts(module, name))
    assert all(site.order == tuple(n for n in order if n in site.order) for site in sites(module).values())
    assert list(sites(module)) == list(sites(own(module)))  # parts are no sites
    for name in off:
        detach(module, name)
    graphdef, state = nnx.split(module)
    assert graphdef == before[0]
    assert jax.tree.structure(state) == jax.tree.structure(before[1])
    assert all(a is b for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(before[1]), strict=True))


def test_what_remains_attached_computes_what_it_did_alone(module, batch):
    ids, mask = jnp.asarray(batch["input_ids"]), jnp.asarray(batch["attention_mask"])
    encode = nnx.jit(lambda module: module.encode(ids, mask))
    plain, alone, both = encode(module), own(module), own(module)
    attach(alone, "a_adapter", parts(alone, "a_adapter"))
    for name in ("m_prefix", "a_adapter", "z_lora"):
        attach(both, name, parts(both, name))
    expected = encode(alone)
    assert float(jnp.abs(expected - plain).max()) > 1e-3
    assert float(jnp.abs(encode(both) - expected).max()) > 1e-3
    detach(both, "m_prefix")
    detach(both, "z_lora")
    np.testing.assert_array_equal(encode(both), expected)
    detach(both, "a_adapter")
    np.testing.assert_array_equal(encode(both), plain)
    np.testing.assert_array_equal(encode(module), plain)  # the others were their own


def test_deltas_on_one_site_apply_in_the_order_of_attaching():
    x = jnp.ones((1, 3))
    site = Linear(3, 2, std=1.0, rngs=nnx.Rngs(0))
    y = site(x)
    site.attach("z", Plus(1.0)).attach("a", Times(2.0))  # flax keeps tables by name
    np.testing.assert_allclose(site(x), 2 * (y + 1), rtol=1e-6)
    site.detach("z").attach("z", Plus(1.0))
    np.testing.assert_allclose(site(x), 2 * y + 1, rtol=1e-6)
    np.testing.assert_allclose(own(site)(x), 2 * y + 1, rtol=1e-6)  # splitting and merging keep the order


def test_detaching_what_is_not_there(module, refused):
    with refused("'lora'", "none"):
        detach(module, "lora")
    copy = own(module)
    attach(copy, "z_lora", parts(copy, "z_lora"))
    with refused("'lora'", "z_lora"):
        detach(copy, "lora")
    with refused("z_lora"):
        attach(copy, "z_lora", parts(copy, "z_lora"))


def test_a_refused_attach_leaves_the_module_as_it_was(module, refused):
    copy = own(module)
    attach(copy, "one", {"encoder.1.ff": Plus(1.0)})
    before = nnx.split(copy)[0]
    with refused("one"):
        attach(copy, "one", {"encoder.0.ff": Plus(1.0), "encoder.1.ff": Plus(1.0)})
    with refused("encoder.5.ff"):
        attach(copy, "two", {"encoder.0.ff": Plus(1.0), "encoder.5.ff": Plus(1.0)})
    assert nnx.split(copy)[0] == before


def test_the_face_has_the_functions():
    assert (deltas.attach, deltas.detach, deltas.sites) == (attach, detach, sites)
