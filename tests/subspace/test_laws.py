"""One table: what every decomposition and every control has to obey, whatever it is."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from subspace_fakes import attach, planted, texts

import subspace
from deltas.tasks import Reading
from subspace import Autoencoder, Refine, Subspace
from subspace.autoencoder import learn
from subspace.refine import learn as learn_decoders


def learned(bank, k, *, labels=None, pairs=None, **changes):
    train, dev = texts(bank)
    settings = Autoencoder(**{"steps": 6, "batch_size": 4, "evaluate_every": 3, "segment": 3, "learning_rate": 1e-3, **changes})
    return learn(bank, k, attached=attach(bank, labels), train=train, dev=dev, pairs=pairs, settings=settings,
                 reading=Reading(buckets=(12,)))  # one length, one compilation


def learned_anew(bank, k, **options):
    return learned(bank, k, start="random", reconstruction="mean_square", optimizer="adam", simplex="stick_breaking", **options)


def refined(bank, k, *, labels=None, pairs=None):
    train, dev = texts(bank)
    space = subspace.joint_svd(bank, k, labels=labels, pairs=pairs)
    settings = Refine(steps=6, batch_size=4, evaluate_every=3, segment=3)
    return learn_decoders(space, attached=attach(bank, labels), train=train, dev=dev, settings=settings, reading=Reading(buckets=(12,)))


LINEAR = {"joint_svd": subspace.joint_svd, "gcca": subspace.gcca, "pca": subspace.pca, "random_basis": subspace.random_basis,
          "random_basis, fastfood": functools.partial(subspace.random_basis, kind="fastfood"), "mean_only": subspace.mean_only,
          "shuffled": subspace.shuffled, "joint_svd by layer": functools.partial(subspace.by_group, subspace.joint_svd), "refined": refined}
LEARNED = {"autoencoder": learned, "autoencoder, random": learned_anew}
METHODS = LINEAR | LEARNED


@functools.cache
def fitted(name, bank, k, **options):
    return METHODS[name](bank, k, **{key: None if value is None else list(value) for key, value in options.items()})


@pytest.fixture(params=METHODS)
def method(request):
    """Fits once for all tests that ask the same."""
    return lambda bank, k, **options: fitted(request.param, bank, k, **{key: tuple(value) for key, value in options.items()})


def thetas(bank, space, label):
    return bank.theta0(label) + np.stack(bank.rows(label, space.pairs))


def same(a: Subspace, b: Subspace, tolerance=1e-5):
    np.testing.assert_allclose(a.codes, b.codes, atol=tolerance)
    for label in a.labels:
        np.testing.assert_allclose(a.parts[label].offset, b.parts[label].offset, atol=tolerance)
        np.testing.assert_allclose(a.parts[label].basis, b.parts[label].basis, atol=tolerance)


@pytest.mark.parametrize("name", LINEAR)
def test_decode_after_encode_is_a_projection(bank, name):
    space = LINEAR[name](bank, 5)
    for label in space.labels:
        there = space.decode(label, space.encode(label, thetas(bank, space, label)))
        np.testing.assert_allclose(space.decode(label, space.encode(label, there)), there, atol=2e-5)
        away = thetas(bank, space, label) - there  # the rest is orthogonal to the basis
        np.testing.assert_allclose(away @ space.parts[label].basis.T, 0, atol=2e-3)


def test_the_origin_is_the_mean(bank, method):
    space, mean = method(bank, 4), subspace.mean_only(bank, 4)
    for label in space.labels:
        at_0 = space.decode(label, np.zeros(4, np.float32))
        np.testing.assert_array_equal(at_0, space.parts[label].theta0 + space.parts[label].mean)
        np.testing.assert_array_equal(mean.decode(label, np.ones(4)), mean.decode(label, np.zeros(4)))
        if not space.method.startswith(("autoencoder", "refined")):
            np.testing.assert_array_equal(at_0, mean.decode(label, np.full(4, 7.0)))
            np.testing.assert_allclose(at_0, thetas(bank, space, label).mean(0), atol=1e-5)


def test_save_and_load(bank, method, tmp_path):
    space = method(bank, 3)
    space.save(tmp_path / "space")
    again = Subspace.load(tmp_path / "space", bank)
    assert again.describe() == space.describe()
    np.testing.assert_array_equal(again.codes, space.codes)
    for label in space.labels:
        theta, part = thetas(bank, space, label), again.parts[label]
        assert part.config == space.parts[label].config
        np.testing.assert_array_equal(again.decode(label, space.codes), space.decode(label, space.codes))
        np.testing.assert_array_equal(again.encode(label, theta), space.encode(label, theta))


def test_batched_and_compiled_equals_one_by_one(bank, method):
    space = method(bank, 3)
    for label in space.labels:
        z = space.codes[:6].reshape(2, 3, 3)
        one = np.stack([[space.decode(label, v) for v in row] for row in z])
        for found in (space.decode(label, z), jax.jit(lambda v, label=label: space.decode(label, v))(jnp.asarray(z)),
                      jax.vmap(jax.vmap(lambda v, label=label: space.decode(label, v)))(jnp.asarray(z))):
            np.testing.assert_allclose(found, one, atol=1e-5)
        back = np.stack([[space.encode(label, v) for v in row] for row in one])
        np.testing.assert_allclose(space.encode(label, one), back, atol=1e-5)
        np.testing.assert_allclose(jax.jit(lambda v, label=label: space.encode(label, v))(jnp.asarray(one)), back, atol=1e-4)
        slope = jax.grad(lambda v, label=label: space.decode(label, v).sum())(jnp.zeros(3))
        np.testing.assert_allclose(slope, space.parts[label].basis.sum(1), rtol=1e-4, atol=1e-4)


def test_the_order_of_tasks_and_types_is_only_an_order(bank, method):
    space, pairs = method(bank, 3), bank.pairs()
    order = np.random.default_rng(1).permutation(len(pairs))
    turned = method(bank, 3, labels=["prefix", "adapter", "lora"], pairs=[pairs[i] for i in order])
    assert turned.labels == ["prefix", "adapter", "lora"]
    assert turned.pairs == tuple(pairs[i] for i in order)
    same(replace(space, codes=space.codes[order]), turned, 2e-3 if space.method in ("autoencoder", "refined") else 1e-4)


@pytest.mark.parametrize(("labels", "k"), [(["lora"], 1), (["adapter", "prefix"], 15)])
def test_any_number_of_types_and_any_k(bank, method, labels, k):
    space = method(bank, k, labels=labels)
    assert space.labels == labels
    assert space.k == k
    assert space.codes.shape == (16, k)
    assert all(np.isfinite(space.decode(label, space.codes)).all() for label in labels)
    assert all(np.isfinite(space.encode(label, thetas(bank, space, label))).all() for label in labels)


@pytest.mark.parametrize("name", ["joint_svd", "gcca", "pca", "shuffled", "joint_svd by layer", "refined", "autoencoder", "autoencoder, random"])
def test_codes_are_white(bank, name):
    codes = METHODS[name](bank, 4).codes.astype(np.float64)
    np.testing.assert_allclose(codes.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(codes.T @ codes / len(codes), np.eye(4), atol=2e-4)


def test_bases_of_all_types_together_are_orthogonal_and_fall(bank, method):
    space = method(bank, 4)
    scale = {label: np.linalg.norm(thetas(bank, space, label) - thetas(bank, space, label).mean(0)) for label in space.labels}
    joint = np.concatenate([space.parts[label].basis / scale[label] for label in space.labels], axis=1)
    metric = joint @ joint.T
    if space.method in ("joint_svd", "shuffled", "joint_svd by layer", "autoencoder"):
        np.testing.assert_allclose(metric, np.diag(np.diag(metric)), atol=2e-5 * metric.max())
        assert (np.diff(np.diag(metric)) <= 1e-9).all()
        np.testing.assert_allclose(np.sqrt(len(space.pairs) * np.diag(metric)), space.spectrum[:4], rtol=1e-3)


def test_refusals(bank, method, refused, tmp_path):
    with refused("delta type of the bank"):
        method(planted(["lora"]), 2, labels=["prompt"])
    with refused("task99", "seed 0"):
        method(bank, 2, pairs=[("task99", 0), ("task0", 0), ("task1", 0)])
    with refused("once", "task0"):
        method(bank, 2, pairs=[("task0", 0), ("task1", 0), ("task0", 0)])
    with refused("got 0"):
        method(bank, 0)
    space = method(bank, 2)
    with refused("k = 2", "(3,)"):
        space.decode("lora", np.zeros(3))
    with refused("adapter, lora, prefix", "prompt"):
        space.encode("prompt", np.zeros(3))
    space.save(tmp_path)
    file = tmp_path / "subspace.safetensors"
    with refused("backbone b0", "backbone b1"):
        Subspace.load(tmp_path, replace(bank, fingerprint="b1"))
    with refused("lora", "start of lora", "another start"):
        Subspace.load(tmp_path, replace(bank, marks={"lora": "another start"}))
    whole = file.read_bytes()
    for broken in (whole[:-8], whole[:-1] + bytes([whole[-1] ^ 1]), b"nothing"):
        file.write_bytes(broken)
        with refused("damaged or altered"):
            Subspace.load(tmp_path)
    with refused("got nothing there"):
        Subspace.load(tmp_path / "elsewhere")


@pytest.mark.parametrize("name", [n for n in METHODS if n != "autoencoder, random"])
def test_k_beyond_the_solutions(bank, name, refused):
    with refused("15", "16 solutions", "got 16"):
        METHODS[name](bank, 16)
