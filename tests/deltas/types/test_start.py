"""θ0: what each type is before training."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
import toy

from deltas import Adapter, Attached, LoRA, Prefix, load_backbone
from deltas.attach import sites
from deltas.types import delta_type

EVERY = [LoRA(rank=2), Adapter(bottleneck=3), Prefix(length=4), Prefix(length=4, bottleneck=2, label="network")]
TEXT = ["ba be bi", "do fu ka"]


@pytest.mark.parametrize("label", ["lora", "adapter"])
def test_the_zero_delta_changes_nothing(attached, label):
    """Bit for bit, at every site: B = 0."""
    attached = attached[label]
    for name, value in attached.layout.unflatten(attached.theta0).items():
        assert (np.asarray(value) == 0).all() == name.endswith(".b")
    rng = np.random.default_rng(0)
    for site in sites(attached.module(jnp.asarray(attached.theta0), attached.frozen)).values():
        for part in site.attached.values():
            x, y = (jnp.asarray(rng.standard_normal((2, n)), jnp.float32) for n in (part.a.shape[0], part.b.shape[1]))
            np.testing.assert_array_equal(part.output(x, y), y)


def test_the_papers_adapter_is_not_the_identity(backbone):
    attached = Attached.of(backbone, Adapter(bottleneck=12, a_std=0.02, b_std=0.02))
    assert np.std(attached.theta0) == pytest.approx(0.02, rel=0.05)


def test_lora_bounds(backbone):
    for bound, expected in ((None, 16**-0.5), (0.316, 0.316)):
        attached = Attached.of(backbone, LoRA(rank=8, bound=bound))
        a = np.concatenate([np.ravel(v) for n, v in attached.layout.unflatten(attached.theta0).items() if n.endswith(".a")])
        assert 0.98 * expected < np.abs(a).max() <= expected
        assert abs(a.mean()) < 0.05 * expected


def test_a_prefix_starts_from_the_keys_and_values_of_real_tokens(tmp_path):
    """Every layer's rows are what that layer's k and v give when the backbone reads the text."""
    backbone = load_backbone(toy.write_folder(tmp_path))
    attached = Attached.of(backbone, Prefix(length=4), text=TEXT)
    rows = attached.layout.unflatten(attached.theta0)
    ids = backbone.tokenizer(" ".join(TEXT))["input_ids"][:4]
    assert len(set(ids)) == 4
    module, tokens, ones = backbone.module, jnp.asarray([ids]), jnp.ones((1, 4), jnp.int32)
    at = jnp.arange(4)
    for stack, blocks, positions, mask in (("encoder", module.encoder, module.encoder_positions, jnp.ones((1, 1, 4), bool)),
                                           ("decoder", module.decoder, module.decoder_positions, (at[:, None] >= at[None])[None])):
        x = module.shared(tokens)
        for layer, block in enumerate(blocks):
            h = block.attn_norm(x)
            for what, kernel in (("keys", block.attn.k.kernel), ("values", block.attn.v.kernel)):
                np.testing.assert_allclose(rows[f"{stack}.{layer}.attn.{what}"], (h @ kernel[...])[0].reshape(4, 2, 8), atol=1e-5)
            x = x + block.attn(h, block.attn.keys_values(h), mask, positions=(positions, at, at))
            if stack == "decoder":
                x = x + block.cross(block.cross_norm(x), block.cross.keys_values(module.encode(tokens, ones)), ones[:, None].astype(bool))
            x = block.feed_forward(x)


def test_a_prefix_longer_than_the_text_repeats_it(backbone):
    attached = Attached.of(backbone, Prefix(length=4, sites=("encoder.0.attn",)), text=["ba be"])
    keys = attached.layout.unflatten(attached.theta0)["encoder.0.attn.keys"]
    np.testing.assert_allclose(keys[:2], keys[2:], atol=1e-6)  # the first layer's keys know no position
    assert float(jnp.abs(keys[0] - keys[1]).max()) > 0.1


@pytest.mark.parametrize("config", EVERY, ids=lambda c: c.label)
def test_theta0_follows_from_the_seed(backbone, attached, config):
    one, same, other = attached[config.label], *(Attached.of(backbone, config, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(one.theta0, same.theta0)
    assert one.theta0_fingerprint == same.theta0_fingerprint != other.theta0_fingerprint
    assert not np.array_equal(one.theta0, other.theta0)
    relabelled = Attached.of(backbone, dataclasses.replace(config, label="another"))
    assert not np.array_equal(one.theta0, relabelled.theta0)
    given = Attached.of(backbone, config, theta0=other.theta0)
    assert given.theta0_fingerprint == other.theta0_fingerprint


def test_theta0_of_another_size_is_refused(backbone, refused):
    with refused("lora", "(3,)"):
        Attached.of(backbone, LoRA(), theta0=np.zeros(3))


# ------------------------------------------------------------------ configurations
@pytest.mark.parametrize("config", [*EVERY, LoRA(rank=4, alpha=3.5, bound=0.1, label="lora-4", sites=("q",), exclude=("cross.q",))],
                         ids=lambda c: c.label)
def test_json_round_trip(config):
    assert delta_type(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(("fields", "words"), [
    ({"type": "lorra"}, ["lorra", "lora, adapter, prefix"]),
    ({}, ["None"]),
    ({"type": "lora", "rnk": 3}, ["rnk", "'rank'"]),
    ({"type": "lora", "rank": 0}, ["rank", "0"]),
    ({"type": "lora", "rank": 2.5}, ["rank", "2.5"]),
    ({"type": "lora", "rank": True}, ["rank", "True"]),
    ({"type": "lora", "label": "a/b"}, ["a/b"]),
    ({"type": "lora", "label": ".."}, ["'..'"]),
    ({"type": "adapter", "bottleneck": -1}, ["bottleneck", "-1"]),
    ({"type": "prefix", "length": 0}, ["length", "0"]),
    ({"type": "prefix", "start": "zeros"}, ["zeros"]),
    ({"type": "prefix", "raw_view": True}, ["raw_view", "bottleneck"]),
])
def test_bad_settings(fields, words, refused):
    with refused(*words):
        delta_type(fields)


@pytest.mark.parametrize(("config", "words"), [
    (LoRA(sites=("attn",)), ["lora", "decoder.0.attn", "Attention"]),
    (Adapter(sites=("attn_norm",)), ["adapter", "decoder.0.attn_norm", "Norm"]),
    (Prefix(sites=("ff",)), ["prefix", "decoder.0.ff", "FeedForward"]),
    (LoRA(sites=("query",)), ["'query'"]),
])
def test_a_type_on_the_wrong_site(backbone, config, words, refused):
    with refused(*words):
        Attached.of(backbone, config)
