"""Growth: what is added makes the same subspace as fitting to all at once, from fewer inner products."""

from dataclasses import replace

import numpy as np
import pytest
from subspace_fakes import planted

import subspace
from subspace import growth
from subspace.gcca import gcca
from subspace.growth import extend, missed, with_grams
from subspace.pca import pca
from subspace.product import factors_of, product_block, product_rows
from subspace.rows import Stored
from subspace.sources import gather

METHODS = {"joint_svd": subspace.joint_svd, "gcca": lambda *a, **o: gcca(*a, ridge=0.03, **o), "pca": pca}


def same(a, b, tolerance=1e-6):
    assert (a.pairs, a.labels, a.method, a.k) == (b.pairs, b.labels, b.method, b.k)
    np.testing.assert_allclose(a.codes, b.codes, atol=tolerance)
    np.testing.assert_allclose(a.spectrum, b.spectrum, atol=tolerance)
    np.testing.assert_allclose(a.null, b.null, atol=tolerance)
    for label in a.labels:
        for name in ("theta0", "mean", "basis"):
            np.testing.assert_allclose(getattr(a.part(label), name), getattr(b.part(label), name), atol=tolerance)
        assert abs(a.energy[label] - b.energy[label]) < tolerance


@pytest.mark.parametrize("method", METHODS)
def test_adding_is_fitting_to_all(bank, method, tmp_path):
    """In two steps, the second after a rest on the disk; the order is that of arrival."""
    pairs = bank.pairs()
    order = [*pairs[4:10], *pairs[:4], *pairs[10:]]
    space = with_grams(METHODS[method](bank, 3, pairs=order[:6]), bank)
    space = extend(space, bank, pairs=order[6:10])
    same(space, METHODS[method](bank, 3, pairs=order[:10]))
    space.save(tmp_path)
    space = extend(subspace.Subspace.load(tmp_path), bank)
    same(space, METHODS[method](bank, 3, pairs=order))
    assert [(g["task"], g["seed"]) for g in space.settings["grown"]] == order[6:]
    assert space.settings.get("ridge") == METHODS[method](bank, 3, pairs=order).settings.get("ridge")


def test_only_the_newcomers_inner_products_are_computed(bank, monkeypatch):
    pairs, asked = bank.pairs(), []
    space = with_grams(subspace.joint_svd(bank, 3, pairs=pairs[:12]), bank)
    products, gram = growth.products, Stored.gram
    monkeypatch.setattr(growth, "products", lambda u, rows, **o: asked.append((len(u), len(rows))) or products(u, rows, **o))
    monkeypatch.setattr(Stored, "gram", lambda self, *a: asked.append(("gram", len(self))) or gram(self, *a))
    monkeypatch.setattr(growth, "MEMORY", 4 * 90 * 3)  # of the adapter's four new rows two fit beside the old one
    grown = extend(space, bank)
    assert not [n for kind, n in asked if kind == "gram"]
    assert sorted(u for u, n in asked if n == 16) == [2, 3, 3, 4, 5]  # the newcomers, and one old row beside each lot of them
    monkeypatch.undo()
    same(grown, subspace.joint_svd(bank, 3, pairs=pairs))
    same(extend(replace(space, grams={}), bank), grown)  # without them all are computed


def test_a_source_that_only_some_types_have(bank):
    pairs = bank.pairs()
    partly = replace(bank, x={**bank.x, "lora": {p: x for p, x in bank.x["lora"].items() if p != pairs[-1]}})
    space = with_grams(subspace.joint_svd(partly, 3, pairs=pairs[:12]), partly)
    assert extend(space, partly).pairs == tuple(pairs[:-1])
    grown = extend(space, partly, missing=True)
    whole = subspace.joint_svd(gather(partly, missing=True), 3)
    np.testing.assert_allclose(grown.codes, whole.codes, atol=1e-5)
    assert set(grown.settings["grown"][-1]["missed"]) == {"adapter", "prefix"}


def products(count):
    """Random LoRAs of ranks 1 to 3 at two modules, the later ones with directions that the first have not."""
    rng, found = np.random.default_rng(0), []
    for n in range(count):
        one = {}
        for module in ("layer.0.q", "layer.1.q")[: 1 + n % 2]:
            a, b = rng.standard_normal((12, 1 + n % 3)), rng.standard_normal((1 + n % 3, 7))
            a[6 + n // 2 :] = 0
            one[module] = (a.astype(np.float32), b.astype(np.float32))
        found.append(one)
    return found


def in_products(given, many):
    block = product_block("lora", product_rows(many), np.arange(len(many)))
    return replace(given, pairs=tuple((f"t{n}", 0) for n in range(len(many))), blocks={"lora": block}, space="product")


def test_cores_grow_with_what_is_added():
    """Adapters of other ranks, at other modules, with directions of their own."""
    given, many = gather(planted(["lora"])), products(9)
    old, everything = in_products(given, many[:6]), in_products(given, many)
    space = with_grams(subspace.joint_svd(old, 2), old)
    grown, whole = extend(space, everything), subspace.joint_svd(everything, 2)
    same(grown, whole)
    assert grown.part("lora").layout != space.part("lora").layout
    shares = missed(space, everything)["lora"]
    part, w = space.part("lora"), np.stack([flat(one) for one in many])
    centre, directions = change_of(part, part.mean), np.stack([change_of(part, u) for u in part.basis])
    q = np.linalg.qr(directions.T)[0]
    for n in range(6, 9):
        x = w[n] - centre
        np.testing.assert_allclose(shares[f"t{n}", 0], np.linalg.norm(x - q @ (q.T @ x)) / np.linalg.norm(x), rtol=1e-5)


def flat(factors):
    """ΔW of both modules as one vector."""
    none = (np.zeros((12, 1)), np.zeros((1, 7)))
    return np.concatenate([(a.astype(np.float64) @ b).ravel() for a, b in (factors.get(m, none) for m in ("layer.0.q", "layer.1.q"))])


def change_of(part, x):
    """ΔW of θ0 + x in a product space."""
    return flat(dict(factors_of(part.config, part.layout, part.theta0, Stored([np.asarray(x)]), 0).items()))


def test_what_the_old_space_misses(bank):
    pairs = bank.pairs()
    space = subspace.joint_svd(bank, 4, pairs=pairs[:12])
    found = missed(space, bank)
    for label in space.labels:
        part = space.part(label)
        q = np.linalg.qr(part.basis.T.astype(np.float64))[0]
        assert list(found[label]) == pairs[12:]
        for pair, share in found[label].items():
            x = bank.rows(label, [pair])[0].astype(np.float64) - part.mean
            assert abs(share - np.linalg.norm(x - q @ (q.T @ x)) / np.linalg.norm(x)) < 1e-6
    whole = subspace.joint_svd(bank, 15, pairs=pairs)
    assert max(max(by.values()) for by in missed(whole, bank, pairs).values()) < 1e-3  # all of them span what they are
    stranger = replace(bank, x={label: {**rows, ("new", 0): np.random.default_rng(9).standard_normal(len(rows[pairs[0]])).astype(np.float32)}
                                for label, rows in bank.x.items()})
    assert all(by["new", 0] > max(found[label].values()) for label, by in missed(space, stranger, [("new", 0)]).items())
    grown = extend(space, bank)
    assert grown.settings["grown"][0]["missed"] == {label: found[label][pairs[12]] for label in space.labels}


def test_refusals(bank, refused):
    pairs = bank.pairs()
    space = with_grams(subspace.joint_svd(bank, 2, pairs=pairs[:12]), bank)
    with refused("random_basis"):
        extend(subspace.random_basis(bank, 2, pairs=pairs[:12]), bank)
    with refused("task0", "is a source"):
        extend(space, bank, pairs=[("task0", 0)])
    with refused("got none in fake"):
        extend(with_grams(subspace.joint_svd(bank, 2), bank), bank)
    with refused("task99"):
        extend(space, bank, pairs=[("task99", 0)])
    with refused("task0, seed 0", "give those too"):
        extend(space, subspace.gather(bank, pairs=pairs[12:]))
    with refused("backbone", "b1"):
        extend(space, replace(bank, fingerprint="b1"))
    with refused("lora", "another start"):
        extend(space, replace(bank, marks={"lora": "another start"}))
    changed = planted()
    changed.x["adapter"][pairs[3]][7] += 1e-3
    with refused("adapter", "row 3"):
        extend(space, changed)
    with refused("finite", "row 13"):
        broken = planted()
        broken.x["prefix"][pairs[13]][0] = np.nan
        extend(space, broken)
