"""What each type computes at a single site, against arithmetic in numpy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import single
from flax import nnx

from deltas.backbones.blocks import Entry
from deltas.backbones.sites import Delta
from deltas.types import IA3, Adapter, BitFit, Compacter, Full, LoRA, LowRankAdapter, Prefix, Prompt, Together
from deltas.types.prefix import Shift

X = single.random(2, 5, single.D, seed=9)
x = np.asarray(X, np.float64)


def close(ours, expected, atol=1e-5):
    np.testing.assert_allclose(ours, expected, atol=atol, rtol=1e-5)


# ------------------------------------------------------------------ linear sites
@pytest.mark.parametrize(("settings", "rank", "scale"), [
    ({"alpha": 6.0}, 3, 2.0),
    ({"alpha": 6.0, "rslora": True}, 3, 6 / math.sqrt(3)),
    ({"rank_pattern": (("ff", 9), ("decoder.*.q", 2), ("q", 5)), "alpha_pattern": (("re:.*q", 8.0),)}, 2, 4.0),
    ({"rank_pattern": {"decoder.0.attn.q": 4}, "rslora": True}, 4, 8.0),
])
def test_loras_scale_and_rank(settings, rank, scale):
    """Patterns that name the site: the first one counts."""
    site, names = single.linear(), ("decoder.0.attn.q", "decoder.0.ff")
    parts = LoRA(**{"rank": 3, **settings}).build(dict.fromkeys(names, site), single.KEY, lambda _: {})
    site.attach("lora", parts[names[0]])
    w, p = single.weights_of(site), single.numbers(single.shaken(site, of=Delta).attached["lora"])
    assert p["a"].shape == (single.D, rank)
    close(site(X), x @ (w["kernel"] + scale * p["a"] @ p["b"]) + w["bias"])


@pytest.mark.parametrize("bias", [False, True])
def test_dora_is_a_length_and_a_direction_a_column(bias):
    site = single.with_delta(single.linear(bias=bias), LoRA(rank=2, alpha=3.0, dora=True))
    w, p = single.weights_of(site), single.numbers(site.attached["lora"])
    assert p["m"].shape == (6,)
    v = w["kernel"] + 1.5 * p["a"] @ p["b"]
    close(site(X), x @ (p["m"] * v / np.linalg.norm(v, axis=0)) + w.get("bias", 0))


def test_doras_gradient_takes_the_lengths_as_constants():
    """L = Σ G ⊙ (x W'), W' = c V with c = m/|V|: ∂L/∂V = c ⊙ xᵀG, and nothing of ∂c/∂V."""
    site, target = single.with_delta(single.linear(), LoRA(rank=2, alpha=2.0, dora=True)), single.random(2, 5, 6)
    graphdef, delta, rest = nnx.split(site, Delta, ...)
    found = jax.grad(lambda delta: jnp.sum(target * nnx.merge(graphdef, delta, rest)(X)))(delta)["attached"]["lora"]
    p, kernel = single.numbers(site.attached["lora"]), single.weights_of(site)["kernel"]
    v = kernel + p["a"] @ p["b"]
    lengths, through = np.linalg.norm(v, axis=0), np.einsum("bsi,bso->io", x, np.asarray(target, np.float64))
    to_v = through * p["m"] / lengths
    wanted = {"m": np.sum(through * v / lengths, axis=0), "a": to_v @ p["b"].T, "b": p["a"].T @ to_v}
    for name, value in wanted.items():
        close(found[name][...], value, atol=1e-4)


def test_a_column_of_zeros_stays_finite_under_dora():
    site = single.linear()
    site.kernel[...] = site.kernel[...].at[:, 2].set(0)
    site = single.with_delta(site, LoRA(rank=2, dora=True), seed=None)
    graphdef, delta, rest = nnx.split(site, Delta, ...)
    gradient = jax.grad(lambda delta: jnp.sum(nnx.merge(graphdef, delta, rest)(X) ** 2))(delta)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    close(site(X), x @ single.weights_of(site)["kernel"] + single.weights_of(site)["bias"])


@pytest.mark.parametrize("bias", [False, True])
def test_ia3_multiplies_what_leaves_or_what_enters(bias):
    out = single.with_delta(single.linear(bias=bias), IA3(sites=("k",), inputs=()), name="decoder.0.attn.k")
    w, p = single.weights_of(out), single.numbers(out.attached["ia3"])
    close(out(X), p["l"] * (x @ w["kernel"] + w.get("bias", 0)))
    into = single.with_delta(single.linear(bias=bias), IA3(sites=("ff.out",)), name="decoder.0.ff.out")
    p = single.numbers(into.attached["ia3"])
    assert p["l"].shape == (single.D,)
    close(into(X), (p["l"] * x) @ w["kernel"] + w.get("bias", 0))


@pytest.mark.parametrize("bias", [False, True])
def test_bitfit_adds_the_missing_biases(bias):
    for bare in (single.linear(bias=bias), single.norm(rms=not bias)):
        site = single.with_delta(bare, BitFit())
        close(site(X), np.asarray(bare(X), np.float64) + single.numbers(site.attached["bitfit"])["bias"])
        assert (bare.bias is not None) == bias


def test_full_is_a_difference_to_every_weight():
    site = single.with_delta(single.linear(), Full(sites=("ff",)))
    w, p = single.weights_of(site), single.numbers(site.attached["full"])
    close(site(X), x @ (w["kernel"] + p["kernel"]) + w["bias"] + p["bias"])
    site = single.with_delta(single.norm(), Full(sites=("ff",)))
    w, p = single.weights_of(site), single.numbers(site.attached["full"])
    normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    close(site(X), normed * (w["scale"] + p["scale"]) + w["bias"] + p["bias"])
    site = single.with_delta(single.embedding(), Full(sites=("ff",)))
    close(site(jnp.arange(3)), (single.weights_of(site)["table"] + single.numbers(site.attached["full"])["table"])[:3])
    assert list(single.numbers(single.with_delta(single.linear(bias=False), Full(sites=("ff",))))) == ["attached.full.kernel"]


# ------------------------------------------------------------------ sublayers
def gelu(h):
    return h * 0.5 * (1 + np.vectorize(math.erf)(h / math.sqrt(2)))


def gelu_new(h):
    return h * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))


ACTS = {"swish": lambda h: h / (1 + np.exp(-h)), "relu": lambda h: np.maximum(h, 0), "gelu": gelu, "gelu_new": gelu_new, "tanh": np.tanh}


@pytest.mark.parametrize("act", list(ACTS))
@pytest.mark.parametrize("build", [single.feed_forward, single.attention])
def test_houlsbys_and_the_parallel_adapter(build, act):
    """After the sublayer the one, beside it the other."""
    bare = build()
    y = np.asarray(single.call(bare, X), np.float64)
    for variant, read in (("houlsby", y), ("parallel", x)):
        site = single.with_delta(bare, Adapter(bottleneck=4, variant=variant, act=act, bias=True, scale=2.5))
        p = single.numbers(site.attached["adapter"])
        close(single.call(site, X), y + 2.5 * (ACTS[act](read @ p["a"] + p["a_bias"]) @ p["b"] + p["b_bias"]), atol=1e-4)


def test_pfeiffers_adapter_reads_the_normed_sum():
    site = single.with_delta(single.feed_forward(), Adapter(bottleneck=4, variant="pfeiffer", scale=0.5))
    p, norm, residual = single.numbers(site.attached["adapter"]), single.norm(), single.random(2, 5, single.D)
    np.testing.assert_array_equal(site(X), single.feed_forward()(X))
    for read, given in ((np.asarray(norm(X + residual), np.float64), norm), (x + np.asarray(residual, np.float64), None)):
        close(site.joining(X, residual, given), x + 0.5 * (ACTS["swish"](read @ p["a"]) @ p["b"]))


def test_an_adapter_beside_a_linear_map():
    bare = single.linear(n_out=single.D)
    site = single.with_delta(bare, Adapter(bottleneck=4, sites=("ff",)))
    y, p = np.asarray(bare(X), np.float64), single.numbers(site.attached["adapter"])
    close(site(X), y + ACTS["swish"](y @ p["a"]) @ p["b"])


@pytest.mark.parametrize("rank", [1, 2])
def test_a_low_rank_adapter(rank):
    site = single.with_delta(single.feed_forward(), LowRankAdapter(bottleneck=4, rank=rank, scale=3.0))
    y, p = np.asarray(single.feed_forward()(X), np.float64), single.numbers(site.attached["lowrank_adapter"])
    down, up = p["a_in"] @ p["a_out"], p["b_in"] @ p["b_out"]
    assert np.linalg.matrix_rank(down) == np.linalg.matrix_rank(up) == rank
    assert sum(v.size for v in p.values()) == 2 * rank * (single.D + 4) + 4 + single.D
    close(site(X), y + 3 * (gelu_new(y @ down + p["a_bias"]) @ up + p["b_bias"]), atol=1e-4)


@pytest.mark.parametrize(("n", "rank"), [(2, 3), (4, 1)])
def test_a_compacter_is_a_sum_of_kronecker_products(n, rank):
    site = single.with_delta(single.feed_forward(), Compacter(bottleneck=4, n=n, rank=rank, shared=False))
    y, p = np.asarray(single.feed_forward()(X), np.float64), single.numbers(site.attached["compacter"])
    down, up = (sum(np.kron(p[f"{m}_rule.r"][i], p[f"{m}_s"][i] @ p[f"{m}_t"][i]) for i in range(n)) for m in "ab")
    assert (down.shape, up.shape) == ((single.D, 4), (4, single.D))
    close(site(X), y + gelu_new(y @ down + p["a_bias"]) @ up + p["b_bias"], atol=1e-4)


@pytest.mark.parametrize("shared", [True, False])
def test_how_many_rules_a_compacter_has(shared):
    """One set for all maps of all sites, or one a map."""
    sites = {"encoder.0.ff": single.feed_forward(), "decoder.0.ff": single.feed_forward()}
    parts = Compacter(bottleneck=4, shared=shared, bias=False).build(sites, single.KEY, lambda _: {})
    rules = {id(rule) for part in parts.values() for rule in (part.a_rule, part.b_rule)}
    assert len(rules) == (1 if shared else 4)
    maps = 2 * 2 * (single.D + 4)
    assert sum(v.size for v in single.numbers(nnx.List(list(parts.values()))).values()) == maps + len(rules) * 4**3


# ------------------------------------------------------------------ rows, tokens, positions
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_prefix_rows_of_grouped_queries(kv_heads):
    """Every query head reads the rows of its group."""
    bare = single.attention(kv_heads=kv_heads)
    site = single.with_delta(bare, Prefix(length=3, sites=("cross",)), name="decoder.0.cross")
    p, (q, k, v, o) = single.numbers(site.attached["prefix"]), (single.weights_of(m)["kernel"] for m in (bare.q, bare.k, bare.v, bare.o))
    assert p["keys"].shape == p["values"].shape == (3, kv_heads, single.SIZE)
    queries = (x[0] @ q).reshape(5, single.HEADS, single.SIZE)
    keys, values = (np.concatenate([p[what], (x[0] @ m).reshape(5, kv_heads, single.SIZE)]) for what, m in (("keys", k), ("values", v)))
    mixed = []
    for head in range(single.HEADS):
        group = head * kv_heads // single.HEADS
        weights = np.exp(0.7 * queries[:, head] @ keys[:, group].T)
        mixed.append(weights / weights.sum(-1, keepdims=True) @ values[:, group])
    close(single.call(site, X)[0], np.concatenate(mixed, axis=-1) @ o, atol=1e-4)


@pytest.mark.parametrize("raw_view", [False, True])
def test_a_prefix_network_of_grouped_queries_and_cross_attention(raw_view):
    """One network a stack, for self- and cross-attention alike; its numbers are those of rows of kv_heads."""
    names = ["decoder.0.attn", "decoder.0.cross", "encoder.0.attn"]
    sites = {name: single.attention(kv_heads=2) for name in names}
    parts = Prefix(length=4, bottleneck=5, raw_view=raw_view, sites=("attn", "cross")).build(sites, single.KEY, lambda _: {})
    assert parts[names[0]].network is parts[names[1]].network is not parts[names[2]].network
    p = single.numbers(parts[names[0]].network)
    numbers = np.tanh(p["e"] @ p["w0"]) @ p["w2"]
    cut = numbers.reshape(2, 2, 4, 2, single.SIZE) if raw_view else numbers.reshape(4, 2, 2, 2, single.SIZE).transpose(1, 2, 0, 3, 4)
    for layer, name in enumerate(names[:2]):
        close(jnp.stack(parts[name].rows()), cut[layer])


def test_a_prefix_that_shifts_the_tokens():
    sites = {"decoder.0.attn": single.attention(), "decoder_input": Entry(single.D), "encoder.0.attn": single.attention(),
             "encoder_input": Entry(single.D)}
    config = Prefix(length=7, shift=True, start="normal", sites=("decoder.*.attn",))
    assert config.choose(sites) == ["decoder.0.attn", "decoder_input"]
    parts = config.build({name: sites[name] for name in config.choose(sites)}, single.KEY, lambda _: {})
    sites["decoder_input"].attach("prefix", parts["decoder_input"])
    assert sites["decoder_input"].shift() == 7
    assert sites["decoder_input"].before() == []
    still = Prefix(length=7, start="normal").build({"decoder.0.attn": single.attention()}, single.KEY, lambda _: {})
    np.testing.assert_array_equal(parts["decoder.0.attn"].keys[...], still["decoder.0.attn"].keys[...])  # no other draw of θ0


@pytest.mark.parametrize("start", ["tokens", "normal"])
def test_a_prompt_stands_before_the_tokens(start):
    site = single.with_delta(Entry(single.D), Prompt(length=30, start=start, std=0.1), name="encoder_input", seed=None)
    rows, = site.before()
    assert site.shift() == 30
    if start == "tokens":
        np.testing.assert_array_equal(rows, single.random(30, single.D))
    else:
        assert rows.shape == (30, single.D)
        assert float(rows.std()) == pytest.approx(0.1, rel=0.15)


# ------------------------------------------------------------------ several as one
def test_together_runs_the_parts_in_their_order():
    lora, ia3 = LoRA(rank=2, alpha=2.0, sites=("k",)), IA3(sites=("k",), inputs=())
    for parts in ((lora, ia3), (ia3, lora)):
        site = single.with_delta(single.linear(), Together(parts=parts), name="decoder.0.attn.k")
        w, p = single.weights_of(site), single.numbers(site.attached["together"])
        y, added = x @ w["kernel"] + w["bias"], x @ p["lora.a"] @ p["lora.b"]
        close(site(X), p["ia3.l"] * (y + added) if parts[0] is lora else p["ia3.l"] * y + added, atol=1e-4)


def test_together_is_what_its_parts_are_when_attached_in_turn():
    """At every kind of site, with the same parameters."""
    cases = [
        (single.linear(), "decoder.0.attn.k", [LoRA(dora=True, rank=2, sites=("k",)), IA3(sites=("k",), inputs=()), BitFit(), IA3(
            sites=("k",), inputs=("k",), label="into"), Full(sites=("k",)), LoRA(rank=3, sites=("k",), label="second")]),
        (single.attention(), "decoder.0.attn", [Prefix(length=2), Adapter(bottleneck=4), Prefix(length=3, label="more")]),
        (single.feed_forward(), "decoder.0.ff", [Adapter(bottleneck=4), Compacter(bottleneck=4), LowRankAdapter(bottleneck=4)]),
    ]
    for bare, name, parts in cases:
        chain = single.with_delta(bare, Together(parts=tuple(parts)), name=name)
        apart = single.with_delta(bare, *parts, name=name)
        for part in parts:  # the chain's parameters, which another key drew
            nnx.update(apart.attached[part.label], nnx.state(getattr(chain.attached["together"], part.label), Delta))
        close(single.call(chain, X), single.call(apart, X))
        assert float(jnp.abs(single.call(chain, X) - single.call(bare, X)).max()) > 0.1


def test_together_where_tokens_enter_and_in_the_residual_stream():
    entry = single.with_delta(Entry(single.D), Together(parts=(Prompt(length=2), Prompt(length=3, label="more"))), name="encoder_input")
    p = single.numbers(entry.attached["together"])
    close(entry.before()[0], np.concatenate([p["prompt.rows"], p["more.rows"]]))
    assert entry.shift() == 5
    chain = Together(parts=(Prompt(length=2), Prefix(length=4, shift=True)))
    places = {"encoder.0.attn": single.attention(), "encoder_input": Entry(single.D)}
    parts = chain.build({name: places[name] for name in chain.choose(places)}, single.KEY, single.real_tokens(places))
    assert places["encoder_input"].attach("both", parts["encoder_input"]).shift() == 6
    assert isinstance(parts["encoder_input"].prefix, Shift)

    variants = [Adapter(bottleneck=4, variant="pfeiffer", label=label) for label in ("one", "two")]
    site, residual = single.with_delta(single.feed_forward(), Together(parts=tuple(variants))), single.random(2, 5, single.D)
    p, y, r = single.numbers(site.attached["together"]), x, np.asarray(residual, np.float64)
    for label in ("one", "two"):
        y = y + ACTS["swish"]((y + r) @ p[f"{label}.a"]) @ p[f"{label}.b"]
    close(site.joining(X, residual, None), y)


# ------------------------------------------------------------------ laws of all
SUBLAYER = [Adapter(bottleneck=4), Adapter(bottleneck=4, variant="parallel", bias=True), LowRankAdapter(bottleneck=4),
            Compacter(bottleneck=4)]
LINEAR = [LoRA(rank=2), LoRA(rank=2, rslora=True, dora=True), IA3(), IA3(inputs=()), BitFit(), Full(),
          Together(parts=(LoRA(sites=("out",), rank=2), BitFit()))]
CASES = [(config, build, "decoder.0.ff") for config in SUBLAYER for build in (single.feed_forward, single.attention)]
CASES += [(config, single.linear, "decoder.0.ff.out") for config in LINEAR]
CASES += [(config, build, "decoder.0.attn_norm") for config in (BitFit(), Full()) for build in (single.norm, lambda: single.norm(rms=True))]


@pytest.mark.parametrize(("config", "build", "name"), CASES, ids=lambda case: getattr(case, "label", None))
def test_the_start_changes_nothing_and_the_gradient_reaches_all(config, build, name):
    bare = build()
    np.testing.assert_allclose(single.call(single.with_delta(bare, config, name=name, seed=None), X), single.call(bare, X), atol=2e-6)
    graphdef, delta, rest = nnx.split(single.with_delta(bare, config, name=name), Delta, ...)
    gradient = jax.grad(lambda delta: jnp.sum(single.call(nnx.merge(graphdef, delta, rest), X) ** 2))(delta)
    assert all((np.abs(leaf) > 0).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(("config", "build", "name"), CASES, ids=lambda case: getattr(case, "label", None))
def test_a_bfloat16_backbone_stays_one(config, build, name):
    site = build()
    nnx.update(site, jax.tree.map(lambda v: v.astype(jnp.bfloat16), nnx.state(site, nnx.Param)))
    expected = single.call(single.with_delta(build(), config, name=name, seed=5), X)
    found = single.call(single.with_delta(site, config, name=name, seed=5), X.astype(jnp.bfloat16))
    assert found.dtype == jnp.bfloat16
    scale = float(jnp.abs(expected).max())
    np.testing.assert_allclose(found.astype(jnp.float32) / scale, expected / scale, atol=0.05)


def test_the_pfeiffer_adapter_starts_at_nothing():
    site = single.with_delta(single.feed_forward(), Adapter(variant="pfeiffer"), seed=None)
    np.testing.assert_array_equal(site.joining(X, X, single.norm()), X)
