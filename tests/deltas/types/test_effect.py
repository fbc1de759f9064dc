"""What each type computes, against arithmetic written out by hand."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from flax import nnx

from deltas import Adapter, Attached, LoRA, Prefix
from deltas.attach import attach, own, sites
from deltas.backbones.blocks import Attention, RelativePositions
from deltas.backbones.generate import greedy
from deltas.backbones.sites import Delta
from deltas.types.prefix import Network, Rows

HEADS, SIZE, D = 3, 4, 10


def random_theta(attached, seed=0, scale=0.3):
    return jnp.asarray(attached.theta0 + scale * np.random.default_rng(seed).standard_normal(attached.layout.size), jnp.float32)


def test_lora_is_a_merged_weight(backbone, batch):
    """x W + s x A B = x (W + s A B)."""
    config = LoRA(rank=3, alpha=7.0, sites=("q", "v", "up", "ff.out", "head"))
    attached = Attached.of(backbone, config)
    theta, given = random_theta(attached), {name: jnp.asarray(value) for name, value in batch.items()}
    parameters, merged = attached.layout.unflatten(theta), own(backbone.module)
    for path, module in nnx.iter_modules(merged):
        name = ".".join(map(str, path))
        if f"{name}.a" in parameters:
            module.kernel = nnx.Param(module.kernel[...] + 7.0 / 3 * parameters[f"{name}.a"] @ parameters[f"{name}.b"])
    shifted = {**batch, "decoder_input_ids": np.pad(batch["target_ids"], ((0, 0), (1, 0)))[:, :-1]}
    expected = replace(backbone, module=merged).logits(shifted)
    np.testing.assert_allclose(jax.jit(attached.logits)(theta, attached.frozen, given), expected, atol=1e-4, rtol=1e-4)
    assert float(jnp.abs(expected - backbone.logits(shifted)).max()) > 0.1


def test_an_adapter_is_a_bottleneck_after_the_sublayer(backbone):
    attached = Attached.of(backbone, Adapter(bottleneck=3, sites=("encoder.0.ff",)))
    theta, x = random_theta(attached), np.random.default_rng(0).standard_normal((2, 5, 16)).astype(np.float32)
    parameters = attached.layout.unflatten(theta)
    a, b = (np.asarray(parameters[f"encoder.0.ff.{m}"], np.float64) for m in "ab")
    y = np.asarray(backbone.module.encoder[0].ff(jnp.asarray(x)), np.float64)
    hidden = y @ a
    expected = y + (hidden / (1 + np.exp(-hidden))) @ b
    np.testing.assert_allclose(attached.module(theta, attached.frozen).encoder[0].ff(jnp.asarray(x)), expected, atol=1e-4)


# ------------------------------------------------------------------ prefix rows
def bucket(distance: int, count: int, furthest: int, two_way: bool) -> int:
    """T5's bucket of key − query, one distance at a time."""
    start = 0
    if two_way:
        count //= 2
        start, distance = (count, distance) if distance > 0 else (0, -distance)
    else:
        distance = max(-distance, 0)
    exact = count // 2
    if distance < exact:
        return start + distance
    return start + min(count - 1, exact + int(math.log(distance / exact) / math.log(furthest / exact) * (count - exact)))


def by_hand(site, table, x, mask, rows, two_way):
    """Softmax attention of one sequence x [S, d] with the rows (keys, values [P, H, h]) standing at −P … −1."""
    q, k, v, o = (np.asarray(m.kernel[...], np.float64) for m in (site.q, site.k, site.v, site.o))
    length, ahead = len(x), len(rows[0])
    queries = (x @ q).reshape(length, HEADS, SIZE)
    keys = np.concatenate([rows[0], (x @ k).reshape(length, HEADS, SIZE)])
    values = np.concatenate([rows[1], (x @ v).reshape(length, HEADS, SIZE)])
    out = np.zeros((length, HEADS, SIZE))
    for head in range(HEADS):
        for i in range(length):
            seen = [j for j in range(ahead + length) if j < ahead or mask[i, j - ahead]]
            scores = np.array([queries[i, head] @ keys[j, head] + table[bucket(j - ahead - i, len(table), 20, two_way), head] for j in seen])
            weights = np.exp(scores - scores.max())
            out[i, head] = weights / weights.sum() @ values[seen, head]
    return out.reshape(length, -1) @ o


@pytest.fixture(scope="module")
def attention():
    return Attention(D, heads=HEADS, head_dim=SIZE, scale=1.0, stds=(0.5, 0.5, 0.5), rngs=nnx.Rngs(1))


@pytest.mark.parametrize("two_way", [True, False])
@pytest.mark.parametrize("lengths", [[3], [2, 4]])
def test_prefix_rows_are_keys_and_values_left_of_the_first_position(attention, two_way, lengths):
    """Several prefixes on one site: the first attached stands furthest left."""
    rng = np.random.default_rng(2)
    positions = RelativePositions(buckets=8, furthest=20, heads=HEADS, two_way=two_way, std=1.0, rngs=nnx.Rngs(2))
    x = rng.standard_normal((2, 6, D)).astype(np.float32)
    mask = np.arange(6) < np.array([[6], [4]])
    mask = np.broadcast_to(mask[:, None, :], (2, 6, 6)) if two_way else np.tril(np.ones((6, 6), bool)) & mask[:, None, :]
    site, all_rows = own(attention), []
    for name, length in zip("zab", lengths, strict=False):  # not the order of their names
        rows = rng.standard_normal((2, length, HEADS, SIZE)).astype(np.float32)
        site.attach(name, Rows(Prefix(length=length), site, jax.random.key(0), (jnp.asarray(rows[0]), jnp.asarray(rows[1]))))
        all_rows.append(rows)
    at, keyed = jnp.arange(6), jnp.asarray(x)
    ours = site(keyed, site.keys_values(keyed), jnp.asarray(mask), positions=(positions, at, at))
    together = np.concatenate(all_rows, axis=1).astype(np.float64)
    table = np.asarray(positions.table[...], np.float64)
    for row in range(2):
        expected = by_hand(attention, table, x[row].astype(np.float64), mask[row], together, two_way)
        np.testing.assert_allclose(ours[row], expected, atol=2e-5)


def test_relative_positions_do_not_notice_a_shift(backbone, batch):
    """Rows stand right before the tokens, wherever those stand."""
    given = {name: jnp.asarray(value) for name, value in batch.items()}
    plain, shifted = (Attached.of(backbone, Prefix(length=3, start="normal", shift=shift)) for shift in (False, True))
    theta = random_theta(plain)
    expected = jax.jit(plain.logits)(theta, plain.frozen, given)
    np.testing.assert_allclose(jax.jit(shifted.logits)(theta, shifted.frozen, given), expected, atol=1e-5)
    bare = jax.jit(plain.logits)(jnp.asarray(plain.theta0), plain.frozen, given)
    assert float(jnp.abs(expected - bare).max()) > 1e-3


def test_buckets_by_hand():
    for count, two_way in ((8, True), (8, False), (32, True)):
        positions = RelativePositions(buckets=count, furthest=20, heads=1, two_way=two_way, std=1.0, rngs=nnx.Rngs(0))
        at = np.arange(-30, 31)
        assert positions.bucket(jnp.asarray(at)).tolist() == [bucket(int(i), count, 20, two_way) for i in at]


@pytest.mark.parametrize("raw_view", [False, True])
def test_which_rows_of_the_network_a_position_reads(attention, raw_view):
    """Per position, row p of every layer comes from E[p] alone; in the raw view the numbers are cut in the order of their storage."""
    layers, length = 2, 8
    network = Network(Prefix(length=length, bottleneck=5, raw_view=raw_view), [attention] * layers, jax.random.key(3))
    e, w0, w2 = (np.asarray(p[...], np.float64) for p in (network.e, network.w0, network.w2))
    numbers = np.tanh(e @ w0) @ w2  # [P, 2 L H h]
    assert numbers.shape == (length, 2 * layers * HEADS * SIZE)
    graphdef, state = nnx.split(network, Delta)

    def rows(e):
        state["e"] = Delta(e)
        return jnp.stack([r for layer in range(layers) for r in nnx.merge(graphdef, state)(layer)])  # keys, values, keys, values

    if raw_view:
        expected = numbers.reshape(2 * layers, length, HEADS, SIZE)
    else:
        expected = numbers.reshape(length, 2 * layers, HEADS, SIZE).swapaxes(0, 1)
    np.testing.assert_allclose(rows(network.e[...]), expected, atol=1e-5)
    reads = np.abs(jax.jacobian(rows)(network.e[...])).sum((-1, 2, 3)) > 0  # [2 L, P, P of E]
    if raw_view:  # layer l's keys read only rows 2lP/2L … of the network
        share = length // (2 * layers)
        assert [np.flatnonzero(half.any(0)).tolist() for half in reads] == np.arange(length).reshape(-1, share).tolist()
    else:
        np.testing.assert_array_equal(reads, np.broadcast_to(np.eye(length, dtype=bool), reads.shape))


# ------------------------------------------------------------------ generation
def test_generation_with_a_cache_is_teacher_forcing(backbone, attached, batch):
    """With all types attached, each greedy token is the most likely one given those before it, recomputed from scratch."""
    module = own(backbone.module)
    for label in ("prefix", "lora", "network", "adapter"):
        places = sites(attached[label].module(random_theta(attached[label], seed=4), attached[label].frozen))
        attach(module, label, {name: site.attached[label] for name, site in places.items() if site.order})
    graphdef, state = nnx.split(module)
    ids, mask = jnp.asarray(batch["input_ids"]), jnp.asarray(batch["attention_mask"])
    tokens = np.asarray(jax.jit(lambda s: greedy(nnx.merge(graphdef, s), ids, mask, 9))(state))
    shifted = np.pad(tokens, ((0, 0), (1, 0)))[:, :-1]
    logits = replace(backbone, module=module).logits({**batch, "decoder_input_ids": shifted})
    ended = np.cumsum(np.pad(tokens == 1, ((0, 0), (1, 0))), axis=1)[:, :-1] > 0
    np.testing.assert_array_equal(np.where(ended, 0, np.asarray(logits).argmax(-1)), tokens)
    assert len(np.unique(tokens)) > 4


@pytest.mark.parity
def test_our_lora_is_pefts(tmp_path, batch):
    """The same A and B in transformers + PEFT and here give the same logits."""
    torch, peft, transformers = (pytest.importorskip(name) for name in ("torch", "peft", "transformers"))
    import deltas

    backbone = deltas.load_backbone(toy.write_folder(tmp_path, **toy.V1_0))
    attached = Attached.of(backbone, LoRA(rank=3, alpha=6.0))
    theta = random_theta(attached)
    original = transformers.T5ForConditionalGeneration(transformers.T5Config(**toy.config_json(**toy.V1_0))).eval()
    original.load_state_dict({n: torch.tensor(v) for n, v in toy.weights(backbone.config).items()}, strict=False)
    model = peft.get_peft_model(original, peft.LoraConfig(r=3, lora_alpha=6, target_modules=["q", "v"], task_type="SEQ_2_SEQ_LM")).eval()
    theirs = {name: path for path, name in toy.lora_names(model).items()}
    parameters = attached.layout.unflatten(theta)
    assert set(theirs) == set(parameters)
    with torch.no_grad():
        for name, value in parameters.items():
            model.get_parameter(theirs[name]).copy_(torch.tensor(np.asarray(value).T.copy()))
        decoder = np.pad(batch["target_ids"], ((0, 0), (1, 0)))[:, :-1]
        expected = model(**{n: torch.tensor(v).long() for n, v in (("input_ids", batch["input_ids"]), ("decoder_input_ids", decoder),
                                                                   ("attention_mask", batch["attention_mask"]))}).logits.numpy()
    given = {name: jnp.asarray(value) for name, value in batch.items()}
    np.testing.assert_allclose(jax.jit(attached.logits)(theta, attached.frozen, given), expected, atol=1e-5, rtol=1e-5)
    assert np.abs(expected - np.asarray(backbone.logits({**batch, "decoder_input_ids": decoder}))).max() > 0.05
