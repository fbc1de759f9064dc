"""Deltas written into the weights compute what they compute attached, where there are such weights."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
import single
from flax import nnx

from deltas.attach import own
from deltas.backbones.blocks import Entry
from deltas.backbones.sites import Part
from deltas.types import IA3, Adapter, BitFit, Compacter, Full, LoRA, LowRankAdapter, Prefix, Prompt, Together

X = single.random(2, 5, single.D, seed=9)
LINEAR = "decoder.0.attn.k"
WEIGHTS = {
    "lora": LoRA(rank=2, sites=("k",)),
    "rslora": LoRA(rank=2, rslora=True, label="rslora", sites=("k",)),
    "dora": LoRA(rank=2, dora=True, label="dora", sites=("k",)),
    "out": IA3(label="out", sites=("k",), inputs=()),
    "into": IA3(label="into", sites=("k",), inputs=("k",)),
    "bitfit": BitFit(),
    "full": Full(),
}


def with_weights(site, weights):
    """The site without deltas, over other weights."""
    bare = own(site)
    for name in bare.order:
        bare.detach(name)
    for name, value in weights.items():
        setattr(bare, name, None if value is None else nnx.data(nnx.Param(value)))
    return bare


def check(site):
    part, = site.parts()
    merged = with_weights(site, part.merged(site.plain()))
    np.testing.assert_allclose(single.call(merged, X), single.call(site, X), atol=1e-5, rtol=1e-5)
    assert float(jnp.abs(single.call(merged, X) - single.call(with_weights(site, site.plain()), X)).max()) > 0.1
    for name, value in site.plain().items():
        new = getattr(merged, name)
        assert value is None or (new.shape, new.dtype) == (value.shape, value.dtype)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", list(WEIGHTS))
def test_merged_is_attached(kind, bias):
    check(single.with_delta(single.linear(bias=bias), WEIGHTS[kind], name=LINEAR))


@pytest.mark.parametrize("kind", ["bitfit", "full"])
def test_merged_is_attached_at_a_norm(kind):
    for rms in (False, True):
        check(single.with_delta(single.norm(rms=rms), WEIGHTS[kind], name="decoder.0.attn_norm"))


@pytest.mark.parametrize("pair", itertools.permutations(["lora", "dora", "out", "into", "bitfit"], 2), ids="-".join)
def test_two_deltas_merge_in_the_order_of_their_use(pair):
    """Changes of weights before what acts on the output, factors on the input last, however they were attached."""
    check(single.with_delta(single.linear(), Together(parts=tuple(WEIGHTS[kind] for kind in pair)), name=LINEAR))


def test_all_deltas_at_once_merge_even_from_a_chain_in_a_chain():
    inner = Together(parts=(WEIGHTS["into"], WEIGHTS["dora"]), label="inner")
    site = single.with_delta(single.linear(), Together(parts=(WEIGHTS["out"], WEIGHTS["lora"], inner, WEIGHTS["full"])), name=LINEAR)
    check(site)
    stages = {type(part).__name__: part.stages() for part in site.parts()[0].each()}
    assert stages == {"Outputs": {1}, "LowRank": {1}, "Inputs": {2}, "Magnitude": {0}, "Difference": {0}}


@pytest.mark.parametrize(("config", "build", "name"), [
    (Adapter(bottleneck=4), single.feed_forward, "decoder.0.ff"),
    (LowRankAdapter(bottleneck=4), single.feed_forward, "decoder.0.ff"),
    (Compacter(bottleneck=4), single.feed_forward, "decoder.0.ff"),
    (Prefix(length=2), single.attention, "decoder.0.attn"),
    (Prefix(length=2, bottleneck=4), single.attention, "decoder.0.attn"),
    (Prompt(length=2), lambda: Entry(single.D), "decoder_input"),
    (Adapter(bottleneck=4, sites=("k",)), lambda: single.linear(n_out=single.D), LINEAR),
    (Together(parts=(LoRA(rank=2, sites=("k",)), Adapter(bottleneck=4, sites=("k",)))), lambda: single.linear(n_out=single.D), LINEAR),
], ids=lambda case: getattr(case, "label", None))
def test_what_no_weights_compute_is_not_merged(config, build, name, refused):
    site = single.with_delta(build(), config, name=name)
    part, = site.parts()
    with refused("change of weights", "keep it attached"):
        part.merged(site.plain())


def test_a_part_that_does_nothing_is_not_merged_silently(refused):
    with refused("Part"):
        Part().merged({})
