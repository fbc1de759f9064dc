"""LAE's calibrated types against arithmetic in numpy: a trained scale, and attention to a prefix that is divided by its own mass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import single
from flax import nnx

from deltas.backbones.sites import Delta, Part, reweighed
from deltas.types import CalibratedLoRA, CalibratedPrefix, Prefix, Together

X = single.random(2, 5, single.D, seed=9)
x = np.asarray(X, np.float64)


def close(ours, expected, atol=1e-5):
    np.testing.assert_allclose(ours, expected, atol=atol, rtol=1e-5)


def attended(site, parts):
    """Attention of x by hand: `parts` are (keys, values, calibrated) of the rows, the first furthest left."""
    w = {m: np.asarray(getattr(site, m).plain()["kernel"], np.float64) for m in "qkvo"}
    q, k, v = ((x @ w[m]).reshape(2, 5, -1, single.SIZE) for m in "qkv")
    tokens = np.exp(np.einsum("bshd,bkhd->bhsk", q * site.scale, k))
    rows = [np.exp(np.einsum("bshd,khd->bhsk", q * site.scale, keys)) for keys, _, _ in parts]
    total = tokens.sum(-1, keepdims=True) + sum(r.sum(-1, keepdims=True) for r in rows)
    mixed = np.einsum("bhsk,bkhd->bshd", tokens / total, v)
    for weights, (_, values, calibrated) in zip(rows, parts, strict=True):
        mixed += np.einsum("bhsk,khd->bshd", weights / (weights.sum(-1, keepdims=True) if calibrated else total), values)
    return mixed.reshape(2, 5, -1) @ w["o"]


def test_a_prefix_is_divided_by_its_own_mass_and_the_tokens_stay():
    site = single.with_delta(single.attention(kv_heads=single.HEADS), CalibratedPrefix(length=3))
    p = single.numbers(site.attached["calibrated_prefix"])
    assert p["key_scale"].shape == p["value_scale"].shape == (1,)
    close(single.call(site, X), attended(site, [(p["key_scale"] * p["keys"], p["value_scale"] * p["values"], True)]))


def test_beside_other_rows_each_prefix_has_its_own_mass():
    """An ordinary prefix left of it keeps the share of the softmax over everything; together or one after the other is the same."""
    both = (Prefix(length=2), CalibratedPrefix(length=3))
    site = single.with_delta(single.attention(kv_heads=single.HEADS), *both)
    plain, ours = (single.numbers(site.attached[config.label]) for config in both)
    expected = attended(site, [(plain["keys"], plain["values"], False),
                               (ours["key_scale"] * ours["keys"], ours["value_scale"] * ours["values"], True)])
    close(single.call(site, X), expected)
    one = single.with_delta(single.attention(kv_heads=single.HEADS), Together(parts=both), name="attn", seed=None)
    for label in (config.label for config in both):
        nnx.update(getattr(one.attached["together"], label), nnx.state(site.attached[label], Delta))
    close(single.call(one, X), expected)


def test_the_weights_of_a_prefix_sum_to_one_however_small_its_mass():
    class Rows(Part):
        def rows(self):
            return jnp.zeros((2, 1, 1)), jnp.zeros((2, 1, 1))

    class Calibrated(Rows):
        reweigh = staticmethod(CalibratedPrefix(length=2, start="normal").build(
            {"attn": single.attention(kv_heads=single.HEADS)}, single.KEY, lambda _: {})["attn"].reweigh)

    weights = jnp.asarray([[[[3e-7, 1e-7, 0.2, 0.3, 0.5]]]])
    close(reweighed([Calibrated(), Rows()], weights)[0, 0, 0], [0.75, 0.25, 0.2, 0.3, 0.5])
    assert reweighed([Rows()], weights) is weights
    assert np.isfinite(reweighed([Calibrated()], jnp.asarray([[[[0.0, 0.0, 1.0]]]]))).all()


def test_loras_scale_is_trained():
    site = single.with_delta(single.linear(), CalibratedLoRA(rank=2))
    w, p = single.weights_of(site), single.numbers(site.attached["calibrated_lora"])
    assert p["scale"].shape == (1,)
    close(site(X), x @ (w["kernel"] + p["scale"] * p["a"] @ p["b"]) + w["bias"])
    graphdef, delta, rest = nnx.split(site, Delta, ...)
    found = jax.grad(lambda delta: jnp.sum(nnx.merge(graphdef, delta, rest)(X)))(delta)["attached"]["calibrated_lora"]["scale"][...]
    close(found, [np.sum(x @ p["a"] @ p["b"])], atol=1e-4)


def test_starts():
    """LoRA is the backbone itself at the start, with s = 1; a prefix is not, since its attention has weight 1 from the start."""
    lora = single.with_delta(single.linear(), CalibratedLoRA(), seed=None)
    close(lora(X), single.linear()(X))
    assert single.numbers(lora.attached["calibrated_lora"])["scale"] == 1.0
    wide = CalibratedPrefix(start="normal", std=0.5, length=40)
    drawn = single.numbers(single.with_delta(single.attention(kv_heads=single.HEADS), wide, seed=None).attached[wide.label])
    assert np.std(drawn["keys"]) == pytest.approx(0.5, rel=0.2)
    assert not np.array_equal(drawn["keys"], drawn["values"])
